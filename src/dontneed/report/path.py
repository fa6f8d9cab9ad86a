"""The way through the kernel, as `--explain` prints it: calls indented by depth, and the raw entries that were met."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from dontneed.abi.page_entry import TableEntry
    from dontneed.model.path import Stage

_INDENT = "  "


def path_lines(stages: Iterable[Stage]) -> Iterator[str]:
    """The lines of a way through the kernel."""
    for stage in stages:
        indent = _INDENT * stage.depth
        yield f"{indent}{stage.function}{': ' if stage.function and stage.what else ''}{stage.what}"
        for entry in stage.entries:
            yield f"{indent}{_INDENT}{entry_line(entry)}"


def entry_line(entry: TableEntry) -> str:
    """An entry of a page table: where, its bits, what they say."""
    frame = "" if entry.frame is None else f", frame {entry.frame:#x}"
    return f"{entry.table}[{entry.index}] {entry.raw:#018x}  {' '.join(entry.flags)}{frame}"


def stage_document(stage: Stage) -> dict[str, Any]:
    """A step of the way as an object for JSON."""
    return {
        "depth": stage.depth,
        "function": stage.function or None,
        "what": stage.what,
        "entries": [entry.as_dict() for entry in stage.entries],
    }
