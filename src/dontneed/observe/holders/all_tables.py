"""The page tables of all processes, read together, and the processes that they belong to.

Processes come, go and replace their programs meanwhile. Whoever has gone is forgotten with all that was read of it; who
has another program now, or has just come, is read in another round.
"""

from __future__ import annotations

from dontneed.errors import DontneedError
from dontneed.observe.holders.shares import FrameShares
from dontneed.observe.tables.reader import TableReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.tasks import Task
    from dontneed.observe.holders.roll import Member
    from dontneed.observe.holders.shares import Shares

_ROUNDS = 3
_TRIES = 10
"""To follow the list of all processes to its end, in some milliseconds in which none may end."""


class AllTables:
    """Reads the page tables of all processes; `read` does it, once.

    Args:
        memory: the way to the kernel's memory; nobody else uses it meanwhile.
        pids: says which processes there are.
        member: reads what a process says of itself; None of those that have no memory.
        all_shown: /proc shows all processes of the machine.

    Attributes:
        members: whose tables were read, by pid.
        unread: those whose tables could not be, by pid.
        owners: by pid, the number of the address space, as `shares` counts them.
        unsettled_bytes: addresses whose tables changed each time they were read; they are in no count.
        frames: who has which.
        all_counted: the pages of all processes of the machine were counted, so that what is shared is known to be.
    """

    def __init__(
        self,
        memory: KernelMemory,
        pids: Callable[[], Iterable[int]],
        member: Callable[[int], Member | None],
        *,
        all_shown: bool,
    ) -> None:
        self._memory = memory
        self._pids = pids
        self._member = member
        self._tasks: list[Task] = []
        self._known: set[int] = set()
        self._all_shown = all_shown
        self.members: dict[int, Member] = {}
        self.unread: dict[int, Member] = {}
        self.owners: dict[int, int] = {}
        self.unsettled_bytes = 0
        self.frames = FrameShares()
        self.all_counted = True

    def read(self) -> Shares:
        """Read them all."""
        gone: set[int] = set()
        for _ in range(_ROUNDS):
            coming = [*gone, *(pid for pid in self._pids() if pid not in self._known)]
            if not coming:
                break
            first = len(self._tasks)
            self._enlist(coming, first)
            if not first and (self.unread or not self._all_shown):
                self._enlist_strangers()
            gone = self._read_from(first)
        self._give_up(gone)
        return self.frames.of(len(self._tasks))

    def _enlist(self, pids: Collection[int], first: int) -> None:
        """Find the tasks of processes, and which of them live in one address space."""
        by_mm = {task.mm: owner for owner, task in enumerate(self._tasks) if owner not in self.frames.gone}
        for pid in pids:
            self._known.add(pid)
            member = self._member(pid)
            if member is None:
                continue
            if member.task is None:
                self.unread[pid] = member
                continue
            owner = by_mm.get(member.task.mm)
            if owner is None or (owner < first and not self._lives(self._tasks[owner])):
                owner = by_mm[member.task.mm] = len(self._tasks)
                self._tasks.append(member.task)
            self.members[pid] = member
            self.owners[pid] = owner

    def _enlist_strangers(self) -> None:
        """Those that /proc does not show, or says too little of: they share pages with the others."""
        known = {task.mm for task in self._tasks}
        for _ in range(_TRIES):
            try:
                everyone = self._memory.everyone()
            except DontneedError:  # it changed under us
                continue
            self._tasks += {task.mm: task for task in everyone if task.mm not in known}.values()
            return
        self.all_counted = False

    def _lives(self, task: Task) -> bool:
        """Whether a task is still what it was: else its mm_struct may be somebody else's by now."""
        try:
            return self._memory.read_words(task.watched) == list(task.values)
        except DontneedError:  # its page is no more
            return False

    def _read_from(self, first: int) -> set[int]:
        """Read the tables of the address spaces from this one on; the processes of those that have gone meanwhile."""
        hugetlb = {self.owners[pid] - first for pid, member in self.members.items() if member.counters.hugetlb_bytes}
        reader = TableReader(self._memory, self._tasks[first:])
        for tables in reader:
            self.frames.add(tables, first_owner=first, may_have_hugetlb=hugetlb)
        self.unsettled_bytes += sum(end - start for owner, start, end in reader.unsettled if owner not in reader.gone)
        gone = {first + place for place in reader.gone}
        self.frames.forget(gone)
        return {pid for pid, owner in self.owners.items() if owner in gone}

    def _give_up(self, pids: Collection[int]) -> None:
        """Those that had changed in every round; who has ended is not missed."""
        for pid in pids:
            member = self._member(pid)
            if member is not None:
                self.unread[pid] = member
                self.all_counted = False
        for pid in [pid for pid, owner in self.owners.items() if owner in self.frames.gone]:
            del self.members[pid], self.owners[pid]
