"""The way through the kernel, as `--explain` prints it: calls indented by depth, and the raw entries that were met."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from dontneed.abi.page_entry import TableEntry
    from dontneed.model.views.descent import Stage

_INDENT = "  "
_CALLS_A_LINE = 3


def path_lines(stages: Iterable[Stage]) -> Iterator[str]:
    """The lines of a way through the kernel; calls of which there is nothing to say share one with the next."""
    above: list[tuple[int, int]] = []  # each call on the way here: its depth, and that of its line
    calls: list[str] = []
    shown = 0
    for stage in stages:
        if not calls:
            while above and above[-1][0] >= stage.depth:
                above.pop()
            shown = above[-1][1] + 1 if above else 0
        above.append((stage.depth, shown))
        calls += [stage.function] if stage.function else []
        if stage.function and not stage.what and not stage.entries and not stage.outcome and len(calls) < _CALLS_A_LINE:
            continue
        yield from _stage_lines(stage, " → ".join(calls), _INDENT * shown)
        calls = []
    if calls:
        yield _INDENT * shown + " → ".join(calls)


def _stage_lines(stage: Stage, calls: str, indent: str) -> Iterator[str]:
    line = ": ".join(filter(None, (calls, stage.what)))
    if stage.function or stage.entries or not stage.outcome:
        yield f"{indent}{line}"
    else:
        yield f"{indent}{line}: {stage.outcome}"
    for entry in stage.entries:
        yield f"{indent}{_INDENT}{entry_line(entry)}"
    if stage.outcome and (stage.function or stage.entries):
        yield f"{indent}{_INDENT}→ {stage.outcome}"


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
        "outcome": stage.outcome or None,
    }
