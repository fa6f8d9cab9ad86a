"""Records of the kernel into the events of a timeline: by tracepoint, all of them at once."""

from __future__ import annotations

from dontneed.abi import perf_event as perf
from dontneed.abi import trace_kinds as kinds
from dontneed.kernel.perf_records import Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy import integer
    from numpy.typing import NDArray

    from dontneed.kernel.tracefs import Tracepoint

ENTER, LEAVE = "raw_syscalls:sys_enter", "raw_syscalls:sys_exit"
USER_FAULT, KERNEL_FAULT = "exceptions:page_fault_user", "exceptions:page_fault_kernel"
RSS_STAT = "kmem:rss_stat"
ALLOCATE, FREE = "kmem:mm_page_alloc", "kmem:mm_page_free"
FLUSH = "tlb:tlb_flush"

_CALLS = " || ".join(f"id == {number}" for number in kinds.ALL_CALLS)
_END_OF_USER_SPACE = 1 << 56
FILTERS = {
    ENTER: _CALLS,
    LEAVE: _CALLS,
    USER_FAULT: "",
    KERNEL_FAULT: f"address < {_END_OF_USER_SPACE:#x}",
    RSS_STAT: "",
    ALLOCATE: "",
    FREE: "",
    FLUSH: "",
}
"""What is recorded, and with which filter. A frame that is freed in a batch has both `mm_page_free_batched` and
`mm_page_free`: the latter has them all."""

_COLUMNS: dict[str, tuple[int, tuple[str, ...]]] = {
    LEAVE: (kinds.RETURN, ("id", "ret")),
    USER_FAULT: (kinds.FAULT, ("address", "ip", "error_code")),
    KERNEL_FAULT: (kinds.FAULT, ("address", "ip", "error_code")),
    RSS_STAT: (kinds.RSS, ("member", "size", "mm_id", "curr")),
    ALLOCATE: (kinds.ALLOCATED, ("pfn", "order", "gfp_flags")),
    FREE: (kinds.FREED, ("pfn", "order")),
    FLUSH: (kinds.TLB_FLUSH, ("reason", "pages")),
}
"""Of each tracepoint the kind of its events, and which fields are their a, b, c, d."""
_ANONYMOUS_NAME = "//anon"


class Decoder:
    """Turns records into events, and collects the names in them.

    Args:
        tracepoints: by name, as `kernel.tracefs` has them.
    Attributes:
        names: of mappings and programs; events have the index.
        lost: how many records the ring had no room for, as far as it says so itself.
    """

    def __init__(self, tracepoints: Mapping[str, Tracepoint]) -> None:
        import numpy as np

        self._tracepoints = tracepoints
        self._type = np.dtype(list(kinds.EVENT_FIELDS))
        self._has_more = np.zeros(max(kinds.ALL_CALLS) + 1, bool)
        for number, (_, arguments) in kinds.ALL_CALLS.items():
            self._has_more[number] = arguments > kinds.ARGUMENTS_OF_AN_EVENT
        self._indices: dict[str, int] = {}
        self.lost = 0

    @property
    def names(self) -> list[str]:
        """The names so far, by index."""
        return list(self._indices)

    def decode(self, data: bytes, cpu: int = 0) -> NDArray[Any]:
        """The events in some records of a CPU, in their order."""
        import numpy as np

        records = Records(data)
        events = np.zeros(len(records), self._type)
        events["cpu"] = cpu
        for name, (kind, fields) in _COLUMNS.items():
            tracepoint = self._tracepoints.get(name)
            rows = None if tracepoint is None else records.samples_of(tracepoint)
            if tracepoint is None or rows is None or not len(rows):
                continue
            self._head(events, records, rows, kind)
            for column, field in zip("abcd", fields, strict=False):
                if field in tracepoint.fields:
                    events[column][rows] = records.values(rows, tracepoint.fields[field])
                elif field == "curr":  # kernels before 5.6 count without saying whose; it is mostly the thread's own
                    events[column][rows] = 1
        self._others(events, records)
        events = self._calls(events, records)
        known = events["kind"] != 0
        return events if known.all() else events[known]

    def _head(self, events: NDArray[Any], records: Records, rows: NDArray[integer], kind: int) -> None:
        events["kind"][rows] = kind
        events["time"][rows] = records.times(rows)
        events["thread"][rows] = records.threads(rows)

    def _calls(self, events: NDArray[Any], records: Records) -> NDArray[Any]:
        """Fill in the calls, and put behind each what other arguments it has."""
        import numpy as np

        tracepoint = self._tracepoints[ENTER]
        rows = records.samples_of(tracepoint)
        if not len(rows):
            return events
        number, arguments = tracepoint.fields["id"], tracepoint.fields["args"]
        self._head(events, records, rows, kinds.CALL)
        events["a"][rows] = records.values(rows, number)
        for nth, column in enumerate("bcd"):
            events[column][rows] = records.values(rows, arguments, nth)
        longer = rows[self._has_more[np.minimum(events["a"][rows], len(self._has_more) - 1)]]
        copies = np.ones(len(events), np.intp)
        copies[longer] = 2
        spread = np.repeat(events, copies)
        more = np.cumsum(copies)[longer] - 1
        spread["kind"][more] = kinds.MORE
        for nth, column in enumerate("abc", kinds.ARGUMENTS_OF_AN_EVENT):
            spread[column][more] = records.values(longer, arguments, nth)
        spread["d"][more] = 0
        return spread

    def _others(self, events: NDArray[Any], records: Records) -> None:
        """Mappings, forks, exits, execs, and what was lost; whatever else there is stays without a kind."""
        for row, flags, body in records.others():
            kind, values = self._meaning(int(records.kinds[row]), flags, body)
            if not kind:
                continue
            _, thread, time, _, _ = perf.SAMPLE_TAIL.unpack_from(body, len(body) - perf.SAMPLE_TAIL.size)
            event = events[row]
            event["kind"], event["time"], event["thread"] = kind, time, thread
            for column, value in zip("abcd", values, strict=False):
                event[column] = value

    def _meaning(self, kind: int, flags: int, body: bytes) -> tuple[int, tuple[int, ...]]:
        """The kind of the event, and its a, b, c, d; kind 0 for what is of no interest."""
        if kind == perf.MAPPED_2:
            _, _, start, length, offset, protection, bits = perf.MAPPED_BODY.unpack_from(body)
            name = _text(body[perf.MAPPED_BODY.size : -perf.SAMPLE_TAIL.size])
            index = self._index("" if name == _ANONYMOUS_NAME else name)
            return kinds.MAPPING, (start, length, offset, kinds.mapping_word(index, protection, bits))
        if kind == perf.FORKED:
            process, parent, thread, parent_thread = perf.TASK_BODY.unpack_from(body)
            return kinds.FORK, (thread, process, parent, parent_thread)
        if kind == perf.EXITED:
            return kinds.EXIT, (perf.TASK_BODY.unpack_from(body)[0],)
        if kind == perf.COMMAND and flags & perf.IS_EXEC:
            process = int.from_bytes(body[:4], "little")
            return kinds.EXEC, (process, self._index(_text(body[8 : -perf.SAMPLE_TAIL.size])))
        if kind in (perf.LOST, perf.LOST_SAMPLES):
            count = perf.LOST_BODY.unpack_from(body)[1] if kind == perf.LOST else int.from_bytes(body[:8], "little")
            self.lost += count
            return kinds.LOST, (count,)
        return 0, ()

    def _index(self, name: str) -> int:
        return self._indices.setdefault(name, len(self._indices))


def _text(padded: bytes) -> str:
    return padded.partition(b"\0")[0].decode("utf-8", "surrogateescape")
