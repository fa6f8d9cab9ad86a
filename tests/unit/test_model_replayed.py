"""What replaying random sequences in guests showed of single kernels (tests/kernels, `run.py --sequences`)."""

from __future__ import annotations

import pytest

from dontneed.model.calls.mappings import mlock, mmap, mprotect
from dontneed.model.calls.remap import DONT_UNMAP, FIXED, MAY_MOVE, mremap
from dontneed.model.calls.seal import mseal
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.mm import Mm
from dontneed.model.system import System

RW = vm.READ | vm.WRITE
MOVED_BEHIND = MAY_MOVE | FIXED | DONT_UNMAP


def address_space(version: str) -> Mm:
    """One with pages 0x1000 to 0x1028 mapped."""
    mm = Mm(System(version))
    mmap(mm, 0x1000, 0x1028, RW)
    return mm


def mappings(mm: Mm) -> list[tuple[int, int]]:
    """First and last page of each, from 0x1000 on."""
    return [(vma.first - 0x1000, vma.last - 0x1000) for vma in mm.vmas]


@pytest.mark.parametrize(
    ("version", "sealed"),
    [("6.16", [(2, 0x28)]), ("6.17", [(2, 5), (5, 0x28)]), ("6.18.15", [(2, 5), (5, 0x28)]), ("6.18", [(2, 0x28)])],
)
def test_mseal_lost_its_place_for_a_while(version: str, sealed: list[tuple[int, int]]) -> None:
    """A part that merges with a sealed mapping above kept what comes behind from merging with it."""
    mm = address_space(version)
    mseal(mm, 0x1004, 0x1005)
    mseal(mm, 0x1002, 0x1028)
    assert mappings(mm) == [(0, 2), *sealed]


@pytest.mark.parametrize(
    ("version", "left", "locked"),
    [
        ("6.14", [(0, 14), (14, 37), (37, 39), (39, 40)], 23),
        ("7.1", [(0, 14), (14, 37), (37, 39), (39, 40)], 25),
        ("7.2", [(0, 14), (14, 30), (30, 32), (32, 37), (37, 39), (39, 40)], 23),
    ],
)
def test_what_is_left_behind_is_unlocked(version: str, left: list[tuple[int, int]], locked: int) -> None:
    """At first all of the mapping, and VmLck says otherwise; since 7.2 the part that was moved, and VmLck is right."""
    mm = address_space(version)
    mlock(mm, 0x100E, 0x1026)
    assert mremap(mm, 0x101E, 2, 2, flags=MOVED_BEHIND, new_first=0x1025) == (0, 0x1025)
    assert mm.locked_pages == locked
    assert mappings(mm) == left


@pytest.mark.parametrize(("version", "expected"), [("7.1", [(0, 0x28)]), ("7.2", [(0, 28), (28, 0x28)])])
def test_what_moves_merges_with_what_it_left(version: str, expected: list[tuple[int, int]]) -> None:
    """Untouched memory does, until 7.1."""
    mm = address_space(version)
    mremap(mm, 0x1020, 1, 1, flags=MOVED_BEHIND, new_first=0x101B)
    assert mappings(mm) == expected


@pytest.mark.parametrize(("version", "uncharged"), [("6.1", False), ("6.12", True)])
def test_mprotect_uncharges_what_was_never_touched(version: str, uncharged: bool) -> None:  # noqa: FBT001
    """So that it merges with what never was to be written; what was touched stays charged."""
    for touched in (False, True):
        mm = address_space(version)
        if touched:
            touch(mm, 0x1000, 0x1001, write=True)
        mprotect(mm, 0x1000, 0x1028, vm.READ)
        (vma,) = mm.vmas
        assert bool(vma.flags & vm.ACCOUNT) == (touched or not uncharged)
