"""Swap in the model: where pages go, how they come back, and who holds a slot."""

from __future__ import annotations

import pytest

from dontneed.model.calls.fork import fork
from dontneed.model.calls.mappings import mmap, munmap
from dontneed.model.memory.page_cache import File
from dontneed.model.paging.faults import touch
from dontneed.model.paging.pageout import page_out, will_need
from dontneed.model.paging.zap import punch, zap
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, DIRTY, KIND, SHMEM, SWAP, WRITE
from dontneed.model.space.mm import Mm
from dontneed.model.system import System

FIRST = 0x7F0000000
PAGES = 4
LAST = FIRST + PAGES
BYTE = 0x5A


def swapped(version: str = "6.18", pages: int = PAGES) -> Mm:
    """An address space whose only mapping was written and then went to swap."""
    mm = written(version, pages)
    page_out(mm, mapping(mm), FIRST, FIRST + pages)
    return mm


def written(version: str = "6.18", pages: int = PAGES) -> Mm:
    """An address space with one mapping, full of a byte, on a machine with swap."""
    system = System(version)
    system.swap.enabled = True
    mm = Mm(system)
    mmap(mm, FIRST, FIRST + pages, vm.READ | vm.WRITE)
    write(mm, FIRST, FIRST + pages, BYTE)
    return mm


def mapping(mm: Mm) -> vm.Vma:
    """The mapping under test."""
    vma = mm.vmas.find(FIRST)
    assert vma is not None
    return vma


def write(mm: Mm, first: int, last: int, byte: int) -> None:
    """Fill pages with a byte."""
    assert touch(mm, first, last, write=True) == 0
    for page in range(first, last):
        mm.system.frames.store(mm.table.get(page)[1], 1, byte)


def read(mm: Mm, page: int) -> int:
    """The byte that fills a page."""
    assert touch(mm, page, page + 1, write=False) == 0
    return mm.system.frames.load(mm.table.get(page)[1])


def kinds(mm: Mm) -> list[int]:
    """The kinds of the entries under test."""
    return [mm.table.get(page)[0] & KIND for page in range(FIRST, LAST)]


def test_what_is_paged_out_is_counted_as_swap_and_holds_no_frame() -> None:
    """RSS falls, swap rises, the frames are free, and each page has a slot."""
    mm = swapped()
    assert kinds(mm) == [SWAP] * PAGES
    assert (mm.resident[ANON], mm.resident[SWAP]) == (0, PAGES)
    assert mm.system.frames.in_use == 0
    assert mm.system.swap.used == PAGES


@pytest.mark.parametrize("version", ["2.6.32", "4.4", "5.10", "6.18"])
def test_what_comes_back_is_what_went(version: str) -> None:
    """A swapped page is read back with its contents, by every kernel."""
    mm = Mm(system := System(version))
    mmap(mm, FIRST, LAST, vm.READ | vm.WRITE)
    touch(mm, FIRST, FIRST + 1, write=True)
    slot = system.swap.allocate(1)
    system.swap.store(slot, BYTE)
    zap(mm, mapping(mm), FIRST, LAST)
    mm.table.put(FIRST, FIRST + 1, SWAP, slot)
    mm.resident[SWAP] += 1
    assert read(mm, FIRST) == BYTE
    assert (mm.resident[ANON], mm.resident[SWAP]) == (1, 0)


@pytest.mark.parametrize("write_it", [False, True])
def test_the_only_entry_of_a_slot_is_read_past_the_swap_cache(write_it: bool) -> None:  # noqa: FBT001
    """From zram a touch brings one page in, by a major fault, and its slot is free at once."""
    mm = swapped()
    faults = mm.major_faults
    touch(mm, FIRST, FIRST + 1, write=write_it)
    assert kinds(mm) == [ANON, SWAP, SWAP, SWAP]
    assert mm.major_faults == faults + 1
    assert mm.system.swap.used == PAGES - 1
    assert not mm.system.swap.cache


def test_before_past_cache_reading_a_read_leaves_the_slot_in_use() -> None:
    """4.14 reads into the swap cache, and only a write frees the slot."""
    mm = written("6.18")
    page_out(mm, mapping(mm), FIRST, LAST)
    mm.system.behaviour = System("4.14").behaviour
    assert read(mm, FIRST) == BYTE
    assert mm.system.swap.used == PAGES
    assert not mm.table.get(FIRST)[0] & WRITE
    touch(mm, FIRST, FIRST + 1, write=True)
    assert mm.system.swap.used == PAGES - 1


def test_needed_pages_come_into_the_swap_cache_and_their_entries_stay() -> None:
    """WILLNEED reads slots into frames; entries and counters stay."""
    mm = swapped()
    will_need(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [SWAP] * PAGES
    assert mm.resident[SWAP] == PAGES
    assert mm.system.swap.used == PAGES
    assert mm.system.frames.in_use == PAGES


def test_a_read_of_a_cached_page_keeps_its_slot_and_a_write_frees_it() -> None:
    """Both are minor faults; a page that a read brought in is written later without another."""
    mm = swapped()
    will_need(mm, mapping(mm), FIRST, LAST)
    major, minor = mm.major_faults, mm.minor_faults
    touch(mm, FIRST, FIRST + 1, write=False)
    assert mm.system.swap.used == PAGES
    touch(mm, FIRST + 1, FIRST + 2, write=True)
    assert mm.system.swap.used == PAGES - 1
    touch(mm, FIRST, FIRST + 1, write=True)
    assert (mm.major_faults, mm.minor_faults) == (major, minor + 2)
    assert mm.system.swap.used == PAGES - 1


def test_a_cached_page_goes_out_again_to_its_own_slot() -> None:
    """What the swap cache still has a slot for takes no other, and takes its new contents there."""
    mm = swapped()
    slot = mm.table.get(FIRST)[1]
    will_need(mm, mapping(mm), FIRST, LAST)
    touch(mm, FIRST, FIRST + 1, write=False)
    write(mm, FIRST, FIRST + 1, 7)
    page_out(mm, mapping(mm), FIRST, FIRST + 1)
    assert mm.table.get(FIRST) == (SWAP, slot)
    assert mm.system.swap.used == PAGES
    assert read(mm, FIRST) == 7


def test_discarding_a_cached_slot_frees_slot_and_frame() -> None:
    """DONTNEED of a swap entry whose page is cached leaves neither."""
    mm = swapped()
    will_need(mm, mapping(mm), FIRST, LAST)
    touch(mm, FIRST, FIRST + 1, write=False)
    zap(mm, mapping(mm), FIRST, LAST)
    assert (mm.system.swap.used, mm.system.frames.in_use) == (0, 0)
    assert mm.resident[SWAP] == mm.resident[ANON] == 0


def test_a_fork_shares_slots_and_each_side_gives_up_its_own() -> None:
    """The child's discard frees no slot; the parent's then does."""
    mm = swapped()
    child = fork(mm)
    assert child.resident[SWAP] == PAGES
    zap(child, mapping(child), FIRST, LAST)
    assert mm.system.swap.used == PAGES
    zap(mm, mapping(mm), FIRST, LAST)
    assert mm.system.swap.used == 0


def test_a_shared_slot_is_read_through_the_swap_cache() -> None:
    """The second reader finds the frame of the first, and the slot stays in use until both let go."""
    mm = swapped()
    child = fork(mm)
    touch(mm, FIRST, FIRST + 1, write=False)
    faults = child.major_faults
    touch(child, FIRST, FIRST + 1, write=False)
    assert child.major_faults == faults
    assert child.table.get(FIRST)[1] == mm.table.get(FIRST)[1]
    assert mm.system.swap.used == PAGES
    munmap(child, FIRST, LAST)
    assert mm.system.swap.used == PAGES
    touch(mm, FIRST, FIRST + 1, write=True)
    assert mm.system.swap.used == PAGES - 1


def test_a_writer_of_a_shared_slot_gets_a_copy() -> None:
    """The cached frame stays for the other process, which still reads the old byte."""
    mm = swapped()
    child = fork(mm)
    write(mm, FIRST, FIRST + 1, 7)
    assert mm.system.frames.in_use == 2
    assert read(child, FIRST) == BYTE
    assert read(mm, FIRST) == 7


def test_a_page_that_was_shared_is_written_in_place_when_the_other_is_gone() -> None:
    """Nobody else maps it and no entry names its slot: no copy, and the slot is free."""
    mm = swapped()
    child = fork(mm)
    touch(mm, FIRST, FIRST + 1, write=False)
    munmap(child, FIRST, LAST)
    frame = mm.table.get(FIRST)[1]
    touch(mm, FIRST, FIRST + 1, write=True)
    assert mm.table.get(FIRST) == (mm.table.get(FIRST)[0] | WRITE | DIRTY, frame)
    assert mm.system.swap.used == PAGES - 1


def test_a_locked_page_keeps_no_slot() -> None:
    """A read in a locked mapping frees the slot of a cached page."""
    mm = swapped()
    will_need(mm, mapping(mm), FIRST, LAST)
    mapping(mm).flags |= vm.LOCKED
    touch(mm, FIRST, FIRST + 1, write=False)
    assert mm.system.swap.used == PAGES - 1


def test_shared_memory_in_swap_has_no_entries() -> None:
    """The file knows the slot, the process's swap counter does not move, and a touch frees the slot."""
    mm, file = shared_memory()
    page_out(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [0] * PAGES
    assert (mm.resident[SHMEM], mm.resident[SWAP]) == (0, 0)
    assert (len(file.swapped), mm.system.swap.used) == (PAGES, PAGES)
    assert read(mm, FIRST) == BYTE
    assert mm.system.swap.used == PAGES - 1


def test_needed_shared_memory_is_cached_and_its_first_touch_is_minor() -> None:
    """WILLNEED leaves the slot to the file; the touch that takes the page is no major fault."""
    mm, file = shared_memory()
    page_out(mm, mapping(mm), FIRST, LAST)
    will_need(mm, mapping(mm), FIRST, LAST)
    assert len(file.swapped) == mm.system.swap.used == PAGES
    faults = mm.major_faults
    assert read(mm, FIRST) == BYTE
    assert mm.major_faults == faults
    assert mm.system.swap.used == PAGES - 1


def test_a_hole_in_shared_memory_frees_slots_and_cached_frames() -> None:
    """REMOVE leaves nothing of what was in swap, cached or not."""
    mm, file = shared_memory()
    page_out(mm, mapping(mm), FIRST, LAST)
    will_need(mm, mapping(mm), FIRST, FIRST + 2)
    punch(file, 0, PAGES)
    assert (mm.system.swap.used, mm.system.frames.in_use) == (0, 0)
    assert read(mm, FIRST) == 0


def shared_memory() -> tuple[Mm, File]:
    """An address space with a file in memory mapped shared and written."""
    system = System()
    system.swap.enabled = True
    mm = Mm(system)
    file = File(system, "/memfd:test", PAGES, kind=SHMEM)
    mmap(mm, FIRST, LAST, vm.READ | vm.WRITE, shared=True, file=file)
    write(mm, FIRST, LAST, BYTE)
    return mm, file
