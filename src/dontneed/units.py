"""Bytes and pages: sizes of this machine, rounding, and numbers as people read them."""

from __future__ import annotations

import os

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

WEEK_SECONDS = 7 * 86_400.0
"""For which nothing is watched longer."""

PAGE_BYTES: int = os.sysconf("SC_PAGE_SIZE")
HUGE_PAGE_BYTES: int = PAGE_BYTES * (PAGE_BYTES // 8)
"""What one PMD entry maps: a table of 8-byte entries, each a page (2 MiB where a page is 4 KiB)."""


def round_down(address: int, unit: int = PAGE_BYTES) -> int:
    """The last multiple of `unit` (a power of two, bytes) at or below `address`."""
    return address & ~(unit - 1)


def round_up(address: int, unit: int = PAGE_BYTES) -> int:
    """The first multiple of `unit` (a power of two, bytes) at or above `address`."""
    return (address + unit - 1) & ~(unit - 1)


def signed(word: int) -> int:
    """A word of 64 bits with its sign."""
    return word - (1 << 64) if word >> 63 else word


def format_bytes(count: int) -> str:
    """`count` bytes for a reader: '0', '512 B', '4.0 KiB', '1.5 GiB', '-12.0 KiB', '640 MiB': one decimal below 100."""
    sign, size = "-" if count < 0 else "", float(abs(count))
    if size < KIB:
        return f"{sign}{size:.0f} B" if count else "0"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):  # noqa: B007 - the last one counts
        size /= KIB
        if round(size) < KIB:
            break
    # Both limits are those of the rounded number: neither '1024 KiB' nor '100.0 KiB' is ever printed.
    return f"{sign}{size:.1f} {unit}" if round(size, 1) < 100 else f"{sign}{size:.0f} {unit}"  # noqa: PLR2004


def format_seconds(seconds: float) -> str:
    """A duration for a reader: '12 µs', '3.4 ms', '-2.1 s', '3600 s': three digits, or all those of whole seconds."""
    sign, size = "-" if seconds < 0 else "", abs(seconds)
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):  # noqa: B007 - the last one counts
        # What rounds to a whole unit is one: '1 ms', not '1000 µs'.
        if size >= 0.9995 * scale:
            break
    count = size / scale
    return f"{sign}{count:.3g} {unit}" if count < 999.5 else f"{sign}{count:.0f} {unit}"  # noqa: PLR2004
