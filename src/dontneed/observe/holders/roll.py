"""The roll of all processes: who is there, what each says of itself, and its task where page tables are to be read."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from dontneed.errors import DontneedError, KernelLacks, NoAddressSpace, NotPermitted, ProcessGone
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.smaps import parse_smaps
from dontneed.kernel.status import Counters, parse_status, read_identity
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.status import Identity
    from dontneed.kernel.tasks import Task

    Count: TypeAlias = "Callable[[ProcessDirectory, Counters], Amounts]"
    """Counts what a process has; raises NotPermitted or KernelLacks where it cannot."""

_ENDED = ("Z", "X")
_TRIES = 3


class Member(Record):
    """A process with memory of its own, at one moment.

    Attributes:
        pid, command: who it is.
        counters: what its status says.
        task: as the kernel keeps it, where that was asked for.
        amounts: what it has, where that was asked for.
        refusal: why there is no task, or no amounts.
    """

    pid: int
    command: str
    counters: Counters
    task: Task | None = None
    amounts: Amounts | None = None
    refusal: DontneedError | None = None


class Amounts(Record):
    """What a process has, in bytes; None what is not known."""

    rss_bytes: int
    swap_bytes: int
    uss_bytes: int | None = None
    pss_bytes: int | None = None


class Roll:
    """Calls on processes by their number.

    Attributes:
        hidden: those of whom /proc has only the number (hidepid).
    """

    def __init__(self) -> None:
        self.hidden: set[int] = set()

    def pids(self) -> list[int]:
        """All that /proc shows now.

        Raises:
            KernelLacks: there is no /proc, or it shows nobody.
        """
        try:
            pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
        except FileNotFoundError:
            pids = []
        if not pids:
            raise KernelLacks("there is no process in /proc", hint="is it mounted? mount -t proc proc /proc")
        return pids

    def member(self, pid: int, *, memory: KernelMemory | None = None, count: Count | None = None) -> Member | None:
        """Who a process is; None if it has no memory of its own: a kernel thread, or one that has ended.

        Args:
            pid: its number.
            memory: find its task by this.
            count: counts what it has.
        """
        for _ in range(_TRIES):
            with suppress(ProcessGone):  # it has ended; or it replaced its program, and is there the next time
                return self._member(pid, memory, count)
        return None

    def _member(self, pid: int, memory: KernelMemory | None, count: Count | None) -> Member | None:
        """`member`, tried once.

        Raises:
            ProcessGone: it has no memory; or not what it had a moment ago.
        """
        with self._called(pid) as called:
            if called is None or called[1].kernel_thread:
                return None
            process, identity = called
            counters = Counters(**parse_status(process.read("status")))
            if not counters.size_bytes:
                return None
            member = Member(pid, identity.command, counters)
            try:
                if memory is not None:
                    return member.replace(task=memory.task(process))
                return member if count is None else member.replace(amounts=count(process, counters))
            except NoAddressSpace:
                return None
            except ProcessGone:
                raise
            except DontneedError as refusal:
                return member.replace(refusal=refusal)

    @contextmanager
    def _called(self, pid: int) -> Iterator[tuple[ProcessDirectory, Identity] | None]:
        """The process, by a thread that has its memory; None if there is none, or it is hidden.

        Where the first thread has ended before the others, it has no memory any more, and they have it still.
        """
        try:
            process = ProcessDirectory(pid)
        except NotPermitted:
            self.hidden.add(pid)
            yield None
            return
        with process:
            identity = read_identity(process)
            if identity.state not in _ENDED:
                yield process, identity
                return
            thread = next((thread for thread in process.threads() if thread != pid), None)
            if thread is None:
                yield None
                return
            with ProcessDirectory(thread) as other:
                yield other, read_identity(other)


def read_rollup(process: ProcessDirectory, counters: Counters) -> Amounts:
    """RSS, USS and PSS of a process as the kernel counts them, who waits meanwhile; swap as its counters say.

    The swap of smaps has swapped shared memory in it, once for each process that maps it.

    Raises:
        ProcessGone, NotPermitted, KernelLacks: as `ProcessDirectory.read`.
    """
    try:
        text = process.read("smaps_rollup")
    except KernelLacks:  # before 4.14
        text = process.read("smaps")
    _, counted = parse_smaps(text)
    return Amounts(
        rss_bytes=sum(each.rss_bytes for each in counted),
        uss_bytes=sum(each.uss_bytes for each in counted),
        pss_bytes=sum(each.pss_bytes for each in counted),
        swap_bytes=counters.swap_bytes,
    )
