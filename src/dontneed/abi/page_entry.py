"""Entries of x86-64 page tables as the processor and Linux read them: their bits, and how swap is written into one.

Kernel:
    arch/x86/include/asm/pgtable_types.h, pgtable_64.h. Bits 9 to 11 and 58 belong to software. Until 4.18 the offset of
    a swap entry is plain; since then it is inverted, so that it points at no memory (L1 terminal fault).
"""

from __future__ import annotations

from dontneed.records import Record

PRESENT = 1 << 0
WRITABLE = 1 << 1
USER = 1 << 2
WRITE_THROUGH = 1 << 3
NO_CACHE = 1 << 4
ACCESSED = 1 << 5
DIRTY = 1 << 6
HUGE = 1 << 7
"""In a PMD or PUD entry: it maps the page itself, and no table."""
GLOBAL = 1 << 8
SPECIAL = 1 << 9
NO_EXECUTE = 1 << 63

PROT_NONE = GLOBAL
"""Without PRESENT: the page is there, and its mapping allows no access."""
NONLINEAR_FILE = DIRTY
"""Without PRESENT, until 4.0: the entry names a page of the file."""

FRAME_SHIFT = 12
FRAME_MASK = ((1 << 52) - 1) & ~((1 << FRAME_SHIFT) - 1)

SWAP_INVERTED_SINCE = (4, 18)
MARKER_TYPE = 31
"""The swap type of markers (guard, poison) since 5.19."""
GUARD_MARKER = 4

LEVELS = ("PTE", "PMD", "PUD", "P4D", "PGD")
"""From the pages up; with four levels there is no P4D."""
LEVEL_BITS = 9

_WORDS = (
    (PRESENT, "present"),
    (WRITABLE, "writable"),
    (USER, "user"),
    (WRITE_THROUGH, "write-through"),
    (NO_CACHE, "no-cache"),
    (ACCESSED, "accessed"),
    (DIRTY, "dirty"),
    (HUGE, "huge"),
    (GLOBAL, "global"),
    (SPECIAL, "special"),
    (NO_EXECUTE, "no-execute"),
)


class TableEntry(Record):
    """One entry of a page table, met on the way to a page.

    Attributes:
        table: its level: PGD, P4D, PUD, PMD or PTE.
        index: its place in its table, 0 to 511.
        raw: its 64 bits.
        flags: their words, lowest bit first; of an entry that is not present only what it is.
        frame: the frame that it points to, a table's or a page's; None where it points to none.
    """

    table: str
    index: int
    raw: int
    flags: tuple[str, ...]
    frame: int | None


def decode_entry(table: str, index: int, raw: int) -> TableEntry:
    """What an entry says.

    Args:
        table: its level, one of `LEVELS`.
        index: its place.
        raw: its bits.
    """
    if raw & PRESENT:
        flags = tuple(word for bit, word in _WORDS if raw & bit and not (bit == HUGE and table == "PTE"))
        return TableEntry(table, index, raw, flags, (raw & FRAME_MASK) >> FRAME_SHIFT)
    if not raw:
        return TableEntry(table, index, raw, ("none",), None)
    return TableEntry(table, index, raw, ("prot-none" if raw & PROT_NONE else "not present",), None)


def level_index(page: int, level: int) -> int:
    """The place of a page's entry in its table of `level` (0: PTE)."""
    return page >> (LEVEL_BITS * level) & ((1 << LEVEL_BITS) - 1)


def swap_entry(kind: int, offset: int, version: tuple[int, ...]) -> int:
    """An entry that names a swap slot, or with the kinds above the swap files something else.

    Args:
        kind: the swap file's number, or `MARKER_TYPE`.
        offset: the slot.
        version: of the kernel: 2.6.32 has the kind in bits 1 to 5 and the offset from bit 9 on.
    """
    if version < SWAP_INVERTED_SINCE:
        return kind << 1 | offset << 9
    inverted = ~offset & ((1 << 50) - 1)
    return kind << 59 | inverted << 9
