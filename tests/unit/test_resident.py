"""Which pages are there and whose, from entries that the tests make up, with PAGEMAP_SCAN and without."""

from __future__ import annotations

import os
from array import array
from types import SimpleNamespace

import numpy as np
import pytest

from dontneed import KernelLacks, Spans
from dontneed.abi import pagemap as abi
from dontneed.observe import resident
from dontneed.observe.resident import find_anonymous, find_of_files
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

BASE = 16 * HUGE_PAGE_BYTES
ANONYMOUS, COPIED = abi.PRESENT | abi.EXCLUSIVE, abi.PRESENT
OF_FILE, OF_SHARED_FILE = ANONYMOUS | abi.FILE, COPIED | abi.FILE
SWAPPED = abi.SWAP | 5


def span(first, after):
    return Spans([(BASE + first * PAGE_BYTES, BASE + after * PAGE_BYTES)])


@pytest.fixture(params=["with PAGEMAP_SCAN", "without"])
def process(request, monkeypatch):
    """A process whose page map is a list of entries, from `BASE` on; nothing is anywhere else."""
    held = [0, ANONYMOUS, ANONYMOUS, COPIED, SWAPPED, OF_FILE, OF_SHARED_FILE, ANONYMOUS]

    def read_entries(_fd, start, end):
        entries = np.zeros((end - start) // PAGE_BYTES, np.uint64)
        first = (start - BASE) // PAGE_BYTES
        for page, entry in enumerate(held):
            if 0 <= page - first < len(entries):
                entries[page - first] = entry
        return entries

    def scan_pages(_fd, start, end, *, wanted, returned):
        assert wanted == returned == abi.IS_PRESENT
        if request.param == "without":
            raise KernelLacks("no PAGEMAP_SCAN")
        for page, entry in enumerate(held):
            at = BASE + page * PAGE_BYTES
            if entry & abi.PRESENT and start <= at < end:
                yield array("Q", (at, at + PAGE_BYTES, abi.IS_PRESENT))

    monkeypatch.setattr(resident, "read_entries", read_entries)
    monkeypatch.setattr(resident, "scan_pages", scan_pages)
    return SimpleNamespace(open=lambda _name: os.open("/dev/null", os.O_RDONLY))


def test_anonymous_pages_are_told_from_those_of_files_and_from_shared_ones(process):
    """Only what is alone here frees a frame when it goes."""
    found = find_anonymous(process, span(0, 8))
    assert found.alone == span(1, 3) | span(7, 8)
    assert found.shared == span(3, 4)


def test_pages_of_files_are_told_from_private_copies(process):
    """A copy is anonymous memory, and has no disk to be read from again."""
    found = find_of_files(process, span(0, 8))
    assert found.alone == span(5, 6)
    assert found.shared == span(6, 7)


def test_nothing_is_found_outside_of_what_was_asked_for(process):
    """Whole page tables are read, since that is what a read costs; what is told is to the page."""
    found = find_anonymous(process, span(2, 3) | span(5, 7))
    assert found.alone == span(2, 3)
    assert found.shared == Spans()


def test_too_many_addresses_are_not_read_one_by_one(process, monkeypatch):
    """Without PAGEMAP_SCAN that would take minutes, for a process that reserves terabytes."""
    monkeypatch.setattr(resident, "_LARGEST_READ_BYTES", HUGE_PAGE_BYTES // 2)
    if not list(_tried(process)):
        with pytest.raises(KernelLacks):
            find_anonymous(process, span(0, 8))


def _tried(process):
    """What a scan finds; nothing where there is none."""
    try:
        yield from resident.scan_runs(process.open("pagemap"), span(0, 8), abi.IS_PRESENT).tolist()
    except KernelLacks:
        return
