"""The page map of `look` against the entries of /proc/PID/pagemap, decoded here, and the frames against /proc/kpage*.

The oracle reads an entry of 8 bytes for every page of every mapping and looks at its bits one by one, as
Documentation/admin-guide/mm/pagemap.rst names them.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import numpy as np
import pytest

from dontneed.abi import kpageflags
from dontneed.kernel.kpage import read_frame_flags, read_map_counts
from dontneed.observe.address_space import look

PAGE = 4096
STATES = {"present": 63, "swapped": 62, "file": 61, "guard": 58, "exclusive": 56}
"""The bits of an entry."""

SHARED_ZERO_PAGE, TRANSPARENT_HUGE, HUGETLB = (1 << bit for bit in (24, 22, 17))
"""Bits of /proc/kpageflags."""


def entries_of(pid: int) -> dict[int, int]:
    """The entry of every page that has one, by its address."""
    found = {}
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_bytes().splitlines():
            start, end = (int(address, 16) for address in line.split()[0].split(b"-"))
            if start >= 1 << 63:
                continue
            entries = array("Q", os.pread(file.fileno(), (end - start) // PAGE * 8, start // PAGE * 8))
            assert len(entries) == (end - start) // PAGE
            found.update((start + page * PAGE, entry) for page, entry in enumerate(entries) if entry)
    return found


def pages_told(pid: int) -> dict[int, tuple[int, ...]]:
    """The frame and the states of every page that is there, out of the entries."""
    pages = {}
    for address, entry in entries_of(pid).items():
        frame = entry & (1 << 55) - 1 if entry >> 63 else 0
        states = tuple(entry >> bit & 1 for bit in STATES.values())
        if any(states):
            pages[address] = (frame, *states)
    return pages


def pages_seen(runs: np.ndarray) -> dict[int, tuple[int, ...]]:
    """The same, out of the runs that `look` made."""
    pages = {}
    for run in runs:
        states = tuple(int(run[name]) for name in STATES)
        for number, address in enumerate(range(int(run["start"]), int(run["end"]), PAGE)):
            further = 0 if run["repeated"] else number
            pages[address] = (int(run["frame"]) + further if run["frame"] else 0, *states)
    return pages


def of_its_own(pages: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """The same, without what others decide: whether a page of a file is mapped by one process or by more."""
    return {
        address: (frame, present, swapped, file, guard, exclusive and not file)
        for address, (frame, present, swapped, file, guard, exclusive) in pages.items()
    }


def frames_of(zoo, animal: str) -> np.ndarray:
    """The frames of the pages of an animal, in order."""
    space = look(zoo.pid, pages=True)
    mapping = next(each for each in space.mappings if each.start == zoo.start_of(animal))
    pages = pages_seen(space.pages.within(mapping.start, mapping.end))
    return np.array([page[0] for page in pages.values() if page[0]], np.uint64)


def test_every_page_is_in_the_state_that_its_entry_says(zoo, at_one_moment) -> None:
    """Present, swapped, of a file, guarded, exclusive, and on which frame: page by page."""
    told, seen = at_one_moment(lambda: pages_told(zoo.pid), lambda: look(zoo.pid, pages=True).pages)
    told, ours = of_its_own(told), of_its_own(pages_seen(seen.runs))
    assert {hex(address) for address in told.keys() ^ ours.keys()} == set()
    assert {hex(address): (told[address], ours[address]) for address in told if told[address] != ours[address]} == {}
    assert seen.present_bytes == PAGE * sum(page[1] for page in told.values())


@pytest.mark.needs_root
def test_swapped_pages_are_where_their_entries_are(swap_space, zoo, at_one_moment) -> None:  # noqa: ARG001
    """What is out has a state and no frame."""
    told, seen = at_one_moment(lambda: pages_told(zoo.pid), lambda: look(zoo.pid, pages=True).pages)
    assert of_its_own(pages_seen(seen.runs)) == of_its_own(told)
    out = pages_seen(seen.within(zoo.start_of("swapped"), zoo.start_of("swapped") + 48 * PAGE))
    assert {(frame, swapped) for frame, _, swapped, *_ in out.values()} == {(0, 1)}


def test_runs_are_in_order_and_apart(zoo) -> None:
    """Each begins where the one before it ended, or later, and none is empty."""
    runs = look(zoo.pid, pages=True).pages.runs
    assert (runs["start"] < runs["end"]).all()
    assert (runs["end"][:-1] <= runs["start"][1:]).all()


def test_pages_alike_are_one_run(zoo) -> None:
    """Of zero pages, on one frame; of a huge page, on 512 frames in a row; of pages without a frame to show."""
    pages = look(zoo.pid, pages=True).pages
    found = {name: pages.within(start, start + size * PAGE).tolist() for name, start, size in (
        ("zero_pages", zoo.start_of("zero_pages"), 40),
        ("huge", zoo.start_of("huge"), 512),
        ("guarded", zoo.start_of("guarded") + 8 * PAGE, 8),
    )}  # fmt: skip
    assert {name: len(runs) for name, runs in found.items()} == dict.fromkeys(found, 1)


@pytest.mark.needs_kernel("6.15")
def test_a_guarded_page_is_neither_present_nor_swapped_out(zoo) -> None:
    """Eight of 32 pages are guarded: they are in the map as guards, and in no count of memory."""
    start = zoo.start_of("guarded")
    space = look(zoo.pid, pages=True)
    states = [page[1:] for page in pages_seen(space.pages.within(start, start + 32 * PAGE)).values()]
    assert [guard for _, _, _, guard, _ in states] == [0] * 8 + [1] * 8 + [0] * 16
    assert [present for present, *_ in states] == [1] * 8 + [0] * 8 + [1] * 16
    mapping = next(each for each in space.mappings if each.start == start)
    assert (mapping.rss_bytes, mapping.swap_bytes) == (24 * PAGE, 0)


@pytest.mark.needs_root
def test_root_sees_frames(zoo) -> None:
    """The page map says so, and every page that is present has one."""
    pages = look(zoo.pid, pages=True).pages
    assert pages.frames_shown
    assert (pages.runs["frame"] != 0).tolist() == pages.runs["present"].tolist()


def test_nobody_sees_the_same_pages_without_frames(as_nobody) -> None:
    """A process without rights looks at itself: the states are shown, the frames are 0 and said to be hidden."""
    done = as_nobody(
        "from dontneed.observe.address_space import look\n"
        "pages = look(pages=True).pages\n"
        "print(pages.frames_shown, pages.runs['frame'].any(), pages.present_bytes > 1 << 20, pages)"
    )
    assert done.stderr == ""
    assert done.stdout.startswith("False False True <PageMap: ")
    assert "hidden" in done.stdout


@pytest.mark.needs_root
def test_the_frames_of_zero_pages_are_one_frame(zoo) -> None:
    """40 addresses, one frame, which calls itself the zero page."""
    frames = frames_of(zoo, "zero_pages")
    assert len(frames) == 40
    assert len(set(frames.tolist())) == 1
    assert (read_frame_flags(frames) & np.uint64(SHARED_ZERO_PAGE) != 0).all()


@pytest.mark.needs_root
def test_the_frames_of_huge_pages_say_that_they_are_huge(zoo) -> None:
    """A transparent huge page is 512 neighbours, aligned; hugetlb has a flag of its own."""
    frames = frames_of(zoo, "huge")
    assert frames.tolist() == [int(first) + page for first in frames[::512] for page in range(512)]
    assert (frames[::512] % np.uint64(512) == 0).all()
    assert (read_frame_flags(frames) & np.uint64(TRANSPARENT_HUGE) != 0).all()
    hugetlb = frames_of(zoo, "hugetlb_private")
    assert len(hugetlb) == 512
    assert (read_frame_flags(hugetlb) & np.uint64(HUGETLB) != 0).all()


@pytest.mark.needs_root
def test_a_half_released_huge_page_keeps_all_its_frames(zoo) -> None:
    """Of 512 pages 256 are mapped; the frames between them are of the huge page still."""
    mapped = frames_of(zoo, "half_released")
    assert len(mapped) == 256
    between = mapped - np.uint64(1)
    assert not set(between.tolist()) & set(mapped.tolist())
    assert (read_frame_flags(between) & np.uint64(TRANSPARENT_HUGE) != 0).all()


@pytest.mark.needs_root
def test_flags_and_counts_of_frames_are_those_of_the_files(zoo) -> None:
    """Asked for in any order, twice over, far apart: word for word what an own read of each frame gives."""
    frames = np.concatenate([frames_of(zoo, name) for name in ("anonymous", "zero_pages", "file_private", "anonymous")])
    frames = frames[::-1].copy()
    for path, read in (("/proc/kpageflags", read_frame_flags), ("/proc/kpagecount", read_map_counts)):
        with Path(path).open("rb", buffering=0) as file:
            told = [int.from_bytes(os.pread(file.fileno(), 8, int(frame) * 8), "little") for frame in frames]
        ours = read(frames)
        assert ours.shape == frames.shape
        # Flags such as `referenced` change by themselves; what a frame is does not.
        what_it_is = np.uint64(kpageflags.ANON | kpageflags.ZERO_PAGE | kpageflags.MMAP | kpageflags.HUGE)
        mask = what_it_is if path.endswith("flags") else ~np.uint64(0)
        steady = frames != frames_of(zoo, "zero_pages")[0]  # everyone maps the zero page
        assert (ours & mask)[steady].tolist() == [word & int(mask) for word in np.array(told, object)[steady]]


@pytest.mark.needs_root
def test_frames_beyond_the_machine_have_no_flags() -> None:
    """A number that no frame has is answered with 0, without a complaint."""
    beyond = np.array([1 << 50, (1 << 50) + 1], np.uint64)
    assert read_frame_flags(beyond).tolist() == [0, 0]
    assert read_map_counts(np.zeros(0, np.uint64)).tolist() == []
