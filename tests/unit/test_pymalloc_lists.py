"""Free lists of pools that the tests make up: followed, found broken, and shortened so that every step is sound."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import numpy as np
import pytest

from dontneed.kernel.process_memory import write_each
from dontneed.observe.python.free_lists import Contents, Expectation, plan_edits, read_lists, walk, with_gain
from dontneed.observe.python.pools import PAGE

from .pymalloc_model import OVERHEAD, POOL, Memory, Pool, table_of

OURSELVES = os.getpid()
SEEDS = range(40)


@pytest.fixture
def memory():
    """Room for a few pools."""
    return Memory(8 * POOL)


def pool_of(memory, seed=1, szidx=None, place=0):
    """A pool in use, with a past."""
    rng = random.Random(seed)  # noqa: S311 - a test that can be repeated
    pool = Pool(memory, memory.address + place * POOL, 3, rng.randrange(32) if szidx is None else szidx)
    pool.fill(rng, rng.choice([POOL, POOL, 9000]))
    return pool


def followed(*pools):
    """The lists of these pools that are sound."""
    table = table_of(*pools)
    return walk(table, Contents(OURSELVES, table))


def words_to_write(pool, edits):
    """Every word that giving up the last blocks writes, in order: address and value."""
    all_pools = np.ones(len(edits), np.bool_)
    links = zip(*(column.tolist() for column in edits.link_words(all_pools)), strict=True)
    yield from ((address, np.array([value], np.uint64)) for address, value in links)
    yield pool.address + 8, np.array([pool.address + int(edits.freeblocks[0])], np.uint64)
    yield pool.address + 40, np.array([edits.nextoffsets[0]], np.uint32)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_list_is_followed_to_its_end(memory, seed):
    """In its order, which is not that of addresses."""
    pool = pool_of(memory, seed)
    expected, offset = [], pool.offset(pool.header["freeblock"][0])
    while offset:
        expected.append(offset)
        following = int(pool.link(offset))
        offset = following and pool.offset(following)
    lists = followed(pool)
    assert lists.nodes.tolist() == expected
    assert lists.lengths.tolist() == [len(expected)]
    assert lists.links.tolist() == [*expected[1:], 0]


def test_lists_of_many_pools_are_followed_together(memory):
    """Each as if it were alone; they may change places."""
    pools = [pool_of(memory, seed, place=seed) for seed in range(8)]
    lists = followed(*pools)
    for number, address in enumerate(lists.pools.addresses.tolist()):
        (alone,) = (pool for pool in pools if pool.address == address)
        part = lists.part(number, number + 1)
        assert part.nodes.tolist() == followed(alone).nodes.tolist()
        assert part.pools.addresses.tolist() == [address]


BROKEN = {
    "the first block lies before the pool": lambda pool: set_field(pool, "freeblock", pool.address - 64),
    "the first block is the header": lambda pool: set_field(pool, "freeblock", pool.address),
    "the first block lies where none was cut": lambda pool: set_field(pool, "freeblock", pool.address + POOL - 16),
    "the first block is no block": lambda pool: set_field(pool, "freeblock", pool.header["freeblock"][0] + 8),
    "a link leads out of the pool": lambda pool: set_link(pool, 1, pool.address + POOL),
    "a link leads before the pool": lambda pool: set_link(pool, 1, 48),
    "a link leads into a block": lambda pool: set_link(pool, 1, int(node(pool, 2)) + 16),
    "a link leads back": lambda pool: set_link(pool, 3, node(pool, 1)),
    "a link leads to itself": lambda pool: set_link(pool, 2, node(pool, 2)),
    "the list ends early": lambda pool: set_link(pool, 2, 0),
    "more blocks are in use than the list leaves": lambda pool: set_field(pool, "count", pool.header["count"][0] + 1),
    "fewer blocks are in use": lambda pool: set_field(pool, "count", pool.header["count"][0] - 1),
    "no block is in use": lambda pool: set_field(pool, "count", 0),
    "there is no such size": lambda pool: set_field(pool, "szidx", 32),
    "its size is noise": lambda pool: set_field(pool, "szidx", 0xFFFF_FFFF),
    "another size": lambda pool: set_field(pool, "szidx", pool.header["szidx"][0] + 1),
    "the end is not that of the size": lambda pool: set_field(pool, "maxnextoffset", POOL),
    "a block is half cut": lambda pool: set_field(pool, "nextoffset", pool.header["nextoffset"][0] - 8),
    "it is cut beyond its end": lambda pool: set_field(pool, "nextoffset", POOL + pool.size),
    "nothing is cut": lambda pool: set_field(pool, "nextoffset", OVERHEAD),
}


def set_field(pool, name, value):
    """Change the header."""
    pool.header[name] = value


def node(pool, nth):
    """The address of a free block, by its place in the list."""
    address = pool.header["freeblock"][0]
    for _ in range(nth):
        address = pool.link(pool.offset(address))
    return address


def set_link(pool, nth, value):
    """Change where a free block leads."""
    pool.set_link(pool.offset(node(pool, nth)), value)


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_pool_is_left_alone(memory, what):
    """What is read of a running process may be torn anywhere; its neighbour is none the worse for it."""
    pool, neighbour = pool_of(memory, szidx=5), pool_of(memory, place=1)
    assert len(followed(pool, neighbour)) == 2
    BROKEN[what](pool)
    assert followed(pool, neighbour).pools.addresses.tolist() == [neighbour.address]


def test_random_words_are_never_followed_out_of_the_pool(memory):
    """Nothing but noise, again and again: no error, and hardly ever a list."""
    rng = np.random.default_rng(7)
    pools = [pool_of(memory, szidx=5, place=place) for place in range(8)]
    for _ in range(50):
        table = table_of(*pools)
        contents = Contents(OURSELVES, table)
        torn = contents.words.copy()
        torn[rng.integers(len(torn), size=200)] = rng.integers(1 << 63, size=200, dtype=np.uint64)
        noise = SimpleNamespace(words=torn, starts=contents.starts, read=contents.read, headers=contents.headers)
        lists = walk(table, noise)
        assert (lists.nodes >= OVERHEAD).all()
        assert (lists.nodes < POOL).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_after_each_word_that_is_written_the_pool_is_sound(memory, seed):
    """A writer may die between any two: blocks may be lost then, but none is handed out that is in use, or twice."""
    pool = pool_of(memory, seed)
    edits = plan_edits(followed(pool))
    for address, value in words_to_write(pool, edits):
        write_each(OURSELVES, np.array([address], np.uint64), value)
        assert pool.fills_up() <= pool.capacity
    assert pool.fills_up() == pool.capacity


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_dropped_afterwards_is_not_missed(memory, seed):
    """The pool has as much room as before, and all blocks in use lie before what goes."""
    pool = pool_of(memory, seed)
    edits = plan_edits(followed(pool))
    (drop,) = edits.drops.tolist()
    assert drop >= max(pool.live) + pool.size > drop - PAGE
    for address, value in words_to_write(pool, edits):
        write_each(OURSELVES, np.array([address], np.uint64), value)
    memory.words(pool.address + drop, (POOL - drop) // 8)[:] = 0
    assert pool.header["count"][0] == len(pool.live)
    assert pool.header["nextoffset"][0] <= drop + pool.size
    assert pool.fills_up() == pool.capacity
    rest = followed(pool)
    assert len(rest) == 1
    assert len(with_gain(rest)) == 0


def test_one_block_stays_where_all_that_are_free_would_go(memory):
    """A pool with room must have a first block, or it would be taken for full."""
    pool = Pool(memory, memory.address, 3, 5)
    while pool.alloc() is not None:
        pass
    for offset in sorted(pool.live)[10:]:
        pool.free(offset)
    edits = plan_edits(followed(pool))
    assert edits.freeblocks.tolist() == [OVERHEAD + 10 * pool.size]
    assert edits.nextoffsets.tolist() == [OVERHEAD + 11 * pool.size]
    assert edits.links.tolist() == [0]
    for address, value in words_to_write(pool, edits):
        write_each(OURSELVES, np.array([address], np.uint64), value)
        pool.fills_up()
    assert pool.fills_up() == pool.capacity


def test_only_pools_that_can_give_up_pages_are_read(memory):
    """A block in use at the end, a full pool, a pool whose last pages are not there: nothing to gain."""
    late, full, gone, good = (Pool(memory, memory.address + place * POOL, 3, 5) for place in range(4))
    for pool, stays in ((late, slice(-1, None)), (full, slice(None)), (gone, slice(1)), (good, slice(1))):
        while pool.alloc() is not None:
            pass
        for offset in set(pool.live) - set(sorted(pool.live)[stays]):
            pool.free(offset)
    table = table_of(late, full, gone, good)
    table.present[2, 1:] = False
    assert read_lists(OURSELVES, table).pools.addresses.tolist() == [good.address]


def test_pools_that_are_gone_are_left_out(memory):
    """An arena may be unmapped between two reads; what lies around it is read all the same."""
    pools = [pool_of(memory, szidx=5, place=place) for place in range(3)]
    table = table_of(*pools)
    table.addresses[1] = 1 << 46
    contents = Contents(OURSELVES, table)
    assert contents.read.tolist() == [True, False, True]
    assert sorted(walk(table, contents).pools.addresses.tolist()) == [pools[0].address, pools[2].address]


def test_a_pool_that_was_used_meanwhile_is_no_longer_as_surveyed(memory):
    """Two blocks taken and given back in the other order: the header is the same, and the list is another."""
    pool, untouched = pool_of(memory, szidx=5), pool_of(memory, szidx=5, place=1)
    lists = followed(pool, untouched)
    expected = Expectation(lists)
    assert expected.met_by(Contents(OURSELVES, lists.pools)).all()
    first, second, third = pool.alloc(), pool.alloc(), pool.alloc()
    pool.free(second)
    pool.free(third)
    pool.free(first)
    assert (
        followed(pool).pools.headers.tobytes() == lists.pools.headers[lists.pools.addresses == pool.address].tobytes()
    )
    met = expected.met_by(Contents(OURSELVES, lists.pools))
    assert lists.pools.addresses[met].tolist() == [untouched.address]
