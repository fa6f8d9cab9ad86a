"""`release`: give back what a process does not need, by reason, and prove what became of every frame."""

from __future__ import annotations

import os

from dontneed.errors import UsageError
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.reasons.catalogue import in_order
from dontneed.reasons.survey import Limits
from dontneed.reclaim.order import Order
from dontneed.reclaim.witness import EVIDENCE
from dontneed.remote.helper import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.reclaim.receipt import ReleaseReceipt

_LONGEST_WATCH_SECONDS = 7 * 86_400


def release(
    pid: int | None = None,
    *,
    reasons: Iterable[str] | None = None,
    max_pause_seconds: float | None = None,
    watch_seconds: float = 0.0,
    evidence: str = "auto",
) -> ReleaseReceipt:
    """Give back what a process does not need. Acts through a short-lived helper process, or in its own by itself.

    Nothing that the process can read changes, but for memory that it has freed itself, or that it cannot reach. On any
    surprise the process is left as it was, and the receipt says why.

    Args:
        pid: a process id; None is the calling process.
        reasons: names, as `dontneed.reasons.catalogue.REASONS`; None: all but `cold`.
        max_pause_seconds: for which a thread may stand still at a stretch; more stops are made instead. None: as the
            reasons see fit, some tens of milliseconds.
        watch_seconds: wait this long before counting what was touched again; then it is in `refaulted`.
        evidence: `auto`: frames if the kernel shows them, else counters; `none`: do not look.
    Returns:
        A `ReleaseReceipt`, all amounts in bytes; `exit_code` is not 0 if a reason failed.
    Raises:
        WrongType, UsageError: an argument cannot be.
        ProcessGone: no such process, or it ended meanwhile.
        NoAddressSpace, NotPermitted, TargetRefused: nothing could be done at all.
    Kernel:
        ptrace(2) with PTRACE_SEIZE, since 3.4; process_madvise(2) since 5.10; x86-64.
    """
    names = in_order(reasons)
    with ProcessDirectory(pid) as process:
        order = Order(
            pid=process.pid,
            started=read_identity(process).started,
            reasons=names,
            hints={},
            limits=Limits(max_pause_seconds),
            watch_seconds=watch_seconds,
            evidence=evidence,
        )
    return carried_out(order)


def carried_out(order: Order) -> ReleaseReceipt:
    """Have an order carried out: by ourselves, if it is about us and as far as we can; else by a helper process.

    Raises:
        As `release`.
    """
    _check(order)
    if order.pid == os.getpid():
        from dontneed.reclaim.in_process import carry_out_ourselves

        return carry_out_ourselves(order, _by_helper)
    return _by_helper(order)


def _by_helper(order: Order) -> ReleaseReceipt:
    receipt: ReleaseReceipt = ask("dontneed.reclaim.worker", order, order.pid)
    return receipt


def _check(order: Order) -> None:
    max_pause_seconds = order.limits.max_pause_seconds
    if max_pause_seconds is not None and not max_pause_seconds > 0:
        msg = f"a pause of at most {max_pause_seconds} seconds cannot be kept to"
        raise UsageError(msg, hint="a release stops threads for some hundred microseconds at least; try 0.005")
    if not 0 <= order.watch_seconds <= _LONGEST_WATCH_SECONDS:
        msg = f"a watch of {order.watch_seconds} seconds cannot be"
        raise UsageError(msg, hint="give the seconds after which what was touched again is counted; 0 does not wait")
    if order.evidence not in EVIDENCE:
        msg = f"there is no evidence {order.evidence!r}"
        raise UsageError(msg, hint=f"one of {', '.join(EVIDENCE)}")
