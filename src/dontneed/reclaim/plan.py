"""`plan`: what could go from a process, by reason, why that is safe, and what it costs. Changes nothing."""

from __future__ import annotations

from time import perf_counter

from dontneed.errors import KernelLacks, NoAddressSpace, NotPermitted, ProcessGone, TargetRefused, Unreadable
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.observe.subject import read_subject
from dontneed.reasons.catalogue import in_order, reason_named
from dontneed.reasons.survey import Survey
from dontneed.records import Record
from dontneed.spans import Spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dontneed.kernel.status import Counters, Identity
    from dontneed.observe.subject import Subject
    from dontneed.reclaim.receipt import ReleaseReceipt

REFUSALS = (TargetRefused, NotPermitted, KernelLacks, Unreadable)
"""What ends one reason and no more: another may still be able to act."""


class Plan(Record):
    """What could go from a process.

    Attributes:
        pid, command: whose.
        started: clock ticks from boot to its start: a pid that was given anew is another process.
        counters: what the kernel counts for it.
        surveys: one for each reason, in the order of a release.
        cost_seconds: how long the surveys took.
    """

    pid: int
    command: str
    started: int
    counters: Counters
    surveys: tuple[Survey, ...]
    cost_seconds: float

    @property
    def rss_bytes(self) -> int:
        """What the process holds now."""
        return self.counters.rss_bytes

    @property
    def releasable_bytes(self) -> int:
        """What could go in all; memory that several reasons would give up counts once."""
        total, taken = 0, Spans()
        for survey in self.surveys:
            total += max(0, survey.releasable_bytes - (survey.spans & taken).size_bytes)
            taken |= survey.spans
        return total

    def release(
        self,
        reasons: Iterable[str] | None = None,
        *,
        max_pause_seconds: float | None = None,
        watch_seconds: float = 0.0,
        evidence: str = "auto",
    ) -> ReleaseReceipt:
        """Carry the plan out; every reason looks anew before it acts.

        Args:
            reasons: some of the plan's; None: all.
            max_pause_seconds: as `dontneed.release`.
            watch_seconds: the same.
            evidence: the same.
        Raises:
            UsageError, ProcessGone, TargetRefused, …: as `release`; ProcessGone also if the pid is another process now.
        """
        from dontneed.reasons.survey import Limits
        from dontneed.reclaim.carry_out import Order
        from dontneed.reclaim.release import carried_out

        order = Order(
            pid=self.pid,
            started=self.started,
            reasons=in_order([survey.reason for survey in self.surveys] if reasons is None else reasons),
            hints={survey.reason: dict(survey.hint) for survey in self.surveys if survey.hint},
            limits=Limits(max_pause_seconds),
            watch_seconds=watch_seconds,
            evidence=evidence,
        )
        return carried_out(order)


def plan(pid: int | None = None, *, reasons: Iterable[str] | None = None) -> Plan:
    """Survey what a process could give back, by reason. Stops nothing, writes nothing, sends nothing.

    Args:
        pid: a process id; None is the calling process.
        reasons: names, as `dontneed.reasons.catalogue.REASONS`; None: all but `cold`.
    Returns:
        A `Plan`; a reason that cannot look says so in its survey's `refused`.
    Raises:
        WrongType, UsageError: `pid` cannot be a pid, or there is no such reason.
        ProcessGone: no such process, or it ended meanwhile.
        NoAddressSpace: a kernel thread.
        NotPermitted: the process belongs to someone else.
    Kernel:
        /proc/PID/maps, pagemap, status, fd; process_vm_readv(2), which needs PTRACE_MODE_ATTACH.
    """
    names = in_order(reasons)
    with ProcessDirectory(pid) as process:
        began = perf_counter()
        identity = read_identity(process)
        subject = read_subject(process)
        require_memory(subject, identity)
        surveys = tuple(surveyed(name, subject) for name in names)
        return Plan(
            pid=process.pid,
            command=identity.command,
            started=identity.started,
            counters=subject.counters,
            surveys=surveys,
            cost_seconds=perf_counter() - began,
        )


def surveyed(name: str, subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """The survey of one reason; one that cannot look finds nothing, and says why."""
    reason = reason_named(name)
    if subject.is_self:
        from dontneed.reclaim.in_process import native_reason

        reason = native_reason(name) or reason
    try:
        found: Survey = reason.survey(subject, hint)
    except REFUSALS as refusal:
        return Survey(name, 0, Spans(), reason.WHY_SAFE, 0.0, 0.0, refused=(in_words(refusal),))
    return found


def in_words(refusal: Exception) -> str:
    """A refusal in one sentence, with what to try."""
    hint = getattr(refusal, "hint", "")
    return f"{refusal}; {hint}" if hint else str(refusal)


def require_memory(subject: Subject, identity: Identity) -> None:
    """A process without mappings is a kernel thread, or has ended.

    Raises:
        NoAddressSpace, ProcessGone.
    """
    if len(subject.table):
        return
    if identity.kernel_thread:
        msg = f"process {subject.pid} ({identity.command}) is a kernel thread: it has no memory of its own"
        raise NoAddressSpace(msg, hint="`ps -e` lists the processes there are")
    msg = f"process {subject.pid} ({identity.command}) has ended; only its entry is left"
    raise ProcessGone(msg)
