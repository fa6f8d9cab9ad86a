"""COLD, PAGEOUT, WILLNEED and FREE in the model: what goes, what stays, and what is not even looked at."""

from __future__ import annotations

from errno import EBADF

import pytest

from dontneed.abi.advice import Advice
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.fork import fork
from dontneed.model.calls.mappings import mmap, munmap
from dontneed.model.memory.page_cache import File
from dontneed.model.paging.faults import get_pages, touch
from dontneed.model.paging.lazy import free_lazily
from dontneed.model.paging.pageout import make_cold, page_out, will_need
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, DIRTY, FILE, GUARD, HUGE, KIND, LEAF_PAGES, SHMEM, SWAP, YOUNG, ZERO
from dontneed.model.space.mm import PAGE_SHIFT, Mm
from dontneed.model.system import System
from dontneed.model.views.smaps_counts import count_pages

FIRST = 0x7F0000000
PAGES = 4
LAST = FIRST + PAGES
HUGE_LAST = FIRST + LEAF_PAGES

with_and_without_swap = pytest.mark.parametrize("swap", [False, True])


def written(*, swap: bool = False) -> Mm:
    """An address space with one anonymous mapping, all of it written."""
    mm = mapped(swap=swap)
    assert touch(mm, FIRST, LAST, write=True) == 0
    return mm


def mapped(*, swap: bool = False, shared: bool = False, file: File | None = None, system: System | None = None) -> Mm:
    """An address space with one mapping."""
    system = system or System()
    system.swap.enabled = swap
    mm = Mm(system)
    mmap(mm, FIRST, LAST, vm.READ | vm.WRITE, shared=shared, file=file)
    return mm


def huge_page(*, swap: bool = False, version: str = "6.18") -> Mm:
    """An address space with one huge page, all of it written."""
    system = System(version)
    system.swap.enabled = swap
    mm = Mm(system)
    mmap(mm, FIRST, HUGE_LAST, vm.READ | vm.WRITE, flags=vm.HUGE_PAGE)
    touch(mm, FIRST, FIRST + 1, write=True)
    assert mm.table.get(FIRST)[0] & HUGE
    system.frames.store(mm.table.get(FIRST)[1], LEAF_PAGES, 1)
    return mm


def mapping(mm: Mm) -> vm.Vma:
    """The mapping under test."""
    vma = mm.vmas.find(FIRST)
    assert vma is not None
    return vma


def kinds(mm: Mm) -> list[int]:
    """The kinds of the entries under test."""
    return [mm.table.get(page)[0] & KIND for page in range(FIRST, LAST)]


def lazy_pages(mm: Mm) -> int:
    """What smaps would count as LazyFree, in pages."""
    lazy = mm.system.frames.lazy
    return sum(
        code & KIND == ANON and not code & DIRTY and frame in lazy
        for code, frame in (mm.table.get(page) for page in range(FIRST, LAST))
    )


# Cold


def test_cold_pages_are_not_young_and_all_there() -> None:
    """COLD forgets that pages were used, and changes nothing else: dirty entries stay dirty."""
    mm = written()
    make_cold(mm, mapping(mm), FIRST, LAST)
    codes = [mm.table.get(page)[0] for page in range(FIRST, LAST)]
    assert not any(code & YOUNG for code in codes)
    assert all(code & DIRTY for code in codes)
    assert mm.resident[ANON] == PAGES


def test_cold_leaves_pages_that_a_child_shares() -> None:
    """Other mappings of a page are not interfered with, so that ours stays young."""
    mm = written()
    fork(mm)
    make_cold(mm, mapping(mm), FIRST, LAST)
    assert all(mm.table.get(page)[0] & YOUNG for page in range(FIRST, LAST))


# Paging out


def test_anonymous_pages_stay_where_there_is_no_swap() -> None:
    """PAGEOUT without swap succeeds and does nothing."""
    mm = written(swap=False)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [ANON] * PAGES


def test_pages_shared_with_a_child_are_not_paged_out() -> None:
    """PAGEOUT says nothing of pages that two processes map; once one of them is gone, they go."""
    mm = written(swap=True)
    child = fork(mm)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [ANON] * PAGES
    munmap(child, FIRST, LAST)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [SWAP] * PAGES


def test_zero_page_and_guards_are_not_paged_out() -> None:
    """Neither holds anything."""
    mm = mapped(swap=True)
    touch(mm, FIRST, FIRST + 1, write=False)
    mm.table.put(FIRST + 1, FIRST + 2, GUARD, 0)
    page_out(mm, mapping(mm), FIRST, LAST)
    free_lazily(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [ZERO, GUARD, 0, 0]


def test_clean_pages_of_a_file_leave_the_cache_and_dirty_ones_stay_in_it() -> None:
    """Both are unmapped; after a sync the other goes too."""
    system = System()
    file = system.new_file("/tmp/file", PAGES, kind=FILE, byte=1)
    mm = mapped(shared=True, file=file, system=system)
    touch(mm, FIRST, FIRST + 1, write=True)
    touch(mm, FIRST, LAST, write=False)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert mm.resident[FILE] == 0
    assert list(file.cache) == [0]
    file.write_back()
    touch(mm, FIRST, FIRST + 1, write=False)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert not file.cache
    assert file.read(1) == 1


def test_pages_of_a_file_that_another_process_maps_stay() -> None:
    """They stay mapped here too."""
    system = System()
    file = system.new_file("/tmp/file", PAGES, kind=FILE, byte=1)
    mm = mapped(shared=True, file=file, system=system)
    other = mapped(shared=True, file=file, system=system)
    touch(mm, FIRST, LAST, write=False)
    touch(other, FIRST, FIRST + 1, write=False)
    munmap(other, FIRST + 1, LAST)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert set(file.cache) >= {0}
    assert mm.table.get(FIRST)[0] & KIND == FILE


@with_and_without_swap
def test_shared_memory_goes_to_swap_or_stays_in_the_cache_but_is_unmapped(swap: bool) -> None:  # noqa: FBT001
    """What was written is never lost; a page that was only read holds nothing and is dropped."""
    system = System()
    file = File(system, "/memfd:test", PAGES, kind=SHMEM)
    mm = mapped(swap=swap, shared=True, file=file, system=system)
    touch(mm, FIRST, FIRST + 1, write=True)
    touch(mm, FIRST + 1, FIRST + 2, write=False)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [0] * PAGES
    assert list(file.swapped) == ([0] if swap else [])
    assert list(file.cache) == ([] if swap else [0])


def test_a_private_copy_of_a_file_goes_to_swap() -> None:
    """Like any anonymous page, and the file's page beside it leaves the cache."""
    system = System()
    file = system.new_file("/tmp/file", PAGES, kind=FILE, byte=1)
    mm = mapped(swap=True, file=file, system=system)
    touch(mm, FIRST, FIRST + 1, write=True)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm)[0] == SWAP


# Freeing lazily


def test_freed_pages_stay_resident_and_marked() -> None:
    """RSS does not change; the entries are clean and old."""
    mm = written()
    free_lazily(mm, mapping(mm), FIRST, LAST)
    assert mm.resident[ANON] == PAGES
    assert lazy_pages(mm) == PAGES


def test_a_write_takes_a_page_back_and_a_read_does_not() -> None:
    """A dirty entry is what keeps a freed page."""
    mm = written()
    free_lazily(mm, mapping(mm), FIRST, LAST)
    touch(mm, FIRST, FIRST + 1, write=True)
    touch(mm, FIRST + 1, FIRST + 2, write=False)
    assert lazy_pages(mm) == PAGES - 1


@with_and_without_swap
def test_paging_out_discards_what_is_still_free(swap: bool) -> None:  # noqa: FBT001
    """With swap and without: free pages read as zeros; one that was written stays this once, and is ordinary then."""
    mm = written(swap=swap)
    mm.system.frames.store(mm.table.get(FIRST + 1)[1], 1, 5)
    free_lazily(mm, mapping(mm), FIRST, LAST)
    touch(mm, FIRST, FIRST + 1, write=True)
    page_out(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [ANON, 0, 0, 0]
    assert mm.system.frames.in_use == 1
    page_out(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [SWAP if swap else ANON, 0, 0, 0]


def test_freeing_swapped_pages_frees_their_slots_at_once() -> None:
    """There is nothing to be lazy about."""
    mm = written(swap=True)
    page_out(mm, mapping(mm), FIRST, LAST)
    free_lazily(mm, mapping(mm), FIRST, LAST)
    assert kinds(mm) == [0] * PAGES
    assert (mm.resident[SWAP], mm.system.swap.used) == (0, 0)


def test_freeing_a_page_of_the_swap_cache_frees_its_slot() -> None:
    """What is there and in swap too keeps neither its dirty contents nor its slot."""
    mm = written(swap=True)
    page_out(mm, mapping(mm), FIRST, LAST)
    will_need(mm, mapping(mm), FIRST, LAST)
    touch(mm, FIRST, LAST, write=False)
    free_lazily(mm, mapping(mm), FIRST, LAST)
    assert lazy_pages(mm) == PAGES
    assert mm.system.swap.used == 0


def test_a_sharer_keeps_what_the_other_freed() -> None:
    """Pages shared since a fork are marked too, but the child's entries are dirty."""
    mm = written()
    child = fork(mm)
    free_lazily(mm, mapping(mm), FIRST, LAST)
    assert lazy_pages(mm) == PAGES
    munmap(mm, FIRST, LAST)
    page_out(child, mapping(child), FIRST, LAST)
    assert kinds(child) == [ANON] * PAGES


# Huge pages


def test_a_huge_page_is_freed_lazily_as_one() -> None:
    """Its entry stays huge; paging it out splits the entry, discards all, and leaves the page table."""
    mm = huge_page()
    free_lazily(mm, mapping(mm), FIRST, HUGE_LAST)
    assert mm.table.get(FIRST)[0] & HUGE
    page_out(mm, mapping(mm), FIRST, HUGE_LAST)
    assert (mm.resident[ANON], mm.system.frames.in_use) == (0, 0)
    assert mm.table.table_bytes(1) == (4096,)


def test_a_part_of_a_huge_page_is_split_off_and_freed() -> None:
    """FREE and PAGEOUT of four pages of it: the other 508 stay, in small pages."""
    mm = huge_page()
    free_lazily(mm, mapping(mm), FIRST, LAST)
    assert not mm.table.get(FIRST)[0] & HUGE
    assert mm.system.frames.folio_of(mm.table.get(FIRST)[1]) is None
    page_out(mm, mapping(mm), FIRST, LAST)
    assert mm.resident[ANON] == mm.system.frames.in_use == LEAF_PAGES - PAGES


@pytest.mark.parametrize("advice", [free_lazily, make_cold, page_out])
@pytest.mark.parametrize(("version", "left"), [("6.18", 1), ("6.11", LEAF_PAGES)])
def test_zeros_in_a_huge_page_that_is_split_become_the_zero_page(advice, version: str, left: int) -> None:
    """Since 6.12; what holds anything else stays, and so do all where memory is locked."""
    for locked in (False, True):
        mm = huge_page(version=version)
        head = mm.table.get(FIRST)[1]
        mm.system.frames.store(head, LEAF_PAGES, 0)
        mm.system.frames.store(head + 9, 1, 1)
        mapping(mm).flags |= vm.LOCKED if locked else 0
        advice(mm, mapping(mm), FIRST, LAST)
        assert mm.resident[ANON] == mm.system.frames.in_use == (LEAF_PAGES if locked else left)
        assert mm.table.get(FIRST + 20)[0] & KIND == (ANON if locked or left > 1 else ZERO)


def test_one_written_page_keeps_a_freed_huge_page_whole() -> None:
    """A huge entry has one dirty bit."""
    mm = huge_page()
    free_lazily(mm, mapping(mm), FIRST, HUGE_LAST)
    touch(mm, FIRST + 9, FIRST + 10, write=True)
    page_out(mm, mapping(mm), FIRST, HUGE_LAST)
    assert mm.resident[ANON] == LEAF_PAGES


@with_and_without_swap
def test_paging_out_a_huge_page_takes_all_of_it_or_splits_it(swap: bool) -> None:  # noqa: FBT001
    """With swap all 512 go; without they stay, but no longer as one."""
    mm = huge_page(swap=swap)
    page_out(mm, mapping(mm), FIRST, HUGE_LAST)
    assert mm.resident[SWAP if swap else ANON] == LEAF_PAGES
    assert not mm.table.get(FIRST)[0] & HUGE
    assert mm.system.swap.used == (LEAF_PAGES if swap else 0)


def test_a_shared_huge_page_is_left_whole() -> None:
    """FREE, COLD and PAGEOUT of a part do not even split it."""
    mm = huge_page(swap=True)
    fork(mm)
    for act in (free_lazily, make_cold, page_out):
        act(mm, mapping(mm), FIRST, LAST)
        code = mm.table.get(FIRST)[0]
        assert code & HUGE
        assert code & YOUNG


def test_a_huge_page_that_is_split_leaves_dirty_frames_whatever_their_entries_say() -> None:
    """One written part made the whole dirty: so FREE leaves what a child shares as it is, dirty."""
    mm = huge_page()
    free_lazily(mm, mapping(mm), FIRST, HUGE_LAST)
    munmap(mm, LAST, LAST + 1)
    touch(mm, FIRST, FIRST + 1, write=True)
    make_cold(mm, mapping(mm), FIRST, LAST)
    head = mm.table.get(FIRST)[1]
    assert mm.system.frames.folio_of(head) is None
    assert mm.system.frames.dirty == {*range(head, head + LEAF_PAGES)} - {head + PAGES}
    child = fork(mm)
    free_lazily(child, mapping(child), FIRST, FIRST + 2)
    assert mm.table.get(FIRST)[0] & DIRTY
    assert dict(count_pages(child, mapping(child)).all)["Shared_Dirty"] == PAGES << PAGE_SHIFT


def test_a_huge_page_is_freed_lazily_beside_frames_that_are_dirty() -> None:
    """Its one entry changes once, not page by page."""
    mm = huge_page()
    mm.system.frames.make_dirty(mm.system.frames.allocate(1), 1)
    free_lazily(mm, mapping(mm), FIRST, HUGE_LAST)
    assert not mm.table.get(FIRST)[0] & DIRTY
    assert lazy_pages(mm) == PAGES


def test_a_part_that_the_kernel_writes_to_makes_all_of_a_huge_page_dirty() -> None:
    """POPULATE_WRITE of one clean part: there is one dirty flag for the whole."""
    mm = huge_page()
    free_lazily(mm, mapping(mm), FIRST, HUGE_LAST)
    munmap(mm, LAST, LAST + 1)
    head = mm.table.get(FIRST)[1]
    get_pages(mm, mapping(mm), FIRST, FIRST + 1, write=True)
    assert mm.system.frames.dirty == {*range(head, head + LEAF_PAGES)}


def huge_page_of_shared_memory() -> tuple[Mm, File]:
    """An address space that maps a huge page of a file in memory, by one entry."""
    system = System()
    file = File(system, "/memfd:test", LEAF_PAGES, kind=SHMEM)
    mm = Mm(system)
    map_all_of(mm, file)
    touch(mm, FIRST, FIRST + 1, write=True)
    assert madvise(mm, FIRST << PAGE_SHIFT, LEAF_PAGES << PAGE_SHIFT, int(Advice.COLLAPSE)) == 0
    return mm, file


def map_all_of(mm: Mm, file: File, *, shared: bool = True) -> None:
    """Map a file that has 512 pages."""
    assert mmap(mm, FIRST, HUGE_LAST, vm.READ | vm.WRITE, shared=shared, file=file) == 0


def test_a_part_of_huge_shared_memory_is_split_off_and_all_of_it_is_unmapped() -> None:
    """COLD of four pages: none of the 512 is mapped then, and the next touch maps small ones."""
    mm, file = huge_page_of_shared_memory()
    make_cold(mm, mapping(mm), FIRST, LAST)
    assert (mm.resident[SHMEM], file.huge, len(file.cache)) == (0, set(), LEAF_PAGES)
    touch(mm, FIRST, FIRST + 1, write=True)
    assert mm.resident[SHMEM] == 1


def test_huge_shared_memory_that_small_entries_map_is_split_as_well() -> None:
    """COLD of one page, on 6.18, unmapped the others that a read had mapped around it, and a private copy stayed."""
    mm, file = huge_page_of_shared_memory()
    munmap(mm, FIRST, HUGE_LAST)
    map_all_of(mm, file, shared=False)
    touch(mm, FIRST + 1, FIRST + 2, write=True)
    touch(mm, FIRST, FIRST + 1, write=False)
    assert mm.resident[SHMEM] == LEAF_PAGES - 1
    make_cold(mm, mapping(mm), FIRST, FIRST + 1)
    assert (mm.resident[SHMEM], mm.resident[ANON], file.huge) == (0, 1, set())


def test_huge_shared_memory_that_another_process_maps_is_left_whole() -> None:
    """Were it one page only, and in either form."""
    mm, file = huge_page_of_shared_memory()
    other = Mm(mm.system)
    map_all_of(other, file)
    for _ in range(2):
        touch(other, FIRST, FIRST + 1, write=False)
        make_cold(mm, mapping(mm), FIRST, LAST)
        assert (mm.resident[SHMEM], file.huge) == (LEAF_PAGES, {0})
        munmap(other, FIRST + 1, HUGE_LAST)


# By version


def advised(version: str, advice: Advice) -> int:
    """The answer to an advice on written anonymous memory."""
    mm = mapped(system=System(version))
    touch(mm, FIRST, LAST, write=True)
    return madvise(mm, FIRST << PAGE_SHIFT, PAGES << PAGE_SHIFT, int(advice))


def test_anonymous_memory_is_needed_by_kernels_since_3_9_only() -> None:
    """WILLNEED without a file was EBADF."""
    assert advised("3.8", Advice.WILLNEED) == EBADF
    assert advised("3.9", Advice.WILLNEED) == 0


def test_free_without_swap_discards_at_once_until_4_12() -> None:
    """There was no lazy list without swap."""
    for version, resident in (("4.5", 0), ("4.12", PAGES)):
        mm = mapped(system=System(version))
        touch(mm, FIRST, LAST, write=True)
        madvise(mm, FIRST << PAGE_SHIFT, PAGES << PAGE_SHIFT, int(Advice.FREE))
        assert mm.resident[ANON] == resident
