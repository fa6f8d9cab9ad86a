"""A working set: as text, mapping by mapping, with what the method misses; and as JSON."""

from __future__ import annotations

from dontneed.report.table import format_table, printable
from dontneed.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dontneed.observe.working_set import MappingUse, WorkingSet

_UNKNOWN = "?"
_BOUNDING = ("tables", "smaps")
"""Methods that change nothing, and of a process that has touched all it holds can tell little."""
_TOTALS = ("rss_bytes", "touched_bytes", "at_most_bytes", "written_bytes")


def format_working_set(found: WorkingSet, top: int) -> list[str]:
    """The lines of a working set.

    Args:
        found: what `working_set` returned.
        top: how many mappings to show, those first that are used most; 0 for all.
    """
    used = _largest(found, 0)
    shown = used[:top] if top else used
    lines = [_headline(found), "", *_table(shown, found)]
    if len(shown) < len(used):
        rest = sum(use.touched_bytes for use in used[len(shown) :])
        lines.append(f"… {len(used) - len(shown)} more mappings, with {format_bytes(rest)} used (--top 0 shows all)")
    changed = "disturbed, see below" if found.disturbed else "nothing of it was changed"
    faults = f"{found.minor_faults:,} minor and {found.major_faults:,} major faults meanwhile"
    return [
        *lines,
        "",
        f"method {found.method}: {found.source}; {changed}; {faults}",
        f"known error: {found.known_error}",
        *(f"note: {note}" for note in _notes(found)),
    ]


def working_set_document(found: WorkingSet, top: int) -> dict[str, Any]:
    """A working set as an object for JSON: all mappings in address order, or the first ones of those used most."""
    document = found.as_dict()
    del document["mappings"]
    return {
        **document,
        "total": {name: getattr(found, name) for name in _TOTALS},
        "mappings": _largest(found, top) if top else list(found.mappings),
    }


def _headline(found: WorkingSet) -> str:
    parts = [f"{format_bytes(found.touched_bytes)} used at least"]
    if found.method == "written":
        parts = [f"{format_bytes(found.touched_bytes)} written to"]
    elif found.at_most_bytes is not None:
        parts.append(f"{format_bytes(found.at_most_bytes)} at most")
    name = f"{printable(found.command)} (pid {found.pid})"
    return f"{name}: {', '.join(parts)}, of {format_bytes(found.rss_bytes)}, in {format_seconds(found.seconds)}"


def _largest(found: WorkingSet, top: int) -> list[MappingUse]:
    """Those first of which most is used; the first so many, or all."""
    order = sorted(found.mappings, key=lambda use: (-use.touched_bytes, -(use.at_most_bytes or 0), -use.rss_bytes))
    return order[:top] if top else order


def _table(uses: Sequence[MappingUse], found: WorkingSet) -> list[str]:
    columns: list[tuple[str, list[str]]] = [
        ("USED", [format_bytes(use.touched_bytes) for use in uses]),
        ("AT MOST", [_amount(use.at_most_bytes) for use in uses]),
    ]
    written = [_amount(use.written_bytes) for use in uses]
    if found.method == "written":
        columns = [("WRITTEN", written)]
    elif found.written_bytes:
        columns.append(("WRITTEN AT LEAST", written))
    columns += [
        ("RSS", [format_bytes(use.rss_bytes) for use in uses]),
        ("PERMS", [use.perms for use in uses]),
        ("KIND", [use.kind for use in uses]),
        ("ADDRESS", [f"{use.start:x}" for use in uses]),
        ("NAME", [printable(use.name) for use in uses]),
    ]
    titles = [title for title, _ in columns]
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    return format_table(titles, rows, left=range(len(titles) - 4, len(titles)))


def _amount(count: int | None) -> str:
    return _UNKNOWN if count is None else format_bytes(count)


def _notes(found: WorkingSet) -> list[str]:
    notes = list(found.notes)
    if found.method in _BOUNDING and (found.at_most_bytes or 0) - found.touched_bytes > found.rss_bytes // 2:
        notes.append(f"that the two lie far apart is in the nature of {found.method}: --method accessed knows better")
    if found.gone_bytes:
        notes.append(f"{format_bytes(found.gone_bytes)} more were used, and unmapped before the end")
    return notes
