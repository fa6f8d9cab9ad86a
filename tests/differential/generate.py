"""Random sequences, the same for the same seed: one profile per kind.

A profile is a list of makers with their weights; a maker throws the dice for the arguments of one operation. The
weights let mappings live long enough to get into interesting states, and most operations find some.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from differential.dice import Dice, HugeDice
from differential.sequences import (
    ADVISE,
    BREAK,
    CONTENTS,
    COUNTERS,
    FAULTS,
    FILE_OF_HUGE_PAGES,
    FORK,
    FRAMES,
    HUGE,
    HUGE_PAGES_ALLOWED,
    LOCK,
    MAP,
    MAPPINGS,
    PRIVATE_ANONYMOUS,
    PRIVATE_FILE,
    PROCESS_ADVISE,
    PROTECT,
    READ,
    REMAP,
    SEAL,
    SHARED_ANONYMOUS,
    SHARED_FILE,
    SMAPS,
    SWAP,
    UNLOCK,
    UNMAP,
    WRITE,
    Arena,
    Operation,
    Sequence,
)
from dontneed.abi.advice import Advice
from dontneed.records import Record
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    Maker = Callable[[Dice], Operation]

READ_WRITE = 3
MAYMOVE, FIXED, DONTUNMAP = 1, 2, 4
MAP_HUGETLB = 0x40000
WRONG_ADVICE = 99


# Makers: what every kind does


def _map(dice: Dice) -> Operation:
    start, length = dice.stretch()
    backing = dice.among((PRIVATE_ANONYMOUS,) * 3 + (SHARED_ANONYMOUS,) + (PRIVATE_FILE,) * 2 + (SHARED_FILE,))
    file_page = dice.below(24) if backing >= PRIVATE_FILE else 0
    return MAP(start, 0 if dice.chance(0.02) else length, dice.among((3,) * 9 + (1, 1, 0, 2)), backing, file_page)


def _map_much(dice: Dice) -> Operation:
    first = dice.below(8)
    pages = 24 + dice.below(dice.arena.pages - first - 23)
    return _map(dice).with_arguments(start=first * PAGE_BYTES, length=pages * PAGE_BYTES)


def _unmap(dice: Dice) -> Operation:
    return UNMAP(*dice.crooked_stretch())


def _protect(dice: Dice) -> Operation:
    return PROTECT(*dice.crooked_stretch(), dice.among((0, 1, 3, 3, 3)))


def _lock(dice: Dice) -> Operation:
    return LOCK(*dice.crooked_stretch(), dice.among((0, 0, 1)))


def _unlock(dice: Dice) -> Operation:
    return UNLOCK(*dice.crooked_stretch())


def _read(dice: Dice) -> Operation:
    return READ(dice.page())


def _write(dice: Dice) -> Operation:
    return WRITE(dice.page(), 1 + dice.below(250))


def _fork(dice: Dice) -> Operation:
    return FORK(1 + dice.below(6))


def _advise(*advices: int) -> Maker:
    def make(dice: Dice) -> Operation:
        return ADVISE(*dice.crooked_stretch(), dice.among(advices))

    return make


# HWPOISON and SOFT_OFFLINE are never among them: where they work, they take memory out of service.
# PAGEOUT without swap depends on what else the machine does: it has kinds of its own.
_EVERY_ADVICE = tuple(int(advice) for advice in Advice.all() if advice.number < 100)
_WITHOUT_RECLAIM = tuple(advice for advice in _EVERY_ADVICE if advice != Advice.PAGEOUT.number)
_RELEASING = (int(Advice.DONTNEED),) * 3 + (int(Advice.REMOVE), int(Advice.FREE))
_GUARDING = (int(Advice.GUARD_INSTALL), int(Advice.GUARD_REMOVE))
_BASE_ADVICE = (*_WITHOUT_RECLAIM, *_RELEASING, *_GUARDING, WRONG_ADVICE)

_BASE: tuple[tuple[int, Maker], ...] = (
    (14, _map),
    (4, _unmap),
    (8, _protect),
    (26, _advise(*_BASE_ADVICE)),
    (4, _lock),
    (3, _unlock),
    (17, _read),
    (20, _write),
    (4, _fork),
)


# Makers of the other kinds


def _remap(dice: Dice) -> Operation:
    """Grows, shrinks and moves. Where it would go without FIXED is the kernel's choice, and then it is out of sight."""
    start, length = dice.crooked_stretch()
    new_length = dice.among((length, length, dice.stretch()[1], dice.stretch()[1], dice.crooked_stretch()[1]))
    flags = dice.among((0, 0, 0, MAYMOVE, MAYMOVE | FIXED, MAYMOVE | FIXED, MAYMOVE | FIXED | DONTUNMAP, FIXED))
    to = dice.page() if flags & FIXED else 0
    if dice.chance(0.8):
        new_length = min(new_length, dice.arena.pages * PAGE_BYTES - to)
    return REMAP(start, 0 if dice.chance(0.03) else length, new_length, flags, to)


def _break(dice: Dice) -> Operation:
    return BREAK(dice.page() + (dice.below(PAGE_BYTES) if dice.chance(0.3) else 0))


def _process_advise(*advices: int) -> Maker:
    def make(dice: Dice) -> Operation:
        ranges = [number for _ in range(4) for number in dice.crooked_stretch()]
        return PROCESS_ADVISE(dice.among(advices), dice.among((0, 1, 2, 3, 4, 4)), *ranges)

    return make


def _seal(dice: Dice) -> Operation:
    return SEAL(*dice.crooked_stretch())


def _write_much(dice: Dice) -> Operation:
    return ADVISE(*dice.stretch(), int(Advice.POPULATE_WRITE))


def _map_for_huge_pages(dice: Dice) -> Operation:
    start, length = dice.stretch()
    backing = dice.among((PRIVATE_ANONYMOUS,) * 6 + (SHARED_ANONYMOUS, PRIVATE_FILE, SHARED_FILE))
    return MAP(start, length, dice.among((3, 3, 3, 1)), backing)


def _map_hugetlb(dice: Dice) -> Operation:
    start, length = dice.stretch()
    backing = dice.among((PRIVATE_ANONYMOUS,) * 2 + (SHARED_ANONYMOUS, PRIVATE_FILE, SHARED_FILE))
    huge = 0 if dice.chance(0.1) else MAP_HUGETLB * (backing < PRIVATE_FILE)
    file_page = dice.among((0, 0, 512, 1024, 1)) if backing >= PRIVATE_FILE else 0
    return MAP(start, length, dice.among((3, 3, 3, 1, 0)), backing, file_page, huge)


def _all(operation: Operation) -> Maker:
    return lambda dice: operation.with_arguments(length=dice.arena.pages * PAGE_BYTES)


_RECLAIMING = (int(Advice.PAGEOUT),) * 4 + (int(Advice.COLD), int(Advice.WILLNEED))


# Kinds


class Kind(Record):
    """A sort of sequence.

    Attributes:
        name: what the command line calls it.
        arena: where it plays.
        profile: makers with their weights.
        opening: makers of the first operations.
        needs: of the machine: "swap", "hugetlb".
        dice: how places are chosen.
        parts: what its records must have besides mappings and counters.
    """

    name: str
    arena: Arena
    profile: tuple[tuple[int, Maker], ...]
    opening: tuple[Maker, ...] = (_map_much, _map_much)
    needs: tuple[str, ...] = ()
    dice: type[Dice] = Dice
    parts: int = 0


TERABYTE = 1 << 40
STRADDLING = Arena(TERABYTE + HUGE_PAGE_BYTES - 24 * PAGE_BYTES, pages=48, file_pages=32)
"""Half on either side of a border between two page tables, and with its own upper tables."""
HUGE_ARENA = Arena(TERABYTE + HUGE_PAGE_BYTES, pages=3 * 512, file_pages=3 * 512)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("base", STRADDLING, _BASE),
        Kind("remap", STRADDLING, ((20, _remap), *_BASE)),
        Kind("brk", STRADDLING.replace(base=0), ((25, _break), *_BASE), opening=(_break,)),
        Kind(
            "pageout",
            STRADDLING.replace(setup=SWAP),
            ((25, _advise(*_RECLAIMING)), *_BASE),
            needs=("swap",),
        ),
        Kind(
            "swap",
            STRADDLING.replace(setup=SWAP),
            (
                (6, _map),
                (3, _unmap),
                (4, _protect),
                (15, _write_much),
                (10, _read),
                (15, _write),
                (10, _fork),
                (25, _advise(*_RECLAIMING)),
                (12, _advise(*_RELEASING)),
            ),
            needs=("swap",),
        ),
        Kind(
            "thp",
            HUGE_ARENA.replace(setup=HUGE_PAGES_ALLOWED),
            (
                (8, _map_for_huge_pages),
                (4, _unmap),
                (8, _protect),
                (10, _advise(int(Advice.HUGEPAGE), int(Advice.HUGEPAGE), int(Advice.NOHUGEPAGE))),
                (10, _advise(int(Advice.COLLAPSE))),
                (20, _advise(*_RELEASING)),
                (10, _advise(*_BASE_ADVICE)),
                (15, _read),
                (20, _write),
                (4, _fork),
            ),
            opening=(_all(MAP(0, 0, READ_WRITE)), _all(ADVISE(0, 0, int(Advice.HUGEPAGE)))),
            dice=HugeDice,
            parts=HUGE,
        ),
        Kind(
            "hugetlb",
            HUGE_ARENA.replace(setup=FILE_OF_HUGE_PAGES),
            (
                (14, _map_hugetlb),
                (4, _unmap),
                (6, _protect),
                (14, _advise(*_RELEASING, int(Advice.DONTNEED_LOCKED))),
                (10, _advise(*_BASE_ADVICE)),
                (3, _lock),
                (3, _unlock),
                (17, _read),
                (20, _write),
                (4, _fork),
            ),
            opening=(_map_hugetlb, _map_hugetlb),
            needs=("hugetlb",),
            dice=HugeDice,
            parts=HUGE,
        ),
        Kind("threads", STRADDLING.replace(threads=3), _BASE),
        Kind("process_madvise", STRADDLING, ((40, _process_advise(*_BASE_ADVICE)), *_BASE)),
        Kind("seal", STRADDLING, ((8, _seal), (10, _remap), *_BASE)),
    )
}

THOROUGH = FAULTS | CONTENTS | SMAPS | FRAMES
"""Parts that every eighth sequence has too: they cost more than the rest."""


def generate(kind: Kind, seed: int, number: int, length: int = 60) -> Sequence:
    """Sequence `number` of a kind and a seed, `length` operations long."""
    dice = kind.dice(f"{kind.name} {seed} {number}", kind.arena)
    weights = list(accumulate(weight for weight, _ in kind.profile))
    makers = [maker for _, maker in kind.profile]
    operations = [maker(dice) for maker in kind.opening]
    while len(operations) < length:
        operations.append(dice.weighted(makers, weights)(dice))
    if kind.arena.threads:
        operations = [each.replace(thread=dice.below(kind.arena.threads + 1)) for each in operations]
    parts = MAPPINGS | COUNTERS | kind.parts | (THOROUGH if number % 8 == 7 else 0)
    return Sequence(kind.arena, tuple(operations), parts)
