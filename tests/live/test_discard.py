"""`discard`: what every kind of buffer reads as afterwards, to the byte, what the watch sees, and by what evidence."""

from __future__ import annotations

import array
import ctypes
import errno
import json
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontneed import AdviceRefused, discard
from dontneed.kernel.madvise import advise_range
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.procmap import read_parts
from dontneed.reclaim import apply

from .conftest import (
    HUGE,
    MIB,
    PAGE,
    PRIVATE,
    address_of,
    assert_became,
    discarded,
    fill,
    frames_behind,
    huge_page,
    neighbours,
    raw,
    small_pages,
    whole_pages,
    without_whole_pages,
)

pytestmark = pytest.mark.usefixtures("one_processor")

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")

ODD = MIB + 1000
"""A size that ends within a page."""

either_evidence = pytest.mark.parametrize(
    "evidence", [pytest.param("frames", marks=pytest.mark.needs_root), "counters"]
)


# What it reads as afterwards

BUFFERS = {
    "numpy": lambda: np.empty(ODD, np.uint8),
    "numpy in Fortran order": lambda: np.empty((1000, 131), order="F"),
    "numpy of dates": lambda: np.empty(ODD // 8, "M8[s]"),
    "bytearray": lambda: bytearray(ODD),
    "memoryview": lambda: memoryview(bytearray(ODD))[3:],
    "array.array": lambda: array.array("d", bytes(ODD)),
    "ctypes": ctypes.c_double * (ODD // 8),
    "mmap": lambda: mmap.mmap(-1, ODD, flags=PRIVATE),
    "arrow": lambda: pyarrow.allocate_buffer(ODD),
}


@pytest.mark.parametrize("make", BUFFERS.values(), ids=BUFFERS)
def test_private_memory_reads_as_zero_in_whole_pages_and_keeps_every_other_byte(make):
    """First and last page are shared with other data, of whatever made the buffer."""
    buffer = make()
    contents = fill(buffer)
    receipt = discarded(buffer)
    assert np.array_equal(raw(buffer), without_whole_pages(buffer, contents))
    assert receipt.advised == whole_pages(buffer).stop - whole_pages(buffer).start > 0
    assert not receipt.shared
    assert not receipt.cached


def test_a_discarded_buffer_can_be_used_again():
    """The memory is still the buffer's: what is written stays."""
    buffer = bytearray(ODD)
    fill(buffer)
    discard(buffer)
    assert np.array_equal(fill(buffer), raw(buffer))


edges = st.tuples(st.integers(0, 6 * PAGE), st.integers(0, 6 * PAGE)).map(sorted)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(edges)
def test_any_part_of_an_array_loses_its_own_whole_pages_and_nothing_else(edge):
    """A slice is a buffer too: what lies beside it, up to the byte, is somebody else's."""
    start, end = edge
    memory = small_pages(6 * PAGE)
    contents = fill(memory)
    part = memoryview(memory)[start:end]
    expected = contents.copy()
    expected[start:end] = without_whole_pages(part, contents[start:end])
    assert discarded(part, evidence="none").advised == np.count_nonzero(contents != expected)
    assert np.array_equal(raw(memory), expected)


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 1), (1, PAGE), (1, 2 * PAGE - 1), (PAGE - 1, PAGE + 1)])
def test_a_buffer_without_a_whole_page_is_left_alone_and_told_why(start, end):
    """Nothing can be given back, which is no error."""
    memory = small_pages(2 * PAGE)
    contents = fill(memory)
    receipt = discarded(memoryview(memory)[start:end])
    assert (receipt.asked, receipt.advised) == (end - start, 0)
    assert_became(receipt)
    (note,) = receipt.notes
    assert "empty" in note if start == end else "no whole page" in note
    assert np.array_equal(raw(memory), contents)


@pytest.mark.parametrize("make", [bytearray, lambda: np.empty((0, 7)), lambda: array.array("d")])
def test_an_empty_buffer_has_nothing_to_give_back(make):
    """Some have not even an address."""
    assert_became(discarded(make()))


def test_several_mappings_behind_one_buffer_are_each_given_up_in_their_own_way():
    """Two kinds of anonymous memory, one that is shared, and a file mapped twice; the ends lie within pages."""
    size = 4 * PAGE
    file = np.full(size, 0x46, np.uint8)
    with neighbours(size, file) as buffer:
        contents = fill(buffer)
        receipt = discarded(buffer, evidence="none")
        expected = without_whole_pages(buffer, contents)
        written = contents[4 * size - 100 :]
        expected[4 * size - 100 :] = written
        expected[2 * size - 100 : 3 * size - 100] = np.concatenate((written, file[-100:]))
        assert np.array_equal(raw(buffer), expected)
        assert receipt.advised == 5 * size - 2 * PAGE
        assert [note.split(":")[0].split(" (")[0] for note in receipt.notes] == [
            "shared anonymous memory",
            "a shared mapping of a file",
            "a private mapping of a file",
        ]


@pytest.mark.needs_feature("PROCMAP_QUERY")
def test_maps_names_the_same_mappings_as_procmap_query(monkeypatch):
    """Kernels before 6.11 have only the former; both say what lies where, cut to the range."""
    with neighbours(4 * PAGE, np.zeros(4 * PAGE, np.uint8)) as buffer, ProcessDirectory() as process:
        start, end = address_of(buffer) // PAGE * PAGE + PAGE, address_of(buffer) // PAGE * PAGE + 18 * PAGE
        queried = read_parts(process, start, end)
        monkeypatch.setattr("dontneed.kernel.procmap.ioctl", _no_such_ioctl)
        assert read_parts(process, start, end) == queried
        assert (queried[0].start, queried[-1].end) == (start, end)


@pytest.mark.needs_feature("PROCMAP_QUERY")
def test_above_the_last_mapping_there_is_none(monkeypatch):
    """PROCMAP_QUERY says so by ENOENT, which is no error."""
    with ProcessDirectory() as process:
        lines = process.read("maps").splitlines()
        end = max(int(line.split()[0].split(b"-")[1], 16) for line in lines if b"[vsyscall]" not in line)
        assert read_parts(process, end, end + PAGE) == []
        monkeypatch.setattr("dontneed.kernel.procmap.ioctl", _no_such_ioctl)
        assert read_parts(process, end, end + PAGE) == []


def _no_such_ioctl(*_arguments):
    raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))


def test_a_file_with_a_path_too_long_for_any_call_is_discarded_too(monkeypatch):
    """PROCMAP_QUERY answers ENAMETOOLONG where maps prints the path."""
    with tempfile.TemporaryDirectory() as directory, monkeypatch.context() as elsewhere:
        elsewhere.chdir(directory)
        for _ in range(20):
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
        with open("deep", "w+b") as file:
            file.truncate(PAGE)
            memory = mmap.mmap(file.fileno(), PAGE)
        assert discarded(memory).advised == PAGE


# Watched


@pytest.fixture
def during_the_watch(monkeypatch):
    """What happens while `discard` waits, which is for as long as that takes."""

    def arrange(happens):
        waited = []
        clock = SimpleNamespace(
            perf_counter=time.perf_counter, sleep=lambda seconds: (waited.append(seconds), happens())
        )
        monkeypatch.setattr("dontneed.reclaim.discard.time", clock)
        return waited

    return arrange


@either_evidence
def test_pages_that_are_touched_again_are_counted_when_the_watch_ends(during_the_watch, evidence):
    """By another thread; a page that was only read is the zero page, and no memory."""
    memory = small_pages(MIB)
    fill(memory)

    def touch_again():
        assert not raw(memory).any()
        raw(memory)[:: 64 * PAGE] = 1

    def in_a_thread():
        thread = threading.Thread(target=touch_again)
        thread.start()
        thread.join()

    waited = during_the_watch(in_a_thread)
    receipt = discarded(memory, watch_seconds=5.0, evidence=evidence)
    assert waited == [5.0]
    assert receipt.refaulted == MIB // 64
    assert_became(receipt, freed=MIB)


def test_memory_left_alone_is_not_refaulted():
    """A watch that sees nothing."""
    memory = small_pages(MIB)
    fill(memory)
    assert discarded(memory, watch_seconds=0.01).refaulted == 0


@pytest.fixture
def eager_khugepaged():
    """A khugepaged that looks for work a hundred times a second, and fills in whatever is missing from a huge page."""
    if "[never]" in (HUGE_PAGES / "enabled").read_text():
        pytest.skip("needs huge pages that are enabled: khugepaged sleeps")
    knobs = {"scan_sleep_millisecs": "10", "max_ptes_none": "511", "pages_to_scan": "100000"}
    before = {name: (HUGE_PAGES / "khugepaged" / name).read_text() for name in knobs}
    for name, value in knobs.items():
        (HUGE_PAGES / "khugepaged" / name).write_text(value)
    yield
    for name, value in before.items():
        (HUGE_PAGES / "khugepaged" / name).write_text(value)


@pytest.mark.needs_root
@pytest.mark.needs_feature("transparent huge pages")
@pytest.mark.usefixtures("eager_khugepaged")
def test_what_khugepaged_takes_back_is_refaulted(during_the_watch):
    """Half a huge page that was given up is whole again soon: nobody touched it."""
    memory = huge_page()
    memory.obj.madvise(mmap.MADV_HUGEPAGE)
    deadline = time.monotonic() + 30

    def until_it_is_whole():
        while not frames_behind(memory).all() and time.monotonic() < deadline:
            time.sleep(0.01)

    during_the_watch(until_it_is_whole)
    assert discarded(memory[: HUGE // 2], watch_seconds=1).refaulted == HUGE // 2


# By what evidence


def test_without_evidence_nothing_is_claimed():
    """And everything is given up all the same."""
    memory = small_pages(MIB)
    fill(memory)
    receipt = discarded(memory, evidence="none")
    assert (receipt.evidence, receipt.advised) == ("none", MIB)
    assert_became(receipt)
    assert not raw(memory).any()


def test_a_receipt_is_a_sentence_of_what_is_not_nothing():
    """With the evidence, for a claim is worth no more than that."""
    memory = mmap.mmap(-1, MIB)
    fill(memory)
    assert str(discard(memory, evidence="none")) == "1.0 MiB advised; nobody looked what became of it"
    fill(memory)
    assert str(discard(memory, evidence="counters")).startswith("1.0 MiB advised: ")
    assert str(discard(memory, evidence="counters")) == "1.0 MiB advised: nothing freed (evidence: counters)"


DISCARD_8_MIB = f"""if True:
    import dontneed, json
    buffer = bytearray(b"x") * {8 * MIB}
    receipt = dontneed.discard(buffer, **options)
    dropped = receipt.before.rss_anon_bytes - receipt.after.rss_anon_bytes
    print(json.dumps([receipt.evidence, receipt.advised, receipt.freed, dropped, sum(buffer)]))
"""


def check_bounded(evidence, advised, freed, dropped, _left):
    """`freed` is no more than what RSS fell by, and not much less than what was advised."""
    assert evidence == "counters"
    assert advised - MIB // 4 <= freed <= min(advised, dropped)


def test_nobody_gets_what_the_counters_bound_and_is_told_so(as_nobody):
    """Frames are hidden without privileges, and `auto` does what can be done."""
    done = as_nobody(f"options = {{}}\n{DISCARD_8_MIB}")
    assert done.returncode == 0, done.stderr
    check_bounded(*json.loads(done.stdout))


def test_the_witness_does_not_count_its_own_memory():
    """In a fresh process it loads numpy, which takes more than the buffer gave back."""
    code = f"options = {{'evidence': 'counters'}}\n{DISCARD_8_MIB}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    check_bounded(*json.loads(done.stdout))


def test_nobody_is_not_permitted_to_have_frames_as_evidence(as_nobody):
    """The hint says who is, and nothing was given up."""
    done = as_nobody(
        """if True:
        import dontneed
        buffer = bytearray(b"x") * 100_000
        try:
            dontneed.discard(buffer, evidence="frames")
        except dontneed.NotPermitted as refused:
            print(refused.hint, buffer.count(b"x"))
        """
    )
    assert done.returncode == 0, done.stderr
    assert "root" in done.stdout
    assert done.stdout.split()[-1] == "100000"


# While it happens


def test_other_threads_run_on_during_a_large_discard(one_processor, monkeypatch):
    """The GIL is free during the system call; a thread that asks for it nowhere else counts up in there."""
    os.sched_setaffinity(0, one_processor)
    memory = small_pages(256 * MIB)
    raw(memory)[::PAGE] = 1
    counted, ended, advanced = [0], threading.Event(), []

    def count():
        while not ended.is_set():
            counted[0] += 1
            time.sleep(0)

    def advise_counted(*arguments):
        before = counted[0]
        advised = advise_range(*arguments)
        advanced.append(counted[0] - before)
        return advised

    monkeypatch.setattr(apply, "advise_range", advise_counted)
    switching = sys.getswitchinterval()
    sys.setswitchinterval(100)  # from here on a thread gets the GIL only when it is given away
    thread = threading.Thread(target=count)
    thread.start()
    discard(memory, evidence="none")
    ended.set()
    thread.join()
    sys.setswitchinterval(switching)
    assert advanced[0] > 0


def test_a_refusal_half_way_counts_what_was_advised_before(monkeypatch):
    """The earlier mappings are gone by then, and whoever catches it must know."""

    def advise_once(start, length, advice):
        monkeypatch.setattr(apply, "advise_range", refuse)
        return advise_range(start, length, advice)

    def refuse(*_arguments):
        raise AdviceRefused("no", errno=errno.EINVAL, advised=PAGE)

    monkeypatch.setattr(apply, "advise_range", advise_once)
    with neighbours(4 * PAGE, np.zeros(4 * PAGE, np.uint8)) as buffer:
        with pytest.raises(AdviceRefused) as refused:
            discard(buffer)
        assert refused.value.advised == 3 * PAGE + PAGE
