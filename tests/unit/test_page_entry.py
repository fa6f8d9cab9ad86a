"""Raw entries of x86-64 page tables, as kernels wrote them."""

from __future__ import annotations

import random

import pytest

from dontneed.abi.page_entry import (
    FRAME_SHIFT,
    GUARD_MARKER,
    MARKER_TYPE,
    MIGRATION_TYPE,
    NONLINEAR_FILE,
    OFFSET_MASK,
    POISON_MARKER,
    POISON_TYPE,
    decode_entry,
    level_index,
    swap_entry,
    swap_slot,
)

OLD, NEW = (2, 6, 32), (6, 18)


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize(
    ("table", "raw", "flags", "frame"),
    [
        ("PTE", 0x800000001022A067, "present writable user accessed dirty no-execute", 0x1022A),
        ("PTE", 0x800000001022E025, "present user accessed no-execute", 0x1022E),
        ("PTE", 0x8000000001000225, "present user accessed special no-execute", 0x1000),
        ("PMD", 0x80000001002000E7, "present writable user accessed dirty huge no-execute", 0x100200),
        ("PGD", 0x00000C00000FF067, "present writable user accessed dirty", 0xC00000FF),
        ("PTE", 0x000000001022A1E5, "present user accessed dirty global", 0x1022A),
    ],
)
def test_what_is_present_says_its_flags_and_its_frame(table, raw, flags, frame, version):
    """In every version alike; bit 7 of a PTE is PAT, and no huge page."""
    entry = decode_entry(table, 7, raw, version)
    assert (entry.table, entry.index, entry.raw) == (table, 7, raw)
    assert (" ".join(entry.flags), entry.frame) == (flags, frame)


@pytest.mark.parametrize("version", [OLD, NEW])
def test_an_entry_of_zeros_is_none(version):
    """It points nowhere."""
    entry = decode_entry("PMD", 0, 0, version)
    assert (entry.flags, entry.frame) == (("none",), None)


def test_a_page_without_access_is_there_and_keeps_its_frame():
    """PROT_NONE: until 4.18 the frame is plain; since then it is inverted, and points at no memory."""
    plain = decode_entry("PTE", 0, 0x800000001022A160, OLD)
    assert (plain.flags, plain.frame) == (("prot-none", "accessed", "dirty", "no-execute"), 0x1022A)
    frame = 0x1022A
    inverted = (~(frame << FRAME_SHIFT) & 0x000F_FFFF_FFFF_F000) | 1 << 63 | 0x160
    met = decode_entry("PTE", 0, inverted, NEW)
    assert (met.flags, met.frame) == (plain.flags, frame)


@pytest.mark.parametrize(
    ("raw", "version", "flags"),
    [
        (0x0000000000000200, OLD, ("swap", "type 0", "offset 1")),
        (0x0000000000024602, OLD, ("swap", "type 1", "offset 291")),
        (0x07FFFFFFFFFFFC00, NEW, ("swap", "type 0", "offset 1")),
        (0x0FFFFFFFFFFDB800, NEW, ("swap", "type 1", "offset 291")),
        (swap_entry(MARKER_TYPE, GUARD_MARKER, NEW), NEW, ("guard",)),
        (swap_entry(MARKER_TYPE, POISON_MARKER, NEW), NEW, ("poisoned",)),
        (swap_entry(MARKER_TYPE, 1, NEW), NEW, ("marker 1",)),
        (swap_entry(POISON_TYPE, 0x1022A, OLD), OLD, ("poisoned",)),
        (swap_entry(MIGRATION_TYPE, 0x1022A, OLD), OLD, ("migration",)),
        (swap_entry(MIGRATION_TYPE + 1, 0x1022A, OLD), OLD, ("migration",)),
        (swap_entry(MIGRATION_TYPE, 0x1022A, NEW), NEW, ("migration",)),
        (77 << FRAME_SHIFT | NONLINEAR_FILE, OLD, ("file", "page 77")),
    ],
)
def test_what_is_not_present_says_what_it_is_instead(raw, version, flags):
    """Swap, a marker, a page on its way or lost, a page of a file."""
    entry = decode_entry("PTE", 0, raw, version)
    assert (entry.flags, entry.frame) == (flags, None)


def test_a_guard_marker_is_what_pagemap_shows_of_it():
    """Measured on 6.18: pagemap, with the type in its lowest five bits and the offset above, has 0x440000000000009f."""
    kind, offset = swap_slot(swap_entry(MARKER_TYPE, GUARD_MARKER, NEW), NEW)
    assert kind | offset << 5 == 0x440000000000009F & (1 << 50) - 1
    assert swap_entry(MARKER_TYPE, GUARD_MARKER, NEW) == 0xFFFFFFFFFFFFF600


@pytest.mark.parametrize("version", [OLD, (4, 17), (4, 18), NEW])
def test_a_swap_slot_is_read_back_as_it_was_written(version):
    """Whatever the kind and the offset, and never with a bit that says present or without access."""
    dice = random.Random(1)  # noqa: S311 - a test
    for _ in range(1000):
        kind, offset = dice.randrange(32), dice.randrange(OFFSET_MASK)
        raw = swap_entry(kind, offset, version)
        assert swap_slot(raw, version) == (kind, offset)
        assert not raw & 0x101
        assert raw < 1 << 64


def test_an_inverted_offset_points_high_and_a_plain_one_low():
    """L1 terminal fault: the processor must not take the offset for the address of cached memory."""
    assert swap_entry(0, 5, (4, 17)) == 5 << 9
    assert swap_entry(0, 5, (4, 18)) >> 40 == 0x7FFFF


def test_the_place_in_each_table_is_nine_bits_of_the_page():
    """From the PTE up."""
    page = 1 << 36 | 2 << 27 | 3 << 18 | 4 << 9 | 5
    assert [level_index(page, level) for level in range(5)] == [5, 4, 3, 2, 1]
