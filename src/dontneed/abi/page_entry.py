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
WRITE_NOTIFIED = 1 << 10
"""Write-protected by a userfaultfd (_PAGE_UFFD_WP); since 5.7."""
SOFT_DIRTY = 1 << 11
"""Written to since someone cleared this bit; since 3.11, where the kernel was built with it."""
SAVED_DIRTY = 1 << 58
"""Written to, and not writable now; there, DIRTY would mean a shadow stack."""
SAVED_DIRTY_SINCE = (6, 6)
NO_EXECUTE = 1 << 63

PROT_NONE = GLOBAL
"""Without PRESENT: the page is there, and its mapping allows no access."""
NONLINEAR_FILE = DIRTY
"""Without PRESENT, until 4.0: the entry names a page of the file."""

FRAME_SHIFT = 12
FRAME_MASK = ((1 << 52) - 1) & ~((1 << FRAME_SHIFT) - 1)
POINTER = FRAME_MASK | PRESENT | HUGE
"""What of an entry says where the next table is; the processor sets accessed at any time."""

SWAP_INVERTED_SINCE = (4, 18)
KIND_SHIFT, _OLD_KIND_SHIFT, _KIND_MASK = 59, 1, 31
LEAST_SWAP_KINDS = 23
"""So many swap files there can be, whatever the kernel was built with; the kinds above may say something else."""
OFFSET_SHIFT = 9
OFFSET_MASK = (1 << 50) - 1
POISON_TYPE = 29
"""The swap type that names a frame that failed, where there are no markers yet."""
MIGRATION_TYPE = 30
"""The swap type that names a frame on its way, read-only; of writable pages it is the next where there are no markers
yet. Which types these are depends on the build: the first 29 at least are swap files."""
MARKER_TYPE = 31
"""The swap type of markers, which name no slot, since 5.19."""
POISON_MARKER = 2
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
    (WRITE_NOTIFIED, "uffd-wp"),
    (SOFT_DIRTY, "soft-dirty"),
    (SAVED_DIRTY, "saved-dirty"),
    (NO_EXECUTE, "no-execute"),
)
_OTHERWISE = ((HUGE, "PTE"), (SAVED_DIRTY, "PGD"))
"""Bits that mean something else in entries of a level: a memory type; that user space has no table of its own."""


class TableEntry(Record):
    """One entry of a page table, met on the way to a page.

    Attributes:
        table: its level: PGD, P4D, PUD, PMD or PTE.
        index: its place in its table, 0 to 511.
        raw: its 64 bits.
        flags: their words, lowest bit first; of an entry that is not present what it is instead.
        frame: the frame that it points to, a table's or a page's; None where it points to none.
    """

    table: str
    index: int
    raw: int
    flags: tuple[str, ...]
    frame: int | None


def decode_entry(table: str, index: int, raw: int, version: tuple[int, ...]) -> TableEntry:
    """What an entry says.

    Args:
        table: its level, one of `LEVELS`.
        index: its place.
        raw: its bits.
        version: of the kernel that wrote it.
    """
    if raw & PRESENT:
        return TableEntry(table, index, raw, _words(table, raw), (raw & FRAME_MASK) >> FRAME_SHIFT)
    if raw & PROT_NONE:
        address = ~raw if version >= SWAP_INVERTED_SINCE else raw
        words = ("prot-none", *_words(table, raw & ~PROT_NONE))
        return TableEntry(table, index, raw, words, (address & FRAME_MASK) >> FRAME_SHIFT)
    return TableEntry(table, index, raw, _not_present(raw, version), None)


def _words(table: str, raw: int) -> tuple[str, ...]:
    return tuple(word for bit, word in _WORDS if raw & bit and (bit, table) not in _OTHERWISE)


def _not_present(raw: int, version: tuple[int, ...]) -> tuple[str, ...]:
    if not raw:
        return ("none",)
    kind, offset = swap_slot(raw, version)
    if version < SWAP_INVERTED_SINCE:
        if raw & NONLINEAR_FILE:
            return ("file", f"page {raw >> FRAME_SHIFT}")
        names = {POISON_TYPE: "poisoned", MIGRATION_TYPE: "migration", MIGRATION_TYPE + 1: "migration"}
        return (names[kind],) if kind in names else ("swap", f"type {kind}", f"offset {offset}")
    if kind == MARKER_TYPE:
        return ({GUARD_MARKER: "guard", POISON_MARKER: "poisoned"}.get(offset, f"marker {offset}"),)
    return ("migration",) if kind == MIGRATION_TYPE else ("swap", f"type {kind}", f"offset {offset}")


def frame_of(entry: int) -> int:
    """The frame of an entry whose page is there; one that allows no access has it inverted, since 4.18."""
    return ((entry if entry & PRESENT else ~entry) & FRAME_MASK) >> FRAME_SHIFT


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
        return kind << _OLD_KIND_SHIFT | offset << OFFSET_SHIFT
    return kind << KIND_SHIFT | (~offset & OFFSET_MASK) << OFFSET_SHIFT


def swap_slot(raw: int, version: tuple[int, ...]) -> tuple[int, int]:
    """The kind and the offset that `swap_entry` made an entry of."""
    if version < SWAP_INVERTED_SINCE:
        return raw >> _OLD_KIND_SHIFT & _KIND_MASK, raw >> OFFSET_SHIFT
    return raw >> KIND_SHIFT, ~raw >> OFFSET_SHIFT & OFFSET_MASK
