"""Columns of text: padded to the widest cell, numbers to the right."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Iterable[int] = ()) -> list[str]:
    """Lines of a table, the header first.

    Args:
        header: a title for each column.
        rows: the cells, as text.
        left: the numbers of the columns that are words, aligned to the left; the last one is never padded.
    """
    words = set(left)
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1
    template = "  ".join(
        "{}" if column == last and column in words else f"{{:{'<' if column in words else '>'}{width}}}"
        for column, width in enumerate(widths)
    )
    return [template.format(*line).rstrip() for line in lines]


def printable(name: str) -> str:
    """A name that came from outside, without control characters: a file's name may hold a terminal's commands."""
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else "?" for letter in name)
