"""Small pages made huge in the model, by MADV_COLLAPSE and by khugepaged; as measured on Linux 6.18."""

from __future__ import annotations

from errno import EINVAL
from itertools import groupby

import pytest

from dontneed.abi.advice import Advice
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.fork import fork
from dontneed.model.calls.mappings import mmap, mprotect, munmap
from dontneed.model.paging.collapse import khugepaged
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, GUARD, HUGE, KIND, SHMEM, SWAP, YOUNG, ZERO
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


def shared_memory(version="6.18"):
    """An address space with four slots of a file in memory, and the file."""
    mm = Mm(System(version))
    file = mm.system.new_file("memfd:x", SLOTS * SLOT, kind=SHMEM, cached=False)
    map_file(mm, file)
    return mm, file


def map_file(mm, file, *, first=BASE, shared=True):
    assert mmap(mm, first, first + SLOTS * SLOT, RW, shared=shared, file=file) == 0


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


# Collapse


def test_collapse_makes_small_pages_huge_and_keeps_their_contents():
    """Three pages become 512; the table that is there becomes the deposit."""
    mm = small_memory()
    write(mm, BASE, 3, byte=5)
    assert advise(mm, BASE, SLOT, Advice.COLLAPSE) == 0
    assert is_huge(mm)
    assert (mm.resident[ANON], tables(mm), mm.system.frames.in_use) == (SLOT, 1, SLOT)
    assert [byte_at(mm, BASE + page) for page in (2, 3)] == [5, 0]


def test_collapse_wants_a_page_table_but_nothing_in_it():
    """An untouched slot is EINVAL; zero pages, and an empty table, become 2 MiB."""
    mm = small_memory()
    write(mm, BASE + 3 * SLOT)
    assert advise(mm, BASE, SLOT, Advice.COLLAPSE) == EINVAL
    read(mm, BASE)
    write(mm, BASE + SLOT)
    advise(mm, BASE + SLOT, 1, Advice.DONTNEED)
    assert advise(mm, BASE, 2 * SLOT, Advice.COLLAPSE) == 0
    assert mm.resident[ANON] == 2 * SLOT + 1


def test_before_6_18_collapse_wants_a_page_that_can_be_written():
    """Not an empty table, and not memory that is read-only."""
    mm = huge_memory("6.12")
    advise(mm, BASE, 1, Advice.NOHUGEPAGE)
    write(mm, BASE + 1, 10)
    mprotect(mm, BASE, BASE + SLOTS * SLOT, vm.READ)
    advise(mm, BASE, SLOTS * SLOT, Advice.HUGEPAGE)
    assert advise(mm, BASE, SLOT, Advice.COLLAPSE) == EINVAL


def test_collapse_ends_at_the_first_slot_that_cannot_be_huge():
    """Those before it are, those behind it are not."""
    for spoil in ("untouched", "guard"):
        mm = small_memory()
        write(mm, BASE)
        write(mm, BASE + 2 * SLOT)
        if spoil == "guard":
            advise(mm, BASE + SLOT, 1, Advice.GUARD_INSTALL)
        assert advise(mm, BASE, 3 * SLOT, Advice.COLLAPSE) == EINVAL
        assert [is_huge(mm, BASE + slot * SLOT) for slot in range(3)] == [True, False, False]


def test_collapse_rounds_its_range_inward():
    """A range within a slot is EINVAL, one across a border without a whole slot does nothing."""
    mm = small_memory()
    write(mm, BASE)
    assert advise(mm, BASE + 1, 1, Advice.COLLAPSE) == EINVAL
    assert advise(mm, BASE + 1, SLOT, Advice.COLLAPSE) == 0
    assert advise(mm, BASE + SLOT - 1, 2, Advice.COLLAPSE) == 0
    assert not is_huge(mm)


def test_collapse_is_refused_where_no_huge_page_could_be():
    """A mapping without a slot, one that was never touched, NOHUGEPAGE, a regular file."""
    mm = small_memory()
    assert advise(mm, BASE, SLOT, Advice.COLLAPSE) == EINVAL
    write(mm, BASE)
    advise(mm, BASE, SLOTS * SLOT, Advice.NOHUGEPAGE)
    assert advise(mm, BASE, SLOT, Advice.COLLAPSE) == EINVAL
    assert mmap(mm, 2 * BASE, 2 * BASE + 256, RW) == 0
    write(mm, 2 * BASE)
    assert advise(mm, 2 * BASE, 256, Advice.COLLAPSE) == EINVAL


def test_collapse_of_shared_pages_copies_them():
    """The other process keeps what it has."""
    mm = small_memory()
    write(mm, BASE, 200)
    child = fork(mm)
    assert advise(child, BASE, SLOT, Advice.COLLAPSE) == 0
    assert is_huge(child)
    assert (kinds(mm), mm.resident[ANON]) == ("A200 -312", 200)
    assert not mm.system.frames.is_shared(mm.table.get(BASE)[1], 200)


def test_khugepaged_takes_a_half_released_huge_page_back():
    """RSS grows to what it was; what was held is freed with the old page."""
    mm = huge_memory()
    write(mm, BASE)
    advise(mm, BASE, 300, Advice.DONTNEED)
    assert khugepaged(mm, BASE, BASE + SLOTS * SLOT) == 1
    assert is_huge(mm)
    assert (mm.resident[ANON], mm.system.frames.in_use, mm.system.frames.deferred) == (SLOT, SLOT, 0)
    assert [byte_at(mm, BASE + page) for page in (0, 299)] == [0, 0]


def test_khugepaged_leaves_a_slot_that_nobody_used():
    """Zero pages alone, an empty table, pages that are all cold; one used page is enough."""
    mm = huge_memory()
    read(mm, BASE)
    advise(mm, BASE, 1, Advice.DONTNEED)
    write(mm, BASE + SLOT)
    advise(mm, BASE + SLOT, SLOT - 1, Advice.DONTNEED)
    mm.table.recode(BASE + SLOT, BASE + 2 * SLOT, YOUNG)
    assert khugepaged(mm, BASE, BASE + SLOTS * SLOT) == 0
    read(mm, BASE + 2 * SLOT - 1)
    assert khugepaged(mm, BASE, BASE + SLOTS * SLOT) == 1


def test_khugepaged_obeys_max_ptes_none_and_who_wants_huge_pages():
    """With 0 a released page stays released; memory without the advice is left alone."""
    mm = huge_memory()
    write(mm, BASE)
    advise(mm, BASE, 1, Advice.DONTNEED)
    assert khugepaged(mm, BASE, BASE + SLOT, most_empty=0) == 0
    assert khugepaged(mm, BASE, BASE + SLOT, most_empty=1) == 1
    plain = small_memory()
    write(plain, BASE, SLOT)
    assert khugepaged(plain, BASE, BASE + SLOT) == 0


def test_khugepaged_takes_few_shared_pages_and_not_many():
    """max_ptes_shared is 256; before 5.8 it took none."""
    for version, taken in (("6.18", 1), ("5.7", 0)):
        mm = huge_memory(version)
        for slot in (0, 1):
            advise(mm, BASE + slot * SLOT, 1, Advice.NOHUGEPAGE)
            write(mm, BASE + slot * SLOT + 1)
            advise(mm, BASE + slot * SLOT, 1, Advice.HUGEPAGE)
        write(mm, BASE, SLOT)
        write(mm, BASE + SLOT, 100)
        assert not is_huge(mm)
        child = fork(mm)
        assert khugepaged(mm, BASE, BASE + SLOTS * SLOT) == taken
        assert is_huge(mm, BASE + SLOT) == bool(taken)
        munmap(child, BASE, BASE + SLOTS * SLOT)


def test_khugepaged_passes_over_guards():
    """A guard is never overwritten."""
    mm = huge_memory()
    advise(mm, BASE + 200, 1, Advice.GUARD_INSTALL)
    write(mm, BASE, 100)
    assert khugepaged(mm, BASE, BASE + SLOT) == 0
    assert kinds(mm) == "A100 -100 g1 -311"


# Shared memory


def test_collapse_of_shared_memory_maps_the_huge_page_without_a_table():
    """ShmemPmdMapped; the file has 512 pages now, and VmPTE falls."""
    mm, file = shared_memory()
    write(mm, BASE, 10, byte=9)
    assert tables(mm) == 1
    assert advise(mm, BASE, SLOT, Advice.COLLAPSE) == 0
    assert (kinds(mm), is_huge(mm), mm.resident[SHMEM], tables(mm)) == ("S512", True, SLOT, 0)
    assert len(file.cache) == SLOT
    assert [byte_at(mm, BASE + page) for page in (9, 10)] == [9, 0]
    assert advise(mm, BASE + SLOT, SLOT, Advice.COLLAPSE) == EINVAL  # the file has nothing there


def test_a_split_entry_of_shared_memory_goes_and_comes_back_whole():
    """Discard one page: 512 entries go. Touch one: 512 are back."""
    mm, _ = shared_memory()
    write(mm, BASE)
    advise(mm, BASE, SLOT, Advice.COLLAPSE)
    advise(mm, BASE, 1, Advice.DONTNEED)
    assert (kinds(mm), mm.resident[SHMEM]) == ("-512", 0)
    read(mm, BASE + 50)
    assert (is_huge(mm), mm.resident[SHMEM]) == (True, SLOT)
    assert mprotect(mm, BASE, BASE + 256, vm.READ) == 0
    assert kinds(mm) == "-512"


def test_a_mapping_that_lies_askew_gets_small_pages_of_the_huge_page():
    """Sixteen around a read; one for a write."""
    mm, file = shared_memory()
    write(mm, BASE)
    advise(mm, BASE, SLOT, Advice.COLLAPSE)
    askew = Mm(mm.system)
    map_file(askew, file, first=BASE + 1)
    read(askew, BASE + 35)
    assert kinds(askew, BASE + 1) == "-31 S16 -465"
    munmap(askew, BASE + 1, BASE + 1 + SLOT)
    map_file(askew, file, first=BASE + 1)
    write(askew, BASE + 40)
    assert kinds(askew, BASE + 1) == "-39 S1 -472"


@pytest.mark.parametrize(("version", "found"), [("6.12", "-32 S3 A1 S12 -464"), ("6.18", "S35 A1 S476")])
def test_a_private_write_leaves_only_its_copy_and_a_read_brings_the_rest(version, found):
    """The huge entry goes; what is read next comes in small pages, since 6.18 all of them."""
    mm, file = shared_memory(version)
    write(mm, BASE)
    advise(mm, BASE, SLOT, Advice.COLLAPSE)
    private = Mm(mm.system)
    map_file(private, file, shared=False)
    write(private, BASE + 35)
    assert kinds(private) == "-35 A1 -476"
    read(private, BASE + 40)
    assert kinds(private) == found


def test_beside_a_guard_a_read_brings_all_of_a_huge_page_and_a_write_one():
    """A write maps the whole only where nothing is in its way."""
    mm, _ = shared_memory()
    write(mm, BASE)
    advise(mm, BASE, SLOT, Advice.COLLAPSE)
    advise(mm, BASE, 1, Advice.GUARD_INSTALL)
    write(mm, BASE + 60)
    assert kinds(mm) == "g1 -59 S1 -451"
    read(mm, BASE + 7)
    assert kinds(mm) == "g1 S511"


def test_fork_leaves_huge_pages_of_files_to_faults():
    """The child's touch maps them whole."""
    mm, _ = shared_memory()
    write(mm, BASE)
    advise(mm, BASE, SLOT, Advice.COLLAPSE)
    child = fork(mm)
    assert kinds(child) == "-512"
    read(child, BASE + 3)
    assert is_huge(child)


def test_a_hole_in_a_huge_page_of_a_file_makes_its_pages_small():
    """One page goes from the file; the next read maps sixteen around it."""
    mm, file = shared_memory()
    write(mm, BASE)
    advise(mm, BASE, SLOT, Advice.COLLAPSE)
    assert advise(mm, BASE, 1, Advice.REMOVE) == 0
    assert (kinds(mm), len(file.cache)) == ("-512", SLOT - 1)
    read(mm, BASE + 7)
    assert kinds(mm) == "-1 S15 -496"


@pytest.mark.parametrize("guarded", [False, True])
def test_collapse_leaves_the_page_tables_of_mappings_that_may_hold_guards(guarded):
    """A table that is empty then is freed in every process, but not where a guard was once."""
    mm, file = shared_memory()
    other = Mm(mm.system)
    map_file(other, file)
    if guarded:
        advise(other, BASE + SLOT, 1, Advice.GUARD_INSTALL)
        munmap(other, BASE + SLOT, BASE + SLOTS * SLOT)
    write(other, BASE)
    assert advise(mm, BASE, SLOT, Advice.COLLAPSE) == 0
    assert tables(other) == guarded
    read(other, BASE)
    assert is_huge(other) == (not guarded)


def test_a_private_copy_hinders_the_collapse_of_a_file():
    """The copy stays."""
    mm, file = shared_memory()
    write(mm, BASE)
    private = Mm(mm.system)
    map_file(private, file, shared=False)
    write(private, BASE + 35)
    assert advise(private, BASE, SLOT, Advice.COLLAPSE) == EINVAL
    assert kinds(private) == "-35 A1 -476"


@pytest.mark.parametrize("guard_first", [True, False])
def test_collapse_of_a_file_passes_over_a_guard_and_ends_at_a_private_copy(guard_first):
    """Whichever comes first in the slot: the one behind it is huge, or is not tried."""
    mm, file = shared_memory()
    write(mm, BASE)
    write(mm, BASE + SLOT)
    private = Mm(mm.system)
    map_file(private, file, shared=False)
    advise(private, BASE + (1 if guard_first else 9), 1, Advice.GUARD_INSTALL)
    write(private, BASE + 5)
    assert advise(private, BASE, 2 * SLOT, Advice.COLLAPSE) == EINVAL
    assert kinds(private) == ("-1 g1 -3 A1 -506" if guard_first else "-5 A1 -3 g1 -502")
    assert is_huge(private, BASE + SLOT) == guard_first
