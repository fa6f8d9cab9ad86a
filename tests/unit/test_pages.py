"""The page map, against a model that cannot be wrong: page by page; and how it is read, without a kernel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dontneed.abi import pagemap as abi
from dontneed.errors import KernelLacks, ProcessGone
from dontneed.kernel import pagemap
from dontneed.kernel.maps import parse_maps
from dontneed.observe import pages
from dontneed.observe.pages import PageMap, decode_entries, read_page_map

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30
START = 0x7F00_0000_0000

SMALLEST_WINDOW = pagemap.Courtesy().window_pages

STATES = ("present", "swapped", "file", "exclusive", "guard")

bounded = settings(max_examples=300, deadline=None, derandomize=True, database=None)

frames = st.integers(1, 6) | st.sampled_from([0, 1 << 20, (1 << 20) + 1, abi.PFN_MASK])
"""Few, so that neighbours meet; 0 is a frame that is hidden."""

entries = st.lists(
    st.just(0)
    | st.just(abi.SOFT_DIRTY)  # nothing, in a mapping that the kernel marks
    | st.builds(
        lambda frame, *bits: abi.PRESENT | frame | sum(bits),
        frames,
        *(st.sampled_from([0, bit]) for bit in (abi.FILE, abi.EXCLUSIVE, abi.SOFT_DIRTY, abi.UFFD_WP)),
    )
    | st.builds(
        lambda place, *bits: abi.SWAP | place | sum(bits),
        st.integers(0, 8),
        *(st.sampled_from([0, bit]) for bit in (abi.FILE, abi.SOFT_DIRTY, abi.UFFD_WP)),
    )
    | st.sampled_from([abi.SWAP | abi.GUARD, abi.SWAP | abi.GUARD | 25]),
    max_size=60,
)
"""What a kernel may say of neighbouring pages."""


def model(entries: list[int]) -> dict[int, tuple]:
    """Frame and states of every page that is there, by its number, as pagemap.rst tells the bits."""
    found = {}
    for number, entry in enumerate(entries):
        present, swapped = bool(entry >> 63 & 1), bool(entry >> 62 & 1)
        if present or swapped:
            frame = entry & ((1 << 55) - 1) if present else 0
            found[number] = (frame, present, swapped, *(bool(entry >> bit & 1) for bit in (61, 56, 58)))
    return found


def expanded(runs: np.ndarray) -> dict[int, tuple]:
    """The pages that runs are made of, by their numbers."""
    found = {}
    for run in runs:
        step = 1 if run["frame"] and not run["repeated"] else 0
        for number, address in enumerate(range(int(run["start"]), int(run["end"]), PAGE)):
            frame = int(run["frame"]) + step * number
            found[(address - START) // PAGE] = (frame, *(bool(run[name]) for name in STATES))
    return found


def decoded(entries: list[int]) -> np.ndarray:
    return decode_entries(START, np.array(entries, np.uint64))


@bounded
@given(entries)
@example([])
@example([abi.PRESENT | abi.PFN_MASK, abi.PRESENT | 1])
@example([abi.PRESENT | 5, abi.PRESENT | 6, abi.PRESENT | 6, abi.PRESENT | 7])
@example([abi.SOFT_DIRTY] * 3)
def test_every_page_is_in_one_run_with_its_frame_and_its_states(entries) -> None:
    """Decoded to runs and expanded again: nothing lost, nothing made up, in order."""
    runs = decoded(entries)
    assert expanded(runs) == model(entries)
    assert (runs["start"] < runs["end"]).all()
    assert (runs["end"][:-1] <= runs["start"][1:]).all()


@pytest.mark.parametrize(
    "alike",
    [
        [abi.PRESENT | abi.EXCLUSIVE | frame for frame in range(100, 200)],
        [abi.PRESENT | abi.FILE] * 100,
        [abi.PRESENT | 4711] * 100,
        [abi.SWAP | abi.GUARD] * 100,
        [abi.SWAP | place for place in (7, 3, 3, 9, 1)],
    ],
    ids=["frames in a row", "hidden frames", "the zero page", "guards", "places in swap"],
)
def test_pages_alike_are_one_run(alike) -> None:
    """Whatever makes them alike; on either side of it nothing, and something else."""
    assert len(decoded(alike)) == 1
    assert len(decoded([0, *alike, 0, 0, abi.PRESENT | abi.FILE | 9])) == 2


def test_the_state_of_a_page_ends_a_run() -> None:
    """Frames in a row, of which one is shared with another process."""
    alone, shared = abi.PRESENT | abi.EXCLUSIVE, abi.PRESENT
    runs = decoded([alone | 10, alone | 11, shared | 12, alone | 13])
    assert [(int(run["frame"]), bool(run["exclusive"])) for run in runs] == [(10, True), (12, False), (13, True)]


def test_a_hole_that_is_marked_soft_dirty_is_no_page() -> None:
    """A kernel with CONFIG_MEM_SOFT_DIRTY sets the bit for all of a new mapping, touched or not."""
    assert len(decoded([abi.SOFT_DIRTY] * 512)) == 0
    assert expanded(decoded([abi.SOFT_DIRTY, abi.SOFT_DIRTY | abi.PRESENT | 7, abi.SOFT_DIRTY])).keys() == {1}


def test_a_page_map_knows_what_it_shows() -> None:
    """Bytes present, the runs within a range, and whether frames are hidden."""
    shown = PageMap(decoded([abi.PRESENT | 5, abi.PRESENT | 6, 0, abi.SWAP, abi.PRESENT | 5]))
    assert (len(shown), shown.present_bytes, shown.frames_shown) == (3, 3 * PAGE, True)
    assert shown.within(START + PAGE, START + 3 * PAGE)["start"].tolist() == [START]
    assert shown.within(START + 3 * PAGE, START + 9 * PAGE)["start"].tolist() == [START + 3 * PAGE, START + 4 * PAGE]
    assert len(shown.within(START + 2 * PAGE, START + 3 * PAGE)) == 0
    hidden = PageMap(decoded([abi.PRESENT, abi.PRESENT]))
    assert (len(hidden), hidden.present_bytes, hidden.frames_shown) == (1, 2 * PAGE, False)
    assert "hidden" in repr(hidden)


# What is read


class Process:
    """A process whose pagemap the test plays."""

    def open(self, _name: str) -> int:
        """Something that can be closed."""
        return pages.os.open("/dev/null", pages.os.O_RDONLY)


class Played:
    """A page map: which pages are there, and which ranges were read to find out."""

    def __init__(self, monkeypatch, there: list[tuple[int, int]], *, scan: bool = True) -> None:
        self.there = there
        self.read: list[tuple[int, int]] = []
        self._scan = scan
        monkeypatch.setattr(pages, "scan_pages", self._scan_pages)
        monkeypatch.setattr(pages, "read_entries", self._read_entries)

    def _scan_pages(self, _fd, start, end, *, wanted, returned):
        if not self._scan:
            raise KernelLacks("no PAGEMAP_SCAN")
        assert wanted == returned == abi.IS_PRESENT | abi.IS_SWAPPED
        for first, after in self.there:
            if start <= first < end:
                yield [first, after, abi.IS_PRESENT]

    def _read_entries(self, _fd, start, end):
        self.read.append((start, end))
        entries = np.zeros((end - start) // PAGE, np.uint64)
        for first, after in self.there:
            first_entry, behind = ((min(max(place, start), end) - start) // PAGE for place in (first, after))
            entries[first_entry:behind] = abi.PRESENT
        return entries


def table_of(start: int, end: int):
    """The maps of a process with one mapping."""
    return parse_maps(b"%08x-%08x rw-p 00000000 00:00 0 \n" % (start, end))


def test_only_what_is_populated_is_read(monkeypatch) -> None:
    """Of a gigabyte three places; two of them lie so close that one read is cheaper than two."""
    there = [(START, START + PAGE), (START + MIB, START + MIB + PAGE), (START + 512 * MIB, START + 513 * MIB)]
    played = Played(monkeypatch, there)
    found = read_page_map(Process(), table_of(START, START + GIB))
    assert played.read == [(START, START + MIB + PAGE), there[2]]
    assert [(int(run["start"]), int(run["end"])) for run in found.runs] == there


def test_an_older_kernel_is_read_from_end_to_end(monkeypatch) -> None:
    """Without PAGEMAP_SCAN all mappings are read, and what is found is the same."""
    there = [(START + 2 * MIB, START + 3 * MIB)]
    played = Played(monkeypatch, there, scan=False)
    found = read_page_map(Process(), table_of(START, START + 8 * MIB))
    assert played.read == [(START, START + 8 * MIB)]
    assert [(int(run["start"]), int(run["end"])) for run in found.runs] == there


def test_no_read_is_larger_than_a_gigabyte_of_addresses(monkeypatch) -> None:
    """So that an array of entries stays at 2 MiB; a run that is cut stays whole in what it says."""
    begin, end = START + 100 * MIB, START + 2 * GIB + 300 * MIB
    played = Played(monkeypatch, [(begin, end)])
    found = read_page_map(Process(), table_of(begin, end))
    cuts = [begin, START + GIB, START + 2 * GIB, end]
    assert played.read == list(pairwise(cuts))
    assert found.present_bytes == end - begin


def test_a_process_without_pages_has_an_empty_map(monkeypatch) -> None:
    """And nothing is read."""
    played = Played(monkeypatch, [])
    found = read_page_map(Process(), table_of(START, START + GIB))
    assert (len(found), found.present_bytes, found.frames_shown, played.read) == (0, 0, False, [])


# How politely it is walked


class FakeKernel:
    """A PAGEMAP_SCAN that finds every page present, and takes as long as the test says."""

    def __init__(self, monkeypatch, *, took_ns: int = 0, stuck: bool = False) -> None:
        self.windows: list[int] = []
        self.breaths = 0
        self._took_ns, self._stuck = took_ns, stuck
        self._now = 0
        monkeypatch.setattr(pagemap, "ioctl", self._ioctl)
        monkeypatch.setattr(pagemap, "perf_counter_ns", lambda: self._now)
        monkeypatch.setattr(pagemap, "_breathe", self._breathe)

    def _ioctl(self, _fd, request, call):
        assert request == abi.PAGEMAP_SCAN
        start = call[abi.SCAN_START]
        self.windows.append(call[abi.SCAN_MAX_PAGES])
        self._now += self._took_ns
        end = min(call[abi.SCAN_END], start + call[abi.SCAN_MAX_PAGES] * PAGE)
        call[abi.SCAN_WALK_END] = start if self._stuck else end
        return 0

    def _breathe(self):
        self.breaths += 1


def walk(pages: int) -> None:
    """Scan that many pages to the end."""
    for _ in pagemap.scan_pages(-1, START, START + pages * PAGE, wanted=1, returned=1):
        pass


def test_a_quiet_process_is_walked_in_growing_windows(monkeypatch) -> None:
    """Small at first; twice as large and twice as large again while nobody waits, up to a limit; no pause."""
    kernel = FakeKernel(monkeypatch)
    walk(300_000)
    assert kernel.windows[0] == kernel.windows[1] == SMALLEST_WINDOW
    assert all(after in (before, 2 * before) for before, after in pairwise(kernel.windows))
    assert kernel.windows[-1] == kernel.windows[-9] > SMALLEST_WINDOW
    assert kernel.breaths == 0


def test_a_busy_process_is_walked_in_small_windows_with_pauses(monkeypatch) -> None:
    """Every window took a millisecond: someone else held the lock."""
    kernel = FakeKernel(monkeypatch, took_ns=1_000_000)
    walk(100_000)
    assert set(kernel.windows) == {SMALLEST_WINDOW}
    assert kernel.breaths >= len(kernel.windows) - 1  # the first one may have been noise


def test_one_slow_window_halves_the_next_and_two_close_ones_bring_pauses(monkeypatch) -> None:
    """One may be noise; after two the windows are small again, with pauses, and need more calm to grow."""
    breaths = []
    monkeypatch.setattr(pagemap, "_breathe", lambda: breaths.append(1))
    courtesy = pagemap.Courtesy()
    calm_at_first = windows_until_it_grows(courtesy)
    windows_until_it_grows(courtesy)
    assert courtesy.window_pages == 4 * SMALLEST_WINDOW
    courtesy.after_window(1_000_000)
    assert (courtesy.window_pages, breaths) == (2 * SMALLEST_WINDOW, [])
    courtesy.after_window(1_000_000)
    assert (courtesy.window_pages, len(breaths)) == (SMALLEST_WINDOW, 1)
    calm = windows_until_it_grows(courtesy)
    assert calm > calm_at_first
    assert 1 < len(breaths) < calm


def test_competition_that_goes_on_is_remembered_longer(monkeypatch) -> None:
    """One slow window may be noise; five are someone who waits."""
    monkeypatch.setattr(pagemap, "_breathe", lambda: None)
    once, again = pagemap.Courtesy(), pagemap.Courtesy()
    once.after_window(1_000_000)
    for _ in range(5):
        again.after_window(1_000_000)
    assert windows_until_it_grows(once) < windows_until_it_grows(again)


def windows_until_it_grows(courtesy) -> int:
    """How many windows without competition it takes."""
    before, count = courtesy.window_pages, 0
    while courtesy.window_pages == before:
        courtesy.after_window(0)
        count += 1
    return count


def test_all_pages_are_walked_once(monkeypatch) -> None:
    """The windows follow each other without a gap, whatever their size."""
    kernel = FakeKernel(monkeypatch)
    walk(123_457)
    assert sum(kernel.windows[:-1]) < 123_457 <= sum(kernel.windows)


def test_a_walk_that_does_not_advance_is_ended(monkeypatch) -> None:
    """The kernel says so of memory that was given up; asking again would be asking for ever."""
    FakeKernel(monkeypatch, stuck=True)
    with pytest.raises(ProcessGone):
        walk(1)


@pytest.mark.parametrize(
    ("number", "error"), [("ENOTTY", KernelLacks), ("EINVAL", KernelLacks), ("ESRCH", ProcessGone)]
)
def test_what_the_kernel_refuses_is_told_apart(monkeypatch, number, error) -> None:
    """No such ioctl, or no such category; and no such process any more."""

    def refuse(*_):
        raise OSError(getattr(pagemap.errno, number), number)

    monkeypatch.setattr(pagemap, "ioctl", refuse)
    with pytest.raises(error):
        walk(1)


def test_other_refusals_are_not_hidden(monkeypatch) -> None:
    """An error that nobody expects arrives as it is."""

    def refuse(*_):
        raise OSError(pagemap.errno.ENOMEM, "no memory")

    monkeypatch.setattr(pagemap, "ioctl", refuse)
    with pytest.raises(OSError, match="no memory"):
        walk(1)


@pytest.mark.parametrize(("known", "categories"), [("all", 0x178), ("no guards", 0x78), ("nothing", 0)])
def test_a_kernel_is_asked_what_it_can_name(monkeypatch, known, categories) -> None:
    """Guards came with 6.15; a kernel that refuses them is asked for the rest."""

    def answer(_fd, _request, call):
        if known == "nothing" or (known == "no guards" and call[abi.SCAN_RETURN] & abi.IS_GUARD):
            raise OSError(pagemap.errno.EINVAL, "no such category")
        call[abi.SCAN_WALK_END] = call[abi.SCAN_END]
        return 0

    monkeypatch.setattr(pagemap, "ioctl", answer)
    assert pagemap.scan_categories(-1) == categories
