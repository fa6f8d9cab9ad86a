"""Huge pages of the hugetlb pool in the model: the pool, its reservations, and who gets the last page."""

from __future__ import annotations

from errno import EINVAL, ENOMEM

import pytest

from dontneed.abi.advice import Advice
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.fork import fork
from dontneed.model.calls.mappings import mlock, mmap, mprotect, munmap
from dontneed.model.paging import hugetlb
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import DIRTY, HUGETLB, KIND, WRITE
from dontneed.model.space.mm import PAGE_SHIFT, Mm
from dontneed.model.system import System

RW = vm.READ | vm.WRITE
SLOT = 512
BASE = 1 << 20
ELSEWHERE = 2 << 20
SIGBUS = 7


def machine(pool=4, version="6.18"):
    system = System(version)
    system.huge_pool = pool
    return Mm(system)


def map_pages(mm, pages=2, first=BASE, **settings):
    """Map huge pages; the errno."""
    flags = settings.pop("flags", 0) | vm.HUGETLB
    return mmap(mm, first, first + pages * SLOT, RW, flags=flags, **settings)


def pool(mm):
    """Free pages of the pool, and how many of these are reserved."""
    return mm.system.huge_pool, mm.system.huge_reserved


def write(mm, page, byte=7):
    signal = touch(mm, page, page + 1, write=True)
    if not signal:
        mm.system.frames.store(mm.table.get(page)[1], 1, byte)
    return signal


def read(mm, page):
    return touch(mm, page, page + 1, write=False)


def byte_at(mm, page):
    return mm.system.frames.load(mm.table.get(page)[1])


def advise(mm, first, pages, advice):
    return madvise(mm, first << PAGE_SHIFT, pages << PAGE_SHIFT, advice.number)


def mapped(mm, first=BASE, slots=2):
    """Which slots have an entry."""
    return [mm.table.get(first + slot * SLOT)[0] & KIND == HUGETLB for slot in range(slots)]


# Mapping


def test_a_mapping_reserves_its_pages_and_a_touch_takes_them():
    """Reserved pages are free until they are touched; a read takes one too."""
    mm = machine()
    assert map_pages(mm) == 0
    assert pool(mm) == (4, 2)
    assert read(mm, BASE + 5) == 0
    assert pool(mm) == (3, 1)
    assert write(mm, BASE) == 0
    assert pool(mm) == (3, 1)
    assert (mm.hugetlb_pages, mm.rss_pages, mm.table.table_bytes(1)) == (SLOT, 0, (0,))


def test_a_pool_that_is_too_small_refuses_the_mapping():
    """ENOMEM at mmap, not SIGBUS later; MAP_NORESERVE takes that risk."""
    mm = machine(pool=1)
    assert map_pages(mm) == ENOMEM
    assert map_pages(mm, flags=vm.NO_RESERVE) == 0
    assert pool(mm) == (1, 0)
    assert [write(mm, BASE), write(mm, BASE + SLOT)] == [0, SIGBUS]
    assert mapped(mm) == [True, False]


def test_a_reserved_page_is_not_for_others():
    """What is free but reserved answers no one else."""
    mm = machine(pool=2)
    map_pages(mm, flags=vm.NO_RESERVE)
    map_pages(mm, first=ELSEWHERE)
    assert write(mm, BASE) == SIGBUS
    assert munmap(mm, ELSEWHERE, ELSEWHERE + 2 * SLOT) == 0
    assert write(mm, BASE) == 0


def test_unmapping_gives_pages_and_reservations_back():
    """One page was touched, one was not."""
    mm = machine()
    map_pages(mm)
    write(mm, BASE)
    assert munmap(mm, BASE, BASE + SLOT) == 0
    assert pool(mm) == (4, 1)
    assert munmap(mm, BASE + SLOT, BASE + 2 * SLOT) == 0
    assert pool(mm) == (4, 0)
    assert mm.hugetlb_pages == 0


def test_a_mapping_begins_at_a_huge_page_and_is_rounded_up_to_one():
    """EINVAL for an address between; one page becomes 512."""
    mm = machine()
    assert mmap(mm, BASE + 1, BASE + 1 + SLOT, RW, flags=vm.HUGETLB) == EINVAL
    assert mmap(mm, BASE, BASE + 1, RW, flags=vm.HUGETLB) == 0
    assert mm.vmas.find(BASE).pages == SLOT


def test_a_mapping_is_split_between_huge_pages_only():
    """EINVAL for munmap, mprotect and flags; what could be split at the first end is."""
    mm = machine()
    map_pages(mm, 3)
    assert munmap(mm, BASE, BASE + 1) == EINVAL
    assert munmap(mm, BASE + 1, BASE + SLOT) == EINVAL
    assert mprotect(mm, BASE, BASE + 1, vm.READ) == EINVAL
    assert len(mm.vmas) == 1
    assert advise(mm, BASE + SLOT, 1, Advice.DONTFORK) == EINVAL
    assert [(vma.first - BASE, vma.last - BASE) for vma in mm.vmas] == [(0, SLOT), (SLOT, 3 * SLOT)]
    assert mprotect(mm, BASE, BASE + SLOT, vm.READ) == 0


def test_mlock_brings_pages_in_and_locks_nothing():
    """They are never swapped anyhow."""
    mm = machine()
    map_pages(mm)
    assert mlock(mm, BASE, BASE + 2 * SLOT) == 0
    assert mapped(mm) == [True, True]
    assert mm.locked_pages == 0


# Discarding


def test_a_discard_returns_the_page_and_keeps_it_reserved():
    """Since 6.9 nobody can take it meanwhile; before, it was anybody's."""
    for version, reserved in (("6.18", 1), ("6.8", 0)):
        mm = machine(version=version)
        map_pages(mm)
        write(mm, BASE)
        write(mm, BASE + SLOT)
        assert advise(mm, BASE, SLOT, Advice.DONTNEED) == 0
        assert pool(mm) == (3, reserved)
        assert mapped(mm) == [False, True]
        assert mm.hugetlb_pages == SLOT
        assert (read(mm, BASE), byte_at(mm, BASE)) == (0, 0)


def test_without_a_reservation_a_discard_reserves_nothing():
    """MAP_NORESERVE."""
    mm = machine()
    map_pages(mm, flags=vm.NO_RESERVE)
    write(mm, BASE)
    advise(mm, BASE, SLOT, Advice.DONTNEED)
    assert pool(mm) == (4, 0)


def test_a_discard_of_less_than_a_huge_page_does_nothing():
    """The end is rounded down since 6.1; a start between is EINVAL."""
    mm = machine()
    map_pages(mm)
    write(mm, BASE)
    write(mm, BASE + SLOT)
    assert advise(mm, BASE, 1, Advice.DONTNEED) == 0
    assert advise(mm, BASE + 1, SLOT, Advice.DONTNEED) == EINVAL
    assert mapped(mm) == [True, True]
    assert advise(mm, BASE, SLOT + 1, Advice.DONTNEED) == 0
    assert mapped(mm) == [False, True]


@pytest.mark.parametrize(("version", "left"), [("5.17", [True, True]), ("5.18", [False, False])])
def test_a_discard_was_refused_before_5_18_and_rounded_up_until_6_0(version, left):
    """A page more than a huge page takes two."""
    mm = machine(version=version)
    map_pages(mm)
    write(mm, BASE)
    write(mm, BASE + SLOT)
    advise(mm, BASE, SLOT + 1, Advice.DONTNEED)
    assert mapped(mm) == left


# fork


def test_a_child_shares_private_pages_and_copies_what_it_writes_from_what_is_left():
    """It has no claim to the reservations of its parent."""
    mm = machine()
    map_pages(mm)
    write(mm, BASE)
    child = fork(mm)
    assert (child.hugetlb_pages, pool(mm)) == (SLOT, (3, 1))
    assert write(child, BASE, byte=9) == 0
    assert (byte_at(mm, BASE), byte_at(child, BASE)) == (7, 9)
    assert pool(mm) == (2, 1)
    assert write(child, BASE + SLOT) == 0
    assert pool(mm) == (1, 1)
    assert munmap(child, BASE, BASE + 2 * SLOT) == 0
    assert pool(mm) == (3, 1)


def test_the_parent_takes_the_page_back_when_the_pool_is_empty():
    """The child finds nothing there then, and dies of SIGBUS; its own write would have been SIGBUS too."""
    mm = machine(pool=1)
    map_pages(mm, 1)
    write(mm, BASE)
    child = fork(mm)
    assert write(child, BASE) == SIGBUS
    before = mm.table.get(BASE)[1]
    assert write(mm, BASE, byte=8) == 0
    assert mm.table.get(BASE)[1] == before
    assert not mapped(child, slots=1)[0]
    assert (read(child, BASE), child.hugetlb_pages) == (SIGBUS, 0)
    assert munmap(mm, BASE, BASE + SLOT) == 0
    assert pool(mm) == (1, 0)


def test_a_page_whose_sharer_is_gone_is_written_in_place():
    """No copy for the last one."""
    mm = machine()
    map_pages(mm)
    write(mm, BASE)
    child = fork(mm)
    munmap(child, BASE, BASE + 2 * SLOT)
    before = mm.table.get(BASE)[1]
    write(mm, BASE)
    assert mm.table.get(BASE)[1] == before


# Shared memory and files


def test_shared_memory_keeps_its_pages_when_it_is_discarded():
    """The file holds them; the next touch finds them again."""
    mm = machine()
    map_pages(mm, shared=True)
    write(mm, BASE)
    assert advise(mm, BASE, SLOT, Advice.DONTNEED) == 0
    assert (pool(mm), mm.hugetlb_pages) == ((3, 1), 0)
    assert (read(mm, BASE), byte_at(mm, BASE)) == (0, 7)


def test_a_child_faults_shared_memory_in_by_itself_since_6_0():
    """It sees what its parent wrote, and the other way round."""
    for version, pages in (("6.18", 0), ("5.18", SLOT)):
        mm = machine(version=version)
        map_pages(mm, shared=True)
        write(mm, BASE)
        child = fork(mm)
        assert child.hugetlb_pages == pages
        write(child, BASE, byte=3)
        assert byte_at(mm, BASE) == 3
        assert pool(mm) == (3, 1)


def test_a_hole_gives_whole_huge_pages_back_without_their_reservation():
    """Part of one is filled with zeros and stays."""
    mm = machine()
    map_pages(mm, shared=True)
    write(mm, BASE)
    assert advise(mm, BASE, 1, Advice.REMOVE) == 0
    assert (mapped(mm), byte_at(mm, BASE), pool(mm)) == ([True, False], 0, (3, 1))
    assert advise(mm, BASE, SLOT, Advice.REMOVE) == 0
    assert (mapped(mm), pool(mm)) == ([False, False], (4, 1))
    assert read(mm, BASE) == 0
    assert pool(mm) == (3, 1)


def test_memory_without_a_name_goes_with_its_last_mapping():
    """A file that a descriptor leads to stays, with its pages and reservations."""
    mm = machine()
    map_pages(mm, shared=True)
    write(mm, BASE)
    munmap(mm, BASE, BASE + SLOT)
    assert pool(mm) == (3, 1)
    munmap(mm, BASE + SLOT, BASE + 2 * SLOT)
    assert pool(mm) == (4, 0)
    file = hugetlb.new_file(mm.system, 2 * SLOT, name="/memfd:pool")
    map_pages(mm, shared=True, file=file)
    write(mm, BASE)
    munmap(mm, BASE, BASE + 2 * SLOT)
    assert pool(mm) == (3, 1)


def test_a_private_mapping_of_a_file_reads_its_pages_and_copies_them_for_writing():
    """A hole of the file becomes a page of the process, even for reading."""
    mm = machine()
    file = hugetlb.new_file(mm.system, 2 * SLOT, name="/memfd:pool")
    map_pages(mm, shared=True, file=file)
    write(mm, BASE)
    munmap(mm, BASE, BASE + 2 * SLOT)
    assert map_pages(mm, file=file) == 0
    assert pool(mm) == (3, 3)
    assert read(mm, BASE) == 0
    assert hugetlb.is_file_frame(mm.system, mm.table.get(BASE)[1])
    assert pool(mm) == (3, 3)
    write(mm, BASE, byte=9)
    assert not hugetlb.is_file_frame(mm.system, mm.table.get(BASE)[1])
    assert mm.system.frames.load(file.cache[0]) == 7
    read(mm, BASE + SLOT)
    assert pool(mm) == (1, 1)
    advise(mm, BASE, 2 * SLOT, Advice.DONTNEED)
    assert pool(mm) == (3, 3)


def test_a_touch_behind_the_end_of_a_file_is_sigbus():
    """A mapping that is read-only may be longer than the file; one that is not makes the file longer."""
    mm = machine()
    file = hugetlb.new_file(mm.system, SLOT, name="/memfd:pool")
    mmap(mm, BASE, BASE + 2 * SLOT, vm.READ, shared=True, file=file, flags=vm.HUGETLB)
    assert [read(mm, BASE), read(mm, BASE + SLOT)] == [0, SIGBUS]
    map_pages(mm, shared=True, file=file)
    assert [write(mm, BASE), write(mm, BASE + SLOT)] == [0, 0]


def test_a_write_shows_in_the_entry():
    """Shared memory is mapped writable at once, private memory after a write."""
    mm = machine()
    map_pages(mm, shared=True)
    map_pages(mm, 1, first=ELSEWHERE)
    read(mm, BASE)
    read(mm, ELSEWHERE)
    assert mm.table.get(BASE)[0] & (WRITE | DIRTY) == WRITE
    assert not mm.table.get(ELSEWHERE)[0] & WRITE
    write(mm, ELSEWHERE)
    assert mm.table.get(ELSEWHERE)[0] & WRITE


def test_nothing_of_the_pool_is_lost():
    """After forks, writes, discards and holes in two processes the pool is what it was."""
    mm = machine(pool=12)
    map_pages(mm, 3)
    map_pages(mm, 2, first=ELSEWHERE, shared=True)
    for page in range(BASE, BASE + 3 * SLOT, SLOT):
        write(mm, page)
    write(mm, ELSEWHERE)
    child = fork(mm)
    write(child, BASE)
    write(mm, BASE + SLOT)
    advise(child, BASE, 2 * SLOT, Advice.DONTNEED)
    advise(mm, BASE + 2 * SLOT, SLOT, Advice.DONTNEED)
    write(child, ELSEWHERE + SLOT)
    advise(mm, ELSEWHERE, SLOT, Advice.REMOVE)
    for each in (mm, child):
        munmap(each, BASE, BASE + 3 * SLOT)
        munmap(each, ELSEWHERE, ELSEWHERE + 2 * SLOT)
        assert each.hugetlb_pages == 0
    assert pool(mm) == (12, 0)
