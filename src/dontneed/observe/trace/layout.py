"""Follows the mappings of traced processes through a timeline: in which one, and after which madvise, a fault comes.

The kernel tells of each new mapping with its name; what goes is known from munmap, mremap, brk and exec. Between two
such changes all faults of a process are looked up at once.
"""

from __future__ import annotations

from dontneed.abi import trace_kinds as kinds
from dontneed.kernel.maps import parse_maps
from dontneed.observe.trace.cover import NOTHING, Cover
from dontneed.records import Record
from dontneed.units import round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from dontneed.observe.trace.timeline import Timeline

    Array = NDArray[Any]

_MMAP, _MUNMAP, _BRK, _MREMAP, _MADVISE = (
    kinds.CALL_NUMBERS[name] for name in ("mmap", "munmap", "brk", "mremap", "madvise")
)
_FOLLOWED = (_MMAP, _MUNMAP, _BRK, _MREMAP, _MADVISE)
_DISCARDING = (4, 8, 9, 20, 21, 24)
"""DONTNEED, FREE, REMOVE, COLD, PAGEOUT, DONTNEED_LOCKED: after these, a touch is a touch again."""
_HEAP = "[heap]"
_MREMAP_DONTUNMAP = 4
_PERMISSIONS = "rwx"


class Mapped(Record):
    """A mapping: whose, where as far as it ever reached, and the permissions that any part of it ever had."""

    pid: int
    start: int
    end: int
    name: str
    perms: str


class Advised(Record):
    """A madvise: the rows of its call and its return (-1: none), whose, where, which advice."""

    call: int
    back: int
    pid: int
    start: int
    end: int
    advice: int


class Layout(Record):
    """Where faults lie.

    Attributes:
        mappings: all that there were.
        fault_mappings: of each fault the number of its mapping.
        advices: all madvise calls, in the order in which they returned.
        fault_advices: of each fault the number of the advice that discarded its page before; or NOTHING.
        zaps: the number of a mapping, and the row of a munmap or madvise in it.
    """

    mappings: list[Mapped]
    fault_mappings: Array
    advices: list[Advised]
    fault_advices: Array
    zaps: list[tuple[int, int]]


def follow(timeline: Timeline, returns: Array) -> Layout:
    """Follow the mappings of all processes of a timeline.

    Args:
        timeline: the events.
        returns: of each call the row where it returns, -1 where it does not.
    """
    import numpy as np

    events = timeline.events
    follower = _Follower(timeline, returns)
    kind = events["kind"]
    calls = np.flatnonzero((kind == kinds.CALL) & np.isin(events["a"], _FOLLOWED))
    ended = returns[calls] >= 0
    steps = np.concatenate((returns[calls[ended]], np.flatnonzero(np.isin(kind, _SIDE_KINDS))))
    origins = np.concatenate((calls[ended], np.full(len(steps) - int(ended.sum()), -1, np.int64)))
    order = np.argsort(steps, kind="stable")
    for row, call in zip(steps[order].tolist(), origins[order].tolist(), strict=True):
        follower.step(row, call)
    return follower.finish()


_SIDE_KINDS = (kinds.MAPPING, kinds.FORK, kinds.EXEC)


def processes(timeline: Timeline) -> dict[int, int]:
    """The process of each thread that the timeline knows of."""
    import numpy as np

    forks = timeline.events[np.flatnonzero(timeline.events["kind"] == kinds.FORK)]
    return {**timeline.threads, **dict(zip(forks["a"].tolist(), forks["b"].tolist(), strict=True))}


class _Space:
    """One process: its mappings, its advices, its faults with their rows, and how many of them are looked up."""

    __slots__ = ("advices", "done", "faults", "mappings", "rows")

    def __init__(self, faults: Array, rows: Array) -> None:
        self.mappings = Cover()
        self.advices = Cover()
        self.faults = faults
        self.rows = rows
        self.done = 0


class _Follower:
    """Steps from change to change."""

    def __init__(self, timeline: Timeline, returns: Array) -> None:
        import numpy as np

        self._events = timeline.events
        self._names = timeline.names
        self._returns = returns
        self._processes = processes(timeline)
        self._faults = np.flatnonzero(self._events["kind"] == kinds.FAULT)
        self._addresses = self._events["a"][self._faults]
        self._fault_mappings = np.full(len(self._faults), NOTHING, np.int64)
        self._fault_advices = np.full(len(self._faults), NOTHING, np.int64)
        self._mappings: list[Mapped] = []
        self._advices: list[Advised] = []
        self._zaps: list[tuple[int, int]] = []
        self._spaces = {pid: _Space(own, self._faults[own]) for pid, own in self._faults_by_process().items()}
        self._read_start(timeline)

    def _faults_by_process(self) -> dict[int, Array]:
        """The places of each process's faults among all faults."""
        import numpy as np

        threads, which = np.unique(self._events["thread"][self._faults], return_inverse=True)
        owners = np.array([self._processes.get(thread, thread) for thread in threads.tolist()], np.int64)
        own = owners[which] if len(threads) else np.zeros(0, np.int64)
        return {int(pid): np.flatnonzero(own == pid) for pid in np.unique(own)}

    def _read_start(self, timeline: Timeline) -> None:
        table = parse_maps(timeline.maps.encode("utf-8", "surrogateescape"))
        space = self._space(timeline.pid)
        for row, (start, end) in enumerate(zip(table.starts, table.ends, strict=True)):
            perms, _, _, _, name = table.words(row)
            space.mappings.set(start, end, len(self._mappings))
            self._mappings.append(Mapped(timeline.pid, start, end, name, perms))

    def _space(self, pid: int) -> _Space:
        import numpy as np

        if pid not in self._spaces:
            self._spaces[pid] = _Space(np.zeros(0, np.int64), np.zeros(0, np.int64))
        return self._spaces[pid]

    def step(self, row: int, call: int) -> None:
        """Look up what came before, then change what the event of this row changes; `call` is where it was made."""
        event = self._events[row]
        thread = int(event["thread"])
        pid = self._processes.get(thread, thread)
        space = self._space(pid)
        self._look_up(space, row)
        if call >= 0:
            result = int(event["b"].astype("int64"))
            arguments = [int(self._events[call][column]) for column in "bcd"]
            self._called(pid, space, call, arguments, result)
        elif event["kind"] == kinds.MAPPING:
            self._mapped(pid, space, event)
        elif event["kind"] == kinds.EXEC:
            space.mappings, space.advices = Cover(), Cover()
        elif int(event["b"]) != pid:
            child = self._space(int(event["b"]))
            child.mappings, child.advices = space.mappings.copy(), Cover()

    def finish(self) -> Layout:
        """What was found."""
        for space in self._spaces.values():
            self._look_up(space, len(self._events))
        return Layout(self._mappings, self._fault_mappings, self._advices, self._fault_advices, self._zaps)

    def _look_up(self, space: _Space, row: int) -> None:
        """Put down where the faults before a row lie."""
        import numpy as np

        until = space.done
        if until < len(space.rows) and space.rows[until] < row:
            until += int(np.searchsorted(space.rows[until:], row))
        pending = space.faults[space.done : until]
        if len(pending):
            self._fault_mappings[pending] = space.mappings.look_up(self._addresses[pending])
            self._fault_advices[pending] = space.advices.look_up(self._addresses[pending])
            space.done = until

    def _mapped(self, pid: int, space: _Space, event: Any) -> None:
        """A mapping is new, or larger, or has other permissions; what it overlaps under the same name is the same."""
        start, length = int(event["a"]), int(event["b"])
        index, protection, flags = kinds.mapping_parts(int(event["d"]))
        name, end = self._names[index], start + length
        perms = "".join(letter if protection >> bit & 1 else "-" for bit, letter in enumerate(_PERMISSIONS))
        perms += "s" if flags & kinds.MAP_SHARED else "p"
        is_heap = name == _HEAP  # which is told of as it grows, and is nameless at first
        names = (name, "") if is_heap else (name,)
        around = space.mappings.within(start - is_heap, end)
        number = next((known for _, _, known in around if self._mappings[known].name in names), len(self._mappings))
        if number == len(self._mappings):
            self._mappings.append(Mapped(pid, start, end, name, perms))
        else:
            old = self._mappings[number]
            either = "".join(map(max, old.perms, perms))  # a letter is greater than "-"
            self._mappings[number] = Mapped(pid, min(old.start, start), max(old.end, end), name, either)
        space.mappings.set(start, end, number)

    def _called(self, pid: int, space: _Space, call: int, arguments: list[int], result: int) -> None:
        number = int(self._events[call]["a"])
        first, second, third = arguments
        if number == _MADVISE:
            self._advised(pid, space, call, arguments)
        elif -4096 < result < 0:  # noqa: PLR2004 - MAX_ERRNO: it was refused
            return
        elif number == _MUNMAP:
            self._gone(space, first, first + round_up(second), call)
        elif number == _MMAP:
            space.advices.set(result, result + round_up(second), None)
        elif number == _BRK:
            self._shrunk(space, round_up(result), call)
        else:
            self._moved(pid, space, call, (first, round_up(second), result, round_up(third)))

    def _advised(self, pid: int, space: _Space, call: int, arguments: list[int]) -> None:
        start, length, advice = arguments
        end = start + round_up(length)
        self._zap(space, start, end, call)
        if advice in _DISCARDING:
            space.advices.set(start, end, len(self._advices))
        self._advices.append(Advised(call, int(self._returns[call]), pid, start, end, advice))

    def _gone(self, space: _Space, start: int, end: int, call: int) -> None:
        self._zap(space, start, end, call)
        space.mappings.set(start, end, None)
        space.advices.set(start, end, None)

    def _zap(self, space: _Space, start: int, end: int, call: int) -> None:
        """A call is put down to the first mapping in its range."""
        for _, _, known in space.mappings.within(start, end):
            self._zaps.append((known, call))
            return

    def _shrunk(self, space: _Space, top: int, call: int) -> None:
        """The heap ends here now."""
        for known in {known for _, _, known in space.mappings.within(top, 1 << 63)}:
            mapped = self._mappings[known]
            if mapped.name == _HEAP and mapped.start <= top < mapped.end:
                self._gone(space, top, mapped.end, call)

    def _moved(self, pid: int, space: _Space, call: int, move: tuple[int, int, int, int]) -> None:
        old, old_length, new, new_length = move
        found = list(space.mappings.within(old, old + max(old_length, 1)))
        if not found:
            return
        known = found[0][2]
        mapped = self._mappings[known]
        stays = call + 1 < len(self._events) and self._events[call + 1]["kind"] == kinds.MORE
        flags = int(self._events[call + 1]["a"]) if stays else 0
        if not flags & _MREMAP_DONTUNMAP:
            space.mappings.set(old, old + old_length, None)
            space.advices.set(old, old + old_length, None)
        space.mappings.set(new, new + new_length, None)
        space.advices.set(new, new + new_length, None)
        space.mappings.set(new, new + new_length, len(self._mappings))
        self._mappings.append(Mapped(pid, new, new + new_length, mapped.name, mapped.perms))
