"""The way to a page through the page tables: as text, entry by entry, and as JSON."""

from __future__ import annotations

from dontneed.report.path import entry_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from dontneed.abi.page_walk import WalkedEntry
    from dontneed.observe.tables.page_tables import Walk

_INDENT = "   "
_MEANING = "   = "
_SAME = "as before"


def format_walk(walk: Walk) -> list[str]:
    """The lines of a walk: each entry, and below it what it means."""
    entries = walk.entries
    frame = "no frame" if walk.frame is None else f"frame {walk.frame:#x}"
    head = f"process {walk.pid}, address {walk.address:x}, {walk.levels} levels of page tables: {frame}"
    return [head, "", *_entry_lines(entries, ())]


def walk_document(walk: Walk) -> dict[str, Any]:
    """A walk as an object for JSON."""
    return {
        "pid": walk.pid,
        "address": walk.address,
        "levels": walk.levels,
        "frame": walk.frame,
        "entries": [entry.as_dict() for entry in walk.entries],
    }


def format_moments(
    moments: Iterable[tuple[str, str, tuple[WalkedEntry, ...]]], head: str, notes: Iterable[str]
) -> list[str]:
    """The lines of walks one after the other; an entry that is as it was says so.

    Args:
        moments: of each what was done, the same in C, and the entries afterwards.
        head: on what.
        notes: what could not be done.
    """
    lines = [head]
    before: tuple[WalkedEntry, ...] = ()
    for number, (title, code, entries) in enumerate(moments, 1):
        lines += ["", f"{number}. {title}", "", f"{_INDENT}{code}", ""]
        lines += [f"{_INDENT}{line}" for line in _entry_lines(entries, before)]
        before = entries
    return [*lines, *(f"\nnot done: {note}" for note in notes)]


def _entry_lines(entries: tuple[WalkedEntry, ...], before: tuple[WalkedEntry, ...]) -> Iterator[str]:
    for nth, entry in enumerate(entries):
        if entries[: nth + 1] == before[: nth + 1]:
            yield f"{entry_line(entry)}  ({_SAME})"
        else:
            yield entry_line(entry)
            yield f"{_MEANING}{entry.meaning}"
