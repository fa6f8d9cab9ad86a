"""Seeded choices for generators: places, ranges and values in an arena."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, TypeVar

from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from differential.sequences import Arena

Choice = TypeVar("Choice")

SMALL_LENGTHS = (1, 1, 2, 3, 4, 8, 16, 24, 48)
CROOKED_LENGTHS = (0, 1, PAGE_BYTES - 1, PAGE_BYTES + 1, -PAGE_BYTES, -1)
"""In bytes: nothing, less than a page, a little more, and what wraps around the end of the address space."""


class Dice:
    """All that is random in one sequence, from one seed.

    Attributes:
        arena: where the ranges lie.
    """

    def __init__(self, seed: str, arena: Arena) -> None:
        self.arena = arena
        self._random = random.Random(seed)  # noqa: S311 - repeatable is the point

    def chance(self, of_one: float) -> bool:
        """True so often."""
        return self._random.random() < of_one

    def among(self, choices: Sequence[Choice]) -> Choice:
        """One of them; write a favourite twice."""
        return choices[int(self._random.random() * len(choices))]

    def below(self, limit: int) -> int:
        """A number in [0, limit)."""
        return int(self._random.random() * limit)

    def weighted(self, choices: Sequence[Choice], weights: Sequence[int]) -> Choice:
        """One of them, by cumulative weights."""
        return self._random.choices(choices, cum_weights=weights)[0]

    def page(self) -> int:
        """The address of a page."""
        return self.below(self.arena.pages) * PAGE_BYTES

    def stretch(self) -> tuple[int, int]:
        """Start and length of some pages inside the arena."""
        start = self.below(self.arena.pages)
        pages = min(self.arena.pages - start, self.among(SMALL_LENGTHS))
        return start * PAGE_BYTES, pages * PAGE_BYTES

    def crooked_stretch(self) -> tuple[int, int]:
        """Mostly a stretch; sometimes one whose start or length is no page's."""
        start, length = self.stretch()
        if self.chance(0.94):
            return start, length
        if self.chance(0.3):
            return start + self.among((1, PAGE_BYTES // 2)), length
        return start, self.among(CROOKED_LENGTHS)


class HugeDice(Dice):
    """Choices in an arena of huge pages: whole ones, parts of them, and ranges across their borders."""

    def page(self) -> int:
        """The address of a page, often the first or last of a huge one."""
        huge = self.below(self.arena.pages * PAGE_BYTES // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        return huge + self.among((0, HUGE_PAGE_BYTES - PAGE_BYTES, self.below(512) * PAGE_BYTES))

    def stretch(self) -> tuple[int, int]:
        """Whole huge pages, or some pages from one such address to another."""
        end_of_all = self.arena.pages * PAGE_BYTES
        if self.chance(0.5):
            start = self.below(end_of_all // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
            return start, min(end_of_all - start, self.among((1, 1, 2, 3)) * HUGE_PAGE_BYTES)
        start = self.page()
        if self.chance(0.5):
            return start, min(end_of_all - start, self.among(SMALL_LENGTHS) * PAGE_BYTES)
        end = self.page() + PAGE_BYTES
        return min(start, end), abs(end - start)
