"""One replay: the events of a process, one after the other, and RSS as the kernel counted it beside the model's.

The two are compared at *moments*: whenever the kernel has counted, as soon as what it was counting for is over: at the
next event, or, within a system call, when that returns.

When a call takes effect is known to lie between its entry and its return. mmap maps where the kernel tells of the
mapping, which it does while it holds the lock. munmap and madvise take pages away where the kernel first counts what
they took; if it counts nothing, when they return, or when something else is mapped there.
"""

from __future__ import annotations

from array import array
from itertools import chain

from dontneed.abi import trace_kinds as kinds
from dontneed.abi.advice import Advice
from dontneed.kernel.maps import parse_maps
from dontneed.lab.replayed.advices import Accounts, pages_of
from dontneed.lab.replayed.process import ReplayedProcess
from dontneed.lab.replayed.steps import Steps
from dontneed.model.space.entries import ANON, FILE, LEAF_PAGES, SHMEM
from dontneed.model.space.mm import PAGE_SHIFT
from dontneed.observe.trace.cover import Cover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    from numpy.typing import NDArray

    from dontneed.lab.replayed.events import Call, ReplayedEvents
    from dontneed.model.system import System
    from dontneed.observe.trace.timeline import Timeline

    Fields: TypeAlias = tuple[int, int, int, int]
    """The a, b, c and d of an event."""
    Lessons: TypeAlias = dict[tuple[int, int], int]

_LATER = ("munmap", "madvise")
_AT_THE_MAPPING = ("mmap", "shmat")
_EXECUTES = ("execve", "execveat")
_FORKS = ("fork", "vfork", "clone", "clone3")
_ENDS = "exit_group"
_EMPTIES = (int(Advice.DONTNEED), int(Advice.DONTNEED_LOCKED))
"""Behind these nothing is left that was there at the start."""
_COUNTERS = len(kinds.COUNTERS)
_PIECE = 1 << 18
_NOWHERE = -1
"""No address space that anything was counted for yet."""


class Run:
    """One replay of some events.

    Args:
        timeline: that they are of.
        events: of one process.
        system: the machine that they are replayed on.
        lessons: of a replay as on the traced kernel; None: this is it.

    Attributes:
        process: the modelled process.
        accounts: what became of what madvise took away.
        times, real, modelled: of each moment the time, and RSS in bytes.
        faults: how many were replayed.
        huge_faults: how many of them brought a huge page.
        lessons: by call, how many bytes it took away of what was there at the start, as the trace tells.
    """

    def __init__(
        self, timeline: Timeline, events: ReplayedEvents, system: System, lessons: Lessons | None = None
    ) -> None:
        self._names = timeline.names
        self._events = events
        self.process = ReplayedProcess(system)
        self.accounts = Accounts()
        self.times = array("q")
        self.real = array("q")
        self.modelled = array("q")
        self.faults = 0
        self.huge_faults = 0
        self.lessons: Lessons = {}
        self._lessons_before = lessons
        self._unknown: Cover | None = None
        self._offset = 0
        self._at_start: list[int] | None = None
        self._spaces: dict[int, list[int]] = {}
        self._space = _NOWHERE
        self._counted = [0] * _COUNTERS
        self._in_call: dict[int, Call] = {}
        self._waiting: dict[int, Call] = {}
        self._steps = Steps()
        self._mapped: set[int] = set()
        self._executing = False
        self._arguments_known = True
        if events.in_the_middle:
            self._begin_in_the_middle(timeline)

    def _begin_in_the_middle(self, timeline: Timeline) -> None:
        table = parse_maps(timeline.maps.encode("utf-8", "surrogateescape"))
        self.process.begin_in_the_middle(table)
        self._unknown = Cover()
        for vma in self.process.mm.vmas:
            self._unknown.set(vma.first, vma.last, 1)
        self._counted = self._at_start = [timeline.rss[name] for name in kinds.COUNTERS]
        self._offset = self._real_bytes()

    def replay(self) -> None:
        """Replay them all."""
        rows = self._events.rows
        others, in_call = self._others(), self._in_call
        rss, fault = kinds.RSS, kinds.FAULT
        space, counted, is_counted, row = _NOWHERE, self._counted, False, 0
        for row, (time, thread, kind, a, b, c, d) in enumerate(_decoded(rows)):
            if kind == rss:
                if c == space and thread not in in_call:  # as nearly all are
                    counted[a], is_counted = b, True
                else:
                    is_counted = self._count(thread, (a, b, c, d)) or is_counted
                    space, counted = self._space if self._arguments_known else _NOWHERE, self._counted
                continue
            if is_counted:
                is_counted = False
                self._note(time)
            if kind == fault:
                self._fault(a, c, time)
            elif others[kind](row, thread, (a, b, c, d)):
                break
            elif kind == kinds.RETURN:
                is_counted = self._space != _NOWHERE
            else:
                space = _NOWHERE  # until it is seen which one it is now
        else:
            if is_counted:
                self._note(int(rows["time"][-1]))
        self.faults = int((rows["kind"][: row + 1] == kinds.FAULT).sum())

    def _others(self) -> dict[int, Callable[[int, int, Fields], bool]]:
        """What to do about events of the rarer kinds; each says whether it is the last that the process does."""
        return {
            kinds.CALL: self._call,
            kinds.RETURN: self._return,
            kinds.MAPPING: self._mapping,
            kinds.FORK: self._fork,
            kinds.EXEC: self._exec,
        }

    # Counts and moments

    def _count(self, thread: int, fields: Fields) -> bool:
        """The kernel has counted; whether a moment comes of it."""
        counter, size, space, own = fields
        if space != self._space:
            self._count_elsewhere(space, own)
        self._spaces[space][counter] = size
        if space != self._space:
            return False
        if thread in self._waiting:
            self._take_away(thread, self._waiting.pop(thread))
        else:
            self._steps.count(thread)
        if not self._arguments_known:
            self._fill_arguments(counter, size)
        return thread not in self._in_call

    def _count_elsewhere(self, space: int, own: int) -> None:
        """The kernel counts for another address space than before: a new one of the process, or somebody else's."""
        if space not in self._spaces:
            self._spaces[space] = [0] * _COUNTERS
        if own:
            if self._at_start is not None:
                self._spaces[space], self._at_start = self._at_start, None
            self._space, self._counted = space, self._spaces[space]

    def _real_bytes(self) -> int:
        counted = self._counted
        return counted[kinds.FILE] + counted[kinds.ANONYMOUS] + counted[kinds.SHMEM]

    def _note(self, time: int) -> None:
        """This is a moment."""
        counted, resident = self._counted, self.process.mm.resident
        pages = resident[FILE] + resident[ANON] + resident[SHMEM]
        self.times.append(time)
        self.real.append(counted[0] + counted[1] + counted[3])
        self.modelled.append((pages << PAGE_SHIFT) + self._offset + self._steps.bytes_to_come)

    # Faults

    def _fault(self, address: int, code: int, time: int) -> None:
        if code & kinds.PRESENT and self._unknown is not None:
            self._reveal(address, self._unknown)
        brought = self.process.fault(address, code)
        if brought >= LEAF_PAGES:
            self.huge_faults += 1
        accounts = self.accounts
        if accounts.pages or accounts.slots:
            page = address >> PAGE_SHIFT
            if accounts.is_awaited(page):
                accounts.touched(page, time, brought)

    def _reveal(self, address: int, unknown: Cover) -> None:
        """A page was there at the start, and is known now: it moves from what is unknown to what is modelled."""
        page = address >> PAGE_SHIFT
        if any(True for _ in unknown.within(page, page + 1)):
            before = self.process.mm.rss_pages
            self.process.reveal(address)
            self._offset -= self.process.mm.rss_pages - before << PAGE_SHIFT

    # Calls

    def _call(self, row: int, thread: int, _fields: Fields) -> bool:
        """A call begins."""
        call = self._events.calls[row]
        if call.name == _ENDS:
            return True
        self._in_call[thread] = call
        if call.name in _FORKS:
            self._spaces = {self._space: self._counted}  # a space that is made now may have the number of one long gone
        elif call.name in _EXECUTES:
            self._executing = True
        elif call.result is None or call.name in _AT_THE_MAPPING:
            pass
        elif call.name in _LATER:
            self._waiting[thread] = call
        else:
            self._carry_out(call)
        return False

    def _return(self, _row: int, thread: int, _fields: Fields) -> bool:
        """A call returns."""
        call = self._in_call.pop(thread, None)
        if call is None or call.name in _EXECUTES:  # there is none where a command is traced from its first instruction
            self._executing = False
            return False
        if thread in self._waiting:
            self._carry_out(self._waiting.pop(thread))
        elif call.name == "mmap" and thread not in self._mapped:
            self._carry_out(call)
        self._mapped.discard(thread)
        self._steps.end(thread)
        if self._unknown is not None:
            self._learn(call, self._unknown)
        return False

    def _take_away(self, thread: int, call: Call) -> None:
        """Do what a call did whose first step the kernel has just counted."""
        mm = self.process.mm
        present, before = self.accounts.before(mm, call), mm.rss_pages
        self._carry_out(call)
        self._steps.begin(thread, present, before - mm.rss_pages)

    def _carry_out(self, call: Call, file_name: str | None = None) -> None:
        """Do in the model what a call did."""
        if call.result is None:
            return
        mm = self.process.mm
        if call.name == "madvise":
            present = self.accounts.before(mm, call)
            before = mm.rss_pages
            self.process.call(call.name, call.arguments, call.result)
            self.accounts.after(mm, call, present, before - mm.rss_pages)
            return
        ranges = self._replaced(call)
        if call.name not in _LATER:
            for first, last in ranges:
                self._make_room(first, last)
        self.process.call(call.name, call.arguments, call.result, file_name)
        for first, last in ranges:
            self.accounts.forget(first, last)

    def _replaced(self, call: Call) -> list[tuple[int, int]]:
        """The pages that a call makes something else of; none, for most."""
        result, top = call.result, self.process.mm.top
        if result is None or result < 0:
            return []
        if call.name == "munmap":
            return [pages_of(call.arguments[0], call.arguments[1], top)]
        if call.name == "mmap":
            return [pages_of(result, call.arguments[1], top)]
        if call.name == "mremap":
            old, length, new_length = call.arguments[:3]
            return [pages_of(old, length, top), pages_of(result, new_length, top)] if old != result else []
        if call.name == "brk":
            begin, end = sorted((self.process.mm.brk or result, result))
            return [pages_of(begin, end - begin, top)]
        return []

    def _make_room(self, first: int, last: int) -> None:
        """What is mapped here was unmapped before, by whoever is about to return from that."""
        for thread, call in list(self._waiting.items()):
            if call.name == "munmap":
                begin, end = pages_of(call.arguments[0], call.arguments[1], self.process.mm.top)
                if begin < last and first < end:
                    self._carry_out(self._waiting.pop(thread))

    def _learn(self, call: Call, unknown: Cover) -> None:
        """Where a call took away pages that were there at the start, learn from the trace how many these were."""
        is_advice = call.name == "madvise"
        ranges = self._replaced(call)
        if is_advice:
            ranges = [pages_of(call.arguments[0], call.arguments[1], self.process.mm.top)]
        if not any(True for first, last in ranges for _ in unknown.within(first, last)):
            return
        which = call.thread, call.began
        if self._lessons_before is not None:
            missing = self._lessons_before.get(which, 0)
        else:
            missing = (self.process.mm.rss_pages << PAGE_SHIFT) + self._offset - self._real_bytes()
        if missing > 0:
            self.lessons[which] = missing
            self._offset -= missing
        if is_advice and (call.result or call.arguments[2] not in _EMPTIES):
            return
        for first, last in ranges:
            unknown.set(first, last, None)

    # What is neither a fault nor a call

    def _mapping(self, _row: int, thread: int, fields: Fields) -> bool:
        start, length, offset, word = fields
        index, protection, flags = kinds.mapping_parts(word)
        name = self._names[index]
        call = self._in_call.get(thread)
        if self._executing:
            self.process.mapped(start, length, offset, name, protection, flags)
        elif call is not None and call.name == "mmap" and thread not in self._mapped:
            self._mapped.add(thread)
            self._carry_out(call, name)
        elif call is not None and call.name == "shmat":
            self.process.mapped(start, length, offset, name, protection, flags)
        return False

    def _fork(self, row: int, _thread: int, _fields: Fields) -> bool:
        if row in self._events.forks:
            self.process.fork()
            self._spaces.pop(self._space, None)
            self._leave_space()
        return False

    def _exec(self, _row: int, _thread: int, _fields: Fields) -> bool:
        self.process.exec()
        self.accounts.forget(0, self.process.mm.top)
        self._unknown = self._at_start = None
        self._offset = 0
        self._executing = True
        self._arguments_known = False
        self._spaces.clear()
        self._leave_space()
        return False

    def _leave_space(self) -> None:
        """The process has another address space now, and none of its threads is in a call in it."""
        self._space = _NOWHERE
        self._counted = [0] * _COUNTERS
        self._in_call.clear()
        self._waiting.clear()
        self._steps.clear()
        self._mapped.clear()

    def _fill_arguments(self, counter: int, size: int) -> None:
        """The first count of anonymous memory after exec has the pages that hold the arguments, too."""
        if counter == kinds.ANONYMOUS:
            self._arguments_known = True
            self.process.fill_arguments((size >> PAGE_SHIFT) - self.process.mm.resident[ANON])


def _decoded(rows: NDArray[Any]) -> Iterator[tuple[int, int, int, int, int, int, int]]:
    """The fields of events as numbers of Python, some hundred thousand at a time: they take four times as much room."""
    fields = ("time", "thread", "kind", "a", "b", "c", "d")
    pieces = (rows[begin : begin + _PIECE] for begin in range(0, len(rows), _PIECE))
    return chain.from_iterable(zip(*(piece[field].tolist() for field in fields), strict=True) for piece in pieces)
