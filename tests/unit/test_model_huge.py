"""Transparent huge pages in the model: what was measured on Linux 6.18, and where older kernels differ."""

from __future__ import annotations

from itertools import groupby

import pytest

from dontneed.abi.advice import Advice
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.fork import fork
from dontneed.model.calls.mappings import mmap, mprotect, munmap
from dontneed.model.paging.collapse import khugepaged
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, DIRTY, GUARD, HUGE, KIND, SHMEM, SWAP, WRITE, YOUNG, ZERO
from dontneed.model.space.mm import PAGE_SHIFT, Mm
from dontneed.model.system import System

RW = vm.READ | vm.WRITE
SLOT = 512
BASE = 1 << 20
SLOTS = 4


def huge_memory(version="6.18", pages=SLOTS * SLOT, first=BASE):
    """An address space with memory that wants huge pages."""
    mm = Mm(System(version))
    assert mmap(mm, first, first + pages, RW) == 0
    assert advise(mm, first, pages, Advice.HUGEPAGE) == 0
    return mm


def small_memory():
    """An address space with memory that does not."""
    mm = Mm(System())
    assert mmap(mm, BASE, BASE + SLOTS * SLOT, RW) == 0
    return mm


def advise(mm, first, pages, advice):
    return madvise(mm, first << PAGE_SHIFT, pages << PAGE_SHIFT, advice.number)


def write(mm, first, pages=1, byte=7):
    assert touch(mm, first, first + pages, write=True) == 0
    for start, end, _, frame in mm.table.runs(first, first + pages):
        mm.system.frames.store(frame, end - start, byte)


def read(mm, first, pages=1):
    assert touch(mm, first, first + pages, write=False) == 0


def byte_at(mm, page):
    code, frame = mm.table.get(page)
    return 0 if code & KIND == ZERO else mm.system.frames.load(frame)


def kinds(mm, first=BASE, pages=SLOT):
    """The pages of a range by kind, as `A` anonymous, `S` shared memory, `z` zero page, `g` guard, `-` none."""
    letters = {ANON: "A", SHMEM: "S", ZERO: "z", SWAP: "s", GUARD: "g", 0: "-"}
    each = [letters[mm.table.get(page)[0] & KIND] for page in range(first, first + pages)]
    return " ".join(f"{letter}{len(list(alike))}" for letter, alike in groupby(each))


def is_huge(mm, first=BASE):
    return mm.table.get(first)[0] & HUGE > 0


def frames(mm, first=BASE, pages=SLOT):
    return [mm.table.get(page)[1] for page in range(first, first + pages)]


def tables(mm):
    return mm.table.table_bytes(1)[0] // 4096


# Faults


def test_a_write_to_an_untouched_slot_maps_a_huge_page():
    """One fault, 512 pages, and a page table in deposit."""
    mm = huge_memory()
    write(mm, BASE + 5)
    assert is_huge(mm)
    assert (mm.resident[ANON], mm.minor_faults, tables(mm)) == (SLOT, 1, 1)


def test_a_read_of_an_untouched_slot_maps_the_huge_zero_page():
    """It is in no RSS; the mapping has an anon_vma by it, so that a child gets it too."""
    mm = huge_memory()
    read(mm, BASE + 5)
    assert kinds(mm) == "z512"
    assert is_huge(mm)
    assert (mm.resident[ANON], tables(mm)) == (0, 1)
    assert kinds(fork(mm)) == "z512"


def test_memory_is_huge_where_it_is_wanted_only():
    """Without the advice, with enabled=never, with NOHUGEPAGE, and before 2.6.38 a write maps a page."""
    indifferent, forbidden, refused, ancient = small_memory(), huge_memory(), huge_memory(), Mm(System("2.6.32"))
    forbidden.system.huge_enabled = "never"
    refused.system.huge_enabled = "always"
    advise(refused, BASE, SLOT, Advice.NOHUGEPAGE)
    ancient.system.huge_enabled = "always"
    mmap(ancient, BASE, BASE + SLOT, RW)
    for mm in (indifferent, forbidden, refused, ancient):
        write(mm, BASE)
        assert mm.resident[ANON] == 1


def test_with_enabled_always_memory_is_huge_without_advice():
    """/sys/kernel/mm/transparent_hugepage/enabled."""
    mm = small_memory()
    mm.system.huge_enabled = "always"
    write(mm, BASE)
    assert is_huge(mm)


def test_a_slot_that_the_mapping_does_not_cover_gets_small_pages():
    """Head and tail of a mapping that begins and ends within slots."""
    mm = huge_memory(pages=3 * SLOT, first=BASE + 1)
    for page in (BASE + 1, BASE + SLOT, BASE + 3 * SLOT):
        write(mm, page)
    assert [is_huge(mm, page) for page in (BASE + 1, BASE + SLOT, BASE + 3 * SLOT)] == [False, True, False]
    assert mm.resident[ANON] == 1 + SLOT + 1


def test_a_slot_with_a_page_table_gets_small_pages_even_if_it_is_empty():
    """A guard that came and went leaves its table behind."""
    mm = huge_memory()
    advise(mm, BASE, 1, Advice.GUARD_INSTALL)
    advise(mm, BASE, 1, Advice.GUARD_REMOVE)
    write(mm, BASE)
    assert kinds(mm) == "A1 -511"


def test_touching_all_of_a_range_fills_slots_and_what_is_between():
    """A bulk of pages comes as slots and small pages, each slot with one fault."""
    mm = huge_memory(pages=3 * SLOT, first=BASE + 1)
    write(mm, BASE + 1, 3 * SLOT)
    assert mm.resident[ANON] == 3 * SLOT
    assert mm.minor_faults == 511 + 1 + 1 + 1


def test_before_3_8_a_read_too_maps_a_huge_page():
    """There was no huge zero page."""
    mm = huge_memory("3.7")
    read(mm, BASE)
    assert (kinds(mm), mm.resident[ANON]) == ("A512", SLOT)


# Discarding


def test_half_a_discarded_huge_page_frees_nothing_until_the_rest_goes():
    """RSS falls by half, the frames are held; they go with the last page."""
    mm = huge_memory()
    write(mm, BASE)
    advise(mm, BASE, SLOT // 2, Advice.DONTNEED)
    system = mm.system
    assert (mm.resident[ANON], system.frames.deferred, system.frames.in_use, tables(mm)) == (256, 256, 512, 1)
    advise(mm, BASE + SLOT // 2, SLOT // 2, Advice.DONTNEED)
    assert (mm.resident[ANON], system.frames.in_use, tables(mm)) == (0, 0, 1)
    write(mm, BASE)
    assert mm.resident[ANON] == 1  # its page table is still there


def test_until_4_4_half_a_discarded_huge_page_was_freed_at_once():
    """The page itself was split, for good."""
    mm = huge_memory("4.4")
    write(mm, BASE)
    advise(mm, BASE, SLOT // 2, Advice.DONTNEED)
    assert (mm.system.frames.deferred, mm.system.frames.in_use) == (0, 256)


def test_a_huge_page_that_is_discarded_whole_takes_its_table_along():
    """VmPTE falls, and the next write is huge again, on kernels of every age."""
    for version in ("3.0", "6.12", "6.18"):
        mm = huge_memory(version)
        write(mm, BASE)
        advise(mm, BASE, SLOT, Advice.DONTNEED)
        assert (mm.resident[ANON], tables(mm), mm.system.frames.in_use) == (0, 0, 0)
        write(mm, BASE)
        assert is_huge(mm)


def test_a_page_of_the_huge_zero_page_goes_alone():
    """511 entries map the small zero page then."""
    mm = huge_memory()
    read(mm, BASE)
    advise(mm, BASE, 1, Advice.DONTNEED)
    assert kinds(mm) == "-1 z511"
    assert not is_huge(mm, BASE + 1)
    assert tables(mm) == 1


def test_a_change_of_flags_within_a_slot_splits_the_entry_and_keeps_the_pages():
    """NOHUGEPAGE of one page, mprotect of half of the pages."""
    mm = huge_memory()
    write(mm, BASE)
    assert advise(mm, BASE, 1, Advice.NOHUGEPAGE) == 0
    assert (kinds(mm), is_huge(mm), mm.resident[ANON]) == ("A512", False, SLOT)
    write(mm, BASE + SLOT)
    assert mprotect(mm, BASE + SLOT, BASE + SLOT + 256, vm.READ) == 0
    assert kinds(mm, BASE + SLOT) == "A512"
    assert not mm.table.get(BASE + SLOT)[0] & WRITE
    assert mm.table.get(BASE + SLOT + 256)[0] & WRITE


@pytest.mark.parametrize(("version", "dirty"), [("6.18", 3), ("6.16", 1)])
def test_a_change_of_protection_has_parts_side_by_side_be_dirty_alike(version, dirty):
    """Since 6.17 they are changed as one: a written part makes those next to it dirty, up to a hole."""
    mm = huge_memory(version)
    write(mm, BASE)
    advise(mm, BASE, SLOT, Advice.FREE)
    advise(mm, BASE + 3, 1, Advice.DONTNEED)
    write(mm, BASE + 1)
    assert mprotect(mm, BASE, BASE + 8, vm.READ) == 0
    codes = [mm.table.get(page)[0] for page in range(BASE, BASE + 8)]
    assert [code & DIRTY > 0 for code in codes].count(True) == dirty
    assert not codes[4] & DIRTY


# Writing to what is read-only


def test_a_write_to_the_huge_zero_page_maps_a_huge_page():
    """Since 6.13, and until 5.7; between them a small one, and zero pages around it."""
    for version, is_whole in (("5.7", True), ("6.1", False), ("6.18", True)):
        mm = huge_memory(version)
        read(mm, BASE)
        write(mm, BASE + 7)
        assert kinds(mm) == ("A512" if is_whole else "z7 A1 z504")
        assert tables(mm) == 1


def test_after_a_fork_a_write_copies_one_page_and_splits_the_entry_of_the_writer_alone():
    """The other keeps its huge entry; 511 frames are shared still."""
    mm = huge_memory()
    write(mm, BASE, SLOT)
    child = fork(mm)
    assert is_huge(child)
    assert not mm.table.get(BASE)[0] & WRITE
    assert not child.table.get(BASE)[0] & YOUNG
    write(child, BASE + 9, byte=8)
    assert (is_huge(child), is_huge(mm)) == (False, True)
    assert [ours == theirs for ours, theirs in zip(frames(mm), frames(child), strict=True)].count(False) == 1
    assert (byte_at(mm, BASE + 9), byte_at(child, BASE + 9)) == (7, 8)
    assert (mm.resident[ANON], child.resident[ANON]) == (SLOT, SLOT)


def test_until_5_7_a_write_after_a_fork_copied_all_of_a_huge_page():
    """Both have a huge page of their own then."""
    mm = huge_memory("5.7")
    write(mm, BASE, SLOT)
    child = fork(mm)
    write(child, BASE + 9, byte=8)
    assert is_huge(mm)
    assert is_huge(child)
    assert mm.system.frames.in_use == 2 * SLOT
    assert (byte_at(mm, BASE + 9), byte_at(child, BASE + 9), byte_at(child, BASE)) == (7, 8, 7)
    assert child.resident[ANON] == SLOT


def test_a_huge_page_whose_sharer_is_gone_is_written_in_place():
    """It is one process's alone again."""
    mm = huge_memory()
    write(mm, BASE)
    before = frames(mm)
    child = fork(mm)
    munmap(child, BASE, BASE + SLOTS * SLOT)
    write(mm, BASE)
    assert frames(mm) == before
    assert is_huge(mm)
    assert mm.table.get(BASE)[0] & WRITE


def test_a_part_that_is_mapped_once_is_copied_as_long_as_another_part_is_shared():
    """Linux 6.18 knows of the whole only whether others map any of it."""
    mm = huge_memory()
    write(mm, BASE)
    child = fork(mm)
    write(mm, BASE + 3)
    advise(child, BASE, 100, Advice.DONTNEED)
    before = frames(mm)
    write(mm, BASE + 4)
    assert frames(mm)[4] != before[4]
    munmap(child, BASE, BASE + SLOTS * SLOT)
    before = frames(mm)
    write(mm, BASE, SLOT)
    assert frames(mm) == before


@pytest.mark.parametrize(("version", "is_copied"), [("5.8", False), ("6.12", True), ("6.18", False)])
def test_a_part_whose_sharers_are_gone_is_reused_by_most_kernels(version, is_copied):
    """5.9 to 6.14 saw that the whole was in use, and copied."""
    mm = huge_memory(version)
    write(mm, BASE)
    child = fork(mm)
    advise(mm, BASE, 1, Advice.DONTNEED)
    munmap(child, BASE, BASE + SLOTS * SLOT)
    before = frames(mm)
    write(mm, BASE + 4)
    assert (frames(mm)[4] != before[4]) == is_copied


@pytest.mark.parametrize("last", [0, 200, SLOT - 1])
def test_the_last_part_that_is_mapped_is_copied_so_that_the_huge_page_goes(last):
    """Found by the running kernel, 6.18, in a sequence never seen before: one page is cheaper than 512 held for it."""
    mm = huge_memory()
    write(mm, BASE)
    munmap(fork(mm), BASE, BASE + SLOTS * SLOT)
    advise(mm, BASE, last, Advice.DONTNEED)
    advise(mm, BASE + last + 1, SLOT - 1 - last, Advice.DONTNEED)
    before = frames(mm)
    write(mm, BASE + last)
    assert frames(mm)[last] != before[last]
    assert (mm.system.frames.in_use, mm.system.frames.deferred) == (1, 0)


def test_a_child_gets_empty_page_tables_too():
    """So its slot has small pages, as its parent's would."""
    mm = huge_memory()
    write(mm, BASE)
    advise(mm, BASE, SLOT // 2, Advice.DONTNEED)
    advise(mm, BASE + SLOT // 2, SLOT // 2, Advice.DONTNEED)
    child = fork(mm)
    assert tables(child) == 1
    write(child, BASE)
    assert child.resident[ANON] == 1


def test_no_frame_is_lost_or_counted_twice_when_all_is_unmapped():
    """After forks, writes, discards and collapses in three processes, nothing is in use."""
    mm = huge_memory()
    write(mm, BASE, 2 * SLOT)
    read(mm, BASE + 2 * SLOT)
    child = fork(mm)
    write(child, BASE + 3)
    advise(mm, BASE + 100, 50, Advice.DONTNEED)
    grandchild = fork(child)
    advise(grandchild, BASE, SLOT, Advice.COLLAPSE)
    write(mm, BASE + 2 * SLOT + 5)
    khugepaged(child, BASE, BASE + SLOTS * SLOT)
    for each in (child, mm, grandchild):
        assert munmap(each, BASE, BASE + SLOTS * SLOT) == 0
        assert each.resident[ANON] == 0
    assert (mm.system.frames.in_use, mm.system.frames.deferred) == (0, 0)
