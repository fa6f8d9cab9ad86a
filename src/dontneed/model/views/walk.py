"""The modelled page table as the processor would see it: raw entries, level by level, on the way to a page.

Frames of tables are made up (each table has one, and no other has the same); everything else follows from the model.
"""

from __future__ import annotations

from dontneed.abi.page_entry import (
    ACCESSED,
    DIRTY,
    FRAME_MASK,
    FRAME_SHIFT,
    GUARD_MARKER,
    HUGE,
    LEVELS,
    MARKER_TYPE,
    MIGRATION_TYPE,
    NO_EXECUTE,
    NONLINEAR_FILE,
    POISON_MARKER,
    POISON_TYPE,
    PRESENT,
    PROT_NONE,
    SAVED_DIRTY,
    SAVED_DIRTY_SINCE,
    SPECIAL,
    SWAP_INVERTED_SINCE,
    USER,
    WRITABLE,
    decode_entry,
    level_index,
    swap_entry,
)
from dontneed.model.space import entries
from dontneed.model.space import vma as vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.abi.page_entry import TableEntry
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma

_TABLE = PRESENT | WRITABLE | USER | ACCESSED | DIRTY
_TABLE_FRAMES = 1 << 30
"""Where the made-up frames of tables begin; each level has as many numbers of its own."""


def walk(mm: Mm, page: int) -> tuple[TableEntry, ...]:
    """The entries on the way to `page`, from the PGD down to the first that is none or maps a page."""
    table = mm.table
    met = []
    for level in range(table.levels - 1, -1, -1):
        raw = _raw(mm, page, level)
        name = "PGD" if level == table.levels - 1 else LEVELS[level]
        met.append(decode_entry(name, level_index(page, level), raw, mm.system.behaviour.version))
        if not raw or (raw & HUGE and level):
            break
    return tuple(met)


def raw_entry(mm: Mm, vma: Vma | None, code: int, value: int) -> int:
    """The bits of an entry that maps a page, or says why it does not.

    Args:
        mm: whose.
        vma: the mapping that the page lies in; None: none, so nothing is there.
        code: of the modelled entry.
        value: of the modelled entry.
    """
    kind = code & entries.KIND
    version = mm.system.behaviour.version
    if kind == entries.NONE or vma is None:
        return 0
    if kind == entries.SWAP:
        return swap_entry(0, value, version)
    if kind == entries.GUARD:
        return swap_entry(MARKER_TYPE, GUARD_MARKER, version)
    if kind == entries.POISON:
        if version < SWAP_INVERTED_SINCE:
            return swap_entry(POISON_TYPE, value, version)
        return swap_entry(MARKER_TYPE, POISON_MARKER, version)
    if kind == entries.MIGRATION:
        return swap_entry(MIGRATION_TYPE, value, version)
    if kind == entries.NONLINEAR:
        return value << FRAME_SHIFT | NONLINEAR_FILE
    return _present(vma, code, value, version)


def _present(vma: Vma, code: int, frame: int, version: tuple[int, ...]) -> int:
    saves_dirty = version >= SAVED_DIRTY_SINCE and not code & entries.WRITE
    bits = USER | ACCESSED * bool(code & entries.YOUNG)
    bits |= (SAVED_DIRTY if saves_dirty else DIRTY) * bool(code & entries.DIRTY)
    bits |= WRITABLE * bool(code & entries.WRITE) | HUGE * bool(code & entries.HUGE)
    bits |= SPECIAL * (code & entries.KIND in (entries.ZERO, entries.PFN) and not code & entries.HUGE)
    bits |= 0 if vma.flags & vm.EXEC else NO_EXECUTE
    address = frame << FRAME_SHIFT
    if vma.flags & vm.ACCESS:
        return address | bits | PRESENT
    if version >= SWAP_INVERTED_SINCE:  # what is not present points at no memory
        address = ~address & FRAME_MASK
    return address | bits & ~USER | PROT_NONE


def _raw(mm: Mm, page: int, level: int) -> int:
    """The entry for `page` in its table of `level`, where that table exists."""
    table = mm.table
    leaf = page // entries.LEAF_PAGES
    if level == 0:
        return raw_entry(mm, mm.vmas.find(page), *table.get(page))
    if level == 1:
        if leaf not in table.leaves:
            return 0
        code, value = table.get(page & -entries.LEAF_PAGES)
        if code & entries.HUGE:
            return raw_entry(mm, mm.vmas.find(page), code, value)
        return _table_entry(0, leaf)
    below = (table.pmds, table.puds, table.p4ds)[level - 2]
    number = leaf >> 9 * (level - 1)
    return _table_entry(level - 1, number) if number in below else 0


def _table_entry(level: int, number: int) -> int:
    """An entry that points to table `number` of `level`."""
    return _TABLE_FRAMES * (level + 1) + number << FRAME_SHIFT | _TABLE
