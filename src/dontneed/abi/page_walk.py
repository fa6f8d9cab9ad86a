"""The way to a page, entry by entry, and what each step means in words: of live kernels and of modelled ones alike."""

from __future__ import annotations

from dontneed.abi.page_entry import (
    ACCESSED,
    DIRTY,
    HUGE,
    LEVEL_BITS,
    LEVELS,
    NO_EXECUTE,
    PRESENT,
    PROT_NONE,
    SAVED_DIRTY,
    SPECIAL,
    WRITABLE,
    TableEntry,
    decode_entry,
    level_index,
)
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES, format_bytes

_HUGE_MASK = HUGE_PAGE_BYTES // PAGE_BYTES - 1
_FULL_NAMES = {
    "P4D": "page 4th-level directory",
    "PUD": "page upper directory",
    "PMD": "page middle directory",
    "PTE": "page table",
}
_NOT_PRESENT = {
    "swap": "the page is in swap: a touch reads it back",
    "guard": "a guard marker (MADV_GUARD_INSTALL): a touch raises SIGSEGV",
    "poisoned": "its frame failed: a touch raises SIGBUS",
    "migration": "its frame is being moved: a touch waits for that",
    "file": "a page of the file that is not mapped now",
}


class WalkedEntry(TableEntry):
    """An entry on the way to a page, and what it means.

    Attributes:
        meaning: one sentence without a full stop.
    """

    meaning: str


def is_last(table: str, raw: int) -> bool:
    """Whether the way ends at this entry: it maps a page, or there is no table below it."""
    return table == "PTE" or raw & (PRESENT | HUGE) != PRESENT


def decode_path(
    page: int, raws: tuple[int, ...], levels: int, version: tuple[int, ...], *, zero_frame: int | None = None
) -> tuple[WalkedEntry, ...]:
    """The way to a page, from its raw entries.

    Args:
        page: its number: the address by the size of a page.
        raws: the entries from the uppermost on.
        levels: of the tables.
        version: of the kernel that wrote them.
        zero_frame: the frame of the shared zero page, where it is known.
    """
    path = []
    for nth, raw in enumerate(raws):
        level = levels - 1 - nth
        entry = decode_entry(LEVELS[level] if nth else "PGD", level_index(page, level), raw, version)
        meaning = meaning_of(entry, level, zero_frame=zero_frame)
        path.append(WalkedEntry(**entry.as_dict(), meaning=meaning))
    return tuple(path)


def meaning_of(entry: TableEntry, level: int, *, zero_frame: int | None = None) -> str:
    """What an entry of a table of `level` (0: PTE) means, in words."""
    size = format_bytes(PAGE_BYTES << LEVEL_BITS * level)
    raw = entry.raw
    if not raw:
        if not level:
            return "nothing: a touch takes a fault, and the fault a frame (or the zero page)"
        return f"nothing: no {LEVELS[level - 1]} table, so none of these {size} is there"
    if level and not is_last(entry.table, raw):
        below = LEVELS[level - 1]
        return f"leads to a {_FULL_NAMES[below]} ({below}), a frame of its own: 512 entries for {size}"
    if not raw & (PRESENT | PROT_NONE) and not (level and raw & HUGE):
        return _NOT_PRESENT.get(entry.flags[0], "not present: the kernel keeps a note of its own here")
    return _page(entry, size, zero_frame)


def _page(entry: TableEntry, size: str, zero_frame: int | None) -> str:
    """What an entry that maps a page says."""
    raw = entry.raw
    if entry.frame == zero_frame or (zero_frame is None and raw & SPECIAL and not raw & (WRITABLE | DIRTY)):
        return "maps the zero page: it was read and never written to; everybody has this frame, it is no memory"
    whole = "maps a page" if entry.table == "PTE" else f"maps a huge page, {size} at once, without a table below"
    words = [
        "no access is allowed now" if not raw & PRESENT else "may be written" if raw & WRITABLE else "may be read",
        *([] if raw & NO_EXECUTE else ["may be executed"]),
        "was written to" if raw & (DIRTY | SAVED_DIRTY) else "was not written to",
        *([] if raw & ACCESSED else ["not used since the kernel last looked"]),
        *(["mapped by number, not counted as RSS"] if raw & SPECIAL else []),
    ]
    return f"{whole}: {', '.join(words)}"
