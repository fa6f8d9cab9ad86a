"""What lies where: disjoint ranges of addresses with a number each, changed one by one, looked up by the thousand."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy import integer
    from numpy.typing import NDArray

NOTHING = -1
"""What is looked up where there is no range."""
_LAST = (1 << 64) - 1
"""The last address: what a call asks for may reach beyond."""


class Cover:
    """Ranges in order; setting one cuts those that it overlaps."""

    __slots__ = ("_arrays", "_ends", "_starts", "_values")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._values: list[int] = []
        self._arrays: tuple[NDArray[integer], NDArray[integer], NDArray[integer]] | None = None

    def copy(self) -> Cover:
        """The same ranges, to be changed apart."""
        other = Cover()
        other._starts, other._ends, other._values = self._starts[:], self._ends[:], self._values[:]
        other._arrays = self._arrays
        return other

    def set(self, start: int, end: int, value: int | None) -> None:
        """Let `[start, end)` have a value; None takes away what is there."""
        end = min(end, _LAST)
        if start >= end:
            return
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        pieces = []
        if first < last and self._starts[first] < start:
            pieces.append((self._starts[first], start, self._values[first]))
        if value is not None:
            pieces.append((start, end, value))
        if first < last and self._ends[last - 1] > end:
            pieces.append((end, self._ends[last - 1], self._values[last - 1]))
        if first == last and not pieces:
            return
        self._starts[first:last] = [piece[0] for piece in pieces]
        self._ends[first:last] = [piece[1] for piece in pieces]
        self._values[first:last] = [piece[2] for piece in pieces]
        self._arrays = None

    def within(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The parts of ranges inside `[start, end)`, each with its value."""
        for row in range(bisect_right(self._ends, start), bisect_left(self._starts, end)):
            yield max(start, self._starts[row]), min(end, self._ends[row]), self._values[row]

    def look_up(self, addresses: NDArray[integer]) -> NDArray[integer]:
        """The value at each address, or `NOTHING`."""
        import numpy as np

        if not self._starts:
            return np.full(len(addresses), NOTHING, np.int64)
        if self._arrays is None:
            self._arrays = (
                np.array(self._starts, np.uint64),
                np.array(self._ends, np.uint64),
                np.array(self._values, np.int64),
            )
        starts, ends, values = self._arrays
        rows = np.searchsorted(starts, addresses, side="right") - 1
        inside = (rows >= 0) & (addresses < ends[rows])
        return np.where(inside, values[rows], NOTHING)
