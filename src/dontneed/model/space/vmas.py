"""The mappings of one address space, in order: found by page, split, and merged where the kernel merges.

Kept in blocks of some hundred mappings, so that one more among tens of thousands does not move them all.

Kernel:
    2.6.32: mm/mmap.c, a red-black tree and a list; since 6.1 a maple tree (lib/maple_tree.c); mm/vma.c vma_modify().
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from dontneed.model.space.vma import MAYBE_GUARD, Vma, is_mergeable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FULL_BLOCK = 512
"""A block with more mappings is cut into two."""


class Vmas:
    """The mappings of one address space, ascending."""

    __slots__ = ("_blocks", "_count", "_firsts", "_lends_anon_vma", "_lowest")

    def __init__(self, *, lends_anon_vma: bool = True) -> None:
        """An empty collection.

        Args:
            lends_anon_vma: what is merged may bring its neighbour the anon_vma that this one lacks.
        """
        self._lends_anon_vma = lends_anon_vma
        self._blocks: list[list[Vma]] = []
        self._firsts: list[list[int]] = []  # of each mapping of each block
        self._lowest: list[int] = []  # of each block
        self._count = 0

    def __iter__(self) -> Iterator[Vma]:
        for block in list(self._blocks):
            yield from block

    def __len__(self) -> int:
        return self._count

    def find(self, page: int) -> Vma | None:
        """The mapping that `page` lies in."""
        number = bisect_right(self._lowest, page) - 1
        if number < 0:
            return None
        vma = self._blocks[number][bisect_right(self._firsts[number], page) - 1]
        return vma if page < vma.last else None

    def find_from(self, page: int) -> Vma | None:
        """The mapping that `page` lies in, or the next above it."""
        number = bisect_right(self._lowest, page) - 1
        if number < 0:
            return self._blocks[0][0] if self._blocks else None
        index = bisect_right(self._firsts[number], page) - 1
        vma = self._blocks[number][index]
        return vma if page < vma.last else self._after(number, index)

    def before(self, page: int) -> Vma | None:
        """The last mapping that begins below `page`."""
        number = bisect_left(self._lowest, page) - 1
        return self._blocks[number][bisect_left(self._firsts[number], page) - 1] if number >= 0 else None

    def within(self, first: int, last: int) -> list[Vma]:
        """The mappings that pages `[first, last)` meet, ascending."""
        number = max(0, bisect_right(self._lowest, first) - 1)
        met: list[Vma] = []
        while number < len(self._blocks) and self._lowest[number] < last:
            firsts = self._firsts[number]
            start = max(0, bisect_right(firsts, first) - 1)
            met += self._blocks[number][start : bisect_left(firsts, last, start)]
            number += 1
        if met and met[0].last <= first:
            del met[0]
        return met

    def insert(self, vma: Vma) -> None:
        """Add a mapping; nothing else may be mapped there."""
        self._count += 1
        number = bisect_right(self._lowest, vma.first) - 1
        if number < 0:
            if not self._blocks:
                self._blocks.append([vma])
                self._firsts.append([vma.first])
                self._lowest.append(vma.first)
                return
            number = 0
        firsts = self._firsts[number]
        index = bisect_left(firsts, vma.first)
        firsts.insert(index, vma.first)
        self._blocks[number].insert(index, vma)
        self._lowest[number] = firsts[0]
        if len(firsts) > _FULL_BLOCK:
            self._cut(number)

    def remove(self, first: int, last: int) -> None:
        """Remove the mappings that lie in `[first, last)`; split at its ends before."""
        number = max(0, bisect_right(self._lowest, first) - 1)
        while number < len(self._blocks) and self._lowest[number] < last:
            firsts = self._firsts[number]
            start, end = bisect_left(firsts, first), bisect_left(firsts, last)
            self._delete(number, start, end)
            if firsts:
                number += 1

    def grow_down(self, vma: Vma, page: int) -> None:
        """Let a mapping begin at `page`, below where it began; nothing may be mapped in between."""
        number, index = self._place(vma)
        self._firsts[number][index] = page
        self._lowest[number] = self._firsts[number][0]
        vma.offset -= vma.first - page
        vma.first = page

    def clear(self) -> None:
        """Remove all."""
        self._blocks.clear()
        self._firsts.clear()
        self._lowest.clear()
        self._count = 0

    def split(self, page: int) -> None:
        """Make `page` the first of a mapping, if it lies in one; what was one object is the lower part then."""
        lower = self.find(page)
        if lower is None or lower.first == page:
            return
        upper = lower.copy()
        upper.offset += page - lower.first
        upper.first = lower.last = page
        self.insert(upper)

    def merge(self, vma: Vma, *, but_not: Vma | None = None) -> Vma:
        """Merge `vma` with its neighbours where the kernel would, `but_not` with one; what it is part of then."""
        place = self._place(vma)
        below, above = self._below(*place), self._after(*place)
        below, above = None if below is but_not else below, None if above is but_not else above
        joins_below = below is not None and is_mergeable(below, vma) and self._may_join(vma, below)
        joins_above = above is not None and is_mergeable(vma, above) and self._may_join(vma, above)
        if joins_below and joins_above and not _agree(below, above):
            joins_above = False  # the kernel takes the lower neighbour if it cannot have both
        if joins_above and above is not None:
            self._join(vma, above)
        if joins_below and below is not None:
            self._join(below, vma)
            return below
        return vma

    def merge_above(self, vma: Vma) -> None:
        """Merge a mapping that has grown up to the next one with that one, where the kernel would."""
        above = self._after(*self._place(vma))
        grown = vma.copy()
        grown.inherited = False  # the part it grew by is taken for a new mapping, which has no ancestors
        if above is not None and is_mergeable(grown, above) and self._may_join(vma, above):
            self._join(vma, above)

    def flags_between(self, first: int, last: int) -> int:
        """The flags that any mapping of `[first, last)` has."""
        flags = 0
        for vma in self.within(first, last):
            flags |= vma.flags
        return flags

    def _may_join(self, vma: Vma, neighbour: Vma) -> bool:
        """Whether `vma`, which is new or has changed, need not bring an anon_vma, or may."""
        return self._lends_anon_vma or not vma.anon_vma or neighbour.anon_vma > 0

    def _join(self, lower: Vma, upper: Vma) -> None:
        number, index = self._place(upper)
        self._delete(number, index, index + 1)
        lower.last = upper.last
        lower.flags |= upper.flags & MAYBE_GUARD
        if not lower.anon_vma:
            lower.anon_vma, lower.inherited = upper.anon_vma, upper.inherited

    # Places: the number of a block, and an index in it

    def _place(self, vma: Vma) -> tuple[int, int]:
        number = bisect_right(self._lowest, vma.first) - 1
        return number, bisect_right(self._firsts[number], vma.first) - 1

    def _after(self, number: int, index: int) -> Vma | None:
        block = self._blocks[number]
        if index + 1 < len(block):
            return block[index + 1]
        return self._blocks[number + 1][0] if number + 1 < len(self._blocks) else None

    def _below(self, number: int, index: int) -> Vma | None:
        if index:
            return self._blocks[number][index - 1]
        return self._blocks[number - 1][-1] if number else None

    def _delete(self, number: int, start: int, end: int) -> None:
        """Delete mappings of a block, and the block if they were all."""
        firsts = self._firsts[number]
        self._count -= end - start
        del firsts[start:end], self._blocks[number][start:end]
        if firsts:
            self._lowest[number] = firsts[0]
        else:
            del self._blocks[number], self._firsts[number], self._lowest[number]

    def _cut(self, number: int) -> None:
        """Make two blocks of one."""
        half = _FULL_BLOCK // 2
        for parts in (self._blocks, self._firsts):
            part = parts[number]
            parts[number : number + 1] = [part[:half], part[half:]]  # type: ignore[list-item]
        self._lowest.insert(number + 1, self._firsts[number + 1][0])


def _agree(below: Vma | None, above: Vma | None) -> bool:
    """Whether three mappings can become one: the outer two have the same anon_vma, or one has none."""
    if below is None or above is None:
        return False
    return not (below.anon_vma and above.anon_vma) or below.anon_vma == above.anon_vma
