"""Spans in slices of so many bytes, which is what is read, checked or advised at a stretch, and together again."""

from __future__ import annotations

from dontneed.spans import Spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dontneed.spans import Addresses


def in_slices(spans: Spans, max_bytes: int) -> Iterator[Spans]:
    """The spans in order, `max_bytes` of them at a time and the rest last.

    A span is cut where a slice is full, so that of spans which are whole huge pages every slice is, too, if
    `max_bytes` is a multiple of one.
    """
    return map(Spans.from_array, rows_in_slices(spans, max_bytes))


def rows_in_slices(spans: Spans, max_bytes: int) -> Iterator[Addresses]:
    """The same as bare rows `[start, end)`, for who is in a hurry."""
    import numpy as np

    rows = spans.array
    sizes = (rows[:, 1] - rows[:, 0]).astype(np.int64)
    ends = sizes.cumsum()
    begins = ends - sizes
    for low in range(0, spans.size_bytes, max_bytes):
        high = low + max_bytes
        first, behind = ends.searchsorted(low, side="right"), begins.searchsorted(high, side="left")
        part = rows[first:behind].copy()
        part[0, 0] += np.uint64(max(0, low - int(begins[first])))
        part[-1, 1] -= np.uint64(max(0, int(ends[behind - 1]) - high))
        yield part


def together(parts: Iterable[Spans]) -> Spans:
    """All of them as one set."""
    import numpy as np

    return Spans.from_array(np.concatenate([np.zeros((0, 2), np.uint64), *(part.array for part in parts)]))
