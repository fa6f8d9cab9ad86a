"""The records in a perf ring, in bulk: columns of the samples, and the others one by one.

Where a record begins is known from the size of the one before it, so that one loop over all is needed; every field is
then taken from all samples of a tracepoint at once.
"""

from __future__ import annotations

from dontneed.abi import perf_event as abi
from dontneed.errors import DontneedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from dontneed.kernel.tracefs import Field, Tracepoint

    Array = NDArray[Any]

_HEAD_BYTES = abi.RECORD_HEAD.size
_THREAD_AT, _TIME_AT, _CPU_AT = _HEAD_BYTES + 4, _HEAD_BYTES + 8, _HEAD_BYTES + 16


class Records:
    """Records one behind the other.

    Args:
        data: of whole records.
    Attributes:
        kinds: of each record, as `abi.perf_event` has them.
        tracepoints: of each sample the number of its tracepoint; of others something.
    """

    __slots__ = ("_even", "_odd", "_short", "_starts", "data", "kinds", "tracepoints")

    def __init__(self, data: bytes) -> None:
        import numpy as np

        self.data = data
        self._starts = np.array(_starts(data), np.int64)
        # Raw data begin in the middle of an eight-byte word: these are the words from there, and those between.
        self._even = np.frombuffer(data, "<u8")
        self._odd = np.frombuffer(data, "<u8", offset=4, count=len(data) // 8 - 1) if data else self._even
        self._short = np.frombuffer(data, "<u4")
        self.kinds = self._short[self._starts >> 2]
        last = max(len(self._short) - 1, 0)
        self.tracepoints = self._short[np.minimum((self._starts + abi.RAW_AT) >> 2, last)] & 0xFFFF

    def __len__(self) -> int:
        return len(self._starts)

    def times(self, rows: Array) -> Array:
        """Of samples: when, in nanoseconds."""
        return _taken(self._even, (self._starts[rows] + _TIME_AT) >> 3)

    def threads(self, rows: Array) -> Array:
        """Of samples: in which thread."""
        return _taken(self._short, (self._starts[rows] + _THREAD_AT) >> 2)

    def cpus(self, rows: Array) -> Array:
        """Of samples: on which CPU."""
        return _taken(self._short, (self._starts[rows] + _CPU_AT) >> 2)

    def samples_of(self, tracepoint: Tracepoint) -> Array:
        """The rows that are samples of a tracepoint."""
        import numpy as np

        return np.flatnonzero((self.kinds == abi.SAMPLE) & (self.tracepoints == tracepoint.number))

    def values(self, rows: Array, field: Field, nth: int = 0) -> Array:
        """Of samples of one tracepoint: a field, as unsigned 64-bit numbers; of an array of longs its nth element."""
        import numpy as np

        at = self._starts[rows] + abi.RAW_AT + field.offset + 8 * nth
        if field.size % 8 == 0:
            return _taken(self._odd, at >> 3)
        found = _taken(self._short, at >> 2)
        if field.signed:
            found = found.view(np.int32).astype(np.int64)
        return found.astype(np.uint64)

    def others(self) -> Iterator[tuple[int, int, bytes]]:
        """Each record that is no sample: its row, its flags, and its body with what all end with."""
        import numpy as np

        for row in np.flatnonzero(self.kinds != abi.SAMPLE).tolist():
            start = int(self._starts[row])
            _, flags, size = abi.RECORD_HEAD.unpack_from(self.data, start)
            yield row, flags, self.data[start + _HEAD_BYTES : start + size]


def _taken(words: Array, places: Array) -> Array:
    found: Array = words[places]
    return found


def _starts(data: bytes) -> list[int]:
    """Where each record begins."""
    halves = memoryview(data).cast("H")
    starts = []
    start, end = 0, len(data)
    while start < end:
        starts.append(start)
        size = halves[(start >> 1) + 3]
        if size < _HEAD_BYTES:
            msg = f"the kernel's ring holds a record of {size} bytes"
            raise DontneedError(msg, hint="please report it, with the kernel's version")
        start += size
    return starts
