"""The native part on memory that we make up: what it gives back, what it writes, and that it refuses all that is odd.

Arenas, pools and heaps here are ours, byte by byte, in plain anonymous memory; nothing of the interpreter's or of
malloc's is touched. Each refusal is one check in the C source: without that check its test fails.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import threading
import time
import types

import numpy as np
import pytest

from dontneed import KernelLacks, Span, Spans, TargetRefused
from dontneed.abi import pymalloc as abi
from dontneed.abi.glibc_malloc import BINS, HEAP_BYTES, LAYOUTS
from dontneed.kernel import mappings, native
from dontneed.kernel.own_calls import call_own
from dontneed.observe.pymalloc_arenas import object_type
from dontneed.observe.pymalloc_pools import header_type

pytestmark = pytest.mark.skipif(not native.is_native(), reason=f"needs the native part: {native.why_not()}")

PAGE = mmap.PAGESIZE
POOL, HEADER, ARENA = abi.POOL_BYTES, abi.HEADER_BYTES, abi.ARENA_BYTES
LONG = 3600.0
BLOCK = 64
CUT = (POOL - HEADER) // BLOCK
"""Blocks in a pool from which all were cut."""


class Memory:
    """Anonymous memory at an address of its own, all of it present, and freed at the end."""

    def __init__(self, length, alignment=PAGE, skew=0):
        self._mapped = mappings.map_memory(length + 2 * alignment)
        self._length = length + 2 * alignment
        self.address = -(-self._mapped // alignment) * alignment + skew
        self.bytes = np.frombuffer((ctypes.c_char * length).from_address(self.address), np.uint8)

    def close(self):
        """Unmap it."""
        mappings.unmap_memory(self._mapped, self._length)

    def present(self, address, length):
        """Which pages of a range are there."""
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(address // PAGE * 8)
            return (np.frombuffer(file.read(length // PAGE * 8), np.uint64) >> np.uint64(63)).astype(bool).tolist()


@pytest.fixture
def memory():
    """Make memory: `memory(length, alignment)`."""
    made = []

    def make(length, alignment=PAGE, skew=0):
        made.append(Memory(length, alignment, skew))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Arena:
    """One arena of pools in an array of sixteen, number 3 of them; with a word that holds the array's address."""

    number = 3

    def __init__(self, memory, skew=0):
        self.memory = memory(ARENA, POOL, skew)
        self.memory.bytes[:] = 0xAA
        self.array = np.zeros(16, object_type())
        self.holder = np.array([self.array.ctypes.data], np.uint64)
        self.first = -(-self.memory.address // POOL) * POOL
        total = 64 if self.first == self.memory.address else 63
        self.object = self.array[self.number]
        self.object["address"] = self.memory.address
        self.object["pool_address"] = self.first
        self.object["ntotalpools"] = self.object["nfreepools"] = total

    def pool(self, used, cut=CUT, order=None, size=BLOCK):
        """Cut off a pool, `cut` blocks of which were cut off and those numbered `used` are in use; its address."""
        address = int(self.object["pool_address"])
        header = self.header(address)
        free = [each for each in range(cut) if each not in used] if order is None else order
        links = [address + HEADER + each * size for each in free]
        for link, following in zip(links, [*links[1:], 0], strict=False):
            self.words(link)[0] = following
        header["count"] = cut - len(free)
        header["freeblock"] = links[0] if links else 0
        header["arenaindex"] = self.number
        header["szidx"] = size // abi.ALIGNMENT - 1
        header["nextoffset"] = HEADER + cut * size
        header["maxnextoffset"] = POOL - size
        header["nextpool"] = header["prevpool"] = 0
        self.object["pool_address"] += POOL
        if used:
            self.object["nfreepools"] -= 1
        else:
            header["nextpool"] = self.object["freepools"]
            self.object["freepools"] = address
        return address

    def header(self, address):
        """The header of a pool, to be read and written."""
        return np.frombuffer((ctypes.c_char * HEADER).from_address(address), header_type())[0:1].view(np.recarray)[0]

    def words(self, address):
        """The word at an address, to be read and written."""
        return np.frombuffer((ctypes.c_char * 8).from_address(address), np.uint64)

    def free_list(self, address):
        """The numbers of the blocks on a pool's free list."""
        found, block = [], int(self.header(address)["freeblock"])
        while block:
            found.append((block - address - HEADER) // BLOCK)
            block = int(self.words(block)[0])
        return found

    def release(self, numbers=None, at_most=LONG, holders=None, **options):
        """Hold the GIL once."""
        holders = [self.holder.ctypes.data] if holders is None else holders
        numbers = np.array([self.number] if numbers is None else numbers, np.uint32)
        return native.release_pools(self.array.ctypes.data, holders, numbers, at_most, **options)


@pytest.fixture
def arena(memory):
    """An arena without pools yet."""
    return Arena(memory)


# Pools


def test_a_free_pool_keeps_the_page_of_its_header_and_forgets_its_life(arena):
    """Its next user would else go on with a free list that leads through pages of zeros."""
    used, free = arena.pool({0}, order=range(1, CUT)[::-1]), arena.pool(set())
    hold = arena.release()
    assert Span(free + PAGE, free + POOL) in hold.spans
    assert arena.memory.present(free, POOL) == [True, False, False, False]
    assert arena.header(free)["szidx"] == abi.NEVER_USED
    assert arena.header(used)["szidx"] == BLOCK // 16 - 1
    assert (hold.looked_at, hold.strange, hold.has_moved) == (1, 0, False)


def test_the_last_blocks_of_a_pool_go_if_all_are_free(arena):
    """The others keep their order on the free list, and what is in use keeps its bytes."""
    used = {0, 7, 90}
    order = np.random.default_rng(7).permutation([each for each in range(CUT) if each not in used]).tolist()
    address = arena.pool(used, order=order)
    before = arena.memory.bytes[: HEADER + 91 * BLOCK].copy()
    hold = arena.release()
    assert arena.free_list(address) == [each for each in order if each < 90]
    assert arena.header(address)["nextoffset"] == HEADER + 91 * BLOCK
    assert arena.header(address)["count"] == 3
    for block in used:
        start = HEADER + block * BLOCK
        assert (arena.memory.bytes[start : start + BLOCK] == before[start : start + BLOCK]).all()
    assert hold.spans.array.tolist() == [[address + 2 * PAGE, address + POOL]]
    assert arena.memory.present(address, POOL) == [True, True, False, False]


def test_a_pool_with_room_keeps_a_first_free_block(arena):
    """CPython takes it without a look whether there is one."""
    address = arena.pool({0, 1})
    arena.release()
    assert arena.free_list(address) == [2]
    assert arena.header(address)["nextoffset"] == HEADER + 3 * BLOCK
    assert arena.memory.present(address, POOL) == [True, False, False, False]


def test_pages_behind_what_was_cut_off_go_without_an_edit(arena):
    """They are there when an earlier life of the pool used them."""
    address = arena.pool(set(range(10)) | {60}, cut=61)
    before = arena.memory.bytes[:PAGE].copy()
    hold = arena.release()
    assert hold.spans.array.tolist() == [[address + PAGE, address + POOL]]
    assert (arena.memory.bytes[:PAGE] == before).all()


def test_a_pool_that_is_full_is_left_alone(arena):
    """All of it is in use."""
    address = arena.pool(set(range(CUT)))
    before = arena.memory.bytes.copy()
    assert len(arena.release().spans) == 0
    assert (arena.memory.bytes == before).all()
    assert arena.memory.present(address, POOL) == [True] * 4


def test_a_second_time_finds_nothing(arena):
    """What is gone is not given up again: it would only cost."""
    for used in (set(), {0}, {5, 100}, set()):
        arena.pool(used)
    assert len(arena.release().spans) == 4
    assert len(arena.release().spans) == 0


def test_a_survey_says_what_would_go_and_changes_nothing(arena):
    """Not a byte, not a page."""
    for used in (set(), {0}, {5, 100}, set(range(CUT)), {254}):
        arena.pool(used)
    before, was_there = arena.memory.bytes.copy(), arena.memory.present(arena.memory.address, ARENA)
    found = arena.release(is_survey=True).spans
    assert (arena.memory.bytes == before).all()
    assert arena.memory.present(arena.memory.address, ARENA) == was_there
    assert arena.release().spans == found
    assert found.size_bytes == 8 * PAGE


def test_an_arena_that_does_not_begin_at_a_pool_has_one_less(memory):
    """Arenas are aligned to pages by mmap, not to pools."""
    arena = Arena(memory, skew=PAGE)
    assert arena.object["ntotalpools"] == 63
    free = arena.pool(set())
    assert arena.release().spans.array.tolist() == [[free + PAGE, free + POOL]]


def test_pools_that_were_never_cut_off_are_not_looked_at(arena):
    """Beyond `pool_address` there is no header to read."""
    arena.pool(set())
    assert arena.release().spans.size_bytes == POOL - PAGE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arenaindex", 4),
        ("szidx", abi.SIZE_CLASSES),
        ("szidx", 4),
        ("count", 0),
        ("maxnextoffset", POOL - BLOCK - 16),
        ("nextoffset", HEADER + (CUT + 1) * BLOCK),
        ("nextoffset", HEADER + CUT * BLOCK - 16),
        ("count", CUT + 1),
    ],
)
def test_an_arena_with_an_odd_pool_is_left_alone_altogether(arena, field, value):
    """One word that cannot be means that we know less than we think."""
    arena.pool(set())
    arena.header(arena.pool({0, 100}))[field] = value
    before = arena.memory.bytes.copy()
    hold = arena.release()
    assert (len(hold.spans), hold.strange) == (0, 1)
    assert (arena.memory.bytes == before).all()


def test_blocks_larger_than_any_of_pymalloc_are_noticed(arena):
    """Though the rest of the header agrees with them."""
    arena.pool(set())
    arena.pool({0}, cut=30, size=abi.SIZE_CLASSES * 16 + 16)
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)


def test_a_pool_that_ends_before_it_begins_is_noticed(arena):
    """The difference wraps, and would be a multiple of the size."""
    arena.pool(set())
    arena.header(arena.pool({0}, size=16, cut=900))["nextoffset"] = HEADER - 16
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("address", 512),
        ("pool_address", 8192),
        ("pool_address", -3 * POOL),
        ("pool_address", 64 * POOL),
        ("ntotalpools", -1),
        ("nfreepools", 1),
    ],
)
def test_an_arena_object_that_contradicts_its_pools_is_left_alone(arena, field, change):
    """What it counts is what there is, or it is not an arena."""
    arena.pool(set())
    arena.pool({0})
    arena.object[field] += np.array(change).astype(arena.object[field].dtype)
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)


def test_an_arena_does_not_begin_inside_a_page(memory):
    """Its pools would be where they are, and as many."""
    arena = Arena(memory, skew=PAGE)
    arena.pool(set())
    arena.object["address"] += 512
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)


def test_an_arena_has_no_more_pools_than_fit(memory):
    """One too many is there, byte by byte as it should be, and counted in a number that wraps."""
    arena = Arena(memory, skew=PAGE)
    for _ in range(63):
        arena.pool({0})
    arena.pool(set())
    assert arena.object["nfreepools"] == 0
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)


def test_a_free_pool_of_another_arena_is_noticed(arena):
    """Its words say whose it is."""
    arena.header(arena.pool(set()))["arenaindex"] = arena.number + 1
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)


def test_a_free_pool_does_not_begin_inside_another(arena):
    """What looks like a header of a free pool there are bytes of an object."""
    free, used = arena.pool(set()), arena.pool(set(range(CUT)))
    fake = arena.header(used + 64)
    fake["count"], fake["arenaindex"], fake["nextpool"] = 0, arena.number, 0
    arena.header(free)["nextpool"] = used + 64
    arena.object["nfreepools"] += 1
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)


@pytest.mark.parametrize(
    "leads", [(1 << 40) + 9 * POOL, -POOL, 8, 0], ids=["far behind", "before", "inside a pool", "to itself"]
)
def test_a_list_of_free_pools_that_leads_astray_is_not_followed(arena, leads):
    """It is known to lead to a pool of this arena before it is read."""
    free = arena.pool(set())
    arena.pool({0})
    arena.header(free)["nextpool"] = free + leads
    hold = arena.release()
    assert (len(hold.spans), hold.strange) == (0, 1)


def test_a_pool_in_use_on_the_list_of_free_ones_is_noticed(arena):
    """Two contradicting words: none is believed."""
    free = arena.pool(set())
    arena.pool({0})
    arena.header(free)["count"] = 1
    assert (len(arena.release().spans), arena.header(free)["szidx"]) == (0, BLOCK // 16 - 1)


@pytest.mark.parametrize(
    ("block", "leads"),
    [(5, 1 << 40), (5, -8192), (5, 8), (5, -BLOCK), (CUT - 1, 0), (5, POOL)],
    ids=["far behind", "before", "inside a block", "in a circle", "to itself", "to the next pool"],
)
def test_a_free_list_that_leads_astray_is_left_as_it_is(arena, block, leads):
    """Of a broken pool nothing is given up; its neighbours are."""
    broken, sound = arena.pool({0}), arena.pool({0})
    place = broken + HEADER + block * BLOCK
    arena.words(place)[0] = place + leads
    before = arena.memory.bytes[:POOL].copy()
    hold = arena.release()
    assert (arena.memory.bytes[:POOL] == before).all()
    assert hold.strange == 1
    assert hold.spans.array.tolist() == [[sound + PAGE, sound + POOL]]


def test_a_free_list_that_is_shorter_than_the_count_says_is_left_as_it_is(arena):
    """A block that is neither in use nor on the list would be lost, or is in use in truth."""
    address = arena.pool({0})
    arena.words(address + HEADER + 9 * BLOCK)[0] = 0
    before = arena.memory.bytes.copy()
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)
    assert (arena.memory.bytes == before).all()


def test_a_free_list_that_leads_into_a_block_in_use_is_left_as_it_is(arena):
    """Though it leads on from there, and is as long as the count says."""
    address = arena.pool({0, 1})
    inside = address + HEADER + 8
    arena.words(inside)[0] = arena.header(address)["freeblock"]
    arena.header(address)["freeblock"] = inside
    arena.header(address)["count"] = 1
    before = arena.memory.bytes.copy()
    assert (len(arena.release().spans), arena.release().strange) == (0, 1)
    assert (arena.memory.bytes == before).all()


def test_nothing_is_touched_when_the_array_has_moved(arena):
    """One word of all that are to hold its address says otherwise: then the numbers of arenas mean nothing."""
    arena.pool(set())
    other = np.array([arena.array.ctypes.data + 48], np.uint64)
    hold = arena.release(holders=[arena.holder.ctypes.data, other.ctypes.data])
    assert (hold.has_moved, hold.looked_at, len(hold.spans)) == (True, 0, 0)
    assert arena.release().spans.size_bytes == POOL - PAGE


def test_an_arena_that_was_given_back_since_is_passed_over(arena):
    """Its object stays in the array, with no address."""
    hold = arena.release(numbers=[7])
    assert (hold.looked_at, hold.strange) == (1, 0)


def test_a_hold_ends_when_its_time_is_over_and_the_next_goes_on(arena):
    """At least one arena a hold, so that every hold gets further."""
    arena.pool(set())
    hold = arena.release(numbers=[7, 8, arena.number, 9], at_most=0.0)
    assert (hold.looked_at, len(hold.spans)) == (1, 0)
    assert arena.release(numbers=[arena.number, 9], at_most=0.0).spans.size_bytes == POOL - PAGE


def test_no_arena_is_begun_that_may_not_find_room(arena, monkeypatch):
    """A row for each of its pools."""
    arena.pool(set())
    monkeypatch.setattr(native, "_ROWS", 63)
    assert arena.release().looked_at == 0
    monkeypatch.setattr(native, "_ROWS", 64)
    assert arena.release().looked_at == 1


def test_memory_that_the_kernel_does_not_let_go_is_not_said_to_be_given_up(arena):
    """Locked pages stay, and the pool is sound all the same."""
    free = arena.pool(set())
    address = arena.memory.address
    if mappings.libc.mlock(address, ARENA):
        pytest.skip("needs to lock 1 MiB of memory")
    try:
        assert len(arena.release().spans) == 0
        assert arena.memory.present(free, POOL) == [True] * 4
    finally:
        mappings.libc.munlock(address, ARENA)
    assert arena.release().spans.size_bytes == POOL - PAGE


@pytest.mark.parametrize("target", [None, 0], ids=["without process_madvise", "where it fails"])
def test_ranges_go_one_by_one_where_the_kernel_takes_no_list(arena, monkeypatch, target):
    """Before 6.13, and in containers whose filter does not know the call."""
    monkeypatch.setattr(native, "own_target", lambda _advice: target)
    for _ in range(10):
        arena.pool(set())
    assert arena.release().spans.size_bytes == 10 * (POOL - PAGE)


# Arenas of malloc

LAYOUT = LAYOUTS[1]
UNSORTED, LARGE = 1, 110


class Heaps:
    """A thread arena of two heaps, with free chunks in both, and a top of 50 pages behind 70 in the newer one."""

    is_main = False

    def __init__(self, memory):
        self.memory = memory(2 * HEAP_BYTES, HEAP_BYTES)
        self.first, self.newest = self.memory.address, self.memory.address + HEAP_BYTES
        self.state = self.first + 48
        self.top = self.newest + 70 * PAGE + 16
        self.end = self.newest + 120 * PAGE
        self.memory.bytes[: 64 * PAGE] = self.memory.bytes[HEAP_BYTES : HEAP_BYTES + 128 * PAGE] = 0xAA
        self[self.first] = self.state, 0, 40 * PAGE, 40 * PAGE
        self[self.newest] = self.state, self.first, 120 * PAGE, 128 * PAGE
        self[self.state] = (2 << 32,)
        self[self.state + LAYOUT.top] = (self.top,)
        self[self.state + LAYOUT.system_mem] = (160 * PAGE,)
        self[self.top + 8] = (self.end - self.top | 1,)
        for number in range(1, BINS + 1):
            self.fill_bin(number)
        self.chunks = [self.newest + 2 * PAGE + 32, self.first + 10 * PAGE, self.newest + 30 * PAGE + 4000]
        self.sizes = [10 * PAGE, 8 * PAGE + 64, 20 * PAGE]
        self.inner = [Span.inward(at + 48, size - 48) for at, size in zip(self.chunks, self.sizes, strict=True)]
        for chunk, size in zip(self.chunks, self.sizes, strict=True):
            self[chunk + 8] = (size | 1,)
            self[chunk + size] = size, 48
        self.fill_bin(UNSORTED, self.chunks[:1])
        self.fill_bin(LARGE, self.chunks[1:])

    def __setitem__(self, address, words):
        place = address - self.memory.address
        self.memory.bytes[place : place + 8 * len(words)] = np.array(words, np.uint64).view(np.uint8)

    def fill_bin(self, number, chunks=()):
        """Link a bin and its chunks, in their order."""
        bin_ = self.bin_at(number)
        ring = [bin_, *chunks, bin_]
        for before, chunk in itertools.pairwise(ring):
            self[before + 16] = (chunk,)
            self[chunk + 24] = (before,)

    def bin_at(self, number):
        """Where its links would be those of a chunk."""
        return self.state + LAYOUT.bins + 16 * (number - 1) - 16

    @property
    def top_pages(self):
        """What can be given up of the top."""
        return Span(self.newest + 71 * PAGE, self.end)

    def release(self, position=0, at_most=LONG):
        """Hold the arena's lock once."""
        return native.release_arena(self.state, LAYOUT, position, at_most, is_main=self.is_main)

    def mutex(self):
        """The arena's lock, to be read and written."""
        return ctypes.c_uint32.from_address(self.state)

    def present(self):
        """Which pages of both heaps are there."""
        newest = self.memory.present(self.newest, 128 * PAGE)
        return np.array(self.memory.present(self.first, 64 * PAGE) + newest)


@pytest.fixture
def heaps(memory):
    """An arena that is sound."""
    return Heaps(memory)


def test_what_is_inside_free_chunks_goes_and_their_headers_stay(heaps):
    """Of the top, up to the end of the newest heap; in the bins, between a chunk's header and its last partial page."""
    was_there, before = heaps.present(), heaps.memory.bytes.copy()
    hold = heaps.release()
    assert (hold.spans, hold.fault, hold.position) == (Spans([heaps.top_pages, *heaps.inner]), "", None)
    gone = Spans([heaps.top_pages, *heaps.inner]).size_bytes // PAGE
    assert was_there.sum() - heaps.present().sum() == gone
    for span in hold.spans:
        before[span.start - heaps.memory.address : span.end - heaps.memory.address] = 0
    assert (heaps.memory.bytes == before).all()
    assert heaps.mutex().value == 0


def test_what_is_not_there_is_not_given_up_again(heaps):
    """A second look costs little, and says that there was nothing to do."""
    heaps.release()
    again = heaps.release()
    assert (len(again.spans), again.position, again.fault) == (0, None, "")


def test_of_a_chunk_that_is_there_in_part_only_that_part_is_given_up(heaps):
    """As little as it takes: every range costs."""
    heaps.release()
    for page in (3, 5):
        heaps[heaps.inner[2].start + page * PAGE] = (1,)
    start = heaps.inner[2].start
    assert heaps.release().spans == Spans([(start + 3 * PAGE, start + 6 * PAGE)])


def test_a_hold_ends_when_there_is_no_room_for_more_rows(heaps, monkeypatch):
    """The next one goes on."""
    monkeypatch.setattr(native, "_ROWS", 2)
    first = heaps.release()
    second = heaps.release(first.position)
    assert [len(first.spans), len(second.spans), second.position] == [2, 2, None]
    assert first.spans | second.spans == Spans([heaps.top_pages, *heaps.inner])


def test_a_hold_without_time_gives_up_one_chunk_and_the_next_goes_on(heaps):
    """However many chunks there are, holds come to an end, and are short."""
    position, found = 0, []
    while position is not None:
        hold = heaps.release(position, at_most=0.0)
        found.append(hold.spans)
        position = hold.position
    wanted = [Spans([span]) for span in (heaps.top_pages, *heaps.inner)]
    assert [spans for spans in found if spans] == wanted


def test_a_large_top_goes_in_several_holds(memory):
    """4 MiB at a time at most, so that no thread waits long for its arena."""
    heaps = Heaps(memory)
    heaps[heaps.newest + 16] = 16384 * PAGE, 16384 * PAGE
    heaps[heaps.top + 8] = (heaps.newest + HEAP_BYTES - heaps.top | 1,)
    heaps[heaps.state + LAYOUT.system_mem] = (HEAP_BYTES + 40 * PAGE,)
    heaps.memory.bytes[HEAP_BYTES + 71 * PAGE :: PAGE] = 1
    position, sizes = 0, []
    while position is not None:
        hold = heaps.release(position, at_most=0.0)
        sizes.append(hold.spans.size_bytes)
        position = hold.position
    assert max(sizes) == 4 << 20
    assert sum(sizes) == HEAP_BYTES - 71 * PAGE + sum(span.size_bytes for span in heaps.inner)


class MainArena(Heaps):
    """The same chunks, as those of an arena that grows by brk."""

    is_main = True

    def __init__(self, memory):
        super().__init__(memory)
        self[self.state] = (0,)
        self[self.first] = self[self.newest] = 0, 0, 0, 0


def test_the_main_arena_has_no_heaps(memory):
    """Its top ends where brk ended, and its chunks may lie anywhere."""
    arena = MainArena(memory)
    assert arena.release().spans == Spans([arena.top_pages, *arena.inner])


def test_a_main_arena_that_was_never_used_has_no_top(memory):
    """Its top is a bin then."""
    arena = MainArena(memory)
    arena[arena.state + LAYOUT.top] = (arena.bin_at(UNSORTED),)
    assert arena.release().spans == Spans(arena.inner)


@pytest.mark.parametrize(
    ("field", "value"),
    [("system_mem", 49 * PAGE), ("size", 50 * PAGE - 32 | 1), ("size", 50 * PAGE - 16), ("size", 50 * PAGE - 16 | 3)],
)
def test_a_main_arena_that_is_not_what_it_should_be_is_left_alone(memory, field, value):
    """Its top is shorter than all it has, ends at a page, and is marked as tops are."""
    arena = MainArena(memory)
    arena[arena.top + 8 if field == "size" else arena.state + LAYOUT.system_mem] = (value,)
    hold = arena.release()
    assert (len(hold.spans), hold.fault) == (0, STRANGE)


STRANGE = "it is not what it should be"
FIRST, NEWEST, STATE, TOP_CHUNK = "first", "newest", "state", "top"


@pytest.mark.parametrize(
    ("where", "offset", "value"),
    [
        (STATE, 0, 6 << 32),
        (STATE, 0, 0),
        (STATE, LAYOUT.top, 0),
        (STATE, LAYOUT.system_mem, 161 * PAGE),
        (NEWEST, 0, 16),
        (NEWEST, 8, 48),
        (NEWEST, 16, 0),
        (NEWEST, 16, 129 * PAGE),
        (NEWEST, 24, HEAP_BYTES + PAGE),
        (NEWEST, 24, 128 * PAGE + 8),
        (FIRST, 0, 16),
        (FIRST, 8, NEWEST),
        (TOP_CHUNK, 8, 50 * PAGE - 16),
        (TOP_CHUNK, 8, 50 * PAGE - 16 | 3),
        (TOP_CHUNK, 8, 50 * PAGE - 16 | 5),
        (TOP_CHUNK, 8, 50 * PAGE | 1),
        (TOP_CHUNK, 8, 17),
    ],
)
def test_an_arena_that_is_not_what_it_should_be_is_left_alone(heaps, where, offset, value):
    """Each word is held against the others."""
    heaps[getattr(heaps, where) + offset] = (getattr(heaps, value) if isinstance(value, str) else value,)
    was_there = heaps.present()
    hold = heaps.release()
    assert (len(hold.spans), hold.fault) == (0, STRANGE)
    assert (heaps.present() == was_there).all()
    assert heaps.mutex().value == 0


@pytest.mark.parametrize("size", [120 * PAGE + 16, 129 * PAGE], ids=["no number of pages", "more than it ever had"])
def test_a_heap_of_a_length_that_cannot_be_is_left_alone(heaps, size):
    """Whatever else agrees with it."""
    heaps[heaps.newest + 16] = (size,)
    heaps[heaps.top + 8] = (heaps.newest + size - heaps.top | 1,)
    heaps[heaps.state + LAYOUT.system_mem] = (40 * PAGE + size,)
    assert heaps.release().fault == STRANGE


@pytest.mark.parametrize("top", [8, -70 * PAGE - 16, 50 * PAGE - 32], ids=["not aligned", "in heap_info", "too short"])
def test_a_top_where_none_can_be_is_left_alone(heaps, top):
    """Its size is right for where it is, so that its place alone is wrong."""
    place = heaps.top + top
    heaps[heaps.state + LAYOUT.top] = (place,)
    if place != heaps.newest:
        heaps[place + 8] = (heaps.end - place | 1,)
    assert heaps.release().fault == STRANGE


def test_a_top_beyond_what_its_heap_ever_used_is_not_even_read(heaps):
    """Nobody may touch what lies there."""
    mappings.protect_memory(heaps.newest + 128 * PAGE, 64 * PAGE, mappings.PROT_NONE)
    heaps[heaps.state + LAYOUT.top] = (heaps.newest + 130 * PAGE,)
    assert heaps.release().fault == STRANGE


def test_an_arena_that_does_not_stand_in_its_first_heap_is_left_alone(heaps):
    """A heap's word alone does not make an arena of what it points to."""
    stranger = heaps.first + 3 * PAGE
    start = heaps.state - heaps.memory.address
    heaps.memory.bytes[3 * PAGE : 4 * PAGE] = heaps.memory.bytes[start : start + PAGE]
    heaps[heaps.first] = heaps[heaps.newest] = (stranger,)
    hold = native.release_arena(stranger, LAYOUT, 0, LONG)
    assert (len(hold.spans), hold.fault) == (0, STRANGE)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, 10 * PAGE),
        (8, 10 * PAGE | 5),
        (8, 17),
        (16, 8),
        (24, 16),
        (10 * PAGE, 8 * PAGE),
        (10 * PAGE + 8, 49),
    ],
)
def test_a_chunk_that_contradicts_its_neighbours_ends_it(heaps, offset, value):
    """What was given up before it was sound, and nothing behind it is touched."""
    link = {8: 0, 16: heaps.chunks[0] + 8, 24: heaps.chunks[1]}.get(offset, 0)
    heaps[heaps.chunks[0] + offset] = (link if offset in (16, 24) else value,)
    hold = heaps.release()
    given = [heaps.top_pages, heaps.inner[0]] if offset == 16 else [heaps.top_pages]
    assert (hold.spans, hold.fault, hold.position) == (Spans(given), STRANGE, None)


def test_a_chunk_that_leads_nowhere_ends_it(heaps):
    """A bin ends where it began."""
    heaps[heaps.chunks[0] + 16] = (0,)
    hold = heaps.release()
    assert (hold.spans, hold.fault) == (Spans([heaps.top_pages, heaps.inner[0]]), STRANGE)


def test_a_chunk_of_another_arena_ends_it(heaps):
    """What is in our bins is ours."""
    heaps[heaps.first] = (heaps.state + 16,)
    heaps[heaps.newest + 8] = (0,)
    heaps[heaps.state + LAYOUT.system_mem] = (120 * PAGE,)
    assert heaps.release().fault == STRANGE


@pytest.mark.parametrize("place", [38 * PAGE, 20 * PAGE + 8], ids=["beyond its heap", "not aligned"])
def test_a_chunk_where_none_can_be_ends_it(heaps, place):
    """Even where the words around it agree."""
    chunk, size = heaps.first + place, 4 * PAGE
    heaps[chunk + 8] = (size | 1,)
    heaps[chunk + size] = size, 48
    heaps.fill_bin(UNSORTED, [chunk])
    hold = heaps.release()
    assert (hold.spans, hold.fault) == (Spans([heaps.top_pages]), STRANGE)


def test_a_lock_that_is_held_is_waited_for_only_so_long(heaps):
    """A thread that was stopped inside malloc must not take us along."""
    heaps.mutex().value = 1
    was_there = heaps.present()
    hold = heaps.release()
    assert (len(hold.spans), hold.fault, hold.position) == (0, "its lock was held all the time", None)
    assert (heaps.present() == was_there).all()
    assert heaps.mutex().value == 2  # so whoever holds it wakes somebody, who may not be there


def test_a_lock_that_is_given_back_is_taken(heaps, monkeypatch):
    """As malloc does: by the word itself, and a wake of those who wait."""
    monkeypatch.setattr(native, "_PATIENCE_SECONDS", LONG)
    heaps.mutex().value = 1
    wake = ctypes.CDLL(None).syscall

    def give_back():
        while heaps.mutex().value != 2:
            time.sleep(0.001)
        heaps.mutex().value = 0
        wake(202, ctypes.c_void_p(heaps.state), 129, 1)

    thread = threading.Thread(target=give_back)
    thread.start()
    hold = heaps.release()
    thread.join()
    assert (hold.fault, heaps.mutex().value) == ("", 0)
    assert heaps.top_pages in hold.spans


def test_whoever_waits_for_the_lock_is_woken(heaps):
    """2 in the word says that somebody sleeps until we are done."""
    futex = ctypes.CDLL(None).syscall
    began, ended = threading.Event(), threading.Event()

    def wait():
        began.set()
        while heaps.mutex().value != 0:
            futex(202, ctypes.c_void_p(heaps.state), 128, 2, None)
        ended.set()

    heaps.mutex().value = 2
    thread = threading.Thread(target=wait)
    thread.start()
    began.wait()
    time.sleep(0.01)  # it sleeps by now, or will see the 0
    heaps.mutex().value = 0
    heaps.release()
    futex(202, ctypes.c_void_p(heaps.state), 129, 1)
    thread.join()
    assert ended.is_set()


def test_chunks_that_the_kernel_does_not_let_go_are_not_said_to_be_given_up(heaps):
    """Locked memory stays where it is; the rest goes."""
    if mappings.libc.mlock(heaps.first, 40 * PAGE):
        pytest.skip("needs to lock 160 KiB of memory")
    try:
        hold = heaps.release()
        assert hold.spans == Spans([heaps.top_pages, heaps.inner[0], heaps.inner[2]])
        assert hold.fault == ""
    finally:
        mappings.libc.munlock(heaps.first, 40 * PAGE)


# Functions by their addresses


def test_a_function_is_called_by_its_address():
    """With integers, and with text that ends with a zero."""
    library = ctypes.CDLL(None)
    addresses = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in ("abs", "strncmp")}
    assert call_own(addresses["abs"], 41) == 41
    assert call_own(addresses["strncmp"], b"arena.1", b"arena.2", 6) == 0


# The module


def test_a_part_that_was_built_of_another_version_is_not_called(monkeypatch):
    """In a checkout the binary may be older than what calls it."""
    monkeypatch.setattr(native, "import_module", lambda _name: types.SimpleNamespace(CONTRACT=native.CONTRACT + 1))
    assert native._load.__wrapped__() == "it was built of another version: install dontneed again"


@pytest.mark.parametrize(
    ("error", "said"),
    [(ModuleNotFoundError("no"), "it was not built"), (ImportError("undefined symbol: x"), "undefined symbol: x")],
)
def test_without_the_part_there_is_a_reason_and_a_hint(monkeypatch, error, said):
    """And no traceback of an import."""

    def fails(_name):
        raise error

    monkeypatch.setattr(native, "import_module", fails)
    reason = native._load.__wrapped__()
    assert said in reason
    monkeypatch.setattr(native, "_load", lambda: reason)
    assert native.why_not() == reason
    assert not native.is_native()
    with pytest.raises(KernelLacks, match="no native part"):
        native.release_arena(0, LAYOUT, 0, 0.0)


def test_a_sub_interpreter_is_refused(arena, monkeypatch):
    """Its GIL may be another one than that of the pools."""

    def refuses(*_arguments):
        raise RuntimeError("the pools are the main interpreter's")

    monkeypatch.setattr(native, "_load", lambda: types.SimpleNamespace(pools=refuses))
    with pytest.raises(TargetRefused, match="main interpreter"):
        arena.release()
