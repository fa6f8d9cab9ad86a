"""brk, process_madvise, mseal and posix_madvise in the model."""

from __future__ import annotations

from errno import EACCES, EFAULT, EINVAL, ENOMEM, ENOSYS, EPERM

import pytest

from dontneed.abi.advice import Advice
from dontneed.errors import UsageError
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.heap import brk, is_heap
from dontneed.model.calls.mappings import mlock, mmap, mprotect, munmap
from dontneed.model.calls.seal import mseal
from dontneed.model.calls.vector import MOST_BYTES, process_madvise
from dontneed.model.paging.faults import touch
from dontneed.model.program.libc import libc_at, posix_madvise
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON
from dontneed.model.space.mm import Mm
from dontneed.model.system import System

PAGE = 4096
READ_WRITE = vm.READ | vm.WRITE
DONTNEED, COLD, PAGEOUT, WILLNEED = map(int, (Advice.DONTNEED, Advice.COLD, Advice.PAGEOUT, Advice.WILLNEED))


def _mm(version="6.18", *mapped):
    mm = Mm(System(version))
    for first, last in mapped:
        mmap(mm, first, last, READ_WRITE)
        touch(mm, first, last, write=True)
    return mm


def _with_heap(version="6.18", *mapped):
    mm = _mm(version, *mapped)
    mm.brk_first, mm.brk = 1000, 1000 * PAGE
    return mm


def _mapped(mm):
    return [(vma.first, vma.last) for vma in mm.vmas]


# brk


def test_the_heap_grows_by_whole_pages_and_remembers_the_byte():
    """Within a page nothing is to do but to remember."""
    mm = _with_heap()
    assert brk(mm, 1000 * PAGE + 5) == 1000 * PAGE + 5
    assert _mapped(mm) == [(1000, 1001)]
    assert brk(mm, 1001 * PAGE) == 1001 * PAGE
    assert _mapped(mm) == [(1000, 1001)]
    assert brk(mm, 1003 * PAGE) == 1003 * PAGE
    assert _mapped(mm) == [(1000, 1003)]


def test_the_heap_shrinks_and_its_pages_are_gone():
    """As by munmap; down to nothing, and no further."""
    mm = _with_heap()
    brk(mm, 1010 * PAGE)
    touch(mm, 1000, 1010, write=True)
    assert brk(mm, 1004 * PAGE + 1) == 1004 * PAGE + 1
    assert mm.resident[ANON] == 5
    assert brk(mm, 1000 * PAGE) == 1000 * PAGE
    assert _mapped(mm) == []
    assert brk(mm, 1000 * PAGE - 1) == 1000 * PAGE


def test_asking_for_zero_tells_where_the_heap_ends():
    """Whatever cannot be is answered with what is."""
    mm = _with_heap()
    brk(mm, 1002 * PAGE)
    assert brk(mm, 0) == 1002 * PAGE


def test_a_page_must_stay_free_behind_the_heap():
    """So it never touches what lies above."""
    mm = _with_heap("6.18", (1010, 1011))
    assert brk(mm, 1010 * PAGE) == 1000 * PAGE
    assert brk(mm, 1009 * PAGE) == 1009 * PAGE


def test_a_stack_above_keeps_its_distance():
    """It may yet grow down."""
    mm = _with_heap()
    mmap(mm, 2000, 2001, READ_WRITE, flags=vm.GROWS_DOWN)
    assert brk(mm, (2000 - 256) * PAGE) == 1000 * PAGE
    assert brk(mm, (2000 - 257) * PAGE) == (2000 - 257) * PAGE


def test_the_heap_does_not_merge_with_what_ends_where_it_starts():
    """Until 6.0 it did."""
    for version, mapped in (("6.18", [(990, 1000), (1000, 1004)]), ("2.6.32", [(990, 1004)])):
        mm = _with_heap(version)
        mmap(mm, 990, 1000, READ_WRITE)
        brk(mm, 1004 * PAGE)
        assert _mapped(mm) == mapped


def test_a_heap_unmapped_behind_its_back_does_not_shrink():
    """2.6.32 did not look."""
    for version, end in (("6.18", 1008), ("2.6.32", 1004)):
        mm = _with_heap(version)
        brk(mm, 1008 * PAGE)
        munmap(mm, 1004, 1008)
        assert brk(mm, 1004 * PAGE) == end * PAGE


def test_a_sealed_heap_does_not_shrink():
    """The refusal is an end that did not move."""
    mm = _with_heap()
    brk(mm, 1008 * PAGE)
    mseal(mm, 1006, 1008)
    assert brk(mm, 1004 * PAGE) == 1008 * PAGE
    assert brk(mm, 1010 * PAGE) == 1010 * PAGE


def test_a_mapping_is_the_heap_by_its_place():
    """What else comes to lie between the heap's start and its end is called so too."""
    mm = _with_heap("6.18", (990, 995), (1100, 1105))
    brk(mm, 1010 * PAGE)
    mprotect(mm, 1005, 1006, vm.READ)
    assert [vma.first for vma in mm.vmas if is_heap(mm, vma)] == [1000, 1005, 1006]


def test_a_locked_future_fills_the_heap():
    """mlockall(MCL_FUTURE) holds for it too."""
    mm = _with_heap()
    mm.lock_future = True
    brk(mm, 1004 * PAGE)
    assert mm.resident[ANON] == 4
    assert mm.locked_pages == 4


# process_madvise


def test_bytes_of_all_ranges_are_counted_unrounded():
    """A length of 1 drops a page, and counts 1."""
    mm = _mm("6.18", (1000, 1010))
    assert process_madvise(mm, [(1000 * PAGE, 1), (1004 * PAGE, 2 * PAGE)], DONTNEED) == 1 + 2 * PAGE
    assert mm.resident[ANON] == 7


def test_a_failure_behind_a_success_is_not_seen_though_it_did_its_part():
    """The range with a hole is dropped as far as it is mapped, and not counted."""
    mm = _mm("6.18", (1000, 1002))
    assert process_madvise(mm, [(1000 * PAGE, PAGE), (1001 * PAGE, 2 * PAGE)], DONTNEED) == PAGE
    assert mm.resident[ANON] == 0
    assert process_madvise(mm, [(1001 * PAGE, 2 * PAGE), (1000 * PAGE, PAGE)], DONTNEED) == -ENOMEM


def test_before_5_18_the_failure_was_the_answer():
    """However much had been done."""
    mm = _mm("5.10", (1000, 1002))
    assert process_madvise(mm, [(1000 * PAGE, PAGE), (1001 * PAGE, 2 * PAGE)], COLD) == -ENOMEM


def test_ranges_behind_a_failure_are_not_reached():
    """An unaligned address ends it."""
    mm = _mm("6.18", (1000, 1010))
    assert process_madvise(mm, [(1000 * PAGE, PAGE), (1001 * PAGE + 1, PAGE), (1002 * PAGE, PAGE)], DONTNEED) == PAGE
    assert mm.resident[ANON] == 9


def test_empty_ranges_are_stepped_over_but_for_the_first():
    """Even an address that begins no page does not matter there."""
    mm = _mm("6.18", (1000, 1010))
    page, empty = (1000 * PAGE, PAGE), (1001 * PAGE + 1, 0)
    assert process_madvise(mm, [page, empty, page], DONTNEED) == 2 * PAGE
    assert process_madvise(mm, [empty, page], DONTNEED) == -EINVAL
    assert process_madvise(mm, [(1001 * PAGE, 0), page], DONTNEED) == PAGE


def test_nothing_to_do_is_a_success_even_for_no_advice():
    """No range is looked at, nor the advice, if it is for oneself; one's own only since 6.13."""
    assert process_madvise(_mm(), [], 99) == 0
    assert process_madvise(_mm(), [(1, 0)], 99) == 0
    assert process_madvise(_mm(), [], 99, remote=True) == -EINVAL
    assert process_madvise(_mm("6.12"), [], 99) == -EINVAL


def test_more_than_two_gib_are_cut_off():
    """MAX_RW_COUNT: what lies beyond is neither advised nor counted."""
    mm = _mm("6.18")
    mmap(mm, 0x10_0000, 0x30_0000, READ_WRITE)
    touch(mm, 0x28_0000, 0x28_0001, write=True)
    assert process_madvise(mm, [(0x10_0000 * PAGE, 0x20_0000 * PAGE)], DONTNEED) == MOST_BYTES
    assert mm.resident[ANON] == 1
    assert process_madvise(mm, [(0x10_0000 * PAGE, 1 << 31), (0x28_0000 * PAGE, PAGE)], DONTNEED) == MOST_BYTES
    assert mm.resident[ANON] == 1


def test_words_that_make_no_sense():
    """Flags, too many ranges, a length that is negative, an address of the kernel's."""
    mm = _mm()
    assert process_madvise(mm, [], COLD, flags=1) == -EINVAL
    assert process_madvise(mm, [(0, 0)] * 1025, COLD) == -EINVAL
    assert process_madvise(mm, [(0, 1 << 63)], COLD) == -EINVAL
    assert process_madvise(mm, [(1 << 63, PAGE)], COLD) == -EFAULT


@pytest.mark.parametrize(
    ("version", "advice", "own", "remote"),
    [
        ("5.4", COLD, -ENOSYS, -ENOSYS),
        ("5.10", COLD, PAGE, PAGE),
        ("5.10", PAGEOUT, PAGE, PAGE),
        ("5.10", WILLNEED, -EINVAL, -EINVAL),
        ("5.15", WILLNEED, PAGE, PAGE),
        ("6.12", DONTNEED, -EINVAL, -EINVAL),
        ("6.13", DONTNEED, PAGE, -EINVAL),
        ("6.18", int(Advice.FREE), PAGE, -EINVAL),
    ],
)
def test_which_advice_it_takes(version, advice, own, remote):
    """Of another process never what discards."""
    mm = _mm(version, (1000, 1001))
    assert process_madvise(mm, [(1000 * PAGE, PAGE)], advice, remote=True) == remote
    assert process_madvise(mm, [(1000 * PAGE, PAGE)], advice) == own


@pytest.mark.parametrize(
    ("version", "own", "remote"),
    [("5.10", PAGE, PAGE), ("5.12", -EPERM, -EPERM), ("6.1", -EPERM, -EPERM), ("6.12", PAGE, -EPERM)],
)
def test_when_it_needs_cap_sys_nice(version, own, remote):
    """For others since 5.12; for oneself too, until 6.8."""
    mm = _mm(version, (1000, 1001))
    assert process_madvise(mm, [(1000 * PAGE, PAGE)], COLD, nice=False) == own
    assert process_madvise(mm, [(1000 * PAGE, PAGE)], COLD, nice=False, remote=True) == remote


# mseal


def test_a_hole_seals_nothing():
    """All or nothing."""
    mm = _mm("6.18", (1000, 1004), (1005, 1008))
    assert mseal(mm, 1000, 1008) == ENOMEM
    assert mseal(mm, 999, 1001) == ENOMEM
    assert not mm.vmas.flags_between(0, 2000) & vm.SEALED


def test_sealing_splits_and_sealing_twice_is_nothing():
    """A part has its own mapping then; where it meets another sealed one they merge."""
    mm = _mm("6.18", (1000, 1010))
    assert mseal(mm, 1003, 1005) == 0
    assert mseal(mm, 1003, 1005) == 0
    assert _mapped(mm) == [(1000, 1003), (1003, 1005), (1005, 1010)]
    assert mseal(mm, 1004, 1007) == 0
    assert _mapped(mm) == [(1000, 1003), (1003, 1007), (1007, 1010)]


def test_words_of_mseal():
    """Flags and a range turned around are EINVAL, an empty range is fine anywhere."""
    mm = _mm("6.18", (1000, 1010))
    assert mseal(mm, 1000, 1010, 1) == EINVAL
    assert mseal(mm, 1010, 1000) == EINVAL
    assert mseal(mm, 5000, 5000) == 0
    assert mseal(_mm("6.9", (1000, 1010)), 1000, 1010) == ENOSYS


def test_a_seal_forbids_unmapping_and_mapping_over():
    """Nothing is unmapped; but the first mapping, if it is not sealed itself, stays split."""
    mm = _mm("6.18", (1000, 1010))
    mseal(mm, 1005, 1010)
    assert munmap(mm, 1003, 1006) == EPERM
    assert mmap(mm, 1009, 1012, READ_WRITE) == EPERM
    assert _mapped(mm) == [(1000, 1003), (1003, 1005), (1005, 1010)]
    assert mm.resident[ANON] == 10
    assert munmap(mm, 1000, 1005) == 0


def test_a_seal_forbids_another_protection():
    """Mappings before it have changed; what may never be is EACCES even so."""
    mm = _mm("6.18", (1000, 1010))
    mseal(mm, 1005, 1010)
    assert mprotect(mm, 1003, 1010, vm.READ) == EPERM
    assert [(vma.first, bool(vma.flags & vm.WRITE)) for vma in mm.vmas] == [(1000, True), (1003, False), (1005, True)]
    assert mprotect(mm, 1005, 1010, READ_WRITE) == EPERM
    sealed = mm.vmas.find(1005)
    assert sealed is not None
    sealed.flags &= ~vm.MAY_WRITE
    assert mprotect(mm, 1005, 1010, READ_WRITE) == EACCES


def test_a_seal_forbids_discards_only_without_leave_to_write():
    """What can be overwritten anyway can be discarded; locking goes on."""
    mm = _mm("6.18", (1000, 1010))
    mseal(mm, 1000, 1010)
    assert madvise(mm, 1000 * PAGE, PAGE, DONTNEED) == 0
    assert mlock(mm, 1000, 1002) == 0
    mm = _mm("6.18", (1000, 1010))
    mprotect(mm, 1004, 1010, vm.READ)
    mseal(mm, 1000, 1010)
    assert madvise(mm, 1002 * PAGE, 4 * PAGE, DONTNEED) == EPERM
    assert mm.resident[ANON] == 8


# posix_madvise


@pytest.mark.parametrize(
    ("libc", "left"), [("glibc 2.3.4", 0), ("glibc 2.5", 0), ("glibc 2.6", 4), ("glibc 2.36", 4), ("musl", 4)]
)
def test_posix_dontneed_discards_in_old_glibc_only(libc, left):
    """Since 2.6 it does nothing, whatever it is told."""
    mm = _mm("6.18", (1000, 1004))
    assert posix_madvise(mm, libc_at(libc), 1000 * PAGE, 4 * PAGE, DONTNEED) == 0
    assert mm.resident[ANON] == left
    assert (posix_madvise(mm, libc_at(libc), 7, 9, DONTNEED) == 0) is bool(left)


def test_other_advice_is_handed_on_whatever_it_is():
    """posix_madvise returns the errno; a number it has no name for reaches the kernel too."""
    mm = _mm("6.18", (1000, 1004))
    libc = libc_at("glibc 2.36")
    assert posix_madvise(mm, libc, 1000 * PAGE, 8 * PAGE, WILLNEED) == ENOMEM
    assert posix_madvise(mm, libc, 1000 * PAGE, PAGE, 99) == EINVAL
    assert posix_madvise(mm, libc, 1000 * PAGE, PAGE, int(Advice.DONTNEED_LOCKED)) == 0
    assert mm.resident[ANON] == 3


@pytest.mark.parametrize("name", ["glibc 2.2", "glibc", "glibc x", "bionic 1", ""])
def test_a_library_that_is_not_known_is_named(name):
    """With what there is."""
    with pytest.raises(UsageError, match="C library") as raised:
        libc_at(name)
    assert "glibc 2.36" in str(raised.value.hint)


def test_a_library_says_what_it_is():
    """As the lab prints it."""
    assert str(libc_at("glibc 2.3.4")) == "glibc 2.3.4"
    assert str(libc_at("musl")) == "musl 1.2"
