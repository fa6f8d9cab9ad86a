"""`Span`, a page-aligned address range, and `Spans`, an ordered set of them over one array.

Both are half-open, `[start, end)`, in bytes. A `Spans` is always in normal form: sorted, disjoint, no two spans that
touch, none that is empty. So two sets of the same pages are equal row by row, and an address is looked up by bisection.

The set operations rest on one fact: sort all starts and all ends, each on their own. Where the next start lies beyond
the present end, nothing covers the bytes between: a gap, and the union breaks there. Where it lies before the present
end, two spans cover the bytes between: an overlap, and that is the intersection. Two sorts and one comparison do a
million spans in a tenth of a second; a Python loop would take a hundred times that.
"""

from __future__ import annotations

from dontneed.errors import UsageError, WrongType
from dontneed.records import Record
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES, format_bytes, round_down, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    Addresses = NDArray[np.uint64]

TOP = (1 << 64) - PAGE_BYTES
"""Where the highest span ends: 2**64 itself does not fit a 64-bit address, and Linux maps nothing in the last page."""

_ALIGN_HINT = "Span.inward(start, length) takes the whole pages of any bytes, Span.outward every page they touch"


class Span(Record):
    """A page-aligned range of addresses `[start, end)`; it may be empty, and is then false.

    Raises:
        UsageError: not page-aligned, ends before it starts, or outside 64-bit addresses.
        WrongType: not integers.
    """

    start: int
    end: int

    def __init__(self, start: int, end: int) -> None:
        start, end = _integer(start), _integer(end)
        if start % PAGE_BYTES or end % PAGE_BYTES:
            msg = f"{start:#x}-{end:#x} is no span: it is not aligned to pages of {PAGE_BYTES} bytes"
            raise UsageError(msg, hint=_ALIGN_HINT)
        if not 0 <= start <= end <= TOP:
            why = "it ends before it starts" if end < start else f"addresses run from 0 to {TOP:#x}"
            msg = f"{start:#x}-{end:#x} is no span: {why}"
            raise UsageError(msg, hint="give the start and the end, not the start and the length")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "end", end)

    @classmethod
    def inward(cls, start: int, length: int) -> Self:
        """The whole pages within `length` bytes at `start`; empty when there is none."""
        start, length = _integer(start), _byte_count(length)
        end = round_down(start + length)
        return cls(min(round_up(start), end), end)

    @classmethod
    def outward(cls, start: int, length: int) -> Self:
        """Every page that `length` bytes at `start` touch; no bytes touch none."""
        start, length = _integer(start), _byte_count(length)
        first = round_down(start)
        return cls(first, round_up(start + length) if length else first)

    @property
    def size_bytes(self) -> int:
        """How many bytes from start to end."""
        return self.end - self.start

    @property
    def pages(self) -> int:
        """How many pages from start to end."""
        return self.size_bytes // PAGE_BYTES

    def contains(self, address: int) -> bool:
        """Whether the byte at `address` lies within."""
        return self.start <= address < self.end

    __contains__ = contains

    def intersection(self, other: Span) -> Span:
        """The part in both; empty when they have none in common."""
        start = max(self.start, other.start)
        return Span(start, max(start, min(self.end, other.end)))

    def __bool__(self) -> bool:
        return self.start < self.end

    def __str__(self) -> str:
        """As /proc/PID/maps writes a range, so that one can be searched for in the other."""
        return f"{self.start:08x}-{self.end:08x}"

    def __repr__(self) -> str:
        return f"Span({self.start:#x}, {self.end:#x})"


class Spans:
    """An immutable, ordered set of spans, none of which touch.

    `|`, `&`, `-` and `==` treat it as a set of pages; iteration yields each `Span` in order, and `in` takes an address
    or a whole `Span`.

    Args:
        spans: Spans or (start, end) pairs, in any order, overlapping or not. Each is checked in Python: for thousands
            and more take `from_array` or `of_pages`.
    Raises:
        UsageError: a pair is no valid Span.
    """

    __slots__ = ("_rows",)

    _rows: Addresses

    def __init__(self, spans: Iterable[Span | tuple[int, int]] = ()) -> None:
        import numpy as np

        checked = [span if isinstance(span, Span) else Span(*span) for span in spans]
        pairs = [(span.start, span.end) for span in checked]
        self._rows = _locked(_normalised(np.array(pairs, dtype=np.uint64).reshape(-1, 2)))

    @classmethod
    def from_array(cls, rows: NDArray[np.integer[Any]]) -> Self:
        """The set of the rows `[start, end)`, in any order, overlapping or not; copied.

        Raises:
            UsageError: not of shape (n, 2), or a row is no valid Span.
            WrongType: the elements are not integers.
        """
        return cls._of(_normalised(_checked_rows(rows)))

    @classmethod
    def of_pages(cls, pages: NDArray[np.integer[Any]]) -> Self:
        """The set of the pages at these addresses, in any order, repeated or not.

        Raises:
            UsageError: an address is not page-aligned.
            WrongType: the elements are not integers.
        """
        import numpy as np

        starts = _checked_addresses(pages).reshape(-1)
        if (starts[1:] < starts[:-1]).any():
            starts.sort()
        if starts.size and starts[-1] >= TOP:
            msg = f"the page at {starts[-1]:#x} is the last of all addresses, and no span holds it"
            raise UsageError(msg, hint="Linux maps nothing there; was an error code taken for an address?")
        return cls._of(_union(starts, starts + np.uint64(PAGE_BYTES)))

    @classmethod
    def _of(cls, rows: Addresses) -> Self:
        """Wrap rows that are in normal form already, without a copy."""
        spans = cls.__new__(cls)
        spans._rows = _locked(rows)  # noqa: SLF001 - its own
        return spans

    @property
    def array(self) -> Addresses:
        """The rows `[start, end)`, shape (n, 2), C-contiguous, as a view that cannot be written."""
        view: Addresses = self._rows.view()
        return view

    @property
    def size_bytes(self) -> int:
        """Bytes in all spans together."""
        return int((self._rows[:, 1] - self._rows[:, 0]).sum())

    @property
    def pages(self) -> int:
        """Pages in all spans together."""
        return self.size_bytes // PAGE_BYTES

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Span]:
        return (Span(start, end) for start, end in self._rows.tolist())

    def __repr__(self) -> str:
        return f"<Spans: {len(self)} of {format_bytes(self.size_bytes)} in all>"

    def __eq__(self, other: object) -> bool:
        import numpy as np

        return np.array_equal(self._rows, other._rows) if isinstance(other, Spans) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._rows.tobytes())

    def __reduce__(self) -> tuple[object, ...]:
        return type(self).from_array, (self._rows,)

    def __or__(self, other: Spans) -> Spans:
        if not isinstance(other, Spans):
            return NotImplemented
        return Spans._of(_union(*_sorted_edges(self._rows, other._rows)))

    def __and__(self, other: Spans) -> Spans:
        if not isinstance(other, Spans):
            return NotImplemented
        return Spans._of(_overlaps(self._rows, other._rows))

    def __sub__(self, other: Spans) -> Spans:
        if not isinstance(other, Spans):
            return NotImplemented
        return Spans._of(_overlaps(self._rows, _gaps(other._rows)))

    def contains(self, part: int | Span) -> bool:
        """Whether the byte at this address, or every byte of this Span, lies within."""
        if isinstance(part, Span):
            return not part or part.end <= self._end_around(part.start)
        return self._end_around(_integer(part)) > 0

    __contains__ = contains

    def _end_around(self, address: int) -> int:
        """Where the span ends that holds `address`; 0 when none does."""
        edge = self._edges_to(address)
        return int(self._rows.flat[edge]) if edge % 2 else 0

    def _edges_to(self, address: int) -> int:
        """How many edges (starts and ends alike) lie at or below `address`: odd within a span, even outside all."""
        import numpy as np

        if not 0 <= address <= TOP:
            return 0 if address < 0 else self._rows.size
        return int(self._rows.reshape(-1).searchsorted(np.uint64(address), side="right"))

    def within(self, span: Span) -> Spans:
        """The part inside one span, such as a mapping; copies only the rows concerned."""
        import numpy as np

        if not span:
            return Spans()
        first, last = self._edges_to(span.start) // 2, (self._edges_to(span.end - 1) + 1) // 2
        return Spans._of(self._rows[first:last].clip(np.uint64(span.start), np.uint64(span.end)))

    def pages_within(self, span: Span) -> NDArray[np.bool_]:
        """For every page of `span`, whether it is in this set."""
        import numpy as np

        rows = (self.within(span).array - np.uint64(span.start)) // np.uint64(PAGE_BYTES)
        edges = np.zeros(span.pages + 1, np.int8)
        edges[rows[:, 0]] += 1
        edges[rows[:, 1]] -= 1  # none of them touch, so that no edge is two
        return edges[:-1].cumsum(dtype=np.int8).view(np.bool_)

    def inward_huge(self) -> Spans:
        """Only the whole, aligned huge pages (`HUGE_PAGE_BYTES`, 2 MiB on x86-64) inside each span."""
        import numpy as np

        huge, in_block = np.uint64(HUGE_PAGE_BYTES), np.uint64(HUGE_PAGE_BYTES - 1)
        starts, ends = self._rows[:, 0], self._rows[:, 1]
        lead = (huge - (starts & in_block)) & in_block
        # Compared by size, not by address: rounding a start up could pass 2**64 and wrap to 0.
        roomy = ends - starts >= lead + huge
        return Spans._of(np.column_stack(((starts + lead)[roomy], (ends & ~in_block)[roomy])))

    def batches(self, count: int) -> Iterator[Spans]:
        """The set in order, `count` spans at a time and the rest last; views, not copies.

        Raises:
            UsageError: `count` is less than one.
        """
        if count < 1:
            msg = f"a batch of {count} spans would never end"
            raise UsageError(msg, hint="ask for one span or more at a time; process_madvise takes 1,024")
        return (Spans._of(self._rows[first : first + count]) for first in range(0, len(self), count))

    def iovec(self) -> Addresses:
        """Rows (base, length): the memory of an array of `struct iovec`, for the caller to keep."""
        rows: Addresses = self._rows.copy()
        rows[:, 1] -= rows[:, 0]
        return rows

    def split(self, max_bytes: int) -> Addresses:
        """Rows `[start, end)` of at most `max_bytes` each, in order: plain rows, since neighbours now touch.

        Raises:
            UsageError: `max_bytes` is no positive multiple of a page.
        """
        import numpy as np

        if max_bytes <= 0 or max_bytes % PAGE_BYTES:
            msg = f"spans cannot be split into {max_bytes} bytes: pieces are whole pages of {PAGE_BYTES} bytes"
            raise UsageError(msg, hint="round max_bytes up to a positive multiple of the page size")
        most = np.uint64(min(max_bytes, TOP))
        sizes = self._rows[:, 1] - self._rows[:, 0]
        counts = ((sizes - np.uint64(1)) // most).astype(np.intp) + 1
        nth = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        starts = np.repeat(self._rows[:, 0], counts) + nth.astype(np.uint64) * most
        left = np.repeat(self._rows[:, 1], counts) - starts
        return np.column_stack((starts, starts + np.minimum(left, most)))


def _integer(value: int) -> int:
    """`value` as a plain int: a numpy integer kept as it is would overflow, or turn a sum into a float."""
    try:
        return value.__index__()
    except AttributeError:
        msg = f"an address or a size is an integer, not {type(value).__name__} {value!r}"
        raise WrongType(msg, hint="convert it with int()") from None


def _byte_count(value: int) -> int:
    count = _integer(value)
    if count < 0:
        msg = f"a range of {count} bytes ends before it starts"
        raise UsageError(msg, hint="give the start and the length, not the start and the end")
    return count


def _checked_addresses(values: NDArray[np.integer[Any]]) -> Addresses:
    """A copy of `values` as page-aligned uint64."""
    import numpy as np

    given = np.asarray(values)
    if given.size and given.dtype.kind not in "ui":
        msg = f"addresses are integers, not {given.dtype}"
        raise WrongType(msg, hint="make the array with dtype=numpy.uint64")
    addresses = np.array(given, dtype=np.uint64, order="C")
    # Negative values wrap in the copy, so that only the original tells.
    misplaced = (given < 0) | (addresses & np.uint64(PAGE_BYTES - 1) != 0)
    if misplaced.any():
        msg = f"{given[misplaced].tolist()[0]:#x} is not the address of a page of {PAGE_BYTES} bytes"
        raise UsageError(msg, hint=_ALIGN_HINT)
    return addresses


def _checked_rows(values: NDArray[np.integer[Any]]) -> Addresses:
    """A copy of `values` as rows that are each a valid span."""
    rows = _checked_addresses(values)
    if rows.ndim != 2 or rows.shape[1] != 2:  # noqa: PLR2004 - two dimensions of two columns, as the message says
        msg = f"rows of spans have shape (n, 2), not {rows.shape}"
        raise UsageError(msg, hint="give one row of start and end for each span")
    backward = rows[:, 1] < rows[:, 0]
    if backward.any():
        start, end = rows[backward][0].tolist()
        Span(start, end)  # says why not
    return rows


def _locked(rows: Addresses) -> Addresses:
    """`rows`, never to be written again, nor the array that it is a view of: else a caller could unlock the view."""
    for array in (rows, rows.base):
        if array is not None:
            array.setflags(write=False)
    return rows


def _normalised(rows: Addresses) -> Addresses:
    """The same bytes in normal form; `rows` itself when it is already."""
    starts, ends = rows[:, 0], rows[:, 1]
    if (starts < ends).all() and (ends[:-1] < starts[1:]).all():
        return rows
    return _union(*_sorted_edges(rows[starts < ends]))


def _sorted_edges(*sets: Addresses) -> tuple[Addresses, Addresses]:
    """All starts and all ends, each sorted on their own; no row may be empty."""
    import numpy as np

    edges = np.concatenate(sets)
    # Stable means timsort, which merges the sorted runs that sets bring in one pass.
    return np.sort(edges[:, 0], kind="stable"), np.sort(edges[:, 1], kind="stable")


def _union(starts: Addresses, ends: Addresses) -> Addresses:
    """The bytes of any span, from sorted edges."""
    import numpy as np

    gap = np.ones(len(starts) + 1, dtype=bool)
    gap[1:-1] = ends[:-1] < starts[1:]
    return np.column_stack((starts[gap[:-1]], ends[gap[1:]]))


def _overlaps(one: Addresses, other: Addresses) -> Addresses:
    """The bytes in both of two sets, each in normal form."""
    import numpy as np

    starts, ends = _sorted_edges(one, other)
    overlap = starts[1:] < ends[:-1]
    return np.column_stack((starts[1:][overlap], ends[:-1][overlap]))


def _gaps(rows: Addresses) -> Addresses:
    """Every address below TOP that the set leaves out; a first or last row may be empty, which no overlap notices."""
    import numpy as np

    return np.concatenate(([np.uint64(0)], rows.reshape(-1), [np.uint64(TOP)])).reshape(-1, 2)
