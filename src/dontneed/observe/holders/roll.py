"""The roll of all processes: who is there, what each says of itself, and its task where page tables are to be read."""

from __future__ import annotations

import os
from contextlib import contextmanager

from dontneed.errors import KernelLacks, NoAddressSpace, NotPermitted, ProcessGone
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.smaps import parse_smaps
from dontneed.kernel.status import Counters, parse_status, read_identity
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.errors import DontneedError
    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.status import Identity
    from dontneed.kernel.tasks import Task

_ENDED = ("Z", "X")


class Member(Record):
    """A process with memory of its own, at one moment.

    Attributes:
        pid, command: who it is.
        started: when, in clock ticks from boot.
        counters: what its status says.
        task: as the kernel keeps it, where that was asked for.
        refusal: why there is no task.
    """

    pid: int
    command: str
    started: int
    counters: Counters
    task: Task | None = None
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
        hidden: how many /proc only has the number of (hidepid).
    """

    def __init__(self) -> None:
        self.hidden = 0

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

    def member(self, pid: int, memory: KernelMemory | None = None) -> Member | None:
        """Who a process is; None if it has no memory of its own: a kernel thread, or one that has ended.

        Args:
            pid: its number.
            memory: to find its task by; None: do not.
        """
        try:
            with self._called(pid) as called:
                return None if called is None else _member(pid, *called, memory)
        except (ProcessGone, NoAddressSpace):
            return None

    def rolled(self, member: Member) -> Amounts | None:
        """What the kernel counts if it walks all tables of a process, who waits meanwhile; None if it has ended.

        Raises:
            NotPermitted: it belongs to somebody else.
            KernelLacks: this kernel has no smaps.
        """
        try:
            with self._called(member.pid) as called:
                if called is None:
                    return None
                process, identity = called
                return _rolled(process) if identity.started == member.started else None
        except ProcessGone:
            return None

    @contextmanager
    def _called(self, pid: int) -> Iterator[tuple[ProcessDirectory, Identity] | None]:
        """The process, by a thread that has its memory; None if there is none, or it is hidden.

        Where the first thread has ended before the others, it has no memory any more, and they have it still.
        """
        try:
            process = ProcessDirectory(pid)
        except NotPermitted:
            self.hidden += 1
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


def _member(pid: int, process: ProcessDirectory, identity: Identity, memory: KernelMemory | None) -> Member | None:
    if identity.kernel_thread:
        return None
    counters = Counters(**parse_status(process.read("status")))
    if not counters.size_bytes:
        return None
    task, refusal = None, None
    if memory is not None:
        try:
            task = memory.task(process)
        except (NotPermitted, KernelLacks) as refused:
            refusal = refused
    return Member(pid, identity.command, identity.started, counters, task, refusal)


def _rolled(process: ProcessDirectory) -> Amounts:
    try:
        text = process.read("smaps_rollup")
    except KernelLacks:  # before 4.14
        text = process.read("smaps")
    _, counted = parse_smaps(text)
    return Amounts(
        rss_bytes=sum(each.rss_bytes for each in counted),
        uss_bytes=sum(each.uss_bytes for each in counted),
        pss_bytes=sum(each.pss_bytes for each in counted),
        swap_bytes=sum(each.swap_bytes for each in counted),
    )
