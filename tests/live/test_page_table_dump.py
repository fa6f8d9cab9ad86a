"""All page tables of live processes: counts against smaps and PAGEMAP_SCAN, and what happens if the process moves."""

from __future__ import annotations

import os
from bisect import bisect_right

import numpy as np
import pytest

import dontneed
from dontneed.errors import ProcessGone, TargetRefused
from dontneed.kernel.kernel_memory import kernel_memory, open_kernel_memory
from dontneed.kernel.maps import read_maps
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.lab.live import LiveMachine
from dontneed.observe.tables.page_tables import dump, dump_plainly
from dontneed.observe.tables.reader import TableReader

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_feature("kernel memory"), pytest.mark.needs_feature("BTF")]

MIB = 1 << 20
MANY_KINDS = """if True:
    import ctypes, mmap, os
    PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    def small(size):
        memory = mmap.mmap(-1, size, PRIVATE)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        return memory
    written = small(9 << 20)
    written[:] = b"x" * len(written)
    zeros = small(3 << 20)
    sum(zeros[::4096])
    mixed = small(5 << 20)
    for page in range(0, len(mixed), 3 * 4096):
        mixed[page] = 1
    for page in range(4096, len(mixed), 7 * 4096):
        mixed[page]
    huge = mmap.mmap(-1, 8 << 20, PRIVATE)
    huge.madvise(mmap.MADV_HUGEPAGE)
    huge[:] = b"y" * len(huge)
    read_huge = mmap.mmap(-1, 8 << 20, PRIVATE)
    read_huge.madvise(mmap.MADV_HUGEPAGE)
    sum(read_huge[::4096])
    shared = mmap.mmap(-1, 3 << 20)
    shared[: 1 << 20] = b"z" * (1 << 20)
    scattered = [small(4096 * (1 + nth % 5)) for nth in range(300)]
    for memory in scattered[::2]:
        memory.madvise(mmap.MADV_RANDOM)  # so that neighbours are not one mapping
        memory[0] = 1
    closed = small(1 << 20)
    closed[:] = b"c" * len(closed)
    libc = ctypes.CDLL(None)
    address_of = lambda memory: ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc.mprotect(ctypes.c_void_p(address_of(closed)), len(closed), 0)
    print(address_of(written), address_of(huge))
"""


def counted(process, memory=None):
    """A process's mappings and its counts."""
    table = read_maps(process)
    return table, dump(process, table, memory)


def test_counts_are_those_of_pagemap_and_smaps_for_every_mapping(child):
    """Of a process at rest: RSS, huge pages, zero pages, swap, each to the byte."""
    pid = child(MANY_KINDS).pid
    with ProcessDirectory(pid) as process:
        table, counts = counted(process)
    scanned, smaps = dontneed.look(pid, method="PAGEMAP_SCAN"), dontneed.look(pid, method="smaps")
    assert [mapping.start for mapping in scanned.mappings] == table.starts
    vvar = np.array([kind == "vvar" for kind in scanned.mappings.kinds])
    assert counts.rss.tolist() == scanned.mappings.rss == smaps.mappings.rss
    assert counts.zero[~vvar].tolist() == [m.zero_bytes for m in scanned.mappings if m.kind != "vvar"]
    assert counts.swapped.tolist() == scanned.mappings.swap
    anonymous = [row for row, mapping in enumerate(smaps.mappings) if mapping.inode == 0]
    assert counts.huge[anonymous].tolist() == [smaps.mappings[row].smaps.huge_bytes for row in anonymous]
    assert counts.huge.sum() >= 4 * MIB
    assert counts.zero.sum() >= 3 * MIB
    assert (counts.special > 0).tolist() == (vvar & (counts.special > 0)).tolist()
    assert (counts.unmatched_bytes, counts.unsettled_bytes, counts.notes) == (0, 0, [])


def test_dirty_and_accessed_are_those_of_smaps_for_private_memory(child):
    """Where nobody else has the frames, the entries are all that smaps has to go by."""
    pid = child(MANY_KINDS).pid
    with ProcessDirectory(pid) as process:
        _, counts = counted(process)
    rows = dontneed.look(pid, method="smaps").mappings
    private = [row for row, mapping in enumerate(rows) if mapping.inode == 0 and mapping.rss_bytes]
    dirty = [rows[row].smaps.private_dirty_bytes + rows[row].smaps.shared_dirty_bytes for row in private]
    assert len(private) > 100
    assert counts.dirty[private].tolist() == dirty


def test_without_numpy_the_counts_are_the_same(child):
    """What a cold command uses; accessed bits may be cleared between the two, by DAMON for one."""
    pid = child(MANY_KINDS).pid
    with ProcessDirectory(pid) as process:
        table, counts = counted(process)
        with kernel_memory() as way:
            plain = dump_plainly(process, table, way)
    for name in ("rss", "dirty", "huge", "zero", "special", "swapped"):
        assert getattr(plain, name) == getattr(counts, name).tolist(), name
    assert all(accessed <= rss for accessed, rss in zip(plain.accessed, plain.rss, strict=True))
    assert (plain.unmatched_bytes, plain.unsettled_bytes, plain.notes) == (0, 0, [])


def test_dirty_pages_that_a_fork_has_write_protected_are_dirty_still():
    """Since 6.6 that is another bit."""
    with LiveMachine().start() as process:
        region = process.map("p", 512)
        process.write(region, 1)
        with process.fork() as forked:
            for each in (process, forked):
                with ProcessDirectory(each.pid) as directory:
                    table, counts = counted(directory)
                row = table.starts.index(region.start)
                assert counts.rss[row] == counts.dirty[row] == region.size_bytes


def test_many_processes_are_read_together(child):
    """Frames by owner: a page that two processes share is the same frame in both."""
    children = [child("import mmap; m = mmap.mmap(-1, 1 << 20, 34); m[:] = b'x' * len(m)") for _ in range(3)]
    directories = [ProcessDirectory(each.pid) for each in children]
    with kernel_memory() as memory:
        reader = TableReader(memory, [memory.task(directory) for directory in directories])
        present = np.zeros(3, np.int64)
        for tables in reader:
            assert tables.level == 0
            counts = np.count_nonzero(tables.entries & np.uint64(0x201) == np.uint64(1), axis=1)
            present += np.bincount(tables.owners, counts, minlength=3).astype(np.int64)
    assert not reader.gone
    rss = [dontneed.look(each.pid).counters.rss_bytes // 4096 for each in children]
    assert present.tolist() == rss
    for directory in directories:
        directory.close()


# Processes that move


class Disturbed:
    """A way to the kernel's memory that has something happen before one of its reads of tables."""

    def __init__(self, memory, number, event):
        self._memory = memory
        self._number = number
        self._event = event

    def __getattr__(self, name):
        return getattr(self._memory, name)

    def read(self, addresses):
        """The same, after the event if its turn has come."""
        self._number -= 1
        if not self._number:
            self._event()
        return self._memory.read(addresses)


@pytest.fixture
def memory():
    """A way of our own."""
    with open_kernel_memory() as way:
        yield way


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_process_that_ends_in_the_middle_is_gone(child, memory, number):
    """Whichever level was being read."""
    process = child(MANY_KINDS)
    with ProcessDirectory(process.pid) as directory, pytest.raises(ProcessGone):
        counted(directory, Disturbed(memory, number, process.kill))


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_process_that_replaces_its_program_in_the_middle_is_refused(child, memory, number):
    """The counts would be of two programs, and the mappings of the first."""
    process = child(MANY_KINDS + "    pause(); os.execlp('sleep', 'sleep', '100')")

    def replace():
        process._process.stdin.write(b"\n")
        while b"sleep" not in directory.read("comm"):
            os.sched_yield()

    with ProcessDirectory(process.pid) as directory, pytest.raises(TargetRefused, match="replaced its program"):
        counted(directory, Disturbed(memory, number, replace))


def test_a_fork_in_the_middle_changes_no_count(child, memory):
    """It write-protects every page, and the tables stay where they are."""
    process = child(MANY_KINDS + "    pause(); forked = os.fork() or os.read(0, 1)")
    with ProcessDirectory(process.pid) as directory:
        table, before = counted(directory)
        _, during = counted(directory, Disturbed(memory, 4, process.proceed))
    held = [table.starts[row] for row in np.flatnonzero(before.rss >= 3 * MIB).tolist()]
    assert len(held) >= 3
    for name in ("rss", "huge"):
        one, other = getattr(before, name), getattr(during, name)
        assert [one[table.starts.index(start)] for start in held] == [
            other[table.starts.index(start)] for start in held
        ]
    assert during.unsettled_bytes == 0


def test_tables_that_are_freed_in_the_middle_are_in_no_count(child, memory):
    """What is in their frames afterwards is anybody's, and never pages of this process."""
    process = child(MANY_KINDS + "    pause(); written = huge = None; filled = b'\\xff' * (32 << 20)")
    with ProcessDirectory(process.pid) as directory:
        table, before = counted(directory)
        _, during = counted(directory, Disturbed(memory, 4, process.proceed))
    for address in map(int, process.said[0].split()):
        row = bisect_right(table.starts, address) - 1
        assert before.rss[row] >= 8 * MIB
        assert during.rss[row] <= before.rss[row]
    assert during.rss.sum() < before.rss.sum() - 8 * MIB
    assert during.special.tolist() == before.special.tolist()
    assert (during.swapped.sum(), during.unsettled_bytes) == (0, 0)


def test_a_process_that_never_rests_is_counted_soundly(child):
    """It maps, fills, discards and unmaps as fast as it can; each count stays below what it can ever have."""
    process = child("""if True:
        import mmap, threading
        def work():
            while True:
                memory = mmap.mmap(-1, 6 << 20, 34)
                memory[:] = bytes(len(memory))
                memory.madvise(mmap.MADV_DONTNEED, 0, 4 << 20)
                memory.close()
        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
    """)
    with ProcessDirectory(process.pid) as directory:
        for _ in range(60):
            _, counts = counted(directory)
            assert counts.rss.sum() + counts.unmatched_bytes < 64 * MIB
            assert counts.special.sum() < MIB
            assert counts.swapped.sum() == counts.huge.sum() % (2 * MIB) == 0
