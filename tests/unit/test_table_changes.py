"""Page tables that are read again and again: what a change proves, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from dontneed.abi.kpageflags import ZERO_PAGE
from dontneed.abi.page_entry import (
    ACCESSED,
    DIRTY,
    FRAME_SHIFT,
    HUGE,
    PRESENT,
    PROT_NONE,
    SAVED_DIRTY,
    SPECIAL,
    USER,
    WRITABLE,
    swap_entry,
)
from dontneed.errors import NotPermitted
from dontneed.observe.tables import changes as module
from dontneed.observe.tables import huge_zero
from dontneed.observe.tables.changes import TableChanges
from dontneed.observe.tables.reader import TableReader

from .table_world import ONLY_READ, PAGE, TableWorld

MIB2 = 2 << 20
START = 0x7F00_0000_0000
NEW = (6, 18)
IDLE = PRESENT | USER | WRITABLE
USED = IDLE | ACCESSED
WRITTEN = USED | DIRTY
NOTHING = {"touched": 0, "written": 0, "marked": 0}


def of_frame(bits, number):
    """An entry for a frame."""
    return bits | number << FRAME_SHIFT


class Followed:
    """A process, and what is found out of it."""

    def __init__(self, *, cleared=False, levels=4):
        self.world = TableWorld(levels)
        self.task = self.world.process()
        self.changes = TableChanges(cleared=cleared)

    def put(self, entries, level=0):
        """Have entries at addresses."""
        for address, entry in entries.items():
            self.world.map(self.task, address, entry, level=level)
        return self

    def read(self, *unsettled):
        """A reading; of what is unsettled nothing is read."""
        self.changes.begin()
        for tables in TableReader(self.world, [self.task]):
            out = [tables.addresses == start for start, _ in unsettled]
            kept = ~np.logical_or.reduce([np.zeros(len(tables.addresses), np.bool_), *out])
            part = {name: column[kept] for name, column in tables.as_dict().items() if hasattr(column, "shape")}
            self.changes.add(tables.replace(**part))
        self.changes.end(unsettled)
        return self

    def found(self, *bounds):
        """Pages that were touched, written, marked, in one range: all, if none is given."""
        start, end = bounds or (START, START + (1 << 30))
        counts = self.changes.by_mapping([start], [end])
        return {name: getattr(counts, name)[0] // PAGE for name in NOTHING}


CHANGES = {
    "used, marked before": (of_frame(USED, 20), of_frame(USED, 20), (0, 0, 1)),
    "idle": (of_frame(IDLE, 20), of_frame(IDLE, 20), (0, 0, 0)),
    "comes to be used": (of_frame(IDLE, 20), of_frame(USED, 20), (1, 0, 1)),
    "comes to be written": (of_frame(USED, 20), of_frame(WRITTEN, 20), (1, 1, 1)),
    "was dirty, now read-only": (of_frame(WRITTEN, 20), of_frame(USED & ~WRITABLE | SAVED_DIRTY, 20), (0, 0, 1)),
    "new and written": (0, of_frame(WRITTEN, 20), (1, 1, 1)),
    "new and written, its mark of use cleared": (0, of_frame(WRITTEN & ~ACCESSED, 20), (1, 1, 1)),
    "new and clean": (0, of_frame(USED, 20), (0, 0, 1)),
    "new and idle": (0, of_frame(IDLE, 20), (0, 0, 0)),
    "from swap": (swap_entry(1, 5, NEW), of_frame(USED, 20), (1, 0, 1)),
    "from swap by swapoff": (swap_entry(1, 5, NEW), of_frame(IDLE, 20), (0, 0, 0)),
    "zero page": (0, ONLY_READ, (0, 0, 0)),
    "zero page, written": (ONLY_READ, of_frame(WRITTEN, 20), (1, 1, 1)),
    "device memory": (of_frame(IDLE | SPECIAL, 20), of_frame(WRITTEN | SPECIAL, 20), (0, 0, 0)),
    "goes": (of_frame(USED, 20), 0, (0, 0, 1)),
    "another frame, used": (of_frame(IDLE, 20), of_frame(USED, 21), (1, 0, 1)),
    "access forbidden": (
        of_frame(USED, 20),
        ~(20 << FRAME_SHIFT) & (1 << 52) - 1 & ~0xFFF | PROT_NONE | ACCESSED,
        (0, 0, 1),
    ),
}


@pytest.mark.parametrize(("before", "now", "expected"), CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("levels", [4, 5])
def test_what_a_change_of_an_entry_proves(before, now, expected, levels):
    """Touched, written, marked."""
    followed = Followed(levels=levels).put({START: before}).read().put({START: now}).read()
    assert tuple(followed.found().values()) == expected


def test_marks_are_added_up_over_all_readings():
    """What reclaim takes away between two readings stays known, and coming back proves a touch."""
    followed = Followed().put({START: of_frame(USED, 20)}).read()
    assert followed.found() == {**NOTHING, "marked": 1}
    followed.put({START: of_frame(IDLE, 20)}).read()
    assert followed.found() == {**NOTHING, "marked": 1}
    followed.put({START: of_frame(USED, 20)}).read().read()
    assert followed.found() == {**NOTHING, "touched": 1, "marked": 1}


def test_marks_that_were_cleared_after_the_first_reading_count_anew():
    """A page that bears the mark at both was touched."""
    followed = Followed(cleared=True)
    followed.put({START: of_frame(USED, 20), START + PAGE: of_frame(USED, 21)}).read()
    assert followed.found() == NOTHING
    followed.put({START + PAGE: of_frame(IDLE, 21)}).read()
    assert followed.found() == {**NOTHING, "touched": 1, "marked": 1}


def test_what_mremap_moved_was_not_touched():
    """Its entries go with their marks; a frame that was somewhere else before proves nothing."""
    followed = Followed().put({START: of_frame(WRITTEN, 20), START + PAGE: of_frame(IDLE, 21)}).read()
    there = START + 9 * MIB2
    followed.put({START: 0, there: of_frame(WRITTEN, 20), there + PAGE: of_frame(WRITTEN, 22)}).read()
    assert followed.found(there, there + MIB2) == {"touched": 1, "written": 1, "marked": 2}


def test_what_could_not_be_read_proves_nothing_when_it_can_be_again():
    """It was there all the time; what changes after that proves again."""
    unread = (START, START + MIB2)
    for first in (True, False):
        followed = Followed().put({START: of_frame(WRITTEN, 20), START + PAGE: of_frame(IDLE, 21)})
        if not first:
            followed.read()
        followed.read(unread).read()
        assert followed.found() == {**NOTHING, "marked": 1}
        followed.put({START + PAGE: of_frame(USED, 21)}).read()
        assert followed.found() == {"touched": 1, "written": 0, "marked": 2}


def test_a_huge_page_counts_whole():
    """An entry of 2 MiB, and one of 1 GiB."""
    followed = Followed().put({START: of_frame(IDLE | HUGE, 512)}, level=1).read()
    followed.put({START: of_frame(WRITTEN | HUGE, 512)}, level=1).read()
    assert followed.found() == {"touched": 512, "written": 512, "marked": 512}
    followed = Followed().put({START: of_frame(IDLE | HUGE, 1 << 18)}, level=2).read()
    followed.put({START: of_frame(USED | HUGE, 1 << 18)}, level=2).read()
    assert followed.found() == {"touched": 1 << 18, "written": 0, "marked": 1 << 18}


def test_a_huge_page_that_was_put_together_proves_nothing():
    """The kernel marks it itself; one that comes where nothing was is a touch."""
    followed = Followed().put({START: of_frame(IDLE, 20), START + PAGE: of_frame(USED, 21)}).read()
    root = followed.world.table_of(followed.task, START, level=1)
    root[START >> 21 & 511] = of_frame(WRITTEN | HUGE, 1024)
    followed.read()
    assert followed.found() == {**NOTHING, "marked": 512}
    followed = Followed().put({START + MIB2: of_frame(IDLE, 20)}).read()
    followed.put({START: of_frame(WRITTEN | HUGE, 1024)}, level=1).read()
    assert followed.found()["touched"] == 512


def test_a_huge_page_that_was_taken_apart_is_followed_page_by_page():
    """Its pages have the marks that it had."""
    followed = Followed().put({START: of_frame(IDLE | HUGE, 512)}, level=1).read()
    followed.world.table_of(followed.task, START, level=1)[START >> 21 & 511] = 0
    followed.put({START + nth * PAGE: of_frame(IDLE, 512 + nth) for nth in range(512)})
    followed.put({START + 7 * PAGE: of_frame(WRITTEN, 519)}).read()
    assert followed.found() == {"touched": 1, "written": 1, "marked": 1}


def test_the_huge_zero_page_is_no_memory(monkeypatch):
    """Its frame is asked about once; where nobody may ask, that is told once."""
    asked = []

    def flags(frames):
        asked.append(frames)
        return {frame: ZERO_PAGE if frame == 512 else 0 for frame in frames}

    monkeypatch.setattr(huge_zero, "read_flags_of", flags)
    clean = (IDLE | ACCESSED) & ~WRITABLE | HUGE
    followed = Followed().put({START: of_frame(clean, 512), START + MIB2: of_frame(clean, 1024)}, level=1)
    followed.read().read()
    assert followed.found() == {**NOTHING, "marked": 512}
    assert asked == [[512, 1024]]

    def refuse(_frames):
        raise NotPermitted("no")

    monkeypatch.setattr(huge_zero, "read_flags_of", refuse)
    followed = Followed().put({START: of_frame(clean, 512)}, level=1).read().read()
    assert followed.changes.notes == ["huge zero pages count as resident: no"]


def test_counts_are_by_mapping_and_what_is_in_none_is_told(monkeypatch):
    """Mappings that share a table, that span some, and pages whose mapping has gone."""
    monkeypatch.setattr(module, "_AT_A_TIME", 2)
    pages = [0, 1, 5, 511, 512, 600, 1500, 3000]
    followed = Followed().read()
    followed.put({START + page * PAGE: of_frame(WRITTEN, 100 + page) for page in pages}).read()
    bounds = [(0, 1), (1, 6), (6, 7), (500, 1600)]
    starts = [START + first * PAGE for first, _ in bounds]
    ends = [START + last * PAGE for _, last in bounds]
    counts = followed.changes.by_mapping(starts, ends)
    assert [amount // PAGE for amount in counts.touched] == [1, 2, 0, 4]
    assert counts.touched == counts.written == counts.marked
    assert counts.gone_bytes == PAGE


def test_a_process_without_memory_has_nothing():
    """And no mapping neither."""
    followed = Followed().read().read()
    assert followed.found() == NOTHING
    assert followed.changes.by_mapping([], []).touched == []
