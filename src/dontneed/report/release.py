"""A plan, and the receipt of a release: as text for people and as documents for programs."""

from __future__ import annotations

from dontneed.report.table import format_table, printable
from dontneed.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from dontneed.reasons.survey import Survey
    from dontneed.reclaim.plan import Plan
    from dontneed.reclaim.receipt import ReasonReceipt, ReleaseReceipt

_AMOUNTS = ("advised", "freed", "deferred", "shared", "lazy", "cached", "refaulted")
_ALWAYS = ("advised", "freed")
_SHORT_SECONDS = 1e-3
_COLUMNS = 110
_PROOFS = {
    "frames": "every frame was looked up after it had gone",
    "counters": "freed is at most this: bounded by the process's counters; root can look up the frames",
    "none": "nobody looked what became of the pages",
}


def format_plan(plan: Plan) -> list[str]:
    """What could go from a process: a sentence, a row a reason, why each is safe, and what is refused."""
    could = format_bytes(plan.releasable_bytes)
    share = f" ({100 * plan.releasable_bytes / plan.rss_bytes:.0f} %)" if plan.rss_bytes else ""
    rows = [
        (
            format_bytes(survey.releasable_bytes),
            _roughly(survey.pause_seconds) if survey.releasable_bytes else "",
            _roughly(survey.cost_seconds) if survey.releasable_bytes else "",
            survey.reason,
        )
        for survey in plan.surveys
    ]
    return [
        f"{_who(plan)}: {format_bytes(plan.rss_bytes)} resident, {could}{share} could go",
        "",
        *format_table(("COULD GO", "PAUSE", "COST", "REASON"), rows, left=(3,)),
        "",
        *_wrapped(_explained(plan.surveys)),
        "",
        f"surveyed in {format_seconds(plan.cost_seconds)}; nothing was stopped, and nothing changed",
    ]


def format_release(receipt: ReleaseReceipt) -> list[str]:
    """What a process gave back: a sentence, a row a reason, what was left alone, and how it is known."""
    fell = f"{format_bytes(receipt.before.rss_bytes)} → {format_bytes(receipt.after.rss_bytes)}"
    words = [word for word in _AMOUNTS if word in _ALWAYS or any(getattr(each, word) for each in receipt.reasons)]
    rows = [
        (
            *(format_bytes(getattr(each, word)) for word in words),
            format_seconds(each.pause_seconds) if each.stops else "none",
            str(each.stops) if each.stops else "",
            each.reason,
        )
        for each in receipt.reasons
    ]
    header = (*map(str.upper, words), "PAUSE", "STOPS", "REASON")
    return [
        f"{_who(receipt)}: RSS {fell}; {format_bytes(receipt.freed)} freed",
        "",
        *format_table(header, rows, left=(len(header) - 1,)),
        "",
        *_wrapped(line for each in receipt.reasons for line in _remarks(each)),
        *_wrapped(f"{name}: not begun" for name in receipt.not_begun),
        *_wrapped(f"note: {note}" for note in receipt.notes),
        f"evidence: {receipt.evidence}: {_PROOFS[receipt.evidence]}; all took {format_seconds(receipt.cost_seconds)}",
    ]


def plan_document(plan: Plan) -> dict[str, Any]:
    """What `plan --json` says."""
    return {
        "pid": plan.pid,
        "command": plan.command,
        "rss_bytes": plan.rss_bytes,
        "releasable_bytes": plan.releasable_bytes,
        "cost_seconds": plan.cost_seconds,
        "reasons": [
            {
                "name": survey.reason,
                "bytes": survey.releasable_bytes,
                "cost_seconds": survey.cost_seconds,
                "pause_seconds": survey.pause_seconds,
                "why_safe": survey.why_safe,
                "refused": list(survey.refused),
            }
            for survey in plan.surveys
        ],
    }


def release_document(receipt: ReleaseReceipt) -> dict[str, Any]:
    """What `release --json` says: the receipt."""
    document = receipt.as_dict()
    document["reasons"] = [_reason_document(each) for each in receipt.reasons]
    return {**document, "freed": receipt.freed, "pause_seconds": receipt.pause_seconds}


def _reason_document(receipt: ReasonReceipt) -> dict[str, Any]:
    document = receipt.as_dict()
    return {"name": document.pop("reason"), **document}


def _who(whose: Plan | ReleaseReceipt) -> str:
    return f"{printable(whose.command)} (pid {whose.pid})"


def _roughly(seconds: float) -> str:
    """An estimate: no more digits than it deserves."""
    if not seconds:
        return "none"
    return format_seconds(float(f"{seconds:.1g}")) if seconds >= _SHORT_SECONDS else "< 1 ms"


def _wrapped(lines: Iterable[str]) -> Iterator[str]:
    """Sentences on lines that fit a terminal, each behind its reason."""
    from textwrap import wrap

    for line in lines:
        yield from wrap(line, _COLUMNS, subsequent_indent="  ")


def _explained(surveys: tuple[Survey, ...]) -> Iterator[str]:
    """Why what could go is safe to go, and what is refused."""
    for survey in surveys:
        if survey.releasable_bytes:
            yield f"{survey.reason}: {survey.why_safe}"
        yield from (f"{survey.reason}: refused: {printable(refused)}" for refused in survey.refused)


def _remarks(receipt: ReasonReceipt) -> Iterator[str]:
    """What else there is to say of one reason."""
    if receipt.refused:
        yield f"{receipt.reason}: refused: {printable(receipt.refused)}"
    if receipt.failed:
        yield f"{receipt.reason}: failed: {printable(receipt.failed)}"
    yield from (f"{receipt.reason}: {printable(note)}" for note in receipt.notes)
