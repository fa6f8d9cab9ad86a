"""Timelines of programs whose every touch is known; what is refused; and that nothing is lost or left silently."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dontneed
from dontneed.abi import trace_kinds as kinds
from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, UsageError
from dontneed.kernel import features, tracefs
from dontneed.kernel.perf import Recorder
from dontneed.observe.trace.summary import summarize
from dontneed.observe.trace.trace_file import read_trace, write_trace
from dontneed.units import PAGE_BYTES

PAGES = 40
MMAP, MUNMAP, MADVISE = (kinds.CALL_NUMBERS[name] for name in ("mmap", "munmap", "madvise"))
DONTNEED = 4

traced = pytest.mark.needs_feature("tracepoints")


@pytest.fixture(scope="module")
def touches(tmp_path_factory):
    """The program whose touches are known."""
    program = tmp_path_factory.mktemp("touches") / "touches"
    source = Path(__file__).parent / "targets" / "touches.c"
    subprocess.run(["cc", "-O1", "-pthread", "-o", program, source], check=True)
    return str(program)


def run(tmp_path, *words, **options):
    """The timeline of a command, and the addresses that it said."""
    said = tmp_path / "said"
    with said.open("wb") as file:
        timeline = dontneed.trace_command(words, output=file.fileno(), **options)
    return timeline, [int(line, 16) for line in said.read_text().split()]


def within(events, start, pages):
    """The faults in some pages."""
    faults = events[events["kind"] == kinds.FAULT]
    return faults[(faults["a"] >= start) & (faults["a"] < start + pages * PAGE_BYTES)]


@traced
@pytest.mark.needs_command("cc")
def test_every_event_of_a_known_program_is_there_in_order(touches, tmp_path):
    """Each call with its arguments, each touch with its address and kind, RSS after each, and what was zapped."""
    timeline, (start,) = run(tmp_path, touches, str(PAGES))
    events = timeline.events
    assert timeline.lost == 0
    assert timeline.exit_code == 7
    assert (np.diff(events["time"].astype(np.int64)) >= 0).all()

    # The calls, in their order
    length = PAGES * PAGE_BYTES
    calls = np.flatnonzero(events["kind"] == kinds.CALL)
    own = [row for row in calls if events["b"][row] == start and events["a"][row] in (MADVISE, MUNMAP)]
    assert [(int(events["a"][row]), int(events["c"][row])) for row in own] == [
        (MADVISE, length),
        (MADVISE, length),
        (MUNMAP, length),
    ]
    no_huge, drop, unmap = own
    assert int(events["d"][drop]) == DONTNEED
    mapped = next(
        row for row in range(no_huge, -1, -1) if events["kind"][row] == kinds.CALL and events["a"][row] == MMAP
    )
    assert events["kind"][mapped + 1] == kinds.MORE
    assert int(events["a"][mapped + 1]) == 0x22  # private and anonymous
    returned = next(row for row in range(mapped, len(events)) if events["kind"][row] == kinds.RETURN)
    assert (int(events["a"][returned]), int(events["b"][returned])) == (MMAP, start)

    # The touches: all written; after the drop half of them read, and the first written once more
    before, after = events[no_huge:drop], events[drop:unmap]
    places = [start + nth * PAGE_BYTES for nth in range(PAGES)]
    first = within(before, start, PAGES)
    assert first["a"].tolist() == places
    assert ((first["c"] & kinds.WRITE) != 0).all()
    again = within(after, start, PAGES)
    assert again["a"].tolist() == [*places[: PAGES // 2], start]
    assert ((again["c"] & kinds.WRITE) != 0).tolist() == [False] * (PAGES // 2) + [True]
    assert again["c"][-1] & kinds.PRESENT  # the zero page was there, and protected

    # RSS: a page with each write, and all of them gone at once
    anonymous = before[(before["kind"] == kinds.RSS) & (before["a"] == kinds.ANONYMOUS)]["b"].astype(np.int64)
    assert np.diff(anonymous).tolist() == [PAGE_BYTES] * (len(anonymous) - 1)
    assert len(anonymous) == PAGES

    use = [use for use in summarize(timeline).advices if use.advice == DONTNEED and use.start == start]
    assert [(each.zapped_bytes, each.refaults, each.result) for each in use] == [(length, PAGES // 2, 0)]
    assert 0 < use[0].first_seconds <= use[0].median_seconds


@traced
@pytest.mark.needs_command("cc")
def test_frames_and_flushes_are_those_of_the_calls(touches, tmp_path):
    """A frame is freed once for each time that it was allocated, and a zap flushes the TLB."""
    timeline, _ = run(tmp_path, touches, "512")
    events = timeline.events
    freed = events[events["kind"] == kinds.FREED]["a"].tolist()
    allocated = set(events[events["kind"] == kinds.ALLOCATED]["a"].tolist())
    assert len(set(freed) & allocated) >= 400  # the last ones wait in a batch
    calls = {use.name: use for use in summarize(timeline).calls}
    assert calls["madvise"].rss_bytes == -512 * PAGE_BYTES
    assert calls["madvise"].freed_frames >= 400
    assert calls["madvise"].flushes >= 1


@traced
@pytest.mark.needs_command("cc")
@pytest.mark.parametrize("how", ["thread", "fork"])
def test_threads_and_children_are_followed(touches, tmp_path, how):
    """What a traced thread starts is traced from its first instruction, and told apart."""
    timeline, places = run(tmp_path, touches, str(PAGES), how)
    forks = timeline.events[timeline.events["kind"] == kinds.FORK]
    assert len(forks) == 1
    assert (int(forks["b"][0]) == timeline.pid) is (how == "thread")
    later = within(timeline.events[timeline.events["thread"] == forks["a"][0]], places[1], PAGES)
    assert len(later) == PAGES + PAGES // 2 + 1
    uses = [use for use in summarize(timeline).advices if use.advice == DONTNEED and use.start in places]
    assert [use.pid for use in uses] == [timeline.pid, int(forks["b"][0])]


@traced
@pytest.mark.needs_command("cc")
def test_a_running_process_is_traced_with_all_its_threads(touches):
    """A thread that was there before does the work; the mappings of the start are known; it ends, and so do we."""
    process = subprocess.Popen([touches, str(PAGES), "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        code = "import sys, time; time.sleep(0.3); sys.stdout.write('!')"
        poke = subprocess.Popen([sys.executable, "-c", code], stdout=process.stdin)
        timeline = dontneed.trace(process.pid, seconds=60)
        poke.wait()
        start = int(process.stdout.readline(), 16)
    finally:
        process.kill()
        process.communicate()
    assert timeline.seconds < 60
    assert "touches" in timeline.maps
    assert len(timeline.threads) == 2
    assert len(within(timeline.events, start, PAGES)) % (PAGES + PAGES // 2 + 1) == 0
    summary = summarize(timeline)
    assert summary.last_rss_bytes == 0
    assert summary.peak_rss_bytes > PAGES * PAGE_BYTES


@traced
@pytest.mark.needs_command("cc")
def test_what_finds_no_room_is_counted_and_its_place_is_told(touches, tmp_path, monkeypatch):
    """A small ring that nobody empties loses records: how many is known, and that it happened is in the timeline."""
    monkeypatch.setattr(Recorder, "wait", lambda _self, _seconds: time.sleep(0.5))
    timeline, _ = run(tmp_path, touches, "20000", ring_bytes=1 << 16)
    assert timeline.lost > 10_000
    faults = int((timeline.events["kind"] == kinds.FAULT).sum())
    assert faults + timeline.lost >= 30_000
    write_trace(str(tmp_path / "trace"), timeline)
    assert read_trace(str(tmp_path / "trace")).lost == timeline.lost


@traced
def test_a_trace_ends_after_as_many_events_as_were_wanted():
    """It says so, and the command runs on to its end."""
    timeline = dontneed.trace_command(["sh", "-c", "sleep 0.5; exit 4"], most_events=100)
    assert "tracing ended after" in timeline.notes[0]
    assert timeline.exit_code == 4


@traced
@pytest.mark.needs_command("cc")
def test_a_trace_that_was_kept_is_the_same_when_it_is_read(touches, tmp_path):
    """Every field and every event; and the file is nobody's half of one."""
    timeline, _ = run(tmp_path, touches, str(PAGES))
    path = tmp_path / "kept"
    write_trace(str(path), timeline)
    read = read_trace(str(path))
    assert {**read.as_dict(), "events": None} == {**timeline.as_dict(), "events": None}
    assert (read.events == timeline.events).all()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["kept", "said"]


# What is refused


@traced
def test_what_cannot_be_traced_is_refused_with_a_reason():
    """Ourselves, a kernel thread, nobody at all, a program that there is not."""
    with pytest.raises(UsageError, match="traces itself"):
        dontneed.trace(os.getpid())
    with pytest.raises(dontneed.NoAddressSpace, match="kernel thread"):
        dontneed.trace(2, seconds=1)
    with pytest.raises(ProcessGone):
        dontneed.trace((1 << 22) - 1)
    with pytest.raises(UsageError, match="no program 'no-such-program'"):
        dontneed.trace_command(["no-such-program"])
    with pytest.raises(NotPermitted, match="cannot be run"):
        dontneed.trace_command(["/"])
    for wrong in ({"seconds": -1}, {"seconds": float("nan")}, {"most_events": 0}, {"ring_bytes": 5}):
        with pytest.raises(UsageError):
            dontneed.trace(1, **wrong)


@pytest.fixture
def untried():
    """Features are tried anew, in the test and after it."""
    features.features(refresh=True)
    features._found.clear()
    yield
    features._found.clear()


@pytest.mark.needs_root
@pytest.mark.usefixtures("untried")
def test_without_tracefs_it_is_said_that_the_kernel_lacks_it(monkeypatch):
    """Neither mounted nor to be opened: exit code 4, and which option of the kernel brings it."""

    def none():
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), "fsopen(tracefs), which is not mounted")

    monkeypatch.setattr(tracefs, "_places", lambda: ["/nowhere"])
    monkeypatch.setattr(tracefs, "_open_unmounted", none)
    with pytest.raises(KernelLacks, match="tracefs is absent") as refused:
        dontneed.trace_command(["true"])
    assert "CONFIG_FTRACE" in refused.value.hint


@pytest.mark.needs_root
@pytest.mark.usefixtures("untried")
def test_under_lockdown_it_is_said_that_lockdown_forbids_it(monkeypatch):
    """Exit code 3, and no advice to become root, which one is already."""

    def refuse(_names):
        raise PermissionError(errno.EPERM, "Operation not permitted", "events/kmem/rss_stat/format in tracefs")

    monkeypatch.setattr("dontneed.kernel.tracefs.read_tracepoints", refuse)
    monkeypatch.setattr("dontneed.observe.trace.timeline.read_tracepoints", refuse)
    monkeypatch.setattr("dontneed.kernel.probes_perf._read", lambda _path: "none integrity [confidentiality]")
    with pytest.raises(NotPermitted, match="lockdown=confidentiality") as refused:
        dontneed.trace_command(["true"])
    assert "without lockdown" in refused.value.hint


@pytest.mark.needs_root
@pytest.mark.usefixtures("untried")
def test_where_perf_is_closed_its_setting_is_named(monkeypatch):
    """perf_event_paranoid decides for those without CAP_PERFMON; seccomp and containers refuse the call itself."""

    def refuse(*_arguments, **_options):
        raise PermissionError(errno.EACCES, "Permission denied", "perf_event_open")

    monkeypatch.setattr("dontneed.kernel.perf.open_event", refuse)
    with pytest.raises(NotPermitted, match=r"perf_event_open is forbidden .*kernel\.perf_event_paranoid="):
        dontneed.trace_command(["true"])


@pytest.mark.needs_root
def test_nobody_is_told_what_it_takes(as_nobody):
    """Exit code 3, and no traceback."""
    refused = as_nobody.command("trace", "--", "true")
    assert refused.returncode == 3
    assert "nothing can be traced: tracefs is unprivileged" in refused.stderr
    assert "sudo" in refused.stderr
    assert "Traceback" not in refused.stderr


# Nothing stays behind


@traced
def test_a_killed_tracer_leaves_no_mount_no_event_and_no_waiting_command():
    """The events are gone from the traced process when their owner is; a command that never began ends with us."""
    mounts = Path("/proc/mounts").read_text()
    code = "import dontneed; dontneed.trace_command(['sleep', '1000'])"
    tracer = subprocess.Popen([sys.executable, "-c", code])
    children = Path(f"/proc/{tracer.pid}/task/{tracer.pid}/children")
    deadline = time.monotonic() + 30
    sleeper = ""
    while time.monotonic() < deadline:
        sleeper = children.read_text().strip()
        if sleeper and Path(f"/proc/{sleeper}/comm").read_text() == "sleep\n":
            break
        time.sleep(0.02)
    try:
        tracer.kill()
        tracer.wait()
        assert Path("/proc/mounts").read_text() == mounts
        again = dontneed.trace(int(sleeper), seconds=0.1)
        assert again.lost == 0
    finally:
        os.kill(int(sleeper), signal.SIGKILL)


@traced
def test_a_trace_gives_back_its_events_and_its_limit_of_open_files():
    """Also where it is refused half-way."""
    import resource

    before = len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    dontneed.trace_command(["true"])
    with pytest.raises(UsageError):
        dontneed.trace_command(["no-such-program"])
    assert (len(os.listdir("/proc/self/fd")), resource.getrlimit(resource.RLIMIT_NOFILE)[0]) == before
