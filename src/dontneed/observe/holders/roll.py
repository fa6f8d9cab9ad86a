"""The roll of all processes: who is there, what each says of itself, and its task where page tables are to be read."""

from __future__ import annotations

import os
from contextlib import contextmanager

from dontneed.errors import KernelLacks, NoAddressSpace, NotPermitted, ProcessGone
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.smaps import parse_smaps
from dontneed.kernel.status import Counters, parse_status, read_identity
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

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
        counters: what its status says.
        task: as the kernel keeps it, where that was asked for.
        amounts: what the kernel counts when it walks all its tables, where that was asked for.
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

    def largest_rss_bytes(self) -> int:
        """The RSS of the largest process, at a glance."""
        return max(map(_rss_bytes, self.pids()), default=0)

    def member(self, pid: int, *, memory: KernelMemory | None = None, walked: bool = False) -> Member | None:
        """Who a process is; None if it has no memory of its own: a kernel thread, or one that has ended.

        Args:
            pid: its number.
            memory: find its task by this.
            walked: have the kernel walk its tables, and count; the process may have to wait meanwhile.
        """
        try:
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
                    return member.replace(amounts=_read_amounts(process)) if walked else member
                except (NotPermitted, KernelLacks) as refusal:
                    return member.replace(refusal=refusal)
        except (ProcessGone, NoAddressSpace):
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


def _rss_bytes(pid: int) -> int:
    """The RSS of whoever has this number; 0 if nobody has it any more, or it is hidden."""
    try:
        fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(os.read(fd, 128).split(None, 2)[1]) * PAGE_BYTES
    except OSError:  # it has ended
        return 0
    finally:
        os.close(fd)


def _read_amounts(process: ProcessDirectory) -> Amounts:
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
