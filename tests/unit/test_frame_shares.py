"""Who shares which frame with whom: page tables that are made up, and shares counted one by one."""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from dontneed.abi.kpageflags import HUGE as HUGETLB
from dontneed.abi.kpageflags import NOPAGE, THP, ZERO_PAGE
from dontneed.abi.page_entry import (
    ACCESSED,
    DIRTY,
    FRAME_SHIFT,
    GUARD_MARKER,
    HUGE,
    MARKER_TYPE,
    PRESENT,
    PROT_NONE,
    SPECIAL,
    USER,
    swap_entry,
)
from dontneed.errors import DontneedError, NotPermitted
from dontneed.kernel.status import Counters
from dontneed.observe.holders import shares as module
from dontneed.observe.holders.all_tables import AllTables
from dontneed.observe.holders.roll import Member
from dontneed.observe.holders.shares import FrameShares
from dontneed.observe.tables.reader import TableReader, Tables

from .table_world import BASE, ONLY_READ, PAGE, WRITTEN, TableWorld

START = 0x7F00_0000_0000
MIB2 = 2 << 20
GIB = 1 << 30
NEW = (6, 18)


def frame(number):
    """An entry that maps a frame, written to."""
    return WRITTEN | number << FRAME_SHIFT


def block(number):
    """An entry of an upper table that maps the frames from this one on."""
    return frame(number) | HUGE


def closed(number):
    """An entry whose page is there, and may not be accessed: its frame is inverted."""
    return ~(number << FRAME_SHIFT) & (1 << 52) - 1 & ~0xFFF | PROT_NONE | ACCESSED | DIRTY


def shares_of(world, tasks, hugetlb=()):
    """(rss, uss, pss, swapped) in bytes of each process."""
    frames = FrameShares()
    for tables in TableReader(world, tasks):
        frames.add(tables, may_have_hugetlb=hugetlb)
    found = frames.of(len(tasks))
    columns = (found.rss, found.uss, found.pss, found.swapped)
    assert all(column.dtype == np.int64 for column in columns)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def mapped(*processes):
    """The shares of processes that map these entries, page behind page."""
    world = TableWorld()
    tasks = [world.process(pid) for pid in range(1, len(processes) + 1)]
    for task, entries in zip(tasks, processes, strict=True):
        for nth, entry in enumerate(entries):
            world.map(task, START + nth * PAGE, entry)
    return shares_of(world, tasks)


# Pages


def test_a_frame_of_one_process_is_its_own():
    """All of it is USS, and PSS."""
    assert mapped([frame(5)], [frame(6), frame(7)]) == [(PAGE,) * 3 + (0,), (2 * PAGE,) * 3 + (0,)]


def test_a_frame_of_three_is_nobodys_own_and_a_third_of_each():
    """The kernel counts in parts of a byte, and drops what is left."""
    assert mapped(*[[frame(5)]] * 3) == [(PAGE, 0, 1365, 0)] * 3
    assert mapped(*[[frame(nth) for nth in range(3)]] * 3) == [(3 * PAGE, 0, 4095, 0)] * 3


def test_what_one_process_maps_twice_is_not_its_own():
    """So the kernel says: it counts mappings, not processes."""
    assert mapped([frame(5), frame(5), frame(6)]) == [(3 * PAGE, PAGE, 2 * PAGE, 0)]


@pytest.mark.parametrize(
    ("entry", "swapped"),
    [
        (ONLY_READ, 0),
        (PRESENT | USER | SPECIAL | ACCESSED | 95 << FRAME_SHIFT, 0),
        (swap_entry(MARKER_TYPE, GUARD_MARKER, NEW), 0),
        (swap_entry(25, 77, NEW), 0),
        (swap_entry(1, 1234, NEW), PAGE),
    ],
    ids=["zero page", "by number", "guard", "migrating", "swap"],
)
def test_what_is_no_memory_is_in_no_sum(entry, swapped):
    """Beside a page that is: zero page, device, marker; and what is in swap is counted there."""
    assert mapped([entry, frame(5)], [entry]) == [(PAGE, PAGE, PAGE, swapped), (0, 0, 0, swapped)]


def test_a_page_that_may_not_be_accessed_is_the_frame_that_others_have():
    """Its number is inverted in the entry."""
    assert mapped([closed(5)], [frame(5)], [closed(6)]) == [(PAGE, 0, PAGE // 2, 0)] * 2 + [(PAGE, PAGE, PAGE, 0)]


# Blocks


def huge_world(*processes):
    """Processes that map blocks, and pages; (level, nth, entry) each."""
    world = TableWorld()
    tasks = [world.process(pid) for pid in range(1, len(processes) + 1)]
    for task, entries in zip(tasks, processes, strict=True):
        for level, address, entry in entries:
            world.map(task, START + address, entry, level=level)
    return world, tasks


def test_a_huge_page_counts_as_all_its_frames():
    """Private to one, shared by two."""
    world, tasks = huge_world([(1, 0, block(512)), (1, MIB2, block(1024))], [(1, 0, block(512))])
    assert shares_of(world, tasks) == [(2 * MIB2, MIB2, MIB2 * 3 // 2, 0), (MIB2, 0, MIB2 // 2, 0)]


def test_a_huge_page_of_which_another_maps_parts_is_shared_in_parts():
    """As after a fork, when one side has split its mapping of it."""
    world, tasks = huge_world([(1, 0, block(512))], [(0, 0, frame(512 + 7)), (0, PAGE, frame(512 + 9))])
    assert shares_of(world, tasks) == [
        (MIB2, MIB2 - 2 * PAGE, MIB2 - PAGE, 0),
        (2 * PAGE, 0, PAGE, 0),
    ]


def test_the_largest_pages_count_as_well():
    """A PUD entry: a GiB, of which another maps two MiB and a page."""
    world, tasks = huge_world(
        [(2, 0, block(1 << 18))], [(1, 0, block(3 << 17)), (0, MIB2, frame((1 << 18) + 5))], [(2, 0, block(1 << 20))]
    )
    assert shares_of(world, tasks) == [
        (GIB, GIB - MIB2 - PAGE, GIB - (MIB2 + PAGE) // 2, 0),
        (MIB2 + PAGE, 0, (MIB2 + PAGE) // 2, 0),
        (GIB, GIB, GIB, 0),
    ]


@pytest.mark.parametrize("flags", [HUGETLB, ZERO_PAGE, NOPAGE])
def test_huge_pages_that_are_no_rss_are_left_out(monkeypatch, flags):
    """Hugetlb of those who have some; the huge zero page, which nobody can write to; and what has no page structure."""
    read_only = block(512) & ~(1 << 1 | DIRTY)
    asked = []

    def read_frame_flags(frames):
        asked.extend(frames.tolist())
        return np.where(frames == 512, np.uint64(flags), np.uint64(THP))

    monkeypatch.setattr(module, "read_frame_flags", read_frame_flags)
    world, tasks = huge_world([(1, 0, read_only), (1, MIB2, block(1024)), (1, 2 * MIB2, read_only + (1024 << 12))])
    assert shares_of(world, tasks) == [(2 * MIB2, 2 * MIB2, 2 * MIB2, 0)]
    assert asked == [512, 512 + 1024]  # who is written to, of whom has no hugetlb, is asked about by nobody
    world, tasks = huge_world([(1, 0, block(512)), (1, MIB2, block(1024))])
    assert shares_of(world, tasks, hugetlb=[0]) == [(MIB2, MIB2, MIB2, 0)]


def test_huge_pages_that_are_mapped_by_number_are_left_out():
    """Device memory, since 6.12; and since 6.18 the huge zero page is marked so."""
    world, tasks = huge_world([(1, 0, block(512) | SPECIAL)])
    assert shares_of(world, tasks) == [(0, 0, 0, 0)]


def test_where_flags_are_hidden_it_is_said(monkeypatch):
    """A container that hides kpageflags."""

    def read_frame_flags(_frames):
        msg = "not permitted"
        raise NotPermitted(msg, hint="ask")

    monkeypatch.setattr(module, "read_frame_flags", read_frame_flags)
    world, tasks = huge_world([(1, 0, block(512))])
    frames = FrameShares()
    for tables in TableReader(world, tasks):
        frames.add(tables, may_have_hugetlb=[0])
    assert frames.of(1).rss.tolist() == [MIB2]
    assert frames.notes == ["hugetlb pages and huge zero pages count as resident: not permitted; ask"]


# Many, and far apart


@pytest.mark.parametrize("seed", range(12))
def test_shares_are_those_that_counting_one_by_one_finds(seed, monkeypatch):
    """Pages and blocks at random, over some of each other, in stretches of memory near and far."""
    monkeypatch.setattr(module, "_STRETCH_SHIFT", 11)
    chance = random.Random(seed)  # noqa: S311 - a test's dice
    bases = [0, 2048, 40_960, 1 << 30, 1 << 33][: 2 + seed % 4]
    world = TableWorld()
    tasks = [world.process(pid) for pid in range(1, 6)]
    maps: list[list[int]] = [[] for _ in tasks]
    for owner, task in enumerate(tasks):
        for nth in range(chance.randrange(200)):
            number = chance.choice(bases) + chance.randrange(1, 3000)
            world.map(task, START + chance.randrange(9) * MIB2 + nth * PAGE, frame(number))
            maps[owner].append(number)
        for nth in range(chance.randrange(4)):
            first = chance.choice(bases) + 512 * chance.randrange(6)
            world.map(task, START + GIB + nth * MIB2, block(first), level=1)
            maps[owner] += range(first, first + 512)
    times = Counter(number for numbers in maps for number in numbers)
    assert shares_of(world, tasks) == [
        (
            len(numbers) * PAGE,
            sum(times[number] == 1 for number in numbers) * PAGE,
            sum((PAGE << 12) // times[number] for number in numbers) >> 12,
            0,
        )
        for numbers in maps
    ]


def test_memory_far_away_costs_no_more():
    """Frames are counted where there are some, not from the first of the machine on."""
    entries = np.zeros((4, 512), np.uint64)
    for nth, base in enumerate((0, 1 << 31, 1 << 34, (1 << 40) - 600)):
        entries[nth, :500] = [frame(base + each) for each in range(1, 501)]
    numbers = np.arange(4)
    tracemalloc.start()
    frames = FrameShares()
    frames.add(Tables(0, PAGE, numbers, numbers.astype(np.uint64), entries))
    found = frames.of(4)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.uss.tolist() == found.pss.tolist() == [500 * PAGE] * 4
    assert most < 200 << 20


def test_what_is_forgotten_is_in_no_sum():
    """Neither its own, nor what it seemed to share: pages and blocks."""
    frames = FrameShares()
    numbers = np.arange(3)
    entries = np.zeros((3, 512), np.uint64)
    entries[:, :10] = [frame(each) for each in range(10)]
    frames.add(Tables(0, PAGE, numbers, numbers.astype(np.uint64), entries), first_owner=4)
    entries = np.zeros((3, 512), np.uint64)
    entries[:, 3] = block(1024)
    frames.add(Tables(1, MIB2, numbers, numbers.astype(np.uint64), entries), first_owner=4)
    whole = 10 * PAGE + MIB2
    assert frames.of(7).pss.tolist() == [0] * 4 + [10 * (PAGE << 12) // 3 + 512 * ((PAGE << 12) // 3) >> 12] * 3
    frames.forget({4, 6})
    assert frames.of(7).uss.tolist() == [0, 0, 0, 0, 0, whole, 0]


def test_nobody_has_nothing():
    """No tables, no frames."""
    assert shares_of(TableWorld(), []) == []
    assert mapped([], []) == [(0, 0, 0, 0)] * 2


# All tables, and whose they are


class Machine(TableWorld):
    """A made-up machine with processes that come, go and share their memory.

    Attributes:
        alive: tasks by pid.
        hidden: pids that /proc does not show.
        refused: pids of which /proc says too little.
    """

    def __init__(self):
        super().__init__()
        self.alive = {}
        self.hidden = set()
        self.refused = set()
        self.everyone_asked = 0

    def start(self, pid, *entries, mm=None):
        """A process that maps these; its mm_struct is one of its own, if none is given."""
        task = self.process(pid)
        values = (mm or 0x10000 * pid, *task.values[1:])
        self.frames[(task.watched[0] - BASE) // PAGE][:3] = values
        self.alive[pid] = task.replace(mm=values[0], values=values)
        for nth, entry in enumerate(entries):
            self.map(task, START + nth * PAGE, entry)
        return self.alive[pid]

    def share(self, pid, task):
        """A process in the memory of another one."""
        self.alive[pid] = task.replace(pid=pid)

    def pids(self):
        """As /proc lists them."""
        return [pid for pid in self.alive if pid not in self.hidden]

    def member(self, pid):
        """As it says of itself."""
        task = self.alive.get(pid)
        if task is None:
            return None
        counters = Counters(size_bytes=1)
        return Member(pid, f"command {pid}", counters, task=None if pid in self.refused else task)

    def read_words(self, addresses):
        """Words of 64 bits."""
        assert not self.read([address & -PAGE for address in addresses])
        return [self.word(place, address) for place, address in enumerate(addresses)]

    def everyone(self):
        """All tasks there are."""
        self.everyone_asked += 1
        return [task.replace(pid=0) for task in self.alive.values()]


def read_all(machine, *, all_shown=True):
    """The tables of all, and (rss, uss, pss) in pages by pid."""
    everyone = AllTables(machine, machine.pids, machine.member, all_shown=all_shown)
    shares = everyone.read()
    columns = (shares.rss, shares.uss, shares.pss)
    return everyone, {pid: tuple(int(each[owner]) / PAGE for each in columns) for pid, owner in everyone.owners.items()}


def test_processes_in_one_address_space_are_read_once():
    """Each has what there is, and nothing of it is shared for that."""
    machine = Machine()
    task = machine.start(1, frame(5), frame(6))
    machine.share(2, task)
    machine.start(3, frame(6))
    everyone, found = read_all(machine)
    assert found == {1: (2, 1, 1.5), 2: (2, 1, 1.5), 3: (1, 0, 0.5)}
    assert everyone.owners == {1: 0, 2: 0, 3: 1}
    assert everyone.all_counted
    assert machine.everyone_asked == 0


def test_a_process_that_ends_meanwhile_shares_nothing():
    """What others share with it is their own then."""
    machine = Machine()
    machine.start(1, frame(5))
    ending = machine.start(2, frame(5))

    def end(number):
        if number == 3:
            machine.end(ending)
            machine.alive.pop(2)

    machine.before = end
    everyone, found = read_all(machine)
    assert found == {1: (1, 1, 1)}
    assert (everyone.unread, everyone.all_counted) == ({}, True)


def test_a_process_that_replaces_its_program_is_read_once_more():
    """What it had is forgotten; its new memory is what counts."""
    machine = Machine()
    machine.start(1, frame(5))
    replaced = machine.start(2, frame(5))

    def replace(number):
        if number == 3:
            machine.end(replaced)
            machine.start(2, frame(6), frame(7))

    machine.before = replace
    _, found = read_all(machine)
    assert found == {1: (1, 1, 1), 2: (2, 2, 2)}


def test_a_process_that_never_rests_waits_for_another_way():
    """Each time that it is read it has another program."""
    machine = Machine()
    machine.start(1, frame(5))
    machine.start(2, frame(5))

    def replace(_number):
        if 2 in machine.alive:
            machine.end(machine.alive[2])
        machine.start(2, frame(5))

    machine.before = replace
    everyone, found = read_all(machine)
    assert found == {1: (1, 1, 1)}
    assert set(everyone.unread) == {2}
    assert not everyone.all_counted


def test_a_process_that_comes_meanwhile_is_read_as_well():
    """And shares what it has with those who were read before."""
    machine = Machine()
    machine.start(1, frame(5))
    machine.before = lambda number: number == 3 and machine.start(2, frame(5))
    _, found = read_all(machine)
    assert found == {1: (1, 0, 0.5), 2: (1, 0, 0.5)}


def test_a_vfork_meanwhile_takes_nothing_from_its_parent():
    """It lives in the memory of a process that was read before, and that is still there."""
    machine = Machine()
    task = machine.start(1, frame(5))
    machine.before = lambda number: number == 3 and machine.share(2, task)
    _, found = read_all(machine)
    assert found == {1: (1, 1, 1), 2: (1, 1, 1)}


def test_an_mm_struct_that_was_used_again_is_another_address_space():
    """Its owner had been read, and has ended; who has it now has other pages."""
    machine = Machine()
    first = machine.start(1, frame(5))

    def pids():
        if machine.reads and 1 in machine.alive:
            machine.end(machine.alive.pop(1))
            machine.start(2, frame(6), frame(7), mm=first.mm)
        return list(machine.alive)

    machine.pids = pids
    _, found = read_all(machine)
    assert found == {1: (1, 1, 1), 2: (2, 2, 2)}


def test_those_that_are_not_shown_share_all_the_same():
    """Of another pid namespace, or of whom /proc says too little: they are in no row, and in all shares."""
    machine = Machine()
    machine.start(1, frame(5), frame(6), frame(7))
    machine.start(2, frame(5))
    machine.start(3, frame(6))
    machine.hidden.add(2)
    machine.refused.add(3)
    everyone, found = read_all(machine, all_shown=False)
    assert found == {1: (3, 1, 2)}
    assert (set(everyone.unread), everyone.all_counted, machine.everyone_asked) == ({3}, True, 1)


def test_a_list_of_all_that_cannot_be_followed_is_told():
    """Then shares are of those that were read."""
    machine = Machine()
    machine.start(1, frame(5))
    machine.start(2, frame(5))
    machine.refused.add(2)

    def everyone_gone():
        machine.everyone_asked += 1
        msg = "the list changed"
        raise DontneedError(msg)

    machine.everyone = everyone_gone
    everyone, found = read_all(machine)
    assert found == {1: (1, 1, 1)}
    assert (everyone.all_counted, machine.everyone_asked) == (False, 10)
