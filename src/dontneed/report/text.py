"""Results for people: an address space, a difference, a receipt, as lines of text."""

from __future__ import annotations

from dontneed.report.table import format_table, printable
from dontneed.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dontneed.observe.address_space import AddressSpace
    from dontneed.observe.difference import Difference
    from dontneed.observe.mapping import Mapping
    from dontneed.reclaim.receipt import Receipt

SORT_KEYS: dict[str, Callable[[Mapping], int]] = {
    "rss": lambda mapping: -mapping.rss_bytes,
    "swap": lambda mapping: -mapping.swap_bytes,
    "size": lambda mapping: -mapping.size_bytes,
    "address": lambda mapping: mapping.start,
}
"""What the mappings of a table can be ordered by; amounts largest first."""

_WORDS = ("KIND", "PERMS", "ADDRESS", "NAME")


def format_address_space(space: AddressSpace, *, sort: str = "rss", top: int = 20) -> list[str]:
    """Who holds the memory of a process: a sentence, the kinds, the mappings, and how it was read.

    Args:
        space: what `look` returned.
        sort: one of `SORT_KEYS`.
        top: how many mappings to show; 0 for all.
    """
    shown = _ordered(space, sort, top)
    lines = [_headline(space), "", *_kind_lines(space), "", *_mapping_lines(shown)]
    hidden = len(space.mappings) - len(shown)
    if hidden:
        rest = space.total.rss_bytes - sum(mapping.rss_bytes for mapping in shown)
        lines.append(f"… {hidden} more mappings hold {format_bytes(rest)} (--top 0 shows all)")
    return [*lines, "", _method_line(space), *(f"note: {note}" for note in space.notes)]


def format_difference(difference: Difference) -> list[str]:
    """What changed between two looks: counters, mappings come and gone, mappings changed."""
    lines = [
        f"{_words(field):<14} {_signed(field, value)}"
        for field, value in difference.counters.as_dict().items()
        if value
    ]
    changes = [
        *(("gone", each, (-each.rss_bytes, -each.size_bytes, -each.swap_bytes)) for each in difference.gone),
        *(("come", each, (each.rss_bytes, each.size_bytes, each.swap_bytes)) for each in difference.come),
        *(("changed", each.after, (each.rss_bytes, each.size_bytes, each.swap_bytes)) for each in difference.changed),
    ]
    if not changes:
        return [*lines, "no mapping came, went or changed"]
    swapped = any(swap for _, _, (_, _, swap) in changes)
    amounts = ("RSS", "SIZE", "SWAP") if swapped else ("RSS", "SIZE")
    rows = [
        (*map(_plus, change[: len(amounts)]), what, mapping.kind, f"{mapping.start:x}", printable(mapping.name))
        for what, mapping, change in sorted(changes, key=lambda change: -abs(change[2][0]))
    ]
    words = range(len(amounts), len(amounts) + 4)
    table = format_table((*amounts, "", "KIND", "ADDRESS", "NAME"), rows, left=words)
    return [*lines, "", *table] if lines else table


def format_receipt(receipt: Receipt) -> list[str]:
    """What became of memory that was given up, in the words of the receipt."""
    amounts = (
        ("asked", receipt.asked, "the buffer"),
        ("advised", receipt.advised, "its whole pages, accepted by the kernel"),
        ("freed", receipt.freed, _PROOFS[receipt.evidence]),
        ("deferred", receipt.deferred, "still held by the kernel: inside a huge page, in a queue, or pinned"),
        ("shared", receipt.shared, "still mapped by another process, or elsewhere in this one"),
        ("lazy", receipt.lazy, "taken when the kernel needs memory"),
        ("cached", receipt.cached, "stays in the page cache"),
        ("refaulted", receipt.refaulted, "touched again, or taken back by khugepaged"),
    )
    rows = [
        (word, format_bytes(amount), meaning)
        for word, amount, meaning in amounts
        if amount or word in ("asked", "advised", "freed")
    ]
    drop = f"{format_bytes(receipt.before.rss_bytes)} → {format_bytes(receipt.after.rss_bytes)}"
    rows.append(("RSS", drop, "of the whole process, before and after"))
    pause = f"paused {format_seconds(receipt.pause_seconds)}, {format_seconds(receipt.cost_seconds)} with the evidence"
    return [*format_table(("", "", ""), rows, left=(0, 2))[1:], pause, *(f"note: {note}" for note in receipt.notes)]


_PROOFS = {
    "frames": "proven: every frame was looked up afterwards",
    "counters": "at most: bounded by counters (root can look up the frames)",
    "none": "nobody looked",
}


def _headline(space: AddressSpace) -> str:
    total = space.total
    parts = [f"{format_bytes(total.rss_bytes)} resident"]
    if total.swap_bytes:
        parts.append(f"{format_bytes(total.swap_bytes)} swapped out")
    if total.hugetlb_bytes:
        parts.append(f"{format_bytes(total.hugetlb_bytes)} in hugetlb pages")
    if total.pss_bytes is not None:
        parts.append(f"{format_bytes(total.pss_bytes)} PSS, {format_bytes(total.uss_bytes or 0)} its own (USS)")
    where = f"{len(space.mappings)} mappings of {format_bytes(total.size_bytes)}"
    return f"{printable(space.command)} (pid {space.pid}): {', '.join(parts)}; {where}"


def _kind_lines(space: AddressSpace) -> list[str]:
    """A line for each kind of memory that has anything, the largest first."""
    count: dict[str, int] = {}
    size: dict[str, int] = {}
    rss: dict[str, int] = {}
    mappings = space.mappings
    for kind, size_bytes, rss_bytes in zip(mappings.kinds, mappings.sizes, mappings.rss, strict=True):
        count[kind] = count.get(kind, 0) + 1
        size[kind] = size.get(kind, 0) + size_bytes
        rss[kind] = rss.get(kind, 0) + rss_bytes
    rows = [
        (format_bytes(rss[kind]), format_bytes(size[kind]), str(count[kind]), kind)
        for kind in sorted(count, key=lambda kind: (-rss[kind], -size[kind]))
    ]
    return format_table(("RSS", "SIZE", "MAPPINGS", "KIND"), rows, left=(3,))


def _ordered(space: AddressSpace, sort: str, top: int) -> list[Mapping]:
    """The mappings to show; by columns where the order is one, so that only the shown rows are made."""
    mappings = space.mappings
    columns = {"rss": mappings.rss, "swap": mappings.swap, "size": mappings.sizes}
    rows: Sequence[int] = range(len(mappings))
    if column := columns.get(sort):
        rows = sorted(rows, key=column.__getitem__, reverse=True)
    return [mappings[row] for row in (rows[:top] if top else rows)]


def _mapping_lines(mappings: Sequence[Mapping]) -> list[str]:
    """The table of mappings; a column that is empty everywhere is left out."""
    columns: list[tuple[str, list[str]]] = [
        ("RSS", [format_bytes(mapping.rss_bytes) for mapping in mappings]),
        ("SIZE", [format_bytes(mapping.size_bytes) for mapping in mappings]),
    ]
    for title, amounts in _optional_columns(mappings):
        if any(amounts):
            columns.append((title, [format_bytes(amount) for amount in amounts]))
    columns += [
        ("PERMS", [mapping.perms for mapping in mappings]),
        ("KIND", [mapping.kind for mapping in mappings]),
        ("ADDRESS", [f"{mapping.start:x}" for mapping in mappings]),
        ("NAME", [printable(mapping.name) for mapping in mappings]),
    ]
    titles = [title for title, _ in columns]
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    return format_table(titles, rows, left=(titles.index(word) for word in _WORDS))


def _optional_columns(mappings: Sequence[Mapping]) -> list[tuple[str, list[int]]]:
    columns = [
        ("SWAP", [mapping.swap_bytes for mapping in mappings]),
        ("HUGE", [mapping.huge_bytes or 0 for mapping in mappings]),
        ("ZERO", [mapping.zero_bytes or 0 for mapping in mappings]),
        ("HUGETLB", [mapping.hugetlb_bytes for mapping in mappings]),
        ("ACCESSED", [mapping.accessed_bytes or 0 for mapping in mappings]),
        ("DIRTY", [mapping.dirty_bytes or 0 for mapping in mappings]),
    ]
    smaps = [mapping.smaps for mapping in mappings if mapping.smaps]
    if smaps:
        columns += [
            ("PSS", [counters.pss_bytes for counters in smaps]),
            ("REFERENCED", [counters.referenced_bytes for counters in smaps]),
            ("LAZY", [counters.lazyfree_bytes for counters in smaps]),
            ("LOCKED", [counters.locked_bytes for counters in smaps]),
        ]
    return columns


def _method_line(space: AddressSpace) -> str:
    drift = space.drift
    moves = []
    if drift.rss_bytes:
        moves.append(f"its RSS moved by {_plus(drift.rss_bytes)}")
    if drift.size_bytes:
        moves.append(f"its size moved by {_plus(drift.size_bytes)}")
    if drift.unmatched_bytes:
        moves.append(f"{format_bytes(drift.unmatched_bytes)} were found in no mapping")
    moved = f"meanwhile {' and '.join(moves)}" if moves else "it did not move meanwhile"
    return f"read by {space.method} in {format_seconds(drift.seconds)}; {moved}"


def _words(field: str) -> str:
    return field.removesuffix("_bytes").replace("_", " ")


def _signed(field: str, value: int) -> str:
    return _plus(value) if field.endswith("_bytes") else f"{value:+d}"


def _plus(value: int) -> str:
    return f"+{format_bytes(value)}" if value > 0 else format_bytes(value)
