"""An experiment on several machines, side by side, as text and as JSON; what differs is marked, with since when."""

from __future__ import annotations

from dontneed.records import Record
from dontneed.report.transcript import in_ascii

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

NO_CLAIM = "not claimed"
"""What is said of a claim that a run does not make: its machine cannot get there, or knows nothing of it."""
SKIPPED = "skipped"
"""What is said of every claim where the experiment was not done; that is no difference."""


class Change(Record):
    """Where an observation changes.

    Attributes:
        since: the first version with the new observation.
        observed: the new one.
        what: what changed in the kernel at that version, as the table of versions says; empty: nothing it names.
    """

    since: str
    observed: str
    what: tuple[str, ...]


class Row(Record):
    """A claim, side by side.

    Attributes:
        text: the claim.
        observed: by machine, in their order.
        holds: by machine, whether its claim holds; None where it makes none.
        changes: since when what the model observes is otherwise; none where all machines observe the same.
    """

    text: str
    observed: tuple[str, ...]
    holds: tuple[bool | None, ...]
    changes: tuple[Change, ...]

    @property
    def differs(self) -> bool:
        """Whether the machines disagree."""
        return len({*self.observed} - {SKIPPED}) > 1


class Comparison(Record):
    """An experiment on several machines.

    Attributes:
        experiment, question: its name, and what it asks.
        machines: their names.
        where: what each is, in words that say how far to believe it.
        skipped: by machine, why it was not done there; None: it was.
        rows: claim by claim.
    """

    experiment: str
    question: str
    machines: tuple[str, ...]
    where: tuple[str, ...]
    skipped: tuple[str | None, ...]
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every claim holds on every machine that did the experiment."""
        return all(holds is not False for row in self.rows for holds in row.holds)


_SAME, _DIFFERENT = " ", "≠"
_FAILED = " ✗"


def format_comparison(comparison: Comparison, *, ascii_only: bool = False) -> list[str]:
    """The lines of a comparison.

    Args:
        comparison: finished.
        ascii_only: for a terminal that can print nothing else.
    """
    lines = list(_lines(comparison))
    return [in_ascii(line) for line in lines] if ascii_only else lines


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """A comparison as an object for JSON."""
    machines = zip(comparison.machines, comparison.where, comparison.skipped, strict=True)
    return {
        "experiment": comparison.experiment,
        "question": comparison.question,
        "machines": [{"name": name, "where": where, "skipped": skipped} for name, where, skipped in machines],
        "claims": [_row_document(comparison, row) for row in comparison.rows],
        "passed": comparison.passed,
    }


def _row_document(comparison: Comparison, row: Row) -> dict[str, Any]:
    return {
        "text": row.text,
        "differs": row.differs,
        "observed": dict(zip(comparison.machines, row.observed, strict=True)),
        "holds": dict(zip(comparison.machines, row.holds, strict=True)),
        "changes": [change.as_dict() for change in row.changes],
    }


def _lines(comparison: Comparison) -> Iterator[str]:
    yield f"{comparison.experiment}: {comparison.question}"
    for name, where, skipped in zip(comparison.machines, comparison.where, comparison.skipped, strict=True):
        yield f"{name}: {where}" + (f", skipped: {skipped}" if skipped else "")
    yield ""
    cells = [["", *comparison.machines], *([row.text, *_observations(row)] for row in comparison.rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    yield _line(_SAME, cells[0], widths)
    for row, line in zip(comparison.rows, cells[1:], strict=True):
        yield _line(_DIFFERENT if row.differs else _SAME, line, widths)
        for change in row.changes:
            why = f" ({'; '.join(change.what)})" if change.what else ""
            yield f"    since {change.since}: {change.observed}{why}"
    yield ""
    yield _verdict(comparison)


def _observations(row: Row) -> list[str]:
    return [
        observed + (_FAILED if holds is False else "") for observed, holds in zip(row.observed, row.holds, strict=True)
    ]


def _line(mark: str, cells: list[str], widths: list[int]) -> str:
    return f"{mark} {'  '.join(f'{cell:{width}}' for cell, width in zip(cells, widths, strict=True))}".rstrip()


def _verdict(comparison: Comparison) -> str:
    different = sum(row.differs for row in comparison.rows)
    failed = sum(holds is False for row in comparison.rows for holds in row.holds)
    said = "All machines agree" if not different else f"{different} of {len(comparison.rows)} observations differ"
    return f"{said}; {'every claim holds' if not failed else f'{failed} claims do not hold (✗)'}."
