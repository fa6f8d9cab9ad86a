"""`plan`: what could go from a process, by reason, why that is safe, and what it costs. Changes nothing."""

from __future__ import annotations

import os
from time import perf_counter

from dontneed.errors import KernelLacks, NotPermitted, TargetRefused, Unreadable
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.observe.subject import read_subject
from dontneed.reasons.catalogue import in_order, reason_named
from dontneed.reasons.survey import Survey
from dontneed.records import Record
from dontneed.remote.refusals import why_not_inside
from dontneed.spans import Spans
from dontneed.units import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from dontneed.kernel.status import Counters
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

    def __str__(self) -> str:
        """One sentence: how much could go, and by which reasons."""
        parts = [
            f"{each.reason} {format_bytes(each.releasable_bytes)}" for each in self.surveys if each.releasable_bytes
        ]
        could = f"{format_bytes(self.releasable_bytes)} of {format_bytes(self.rss_bytes)} could go"
        return f"{could}: {', '.join(parts)}" if parts else could

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
        from dontneed.reclaim.order import Order
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
        # Imported before the subject is read: of the calling process, that is part of what is surveyed.
        modules = [_module(name, process) for name in names]
        subject = read_subject(process)
        surveys = tuple(_surveyed(module, read_subject(process) if subject.is_self else subject) for module in modules)
        return Plan(
            pid=process.pid,
            command=identity.command,
            started=identity.started,
            counters=subject.counters,
            surveys=surveys,
            cost_seconds=perf_counter() - began,
        )


def _module(name: str, process: ProcessDirectory) -> ModuleType:
    """What surveys a reason: for the calling process the native part, where it is and has something to do with it."""
    if process.pid == os.getpid():
        from dontneed.reclaim.in_process import native_reason

        return native_reason(name) or reason_named(name)
    return reason_named(name)


def _surveyed(reason: ModuleType, subject: Subject) -> Survey:
    """The survey of one reason; one that cannot look, or not act, finds nothing and says why."""
    try:
        refused = why_not_inside(subject.process) if reason.ACTS_INSIDE else ""
        found: Survey | None = None if refused else reason.survey(subject, None)
    except REFUSALS as refusal:
        found, refused = None, refusal.in_words
    if found is not None:
        return found
    return Survey(reason.NAME, 0, Spans(), reason.WHY_SAFE, 0.0, 0.0, refused=(refused,))
