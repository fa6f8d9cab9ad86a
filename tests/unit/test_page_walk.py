"""What each entry on the way to a page means, in words; the same for a live kernel's entries and a modelled one's."""

from __future__ import annotations

import pytest

from dontneed.abi.page_entry import (
    ACCESSED,
    DIRTY,
    FRAME_SHIFT,
    GLOBAL,
    GUARD_MARKER,
    HUGE,
    MARKER_TYPE,
    NO_EXECUTE,
    PRESENT,
    SAVED_DIRTY,
    SOFT_DIRTY,
    SPECIAL,
    USER,
    WRITABLE,
    WRITE_NOTIFIED,
    decode_entry,
    swap_entry,
)
from dontneed.abi.page_walk import decode_path

NEW = (6, 18)
TABLE = PRESENT | WRITABLE | USER | ACCESSED | DIRTY | 5 << FRAME_SHIFT
PAGE = PRESENT | USER | ACCESSED | NO_EXECUTE | 9 << FRAME_SHIFT


def last(raw, *, level=0, zero_frame=None):
    """What the last entry of a path means."""
    path = decode_path(0x12345, (*(TABLE,) * (3 - level), raw), 4, NEW, zero_frame=zero_frame)
    return path[-1].meaning


def test_upper_entries_lead_to_the_table_below_and_say_how_much_it_serves():
    """Five levels: 256 TiB, 512 GiB, 1 GiB, 2 MiB; the uppermost is the PGD whatever there is below."""
    path = decode_path(0, (TABLE, TABLE, TABLE, TABLE, PAGE), 5, NEW)
    assert [entry.table for entry in path] == ["PGD", "P4D", "PUD", "PMD", "PTE"]
    assert [entry.meaning.rpartition(" for ")[2] for entry in path[:4]] == ["256 TiB", "512 GiB", "1.0 GiB", "2.0 MiB"]
    assert "(P4D)" in path[0].meaning
    assert "(PTE)" in path[3].meaning


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (0, "nothing: a touch takes a fault"),
        (PAGE, "maps a page: may be read, was not written to"),
        (PAGE | WRITABLE | DIRTY, "maps a page: may be written, was written to"),
        (PAGE | SAVED_DIRTY, "maps a page: may be read, was written to"),
        (PAGE & ~NO_EXECUTE, "maps a page: may be read, may be executed, was not written to"),
        (PAGE & ~ACCESSED, "maps a page: may be read, was not written to, not used since the kernel last looked"),
        (PAGE & ~PRESENT | GLOBAL, "maps a page: no access is allowed now, was not written to"),
        (swap_entry(0, 5, NEW), "the page is in swap"),
        (swap_entry(MARKER_TYPE, GUARD_MARKER, NEW), "a guard marker"),
        (swap_entry(30, 5, NEW), "its frame is being moved"),
        (swap_entry(MARKER_TYPE, 64, NEW), "not present: the kernel keeps a note"),
    ],
)
def test_a_last_level_entry_says_what_a_touch_would_find(raw, words):
    """Every sort of entry that a process can have."""
    assert last(raw).startswith(words)


def test_the_zero_page_is_known_by_its_frame_and_without_it_by_its_bits():
    """Live, the frame is known; the model makes its frames up."""
    zero = PRESENT | USER | ACCESSED | SPECIAL | NO_EXECUTE | 9 << FRAME_SHIFT
    assert "zero page" in last(zero, zero_frame=9)
    assert "zero page" in last(zero)
    assert "mapped by number, not counted as RSS" in last(zero, zero_frame=10)
    assert "zero page" in last(PAGE | HUGE, level=1, zero_frame=9)


def test_a_huge_page_ends_the_way_and_says_how_large_it_is():
    """2 MiB in a PMD, 1 GiB in a PUD."""
    assert last(PAGE | HUGE, level=1).startswith("maps a huge page, 2.0 MiB at once")
    assert last(PAGE | HUGE, level=2).startswith("maps a huge page, 1.0 GiB at once")


def test_where_a_table_is_missing_nothing_below_is_there():
    """An empty entry of an upper table stands for all that it would lead to."""
    assert last(0, level=1) == "nothing: no PTE table, so none of these 2.0 MiB is there"
    assert last(0, level=2) == "nothing: no PMD table, so none of these 1.0 GiB is there"


def test_the_bits_of_software_have_words_where_they_mean_something():
    """Bit 58 of a PGD entry is something else: that user space has no table of its own there."""
    bits = PAGE | WRITE_NOTIFIED | SOFT_DIRTY | SAVED_DIRTY
    assert decode_entry("PTE", 0, bits, NEW).flags[-4:] == ("uffd-wp", "soft-dirty", "saved-dirty", "no-execute")
    assert "saved-dirty" not in decode_entry("PGD", 0, TABLE | SAVED_DIRTY, NEW).flags
