"""mremap in the model: what moves, what stays, what merges, and what is refused in which order."""

from __future__ import annotations

from errno import EFAULT, EINVAL, ENOMEM, EPERM

import pytest

from dontneed.model.calls.mappings import mlock, mmap, munmap
from dontneed.model.calls.remap import DONT_UNMAP, FIXED, MAY_MOVE, mremap
from dontneed.model.calls.seal import mseal
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, GUARD, HUGE, LEAF_PAGES, SHMEM
from dontneed.model.space.mm import Mm
from dontneed.model.system import System

READ_WRITE = vm.READ | vm.WRITE
TO = MAY_MOVE | FIXED
STAY = TO | DONT_UNMAP


def _mm(version="6.18", *, mapped=((1000, 1010),), touched=()):
    mm = Mm(System(version))
    for first, last in mapped:
        assert mmap(mm, first, last, READ_WRITE) == 0
    for first, last in touched:
        assert touch(mm, first, last, write=True) == 0
    return mm


def _mapped(mm):
    return [(vma.first, vma.last) for vma in mm.vmas]


def _present(mm, first=0, last=1 << 35):
    return [(start, end) for start, end, code, _ in mm.table.runs(first, last) if code & ~HUGE]


# Where it is


def test_a_shrink_unmaps_the_tail_and_keeps_the_address():
    """What is cut off is munmap's business."""
    mm = _mm(touched=((1000, 1010),))
    assert mremap(mm, 1000, 10, 4) == (0, 1000)
    assert _mapped(mm) == [(1000, 1004)]
    assert mm.resident[ANON] == 4


def test_a_shrink_reaches_into_the_mappings_behind():
    """The old length may span several mappings: all of it behind the new length goes."""
    mm = _mm(mapped=((1000, 1004), (1006, 1010)))
    assert mremap(mm, 1000, 8, 2) == (0, 1000)
    assert _mapped(mm) == [(1000, 1002), (1008, 1010)]


def test_an_equal_length_is_left_alone_even_across_a_hole():
    """Without a move nothing is to do, and nothing is checked but that the address is mapped."""
    mm = _mm(mapped=((1000, 1004),))
    assert mremap(mm, 1000, 50, 50) == (0, 1000)
    assert mremap(mm, 1004, 50, 50) == (EFAULT, 0)


def test_growing_in_place_needs_the_end_of_the_mapping_and_room_behind():
    """From the middle, or with something behind, it would have to move."""
    mm = _mm(mapped=((1000, 1010), (1014, 1015)))
    assert mremap(mm, 1008, 2, 6) == (0, 1008)
    assert _mapped(mm)[0] == (1000, 1015)  # it met memory like itself
    assert mremap(mm, 1000, 4, 5) == (ENOMEM, 0)
    assert mremap(mm, 1000, 20, 21) == (EFAULT, 0)


def test_what_grows_merges_with_what_it_meets_since_6_0():
    """Before, two mappings alike lay side by side."""
    mm = _mm("5.10", mapped=((1000, 1010), (1014, 1015)))
    assert mremap(mm, 1000, 10, 14) == (0, 1000)
    assert _mapped(mm) == [(1000, 1014), (1014, 1015)]


def test_locked_memory_has_the_pages_it_grew_by():
    """A locked mapping has no page that is not there."""
    mm = _mm()
    assert mlock(mm, 1000, 1010) == 0
    assert mremap(mm, 1000, 10, 16) == (0, 1000)
    assert mm.resident[ANON] == 16


# Moves


def test_a_move_takes_the_frames_along():
    """No page is copied: the same frames are at the new place, and the old one is not mapped."""
    mm = _mm(touched=((1002, 1005),))
    frame = mm.table.get(1002)[1]
    assert mremap(mm, 1000, 10, 10, TO, 3000) == (0, 3000)
    assert _mapped(mm) == [(3000, 3010)]
    assert _present(mm) == [(3002, 3005)]
    assert mm.table.get(3002)[1] == frame
    assert mm.resident[ANON] == 3
    assert mm.system.frames.in_use == 3


def test_growing_elsewhere_goes_where_there_is_room():
    """MAYMOVE asks for a place; without it the call fails."""
    mm = _mm(mapped=((1000, 1010), (1010, 1012)), touched=((1000, 1002),))
    munmap(mm, 1010, 1012)
    mmap(mm, 1010, 1012, vm.READ)
    asked = []

    def place(pages):
        asked.append(pages)
        return 5000

    assert mremap(mm, 1000, 10, 20, place=place) == (ENOMEM, 0)
    assert mremap(mm, 1000, 10, 20, MAY_MOVE, place=place) == (0, 5000)
    assert asked == [20]
    assert _mapped(mm) == [(1010, 1012), (5000, 5020)]
    assert _present(mm) == [(5000, 5002)]


def test_without_room_nothing_changes():
    """A place that is not found is ENOMEM, before anything was touched."""
    mm = _mm(mapped=((1000, 1010), (1010, 1012)))
    before = _mapped(mm)
    assert mremap(mm, 1000, 2, 20, MAY_MOVE, place=lambda _pages: 0) == (ENOMEM, 0)
    assert _mapped(mm) == before


def test_untouched_memory_takes_its_new_address_for_an_offset_and_merges():
    """It never held a page, so it may become a part of the mapping that it comes to lie behind."""
    mm = _mm(mapped=((1000, 1010), (2000, 2005)))
    assert mremap(mm, 2000, 5, 5, TO, 1010) == (0, 1010)
    assert _mapped(mm) == [(1000, 1015)]


def test_touched_memory_keeps_its_offset_and_stays_apart():
    """Its pages know their place by it, and two mappings merge only if offsets go on."""
    mm = _mm(mapped=((1000, 1010), (2000, 2005)), touched=((2000, 2001),))
    assert mremap(mm, 2000, 5, 5, TO, 1010) == (0, 1010)
    assert _mapped(mm) == [(1000, 1010), (1010, 1015)]
    assert mremap(mm, 1010, 5, 5, TO, 2000) == (0, 2000)
    vma = mm.vmas.find(2000)
    assert vma is not None
    assert vma.offset == 2000


def test_untouched_memory_can_merge_with_the_rest_of_itself():
    """Its beginning moved behind its own end is a mapping shifted, not two."""
    mm = _mm()
    assert mremap(mm, 1000, 4, 4, TO, 1010) == (0, 1010)
    assert _mapped(mm) == [(1004, 1014)]


def test_a_part_of_a_file_mapping_keeps_mapping_its_pages():
    """The offset in the file goes along, and the pages of the cache with it."""
    mm = _mm(mapped=())
    file = mm.system.new_file("memory", 8, kind=SHMEM, byte=7)
    mmap(mm, 1000, 1008, READ_WRITE, shared=True, file=file)
    touch(mm, 1000, 1008, write=True)
    assert mremap(mm, 1003, 2, 2, TO, 4000) == (0, 4000)
    vma = mm.vmas.find(4000)
    assert vma is not None
    assert vma.offset == 3
    assert mm.table.get(4000)[1] == file.frame(3)
    assert mm.resident[SHMEM] == 8


def test_guard_markers_move():
    """They are entries as others are."""
    mm = _mm()
    mm.table.put(1001, 1003, GUARD, 0)
    mremap(mm, 1000, 10, 10, TO, 3000)
    assert mm.table.runs(0, 1 << 35) == [(3001, 3003, GUARD, 0)]


def test_a_length_of_zero_maps_shared_memory_once_more():
    """The old mapping stays; both map the same pages of the file."""
    mm = _mm(mapped=())
    file = mm.system.new_file("memory", 4, kind=SHMEM, byte=7)
    mmap(mm, 1000, 1004, READ_WRITE, shared=True, file=file)
    assert mremap(mm, 1001, 0, 3, TO, 2000) == (0, 2000)
    assert _mapped(mm) == [(1000, 1004), (2000, 2003)]
    touch(mm, 2000, 2001, write=False)
    assert mm.table.get(2000)[1] == file.frame(1)


@pytest.mark.parametrize(("version", "answer"), [("4.4", (0, 2000)), ("4.14", (EINVAL, 0)), ("6.18", (EINVAL, 0))])
def test_a_length_of_zero_renewed_private_memory_until_4_13(version, answer):
    """There it was a fresh mapping that had nothing to do with the old one."""
    mm = _mm(version)
    assert mremap(mm, 1000, 0, 3, TO, 2000) == answer


def test_a_fixed_move_unmaps_what_is_in_its_way():
    """As mmap with MAP_FIXED does; and, never touched, it merges with what it leaves on both sides."""
    mm = _mm(mapped=((1000, 1004), (2000, 2010)), touched=((2000, 2010),))
    assert mremap(mm, 1000, 4, 4, TO, 2002) == (0, 2002)
    assert _mapped(mm) == [(2000, 2010)]
    assert mm.resident[ANON] == 6


def test_the_heap_is_no_heap_elsewhere():
    """What a mapping is called by its place it is not called at another."""
    mm = _mm(mapped=())
    mmap(mm, 1000, 1010, READ_WRITE, name="[heap]")
    mremap(mm, 1000, 10, 10, TO, 3000)
    vma = mm.vmas.find(3000)
    assert vma is not None
    assert vma.name == ""


# Several mappings at once


def test_several_mappings_move_with_the_gaps_between_them():
    """Since 6.17, if the size does not change."""
    mm = _mm(mapped=((1000, 1004), (1006, 1010)), touched=((1003, 1004), (1006, 1007)))
    assert mremap(mm, 1000, 12, 12, TO, 3000) == (0, 3000)
    assert _mapped(mm) == [(3000, 3004), (3006, 3010)]
    assert _present(mm) == [(3003, 3004), (3006, 3007)]


def test_before_6_17_the_range_had_to_lie_in_one_mapping():
    """And what was in the way was gone by the time this was found out."""
    mm = _mm("6.12", mapped=((1000, 1004), (1006, 1010), (3000, 3001)))
    assert mremap(mm, 1000, 12, 12, TO, 3000) == (EFAULT, 0)
    assert _mapped(mm) == [(1000, 1004), (1006, 1010)]


def test_since_6_17_a_refusal_leaves_what_is_in_the_way():
    """All is checked before the target is unmapped."""
    mm = _mm(mapped=((1000, 1004), (3000, 3001)))
    assert mremap(mm, 1000, 6, 8, TO, 3000) == (EFAULT, 0)
    assert _mapped(mm) == [(1000, 1004), (3000, 3001)]


def test_a_hole_at_the_beginning_is_refused_and_one_at_the_end_is_not():
    """The first page has to be mapped."""
    mm = _mm(mapped=((1002, 1004),))
    assert mremap(mm, 1000, 4, 4, TO, 3000) == (EFAULT, 0)
    assert mremap(mm, 1002, 8, 8, TO, 3000) == (0, 3000)
    assert mremap(mm, 8000, 8, 8, TO, 3000) == (EFAULT, 0)


def test_what_moved_before_a_seal_has_moved():
    """The second mapping refuses, the first is at its new place."""
    mm = _mm(mapped=((1000, 1004), (1006, 1010)))
    mseal(mm, 1006, 1010)
    assert mremap(mm, 1000, 10, 10, TO, 3000) == (EPERM, 0)
    assert _mapped(mm) == [(1006, 1010), (3000, 3004)]


# What stays behind


def test_dont_unmap_leaves_the_mapping_and_takes_the_pages():
    """What stays is empty, unlocked, and has forgotten that it ever held a page."""
    mm = _mm(touched=((1000, 1003),))
    mlock(mm, 1000, 1010)
    assert mremap(mm, 1000, 10, 10, STAY, 3000) == (0, 3000)
    assert _mapped(mm) == [(1000, 1010), (3000, 3010)]
    assert _present(mm) == [(3000, 3010)]
    source, copy = mm.vmas.find(1000), mm.vmas.find(3000)
    assert source is not None
    assert copy is not None
    assert not source.flags & vm.LOCKED
    assert copy.flags & vm.LOCKED
    assert source.anon_vma == 0 != copy.anon_vma


def test_dont_unmap_of_a_part_unlocks_the_whole():
    """Though the rest still holds its pages; it is not split either."""
    mm = _mm()
    mlock(mm, 1000, 1010)
    assert mremap(mm, 1004, 2, 2, STAY, 3000) == (0, 3000)
    source = mm.vmas.find(1000)
    assert source is not None
    assert (source.first, source.last, source.flags & vm.LOCKED) == (1000, 1010, 0)
    assert mm.resident[ANON] == 10


def test_dont_unmap_without_fixed_follows_a_hint_that_is_free():
    """And asks for a place otherwise."""
    mm = _mm(mapped=((1000, 1010), (2000, 2010)))
    assert mremap(mm, 1000, 10, 10, MAY_MOVE | DONT_UNMAP, 3000) == (0, 3000)
    assert mremap(mm, 1000, 10, 10, MAY_MOVE | DONT_UNMAP, 2005, place=lambda _pages: 7000) == (0, 7000)


@pytest.mark.parametrize(("version", "answer"), [("5.4", EINVAL), ("5.10", EINVAL), ("5.15", 0)])
def test_dont_unmap_came_with_5_7_and_takes_files_since_5_13(version, answer):
    """An unknown flag is EINVAL, and so is a mapping that it does not take."""
    mm = _mm(version, mapped=())
    file = mm.system.new_file("memory", 4, kind=SHMEM)
    mmap(mm, 1000, 1004, READ_WRITE, shared=True, file=file)
    assert mremap(mm, 1000, 4, 4, STAY, 2000)[0] == answer


# Page tables


def test_tables_that_move_whole_are_handed_over():
    """Since 5.0; the count of tables is the same after as before."""
    first = 10 * LEAF_PAGES
    mm = _mm(mapped=((first, first + LEAF_PAGES),), touched=((first, first + LEAF_PAGES),))
    before = mm.table.table_bytes()
    assert mremap(mm, first, LEAF_PAGES, LEAF_PAGES, TO, 40 * LEAF_PAGES) == (0, 40 * LEAF_PAGES)
    assert mm.table.table_bytes() == before
    assert list(mm.table.leaves) == [40]


def test_the_first_table_goes_whole_where_nothing_else_is_in_it():
    """Since 6.7; seen where the source stays: with its own table still there or not."""
    for version, sources in (("5.15", [10, 12]), ("6.18", [12])):
        start, target = 10 * LEAF_PAGES + 500, 40 * LEAF_PAGES + 500
        mm = _mm(version, mapped=((start, start + 600),), touched=((start, start + 600),))
        assert mremap(mm, start, 600, 600, STAY, target) == (0, target)
        assert sorted(mm.table.leaves) == [*sources, 40, 41, 42]


def test_a_huge_page_moves_as_one_or_is_split():
    """It stays huge if it is a whole one at both places."""
    first, huge = 10 * LEAF_PAGES, ANON | HUGE
    for target, stays in ((40 * LEAF_PAGES, True), (40 * LEAF_PAGES + 8, False)):
        mm = _mm(mapped=((first, first + LEAF_PAGES),))
        frame = mm.system.frames.allocate_huge()
        mm.table.put(first, first + LEAF_PAGES, huge, frame)
        mm.resident[ANON] += LEAF_PAGES
        assert mremap(mm, first, LEAF_PAGES, LEAF_PAGES, TO, target) == (0, target)
        assert bool(mm.table.get(target)[0] & HUGE) is stays
        assert mm.table.get(target + 9)[1] == frame + 9
        assert mm.resident[ANON] == LEAF_PAGES


# What is refused


@pytest.mark.parametrize(
    ("pages", "new_pages", "flags", "target", "errno"),
    [
        (4, 0, 0, 0, EINVAL),
        (4, 4, 8, 0, EINVAL),
        (4, 4, FIXED, 3000, EINVAL),
        (4, 4, DONT_UNMAP, 3000, EINVAL),
        (4, 5, STAY, 3000, EINVAL),
        (4, 4, TO, 1002, EINVAL),
        (4, 8, TO, 994, EINVAL),
        (4, 4, TO, (1 << 35) - 4, EINVAL),
        (0, 4, TO, 3000, EINVAL),
        (20, 30, TO, 3000, EFAULT),
    ],
)
def test_words_that_make_no_sense(pages, new_pages, flags, target, errno):
    """None of them changes anything."""
    mm = _mm()
    assert mremap(mm, 1000, pages, new_pages, flags, target) == (errno, 0)
    assert _mapped(mm) == [(1000, 1010)]


def test_an_overlap_is_found_before_a_hole_since_6_17():
    """Until then the mapping was looked for first."""
    assert mremap(_mm(), 2000, 4, 4, TO, 2002) == (EINVAL, 0)
    assert mremap(_mm("6.12"), 2000, 4, 4, TO, 2002) == (EFAULT, 0)
    assert mremap(_mm("2.6.32"), 2000, 4, 4, TO, 2002) == (EINVAL, 0)


def test_until_5_15_a_shrink_of_nothing_succeeded():
    """It was a munmap of the tail, and munmap does not mind holes."""
    assert mremap(_mm("2.6.32"), 5000, 4, 2) == (0, 5000)
    assert mremap(_mm("6.18"), 5000, 4, 2) == (EFAULT, 0)


def test_what_the_kernel_mapped_does_not_grow():
    """Nor does it stay behind; but it may move."""
    mm = _mm(mapped=())
    mmap(mm, 1000, 1004, vm.READ, flags=vm.PFNMAP | vm.DONT_EXPAND)
    assert mremap(mm, 1000, 4, 8, MAY_MOVE) == (EFAULT, 0)
    assert mremap(mm, 1000, 4, 4, STAY, 3000) == (EINVAL, 0)
    assert mremap(mm, 1000, 4, 4, TO, 3000) == (0, 3000)


def test_hugetlb_memory_moves_by_huge_pages_and_never_grows():
    """Lengths are rounded up; addresses must be multiples; before 5.16 it did not move at all."""
    first, target = 10 * LEAF_PAGES, 40 * LEAF_PAGES
    for version, moved in (("6.18", (0, target)), ("5.10", (EINVAL, 0))):
        mm = Mm(System(version))
        mm.vmas.insert(vm.Vma(first, first + 2 * LEAF_PAGES, READ_WRITE | vm.HUGETLB, None, first))
        assert mremap(mm, first, LEAF_PAGES, 4 * LEAF_PAGES, MAY_MOVE) == (EINVAL, 0)
        if version == "6.18":
            assert mremap(mm, first, LEAF_PAGES, LEAF_PAGES, TO, target + 1) == (EINVAL, 0)
        assert mremap(mm, first, LEAF_PAGES, LEAF_PAGES, TO, target) == moved


def test_a_sealed_mapping_is_not_remapped_at_all():
    """Not even to the same length; what is in the way of another must not be sealed either."""
    mm = _mm(mapped=((1000, 1010), (3000, 3010)))
    mseal(mm, 1000, 1010)
    for arguments in ((10, 4), (10, 10), (10, 12, MAY_MOVE), (10, 10, TO, 5000)):
        assert mremap(mm, 1000, *arguments) == (EPERM, 0)
    assert mremap(mm, 3000, 10, 10, TO, 1000) == (EPERM, 0)
    assert _mapped(mm) == [(1000, 1010), (3000, 3010)]


def test_near_the_limit_of_mappings_nothing_moves():
    """A move needs a few mappings more for a moment."""
    mm = _mm(mapped=((1000, 1010),))
    mm.system.max_map_count = 5
    assert mremap(mm, 1000, 10, 10, TO, 3000) == (ENOMEM, 0)
    assert mremap(mm, 1000, 10, 4) == (0, 1000)
