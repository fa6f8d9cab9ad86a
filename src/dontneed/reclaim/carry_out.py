"""The releasing itself, reason by reason: survey, witness, act, witness. Runs in the helper process."""

from __future__ import annotations

import time
import traceback
from contextlib import ExitStack

from dontneed.abi.advice import Advice
from dontneed.errors import DontneedError, ProcessGone
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_counters, read_identity
from dontneed.observe.subject import read_subject
from dontneed.reasons.buffer import Part
from dontneed.reasons.catalogue import reason_named
from dontneed.reclaim.receipt import ReasonReceipt, ReleaseReceipt
from dontneed.reclaim.verdict import Outcome
from dontneed.reclaim.witness import Witness
from dontneed.remote.refusals import why_not_inside
from dontneed.spans import Span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from dontneed.reasons.survey import Released, Survey
    from dontneed.reclaim.order import Order

_FAILED = 1
_GLANCE_SECONDS = 0.2


def carry_out(
    order: Order,
    is_cancelled: Callable[[], bool],
    *,
    named: Callable[[str], Any] | None = None,
    wait: Callable[[float], None] | None = None,
) -> ReleaseReceipt:
    """Carry an order out; its receipt.

    Args:
        order: what to do.
        is_cancelled: asked before every reason: whether the caller has lost interest.
        named: what has survey() and release() of a reason, by its name; None: the modules of the catalogue.
        wait: returns when what was given up has been watched for so many seconds; None: sleeps, unless cancelled.
    Raises:
        ProcessGone: it ended, or the pid is another process now.
        NotPermitted, NoAddressSpace: it cannot be looked at at all.
    """
    with ProcessDirectory(order.pid) as process, ExitStack() as witnesses:
        identity = read_identity(process)
        order.require_same(identity)
        read_subject(process)  # raises, if there is nothing to act upon
        began = time.perf_counter()
        before = read_counters(process)
        turns: list[_Turn] = []
        for name in order.reasons:
            if is_cancelled():
                break
            turns.append(_Turn(name, named or reason_named, witnesses.enter_context(Witness(process, order.evidence))))
            turns[-1].act(process, order)
            if turns[-1].surprised:
                break
        after = read_counters(process)
        cost_seconds = time.perf_counter() - began
        if order.watch_seconds:
            (wait or _wait_unless(is_cancelled))(order.watch_seconds)
            _count_refaults(process, turns)
        return ReleaseReceipt(
            pid=order.pid,
            command=identity.command,
            before=before,
            after=after,
            reasons=tuple(turn.receipt() for turn in turns),
            evidence=turns[0].witness.evidence if turns else "none",
            cost_seconds=cost_seconds,
            not_begun=order.reasons[len(turns) :],
            notes=turns[0].witness.notes if turns else (),
        )


def _wait_unless(is_cancelled: Callable[[], bool]) -> Callable[[float], None]:
    """Sleep, but not on when nobody waits for it."""

    def wait(seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not is_cancelled():
            time.sleep(min(left, _GLANCE_SECONDS))

    return wait


def _count_refaults(process: ProcessDirectory, turns: list[_Turn]) -> None:
    """Let every turn count what was touched again. A process that has ended touches nothing."""
    try:
        for turn in turns:
            turn.refaulted = turn.witness.refaulted_bytes()
    except ProcessGone:
        turns[-1].notes += (f"process {process.pid} ended while it was watched",)


class _Turn:
    """One reason's turn: what it found, did, and what came of it."""

    def __init__(self, name: str, named: Callable[[str], Any], witness: Witness) -> None:
        self._name = name
        self._named = named
        self.witness = witness
        self.refaulted = 0
        self.notes: tuple[str, ...] = ()
        self.surprised = False
        self._found: Survey | None = None
        self._released: Released | None = None
        self._outcome = Outcome()
        self._failed = self._refused = ""
        self._exit_code = 0
        self._cost_seconds = 0.0

    def act(self, process: ProcessDirectory, order: Order) -> None:
        """Survey, see, release, judge. What fails is told in the receipt.

        Raises:
            ProcessGone: there is nobody left to act upon.
        """
        began = time.perf_counter()
        try:
            self._act(process, order)
        except ProcessGone:
            raise
        except DontneedError as refusal:
            self._failed, self._exit_code = refusal.in_words, refusal.exit_code
        except Exception as surprise:  # noqa: BLE001 - whatever it is: stop here, and say it
            self.surprised = True
            where = traceback.extract_tb(surprise.__traceback__)[-1]
            self._failed = f"unexpected {type(surprise).__name__} in {where.name}: {surprise}"
            self._exit_code = _FAILED
        self._cost_seconds = time.perf_counter() - began

    def _act(self, process: ProcessDirectory, order: Order) -> None:
        reason = self._named(self._name)
        self._refused = why_not_inside(process) if reason.ACTS_INSIDE else ""
        if self._refused:
            return
        subject = read_subject(process)
        found: Survey = reason.survey(subject, order.hints.get(self._name))
        self._found = found
        self.notes += found.refused
        if not found.releasable_bytes and found.watched is None:
            return
        self.witness.see_within(_part_of(self._name), found.spans if found.watched is None else found.watched)
        before = read_counters(process)
        try:
            self._released = reason.release(subject, found, order.limits)
            self.notes += self._released.notes
        finally:  # what was given up before a failure came back all the same
            fell = before.rss_bytes - read_counters(process).rss_bytes
            self._outcome = self.witness.judge(fell, None if self._released is None else self._released.spans)

    def receipt(self) -> ReasonReceipt:
        """What is to be told of it."""
        pauses = self._released.pauses if self._released is not None else ()
        return ReasonReceipt(
            **self._outcome.replace(refaulted=self.refaulted).as_dict(),
            reason=self._name,
            asked=self._found.releasable_bytes if self._found is not None else 0,
            advised=self._released.advised if self._released is not None else 0,
            pause_seconds=max(pauses, default=0.0),
            stops=len(pauses),
            cost_seconds=self._cost_seconds,
            notes=self.notes,
            refused=self._refused,
            failed=self._failed,
            exit_code=self._exit_code,
        )


def _part_of(reason: str) -> Part:
    """What the witness has to know of a reason's pages; their addresses it is given apart."""
    if reason == "clean-file":
        return Part(Span(0, 0), "file", shared=False, advice=Advice.PAGEOUT)
    return Part(Span(0, 0), "anonymous", shared=False, advice=Advice.DONTNEED)
