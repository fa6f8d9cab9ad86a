"""Rounding, and numbers as people read them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontneed.units import (
    GIB,
    HUGE_PAGE_BYTES,
    KIB,
    MIB,
    PAGE_BYTES,
    format_bytes,
    format_seconds,
    round_down,
    round_up,
)

TIB = GIB * KIB
bounded = settings(max_examples=200, deadline=None, derandomize=True, database=None)


def test_pages_are_those_of_this_machine():
    """The page is the kernel's; what one PMD entry maps follows from it, 2 MiB for 4 KiB."""
    assert os.sysconf("SC_PAGE_SIZE") == PAGE_BYTES
    assert PAGE_BYTES != 4 * KIB or HUGE_PAGE_BYTES == 2 * MIB
    assert HUGE_PAGE_BYTES % PAGE_BYTES == 0


@bounded
@given(st.integers(0, 1 << 64), st.sampled_from([1, 512, PAGE_BYTES, HUGE_PAGE_BYTES]))
def test_rounding_finds_the_multiples_around(address, unit):
    """Down and up are the nearest multiples on either side, and an aligned address stays."""
    below, above = round_down(address, unit), round_up(address, unit)
    assert below % unit == above % unit == 0
    assert address - unit < below <= address <= above < address + unit


def test_rounds_to_pages_unless_told():
    """The unit is the page when none is given."""
    assert (round_down(PAGE_BYTES + 1), round_up(PAGE_BYTES + 1)) == (PAGE_BYTES, 2 * PAGE_BYTES)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (1, "1 B"),
        (1023, "1023 B"),
        (KIB, "1.0 KiB"),
        (4 * KIB, "4.0 KiB"),
        (KIB + KIB // 2, "1.5 KiB"),
        (99 * KIB + KIB * 94 // 100, "99.9 KiB"),
        (99 * KIB + KIB * 96 // 100, "100 KiB"),
        (100 * KIB, "100 KiB"),
        (1023 * KIB, "1023 KiB"),
        (MIB - 1, "1.0 MiB"),
        (MIB, "1.0 MiB"),
        (640 * MIB, "640 MiB"),
        (GIB - 1, "1.0 GiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (TIB, "1.0 TiB"),
        (99 * TIB, "99.0 TiB"),
        (128 * TIB, "128 TiB"),
        (KIB * TIB, "1.0 PiB"),
        (1 << 64, "16.0 EiB"),
        (1 << 80, "1048576 EiB"),
        (-1, "-1 B"),
        (-12 * KIB, "-12.0 KiB"),
        (1 - MIB, "-1.0 MiB"),
    ],
)
def test_bytes_are_read_at_a_glance(count, text):
    """One decimal below a hundred, none above, and the unit is that of the rounded number."""
    assert format_bytes(count) == text


UNIT_BYTES = {unit: KIB**power for power, unit in enumerate(["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])}


@bounded
@given(st.integers(1, 1 << 64))
def test_bytes_are_read_back_within_rounding(count):
    """The text of any size is short and says that size to half of its last digit; a minus changes nothing else."""
    text = format_bytes(count)
    number, unit = text.split()
    assert len(number) <= 4
    assert float(number) < KIB
    step = 0.1 if "." in number else 1
    assert abs(float(number) * UNIT_BYTES[unit] - count) <= 0.51 * step * UNIT_BYTES[unit]
    assert format_bytes(-count) == f"-{text}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (1e-9, "0.001 µs"),
        (12e-6, "12 µs"),
        (999.4e-6, "999 µs"),
        (999.6e-6, "1 ms"),
        (3.4e-3, "3.4 ms"),
        (0.0123456, "12.3 ms"),
        (0.9996, "1 s"),
        (2.1, "2.1 s"),
        (59.96, "60 s"),
        (999.6, "1000 s"),
        (3600, "3600 s"),
        (-0.5, "-500 ms"),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    """Three digits at most below a thousand seconds, never an exponent, and the unit is that of the rounded number."""
    assert format_seconds(seconds) == text


@bounded
@given(st.floats(1e-7, 1e9))
def test_durations_are_read_back_within_rounding(seconds):
    """The text of any duration says that duration to three digits, and no exponent."""
    number, unit = format_seconds(seconds).split()
    assert "e" not in number
    assert float(number) * {"s": 1.0, "ms": 1e-3, "µs": 1e-6}[unit] == pytest.approx(seconds, rel=5.1e-3)
