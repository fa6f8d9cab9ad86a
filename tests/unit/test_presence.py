"""Which pages are there: of our own memory, by both ways to ask."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from dontneed.errors import KernelLacks
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe import presence
from dontneed.observe.presence import lie_within, read_presence
from dontneed.spans import Spans

PAGE = mmap.PAGESIZE


@pytest.fixture
def memory():
    """Eight pages: written, only read, or neither, in turn."""
    mapped = mmap.mmap(-1, 8 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in (0, 3, 6):
        mapped[page * PAGE] = 1
    assert [mapped[page * PAGE] for page in (1, 4)] == [0, 0]
    return mapped


@pytest.mark.parametrize("has_scan", [True, False])
def test_pages_that_were_written_are_there(memory, has_scan, monkeypatch):
    """Those that were only read are the zero page, which is nobody's frame, where the kernel tells it apart."""

    def lacking(*_arguments):
        raise KernelLacks("no PAGEMAP_SCAN")

    if not has_scan:
        monkeypatch.setattr(presence, "scan_runs", lacking)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    with ProcessDirectory() as ourselves:
        found = read_presence(ourselves, Spans([(start, start + 8 * PAGE)]))
    there = found.has(start + np.arange(8, dtype=np.uint64) * np.uint64(PAGE)).tolist()
    assert [there[page] for page in (0, 3, 6)] == [True] * 3
    assert [there[page] for page in (2, 5, 7)] == [False] * 3
    assert not (has_scan and (there[1] or there[4]))
    assert found.huge.size_bytes == 0


def test_addresses_lie_within_a_span_from_its_start_to_before_its_end():
    """Half-open, as every span."""
    spans = Spans([(PAGE, 2 * PAGE), (4 * PAGE, 5 * PAGE)])
    asked = np.array([0, PAGE - 1, PAGE, 2 * PAGE - 1, 2 * PAGE, 4 * PAGE, 5 * PAGE], np.uint64)
    assert lie_within(spans, asked).tolist() == [False, False, True, True, False, True, False]
    assert not lie_within(Spans(), asked).any()
