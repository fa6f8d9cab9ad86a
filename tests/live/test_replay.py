"""Programs whose every touch is known, traced and replayed: the model comes to what the kernel counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dontneed
from dontneed.abi import trace_kinds as kinds
from dontneed.kernel.environment import read_huge_pages
from dontneed.observe.trace.trace_file import write_trace
from dontneed.units import PAGE_BYTES

PAGES = 4000
DONTNEED = 4
MADVISE, MUNMAP = kinds.CALL_NUMBERS["madvise"], kinds.CALL_NUMBERS["munmap"]

pytestmark = [pytest.mark.needs_feature("tracepoints"), pytest.mark.needs_command("cc")]


@pytest.fixture(scope="module")
def touches(tmp_path_factory):
    """The program whose touches are known."""
    program = tmp_path_factory.mktemp("touches") / "touches"
    source = Path(__file__).parent / "targets" / "touches.c"
    subprocess.run(["cc", "-O1", "-pthread", "-o", program, source], check=True)
    return str(program)


def run(tmp_path, *words):
    """The timeline of a command, and the addresses that it said."""
    said = tmp_path / "said"
    with said.open("wb") as file:
        timeline = dontneed.trace_command(words, output=file.fileno())
    assert timeline.lost == 0
    return timeline, [int(line, 16) for line in said.read_text().split()]


def errors_between(timeline, replayed, first, last):
    """By how many pages the model is off at the moments between two rows of the timeline."""
    begin, end = ((int(timeline.events["time"][row]) - timeline.started) / 1e9 for row in (first, last))
    chosen = (replayed.times >= begin) & (replayed.times <= end)
    assert chosen.sum() >= PAGES
    return (replayed.predicted.rss_bytes[chosen] - replayed.rss_bytes[chosen]) // PAGE_BYTES


def test_the_model_comes_to_the_rss_of_a_known_program(touches, tmp_path):
    """Exactly, for memory of its own; what of files is in the page cache a trace does not tell, hence the bound."""
    timeline, (start,) = run(tmp_path, touches, str(PAGES))
    path = str(tmp_path / "trace")
    write_trace(path, timeline)
    replayed = dontneed.replay(path)
    assert replayed.mean_error < 0.02
    assert replayed.predicted.otherwise == {}
    assert replayed.faults == int((timeline.events["kind"] == kinds.FAULT).sum())

    events = timeline.events
    calls = (events["kind"] == kinds.CALL) & (events["b"] == start)
    no_huge = int(np.flatnonzero(calls & (events["a"] == MADVISE))[0])
    unmap = int(np.flatnonzero(calls & (events["a"] == MUNMAP))[0])
    off = errors_between(timeline, replayed, no_huge, unmap)
    assert np.ptp(off) == 0  # whatever came before, here the model errs by nothing more


@pytest.mark.parametrize("how", ["", "thread", "fork"])
def test_each_madvise_has_what_it_took_away_and_what_was_wanted_again(touches, tmp_path, how):
    """All that was touched, and half of it again, of which one page was written to: as the trace has it, too."""
    timeline, places = run(tmp_path, touches, str(PAGES), *([how] if how else []))
    pids = {timeline.pid, *timeline.events["b"][timeline.events["kind"] == kinds.FORK].tolist()}
    found = []
    for pid in sorted(pids):
        advices = dontneed.replay(timeline, pid=pid).predicted.advices
        found += [each for each in advices if each.advice == DONTNEED and each.start in places]
    assert {each.start for each in found} == set(places)
    for each in found:
        assert (each.zapped_bytes, each.refaults, each.refaulted_bytes) == (PAGES * PAGE_BYTES, PAGES // 2, PAGE_BYTES)
        assert 0 < each.first_seconds <= each.median_seconds
        assert each.traced.zapped_bytes == each.zapped_bytes
        assert each.traced.refaults == each.refaults


def test_a_process_that_is_traced_from_the_middle_is_compared_from_there_on():
    """Pages that it had before are learned of when they go; nothing is claimed of them."""
    code = (
        "import mmap, sys\n"
        f"memory = mmap.mmap(-1, {PAGES * PAGE_BYTES}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "memory.madvise(mmap.MADV_NOHUGEPAGE)\n"
        f"fill = lambda: [memory.__setitem__(place, 1) for place in range(0, {PAGES * PAGE_BYTES}, {PAGE_BYTES})]\n"
        "fill()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read(1)\n"
        "memory.madvise(mmap.MADV_DONTNEED)\n"
        "fill()\n"
        "memory.madvise(mmap.MADV_DONTNEED)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        poke = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5); print()"], stdout=process.stdin)
        timeline = dontneed.trace(process.pid, seconds=60)
        poke.wait()
    finally:
        process.kill()
        process.communicate()
    replayed = dontneed.replay(timeline, pid=process.pid)
    assert replayed.mean_error < 0.02
    notes = "\n".join(replayed.notes)
    assert "begins in the middle" in notes
    assert "calls that took away pages from before" in notes
    first, second = [each for each in replayed.predicted.advices if each.advice == DONTNEED][-2:]
    assert (first.zapped_bytes, first.traced.zapped_bytes) == (0, PAGES * PAGE_BYTES)
    assert second.zapped_bytes == second.traced.zapped_bytes == PAGES * PAGE_BYTES


def test_what_if_huge_pages_comes_to_what_they_are():
    """The same touches with and without the advice for huge pages: one run predicts the other."""
    if read_huge_pages() != "madvise":
        pytest.skip("transparent huge pages are not for those who ask for them here")
    code = (
        "import mmap, random, sys\n"
        "memory = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "if sys.argv[1] == 'huge':\n"
        "    memory.madvise(mmap.MADV_HUGEPAGE)\n"
        "dice = random.Random(1)\n"
        "for _ in range(60):\n"
        "    memory[dice.randrange(64 << 20)] = 1\n"
        "memory.madvise(mmap.MADV_DONTNEED, 0, 32 << 20)\n"
        "for _ in range(200):\n"
        "    memory[dice.randrange(64 << 20)] = 1\n"
    )
    small, huge = (dontneed.trace_command([sys.executable, "-c", code, size]) for size in ("small", "huge"))
    predicted, real = dontneed.replay(small, huge_pages="always"), dontneed.replay(huge)
    assert real.predicted.huge_faults > 30
    assert predicted.predicted.huge_faults == 0
    assert predicted.what_if.peak_rss_bytes == pytest.approx(real.peak_rss_bytes, rel=0.1)
    assert predicted.predicted.peak_rss_bytes < predicted.what_if.peak_rss_bytes / 3
    drop, real_drop = (
        max(each.advices, key=lambda advice: advice.zapped_bytes) for each in (predicted.what_if, real.predicted)
    )
    assert drop.advice == real_drop.advice == DONTNEED
    assert drop.zapped_bytes == pytest.approx(real_drop.zapped_bytes, rel=0.1)
    assert drop.refaults == pytest.approx(real_drop.refaults, abs=3)
