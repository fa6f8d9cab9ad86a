"""Which events of a timeline tell of one process, and what they say of its system calls.

A process that was forked while it was traced begins as its parent, whose events come first. A child that still runs in
its parent's memory, as vfork and posix_spawn leave it until it executes a program, acts for its parent.
"""

from __future__ import annotations

from dontneed.abi import mman
from dontneed.abi import trace_kinds as kinds
from dontneed.errors import UsageError
from dontneed.observe.trace.layout import processes
from dontneed.records import Record
from dontneed.units import signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    from dontneed.observe.trace.timeline import Timeline

    Array = NDArray[Any]
    Stage: TypeAlias = tuple[int, int, int]

_REPLAYED = (kinds.CALL, kinds.RETURN, kinds.FAULT, kinds.RSS, kinds.MAPPING, kinds.FORK, kinds.EXEC)
_CALL_PARTS = (kinds.CALL, kinds.MORE, kinds.RETURN)
_OF_ITS_OWN = tuple(kinds.CALL_NUMBERS[name] for name in ("exit", "exit_group", "execve", "execveat"))
"""What a child does in its parent's memory that is not done to it."""
_CLONE, _VFORK = (kinds.CALL_NUMBERS[name] for name in ("clone", "vfork"))
_PIDS = 1 << 32


class Call(Record):
    """A system call.

    Attributes:
        number, name: which.
        arguments: all that it has.
        result: signed; None: it did not return.
        thread, began, ended: whose, and when; it ended with the trace if it did not return.
    """

    number: int
    name: str
    arguments: tuple[int, ...]
    result: int | None
    thread: int
    began: int
    ended: int


class ReplayedEvents(Record):
    """The events that tell of one process.

    Attributes:
        pid: of the process.
        rows: they themselves, in order.
        calls: by row, among these.
        forks: rows at which the process is forked from the one before.
        in_the_middle: it ran already when the trace began.
        others: how many other processes the timeline has.
    """

    pid: int
    rows: Array
    calls: dict[int, Call]
    forks: frozenset[int]
    in_the_middle: bool
    others: int


def events_of(timeline: Timeline, pid: int | None = None) -> ReplayedEvents:
    """The events of a process.

    Args:
        timeline: of it, and perhaps of others.
        pid: which; None: the one with most faults.
    Raises:
        UsageError: the timeline has no such process.
    """
    import numpy as np

    tasks = _Tasks(timeline)
    chosen = tasks.busiest() if pid is None else tasks.checked(pid)
    stages = tasks.stages(chosen)
    pieces = [tasks.rows_of(stage) for stage in stages]
    rows = tasks.events[np.concatenate(pieces)]
    calls = _calls(rows, np.flatnonzero(np.isin(rows["kind"], _CALL_PARTS)), timeline.ended)
    kept = rows["kind"] != kinds.MORE
    places = np.cumsum(kept) - 1
    begins = np.cumsum([len(piece) for piece in pieces])[:-1]
    return ReplayedEvents(
        pid=chosen,
        rows=rows[kept],
        calls={int(places[row]): call for row, call in calls.items()},
        forks=frozenset(places[begins].tolist()),
        in_the_middle=bool(timeline.maps) and stages[0][:2] == (timeline.pid, 0),
        others=len(tasks.faults) - 1,
    )


class _Tasks:
    """Whose each event is.

    Attributes:
        events: those that are replayed, and what belongs to them.
        faults: by process, how many.
    """

    def __init__(self, timeline: Timeline) -> None:
        import numpy as np

        self._timeline = timeline
        self.events = timeline.events[_are_replayed(timeline.events)]
        of_thread = processes(timeline)
        threads, which = np.unique(self.events["thread"], return_inverse=True)
        known = np.array([of_thread.get(thread, thread) % _PIDS for thread in threads.tolist()], np.int64)
        owners = known[which] if len(threads) else np.zeros(0, np.int64)
        self._order = np.argsort(owners, kind="stable")
        self._owners = owners[self._order]
        found, counts = np.unique(owners[self.events["kind"] == kinds.FAULT], return_counts=True)
        self.faults = dict.fromkeys((timeline.pid, *known.tolist()), 0)
        self.faults.update(zip(found.tolist(), counts.tolist(), strict=True))
        forks = np.flatnonzero(self.events["kind"] == kinds.FORK)
        forks = forks[self.events["a"][forks] == self.events["b"][forks]]
        born = zip(forks.tolist(), *(self.events[name][forks].tolist() for name in "bc"), strict=True)
        self._births = {child: (row, parent) for row, child, parent in born}
        execs = np.flatnonzero(self.events["kind"] == kinds.EXEC)[::-1]
        self._first_exec = dict(zip(self.events["a"][execs].tolist(), execs.tolist(), strict=True))

    def busiest(self) -> int:
        """The process with most faults; of equals, the one that the trace is of."""
        first = self._timeline.pid
        found: int = max(self.faults, key=lambda pid: (self.faults[pid], pid == first))
        return found

    def checked(self, pid: int) -> int:
        """The process of that number, if there is one."""
        if pid not in self.faults:
            msg = f"the trace has no process {pid}"
            some = sorted(self.faults, key=lambda each: -self.faults[each])[:10]
            more = f" and {len(self.faults) - len(some):,} more" if len(self.faults) > len(some) else ""
            raise UsageError(msg, hint=f"it has {', '.join(map(str, some))}{more}")
        return pid

    def stages(self, pid: int) -> list[Stage]:
        """The processes that this one was, in order: each with its first row, and the row behind its last."""
        end = len(self.events)
        found: list[Stage] = []
        while pid in self._births and pid not in self._first_exec and self._births[pid][0] < end:
            row, parent = self._births[pid]
            found.append((pid, row, end))
            pid, end = parent, row
        begin = self._first_exec.get(pid, 0) if pid in self._births else 0
        found.append((pid, begin, end))
        return found[::-1]

    def rows_of(self, stage: Stage) -> Array:
        """The rows that tell of a process within a stage; that of its fork is the first, if it was forked."""
        import numpy as np

        pid, begin, end = stage
        pieces = [self._own(pid, begin, end)]
        if self._births.get(pid, (-1, 0))[0] == begin:
            pieces.append(np.array([begin]))
        for child, (row, parent) in self._births.items():
            if parent == pid and begin <= row < end and self._is_borrowed(pid, child, row):
                rows = self._own(child, row, min(self._first_exec.get(child, end), end))
                pieces.append(rows[~self._are_of_its_own(rows)])
        return np.sort(np.concatenate(pieces))

    def _own(self, pid: int, begin: int, end: int) -> Array:
        """The rows of a process's own threads."""
        import numpy as np

        first, last = np.searchsorted(self._owners, (pid, pid + 1))
        rows: Array = self._order[first:last]
        return rows[np.searchsorted(rows, begin) : np.searchsorted(rows, end)]

    def _is_borrowed(self, parent: int, child: int, fork: int) -> bool:
        """Whether a child runs in its parent's memory at first."""
        its = self._own_spaces(self._own(child, fork, self._first_exec.get(child, len(self.events))))
        ours = self._own_spaces(self._own(parent, 0, fork))
        return bool(its[0] == ours[-1]) if len(its) and len(ours) else self._says_so(fork)

    def _own_spaces(self, rows: Array) -> Array:
        """The address spaces that some events count as their thread's own, in order."""
        events = self.events[rows]
        own: Array = events["c"][(events["kind"] == kinds.RSS) & (events["d"] == 1)]
        return own

    def _says_so(self, fork: int) -> bool:
        """Whether the call that forked asked for shared memory."""
        import numpy as np

        events = self.events[:fork]
        rows = np.flatnonzero((events["thread"] == self.events["thread"][fork]) & (events["kind"] == kinds.CALL))
        if not len(rows):
            return False
        call = events[rows[-1]]
        return bool(call["a"] == _VFORK or (call["a"] == _CLONE and int(call["b"]) & mman.CLONE_VM))

    def _are_of_its_own(self, rows: Array) -> Array:
        """Which events of a child in its parent's memory are nothing that is done to that."""
        import numpy as np

        events = self.events[rows]
        of_calls = np.isin(events["kind"], _CALL_PARTS) & np.isin(events["a"], _OF_ITS_OWN)
        return np.asarray(of_calls | (events["kind"] == kinds.FORK))


def _are_replayed(events: Array) -> Array:
    """Which events are of a kind that is replayed, or belong to one; but for counts that no memory can have.

    A counter that is read while several CPUs change it may be negative.
    """
    import numpy as np

    known = np.zeros(256, bool)
    known[[*_REPLAYED, kinds.MORE]] = True
    replayed: Array = known[events["kind"]]
    replayed &= (events["kind"] != kinds.RSS) | ((events["a"] < len(kinds.COUNTERS)) & (events["b"] < kinds.MOST_BYTES))
    return replayed


def _calls(rows: Array, parts: Array, ended: int) -> dict[int, Call]:
    """The calls, by row, with what they returned."""
    begun: dict[int, int] = {}
    found: dict[int, tuple[int, tuple[int, ...], int | None, int, int, int]] = {}
    fields = zip(parts.tolist(), *_columns(rows[parts], ("time", "thread", "kind", "a", "b", "c", "d")), strict=True)
    for row, time, thread, kind, a, b, c, d in fields:
        if kind == kinds.CALL:
            begun[thread] = row
            found[row] = (a, (b, c, d), None, thread, time, ended)
        elif thread in begun and kind == kinds.MORE:
            number, arguments, *rest = found[begun[thread]]
            found[begun[thread]] = (number, (*arguments, a, b, c), *rest)  # type: ignore[assignment]
        elif thread in begun and found[begun[thread]][0] == a:
            call = begun.pop(thread)
            number, arguments, _, _, began, _ = found[call]
            found[call] = (number, arguments, signed(b), thread, began, time)
    return {row: _call(*parts) for row, parts in found.items()}


def _call(number: int, arguments: tuple[int, ...], result: int | None, *rest: int) -> Call:
    """A call; one whose arguments are not all there, since records were lost, is as one that did not return."""
    name, count = kinds.ALL_CALLS.get(number, (str(number), 0))
    return Call(number, name, arguments[:count], result if len(arguments) >= count else None, *rest)


def _columns(rows: Array, names: Sequence[str]) -> Iterator[list[int]]:
    return (rows[name].tolist() for name in names)
