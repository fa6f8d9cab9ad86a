"""The native part on pools that we make up: what it gives back, what it writes, and that it leaves alone what is odd.

Each refusal is one check in src/native/pools.c: without that check its test fails.
"""

from __future__ import annotations

import ctypes
import types

import numpy as np
import pytest

from dontneed import Span, TargetRefused
from dontneed.abi import pymalloc as abi
from dontneed.kernel import mappings, native
from dontneed.observe.python.arenas import object_type
from dontneed.observe.python.pools import header_type

from .made_memory import PAGE, making_memory

pytestmark = pytest.mark.skipif(not native.is_native(), reason=f"needs the native part: {native.why_not()}")

POOL, HEADER, ARENA = abi.POOL_BYTES, abi.HEADER_BYTES, abi.ARENA_BYTES
LONG = 3600.0
BLOCK = 64
CUT = (POOL - HEADER) // BLOCK
"""Blocks in a pool from which all were cut."""


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
def memory():
    """Make memory: `memory(length, alignment)`."""
    with making_memory() as make:
        yield make


@pytest.fixture
def arena(memory):
    """An arena without pools yet."""
    return Arena(memory)


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


def test_a_sub_interpreter_is_refused(arena, monkeypatch):
    """Its GIL may be another one than that of the pools."""

    def refuses(*_arguments):
        raise RuntimeError("the pools are the main interpreter's")

    monkeypatch.setattr(native, "_load", lambda: types.SimpleNamespace(pools=refuses))
    with pytest.raises(TargetRefused, match="main interpreter"):
        arena.release()
