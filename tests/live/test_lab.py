"""The live machine: what its process does when it is told, and that nothing of it stays behind."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dontneed.abi.advice import Advice
from dontneed.abi.page_table import SLOT_BYTES
from dontneed.errors import DontneedError, KernelLacks, ProcessGone
from dontneed.kernel import memory
from dontneed.kernel.environment import read_huge_pages
from dontneed.kernel.mappings import map_memory, unmap_memory
from dontneed.lab import channel, live
from dontneed.lab.catalogue import NAMES, experiment_named, run_experiment
from dontneed.lab.experiments.anonymous import EXPERIMENT
from dontneed.lab.live import LiveMachine, LiveProcess
from dontneed.lab.machine import SHARED_ANONYMOUS, Faults
from dontneed.lab.snapshot import Held, Snapshot, take_snapshot
from dontneed.units import PAGE_BYTES

from .undisturbed import all_claims_hold, undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.lab.machine import Region

PATIENCE_SECONDS = 60
PAGES = 16


@pytest.fixture
def process() -> Iterator[LiveProcess]:
    """A fresh process of the live machine."""
    with LiveMachine().start() as started:
        yield started


def _held(process: LiveProcess, region: Region) -> Held:
    return take_snapshot(process, [region]).held(region)


def _is_gone(pid: int) -> bool:
    """Whether there is no such process, or only its entry, which somebody else has yet to collect."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(b") ")[2][:1] in b"ZX"


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


# Experiments


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_of_every_experiment_holds_on_this_kernel(name):
    """The live kernel does what we say it does, several times in a row; what it cannot do is skipped for a reason."""
    for _ in range(3):
        run = undisturbed(lambda: run_experiment(experiment_named(name)), all_claims_hold)
        if run.skipped:
            pytest.skip(run.skipped)
        assert [claim for claim in run.claims if not claim.holds] == []
        assert run.passed


@pytest.mark.needs_root
def test_root_sees_the_frames_go_and_come_and_the_zero_page_between():
    """As many frames as pages after a write, none after the advice, and one for all pages after a read."""
    frames = [step.facts.get("frames", 0) for step in run_experiment(EXPERIMENT).steps]
    assert frames == [0, 1024, 0, 1, 1024]


# Words


def test_each_page_takes_one_fault_and_only_the_first_time(process):
    """Faults are those of the region: those of the interpreter that carries out the word are not among them."""
    region = process.map("p", PAGES)
    assert process.write(region, 1) == Faults(PAGES, 0)
    assert process.write(region, 2) == Faults(0, 0)
    assert process.read(region).faults == Faults(0, 0)


def test_reading_finds_the_bytes_that_were_written(process):
    """Each distinct value once, of every page."""
    region = process.map("p", PAGES)
    process.write(region, 7)
    process.write(region.part("q", 3, 1), 255)
    assert process.read(region).values == (7, 255)
    assert process.read(region.part("q", 3, 1)).values == (255,)


def test_an_advice_for_a_part_leaves_the_rest(process):
    """Half of the pages go, and their contents; the other half keep both."""
    region = process.map("p", PAGES)
    process.write(region, 7)
    half = PAGES // 2
    assert process.advise(region.part("q", 0, half), Advice.DONTNEED) == 0
    assert _held(process, region).rss_bytes == half * PAGE_BYTES
    assert process.read(region.part("q", 0, half)).values == (0,)
    assert process.read(region.part("r", half, half)).values == (7,)


def test_locked_memory_is_not_given_up_until_it_is_unlocked(process):
    """A refusal is an answer: the errno, and everything as it was."""
    region = process.map("p", PAGES)
    process.write(region, 7)
    assert process.lock(region) == 0
    assert process.advise(region, Advice.DONTNEED) == errno.EINVAL
    assert process.read(region).values == (7,)
    assert process.unlock(region) == 0
    assert process.advise(region, Advice.DONTNEED) == 0
    assert process.read(region).values == (0,)


def test_what_one_writes_after_a_fork_the_other_does_not_see(process):
    """Private pages are shared until one of the two writes, and each write is a fault that copies a page."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    with process.fork() as child:
        assert child.read(region) == process.read(region)
        assert child.write(region, 2) == Faults(PAGES, 0)
        assert (child.read(region).values, process.read(region).values) == ((2,), (1,))
        assert process.advise(region, Advice.DONTNEED) == 0
        assert (child.read(region).values, process.read(region).values) == ((2,), (0,))


def test_shared_memory_is_the_same_on_both_sides_of_a_fork(process):
    """And MADV_DONTNEED takes it from the one who gives it up, and from nobody else, not even from him for good."""
    region = process.map("p", PAGES, kind=SHARED_ANONYMOUS)
    with process.fork() as child:
        child.write(region, 2)
        assert process.read(region).values == (2,)
        assert process.advise(region, Advice.DONTNEED) == 0
        assert _held(process, region).rss_bytes == 0
        assert process.read(region).values == (2,)


def test_a_fork_of_a_fork_ends_before_its_parent_does(process):
    """Each process has a channel of its own, and its end is waited for."""
    with process.fork() as child:
        with child.fork() as grandchild:
            assert len({process.pid, child.pid, grandchild.pid}) == 3
        _wait_until_gone(grandchild.pid)
        assert child.status()
    _wait_until_gone(child.pid)
    assert process.status()


# Regions


def _neighbours(snapshot: Snapshot, region: Region) -> tuple[str, str]:
    mappings = list(snapshot.mappings)
    (place,) = (number for number, mapping in enumerate(mappings) if mapping.start == region.start)
    below, above = mappings[place - 1], mappings[place + 1]
    assert (below.end, above.start) == (region.start, region.end)
    return below.perms, above.perms


def test_a_region_is_fenced_off_and_has_page_tables_of_its_own(process):
    """It begins where a page table begins, and inaccessible memory adjoins it on both sides."""
    region = process.map("p", PAGES)
    assert region.start % SLOT_BYTES == 0
    assert _neighbours(take_snapshot(process, [region]), region) == ("---p", "---p")


def test_two_regions_do_not_merge(process):
    """Even if they are mapped one right after the other."""
    first, second = process.map("p", PAGES), process.map("q", PAGES)
    snapshot = take_snapshot(process, [first, second])
    assert [len(snapshot.held(region).mappings) for region in (first, second)] == [1, 1]


@pytest.mark.skipif(read_huge_pages() is None, reason="this kernel has no huge pages to keep away")
def test_a_region_never_gets_huge_pages(process):
    """Whatever sysfs says: an experiment counts pages."""
    region = process.map("p", 2 * SLOT_BYTES // PAGE_BYTES)
    snapshot = take_snapshot(process, [region])
    (smaps,) = (mapping.smaps for mapping in snapshot.mappings if mapping.start == region.start)
    assert "advised no huge pages" in smaps.flags


def test_an_unmapped_region_leaves_nothing(process):
    """Its fences go with it."""
    before = [mapping.start for mapping in take_snapshot(process, []).mappings]
    region = process.map("p", PAGES)
    process.write(region, 1)
    process.unmap(region)
    assert [mapping.start for mapping in take_snapshot(process, []).mappings] == before


def test_memory_that_there_is_not_is_an_error_and_not_the_end(process):
    """The process goes on; it is only told no."""
    with pytest.raises(DontneedError, match="mmap: Cannot allocate memory"):
        process.map("p", (1 << 47) // PAGE_BYTES)
    assert process.write(process.map("p", PAGES), 1).minor == PAGES


def test_a_kind_of_memory_that_it_has_not_is_said_so(process):
    """An experiment that needs it is skipped, by this error."""
    with pytest.raises(KernelLacks, match="secret"):
        process.map("p", PAGES, kind="secret")


# Beginning and end


def test_a_process_ends_with_its_block_whatever_happens_in_it():
    """Also when the block fails; and ending it once more does nothing."""
    with pytest.raises(ZeroDivisionError), LiveMachine().start() as process:
        1 // 0  # noqa: B018
    assert _is_gone(process.pid)
    process.end()


def test_a_process_that_is_killed_is_gone_and_said_to_be():
    """With the signal that it was killed by."""
    with LiveMachine().start() as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ProcessGone, match="signal 9"):
            process.map("p", PAGES)


def test_a_forked_process_that_is_killed_is_gone_and_its_parent_is_not(process):
    """Each answers for itself; after that, a word to it meets a closed channel."""
    with process.fork() as child:
        os.kill(child.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ProcessGone, match="forked"):
                child.map("p", PAGES)
    assert process.write(process.map("p", PAGES), 1).minor == PAGES


def test_a_touch_of_what_is_not_mapped_ends_the_process_and_not_ours():
    """This is why experiments have a process of their own."""
    with LiveMachine().start() as process:
        region = process.map("p", PAGES)
        process.unmap(region)
        with pytest.raises(ProcessGone, match="signal 11"):
            process.write(region, 1)


def test_a_process_dies_with_the_one_that_started_it():
    """Even if that one is killed and can clean up nothing."""
    program = """if True:
        import sys
        from dontneed.lab.live import LiveMachine
        with LiveMachine().start() as process, process.fork() as child:
            print(process.pid, child.pid, flush=True)
            sys.stdin.read()
    """
    starter = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with starter:
        pids = [int(word) for word in starter.stdout.readline().split()]
        assert [_is_gone(pid) for pid in pids] == [False, False]
        starter.kill()
    for pid in pids:
        _wait_until_gone(pid)


def test_a_process_that_does_not_answer_is_given_up_and_killed(monkeypatch):
    """Somebody stopped it; nobody waits for ever, and nothing stays behind."""
    monkeypatch.setattr(channel, "FAREWELL_SECONDS", 0.1)
    with LiveMachine().start() as process:
        os.kill(process.pid, signal.SIGSTOP)
        process._channel.settimeout(0.1)
        with pytest.raises(DontneedError, match="has not answered"):
            process.map("p", PAGES)
    assert _is_gone(process.pid)


def test_a_process_that_does_not_come_to_rest_is_not_looked_at(monkeypatch):
    """What moves while it is read is no snapshot."""
    monkeypatch.setattr(channel, "FAREWELL_SECONDS", 0.1)
    with LiveMachine().start() as process:
        monkeypatch.setattr(live, "_PATIENCE_SECONDS", 0.1)
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(DontneedError, match="come to rest"):
            process.smaps()


def test_a_process_that_fails_at_once_says_why(monkeypatch):
    """Its exit code, and the last line that it wrote."""
    monkeypatch.setattr(channel, "_PROGRAM", "raise ImportError('half an installation')")
    with pytest.raises(ProcessGone, match="exit code 1: ImportError: half an installation"):
        LiveMachine().start()


def test_a_process_whose_rehearsal_fails_is_ended(monkeypatch):
    """The error comes through, and no process stays behind."""
    ended = []
    monkeypatch.setattr(live, "_REHEARSED_PAGES", (1 << 47) // PAGE_BYTES)
    monkeypatch.setattr(
        LiveProcess, "end", lambda process, end=LiveProcess.end: (end(process), ended.append(process.pid))
    )
    with pytest.raises(DontneedError, match="mmap"):
        LiveMachine().start()
    assert [_is_gone(pid) for pid in ended] == [True]


def test_who_may_not_run_a_process_skips_the_experiment(monkeypatch, tmp_path):
    """A right that is missing is a reason to skip; a program that is missing is an error."""
    program = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(DontneedError, match="No such file"):
        run_experiment(EXPERIMENT)
    program.touch(mode=0o600)
    assert "Permission denied" in run_experiment(EXPERIMENT).skipped


def test_where_it_is_started_does_not_matter(tmp_path, monkeypatch):
    """Neither a directory with a json.py of its own nor PYTHONPATH reaches the process."""
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LiveMachine().start() as process:
        assert process.write(process.map("p", PAGES), 1).minor == PAGES


# Memory at plain addresses


@pytest.fixture
def address() -> Iterator[int]:
    """1,030 fresh pages of our own: more than one step of touching."""
    length = 1030 * PAGE_BYTES
    start = map_memory(length)
    yield start
    unmap_memory(start, length)


def test_filled_memory_is_read_back(address):
    """Exactly the bytes that were asked for."""
    memory.fill(address + 1, 3, ord("x"))
    assert memory.read_bytes(address, 5) == b"\0xxx\0"


def test_touching_writes_the_first_byte_of_each_page(address):
    """Every page, across steps, and no other byte; reading changes none."""
    pages = 1030
    memory.fill(address, pages * PAGE_BYTES, 1)
    memory.touch_pages(address, pages, write=False)
    assert memory.read_bytes(address, pages * PAGE_BYTES).count(1) == pages * PAGE_BYTES
    memory.touch_pages(address, pages - 1, write=True)
    assert memory.read_bytes(address, pages * PAGE_BYTES) == (b"\0" + b"\1" * (PAGE_BYTES - 1)) * (pages - 1) + (
        b"\1" * PAGE_BYTES
    )


def test_faults_are_counted_for_this_thread(address):
    """At least one for the pages that were not there before."""
    before = memory.count_faults()
    memory.touch_pages(address, 1030, write=True)
    after = memory.count_faults()
    assert after[0] > before[0]
    assert after[1] >= before[1]
    assert mmap.PAGESIZE == PAGE_BYTES
