"""The results as tables: on a terminal, and in the documentation, between two marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comparing import FOUND, GIVEN_BACK, HELD, SECONDS
from dontneed.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

COLUMNS = ("of", "dontneed", "median", "beside", "median", "times as good", "promised", "kept")
_BEGIN, _END = "<!-- begin: python benchmarks/run.py --table -->", "<!-- end -->"

Row = tuple[str, ...]


def terminal_table(comparisons: Sequence[dict[str, Any]]) -> str:
    """Columns of equal width, under their names."""
    rows = [COLUMNS, *map(_row, comparisons)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def page_with_tables(page: str, results: dict[str, Any]) -> str:
    """The documentation page with the part between its marks made anew.

    Raises:
        ValueError: the page has no marks.
    """
    before, begin, rest = page.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        msg = f"the page has no {_BEGIN} … {_END} to put the tables in"
        raise ValueError(msg)
    return f"{before}{begin}\n\n{_markdown(results)}\n\n{end}{after}"


def _markdown(results: dict[str, Any]) -> str:
    comparisons = results["comparisons"]
    questions = dict.fromkeys(comparison["question"] for comparison in comparisons)
    sections = (
        f"## {question[0].upper()}{question[1:]}\n\n"
        + _markdown_table(map(_row, (each for each in comparisons if each["question"] == question)))
        for question in questions
    )
    return "\n\n".join((_conditions(results), *sections))


def _markdown_table(rows: Iterable[Row]) -> str:
    lines = (COLUMNS, ("---",) * len(COLUMNS), *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _conditions(results: dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    return (
        f"Linux {machine['kernel']} on {machine['architecture']} ({machine['processor']}, "
        f"{machine['processors']} processors, {format_bytes(machine['memory_bytes'])}, "
        f"transparent huge pages: {machine['huge_pages']}), Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f". Load when it began: {machine['load']}."
        + "".join(map(_later_run, results.get("later_runs", [])))
    )


def _later_run(run: dict[str, Any]) -> str:
    """What was measured at another time, and on what the machine was then."""
    machine, questions = run["machine"], "; ".join(run["questions"])
    how = "" if machine["scheduling"] == "ordinary" else f", {machine['scheduling']}, since others were at work"
    return f" In a later run (Python {machine['python']}, load {machine['load']}{how}): {questions}."


def _row(comparison: dict[str, Any]) -> Row:
    unit = comparison["unit"]
    return (
        comparison["case"],
        comparison["subject"],
        _amount(comparison["median"], unit),
        comparison["peer"],
        _amount(comparison["peer_median"], unit),
        f"{comparison['ratio']:.3g}",
        comparison["target"] or "",
        {None: "", True: "yes", False: "**no**"}[comparison["met"]],
    )


def _amount(value: float, unit: str) -> str:
    if unit == SECONDS:
        return format_seconds(value)
    if unit in {HELD, GIVEN_BACK, FOUND}:
        return format_bytes(round(value))
    return f"{value:.3g} {unit}"
