"""A run of an experiment: what was done and seen, step by step, and which of its claims hold; as text and as JSON.

As text it reads like a session in a terminal: the call, then `pmap -x`, of which the rows of the experiment's own
memory are shown and the others are counted.
"""

from __future__ import annotations

from dontneed.records import Record
from dontneed.report.path import path_lines, stage_document
from dontneed.report.pmap import HEADER, format_pmap_row, format_pmap_total
from dontneed.units import KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from dontneed.model.views.descent import Stage
    from dontneed.report.pmap import PmapRow

_ASCII = str.maketrans({"✓": "+", "✗": "-", "→": "->", "←": "<-", "…": "...", "≠": "!", "×": "x"})
_INDENT = "   "
_FACTS = {
    "swap_bytes": "swap",
    "locked_bytes": "locked",
    "huge_bytes": "huge pages",
    "hugetlb_bytes": "hugetlb",
    "minor_faults": "minor faults",
    "major_faults": "major faults",
    "present_pages": "pages present",
    "frames": "frames",
    "rss_bytes": "VmRSS",
    "page_table_bytes": "VmPTE",
}


class Claim(Record):
    """Something that an experiment says will be so; expected and observed in the same words."""

    text: str
    expected: str
    observed: str

    @property
    def holds(self) -> bool:
        """Whether what was observed is what was expected."""
        return self.expected == self.observed


class Step(Record):
    """Something done, and what was seen after it.

    Attributes:
        title: what it is about.
        code: the calls, as C.
        python: the calls, as Python.
        pmap: the rows of `pmap -x` afterwards.
        regions: for each row, the name of the experiment's region that it belongs to, or nothing.
        facts: numbers that pmap does not show, by name; bytes where the name says so.
        path: the way of the discards in it through the kernel, where that was asked for and is known.
    """

    title: str
    code: str
    python: str
    pmap: tuple[PmapRow, ...]
    regions: tuple[str, ...]
    facts: dict[str, int]
    path: tuple[Stage, ...] = ()


class Run(Record):
    """An experiment that was run, or skipped.

    Attributes:
        experiment, question: its name, and what it asks.
        machine, kernel: what it ran on, and the release of the kernel there.
        note: how far that kernel is to be believed; empty: it ran.
        steps, claims: what was done, and what came of it.
        outcomes: what zapping leads to on that kernel, entry by entry, where the way was asked for.
        skipped: why the machine or this user could not do it; None: it was done.
    """

    experiment: str
    question: str
    machine: str
    kernel: str
    note: str = ""
    steps: tuple[Step, ...] = ()
    claims: tuple[Claim, ...] = ()
    outcomes: tuple[tuple[str, str], ...] = ()
    skipped: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it was done, claimed something, and all of it holds."""
        return self.skipped is None and bool(self.claims) and all(claim.holds for claim in self.claims)

    @property
    def where(self) -> str:
        """What it ran on, in words that say how far to believe it."""
        return f"Linux {self.kernel} ({self.note or self.machine})"

    @property
    def verdict(self) -> str:
        """What it comes to, in one sentence."""
        where = f"on {self.where}"
        if self.skipped is not None:
            return f"Skipped {where}: {self.skipped}."
        if not self.claims:
            return f"Nothing was claimed {where}."
        failed = sum(not claim.holds for claim in self.claims)
        if not failed:
            return f"{'The claim holds' if len(self.claims) == 1 else f'All {len(self.claims)} claims hold'} {where}."
        return f"{failed} of {len(self.claims)} claims {'does' if failed == 1 else 'do'} not hold {where}."


def format_run(run: Run, *, ascii_only: bool = False) -> list[str]:
    """The lines of a run's transcript.

    Args:
        run: finished or skipped.
        ascii_only: for a terminal that can print nothing else.
    """
    return [in_ascii(line) if ascii_only else line for line in _lines(run)]


def in_ascii(line: str) -> str:
    """A line without the marks that an ASCII terminal cannot print."""
    return line.translate(_ASCII)


def run_document(run: Run) -> dict[str, Any]:
    """A run as an object for JSON: sizes in bytes, addresses as integers."""
    return {
        "experiment": run.experiment,
        "question": run.question,
        "machine": run.machine,
        "kernel": run.kernel,
        "note": run.note or None,
        "steps": [_step_document(step) for step in run.steps],
        "claims": [
            {"text": claim.text, "holds": claim.holds, "expected": claim.expected, "observed": claim.observed}
            for claim in run.claims
        ],
        **({"outcomes": dict(run.outcomes)} if run.outcomes else {}),
        "passed": run.passed,
        "skipped": run.skipped,
    }


def _step_document(step: Step) -> dict[str, Any]:
    rows = [
        {
            "address": row.address,
            "size_bytes": row.kbytes * KIB,
            "rss_bytes": row.rss_kbytes * KIB,
            "dirty_bytes": row.dirty_kbytes * KIB,
            "mode": row.mode,
            "mapping": row.mapping,
            "region": region or None,
        }
        for row, region in zip(step.pmap, step.regions, strict=True)
    ]
    document = {"title": step.title, "code": step.code, "pmap": rows, "facts": step.facts}
    if step.path:
        document["path"] = [stage_document(stage) for stage in step.path]
    return document


def _lines(run: Run) -> Iterator[str]:
    yield f"{run.experiment}: {run.question}"
    yield f"On {run.where}."
    for number, step in enumerate(run.steps, 1):
        yield ""
        yield f"{number}. {step.title}"
        yield ""
        if step.code:
            yield from _indented(step.code.splitlines())
            yield ""
        if step.path:
            yield from _indented(path_lines(step.path))
            yield ""
        yield from _indented(_excerpt(step))
        yield ""
        yield from _indented([_fact_line(step.facts)])
    if run.outcomes:
        yield ""
        yield f"What zapping an entry leads to, on Linux {run.kernel}:"
        yield from _indented(f"{entry}: {outcome}" for entry, outcome in run.outcomes)
    if run.claims:
        yield ""
        yield from map(_claim_line, run.claims)
    yield ""
    yield run.verdict


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"{_INDENT}{line}" for line in lines)


def _excerpt(step: Step) -> Iterator[str]:
    """What `pmap -x` prints, with the rows that are not the experiment's in one line, counted."""
    yield HEADER
    others = []
    for row, region in zip(step.pmap, step.regions, strict=True):
        if region:
            yield f"{format_pmap_row(row)}   ← {region}"
        else:
            others.append(row)
    yield f"… {len(others)} other mappings, RSS {sum(row.rss_kbytes for row in others)} KiB"
    yield from format_pmap_total(step.pmap)


def _fact_line(facts: dict[str, int]) -> str:
    return ", ".join(
        f"{_FACTS[name]} {value // KIB} KiB" if name.endswith("_bytes") else f"{_FACTS[name]} {value}"
        for name, value in facts.items()
    )


def _claim_line(claim: Claim) -> str:
    if claim.holds:
        return f"✓ {claim.text}: {claim.observed}"
    return f"✗ {claim.text}: expected {claim.expected}, observed {claim.observed}"
