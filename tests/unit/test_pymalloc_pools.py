"""Headers of pools: which are consistent, what may go, and what is edited before it does."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest

from dontneed.abi import pymalloc as abi
from dontneed.observe.python.arenas import Arenas
from dontneed.observe.python.free_lists import Contents, walk
from dontneed.observe.python.pools import PAGE, are_free, are_pools, are_pools_in_use, read_pools
from dontneed.reasons.pool_edits import FreeEnds, FreePools, Tails

from .pymalloc_model import POOL, Memory, Pool, arena_object, presence_of, table_of

OURSELVES = os.getpid()


@pytest.fixture
def memory():
    """An arena."""
    return Memory(abi.ARENA_BYTES)


def free_pool(memory, place=0, szidx=5):
    """A pool whose blocks have all been given back."""
    pool = pool_in_use(memory, place, szidx)
    for offset in sorted(pool.live):
        pool.free(offset)
    return pool


def pool_in_use(memory, place=0, szidx=5):
    """A pool with a few blocks in use."""
    pool = Pool(memory, memory.address + place * POOL, 0, szidx)
    pool.fill(random.Random(place))  # noqa: S311 - a test that can be repeated
    return pool


def everyone(batch):
    """All pools of a batch still lie in their arenas."""
    return np.ones(len(batch.pools), np.bool_)


def test_pools_in_use_and_free_ones_are_told_apart(memory):
    """By their count alone; both remember a size class."""
    table = table_of(free_pool(memory), pool_in_use(memory, 1))
    assert are_pools(table.addresses, table.headers).all()
    assert are_pools_in_use(table.addresses, table.headers).tolist() == [False, True]
    assert are_free(table.headers).tolist() == [True, False]


@pytest.mark.parametrize("place", range(0, abi.HEADER_BYTES, 4))
def test_a_header_does_not_survive_noise(memory, place):
    """Each field that matters is bounded by the others; links to other pools, and padding, are nobody's business."""
    pool = pool_in_use(memory)
    pool.header.view(np.uint32)[place // 4] ^= np.uint32(0x7FF0_0FF8)
    indifferent = (4, 16, 20, 24, 28, 32)
    table = table_of(pool)
    assert are_pools(table.addresses, table.headers).tolist() == [place in indifferent]


def test_all_pools_of_an_arena_are_read_whose_headers_are_there(memory):
    """Those cut off so far; neither one of another arena, nor one that is swapped out."""
    pools = [pool_in_use(memory, place) for place in range(5)]
    pools[2].header["arenaindex"] = 7
    presence = presence_of(memory)
    away = type(presence.present)([(pools[3].address, pools[3].address + PAGE)])
    arenas = Arenas(
        (1,),
        2,
        np.array([0], np.uint64),
        arena_object(memory.address, memory.address + 4 * POOL),
        presence.replace(present=presence.present - away),
    )
    found = read_pools(OURSELVES, arenas)
    assert found.addresses.tolist() == [pool.address for pool in pools[:2]]
    assert found.present.all()


def test_a_free_pool_forgets_its_last_life_and_keeps_its_first_page(memory):
    """Taken again, for the same size or another, it is set up from nothing, whatever its pages hold."""
    for szidx in (5, 9):
        pool = free_pool(memory)
        batch = FreePools(table_of(pool)).part(0, 1)
        rows = batch.edit(OURSELVES, everyone(batch))
        assert rows.tolist() == batch.ranges().tolist() == [[pool.address + PAGE, pool.address + POOL]]
        memory.words(pool.address + PAGE, (POOL - PAGE) // 8)[:] = 0
        pool.take(szidx)
        assert pool.fills_up() == pool.capacity


def test_a_free_pool_that_was_taken_meanwhile_is_left_alone(memory):
    """Also one that belongs to another arena now, one in the making, and one whose arena has gone."""
    pools = [free_pool(memory, place) for place in range(6)]
    batch = FreePools(table_of(*pools)).part(0, 6)
    pools[0].take(5)
    pools[1].take(8)
    pools[2].header["arenaindex"] = 4
    pools[3].header["maxnextoffset"] = 0
    there = everyone(batch)
    there[4] = False
    before = [pool.header.tobytes() for pool in pools[:5]]
    assert batch.edit(OURSELVES, there)[:, 0].tolist() == [pools[5].address + PAGE]
    assert [pool.header.tobytes() for pool in pools[:5]] == before
    assert pools[5].header["szidx"][0] == abi.NEVER_USED


def test_a_free_pool_that_cannot_be_read_is_left_alone(memory):
    """Its arena was unmapped; the others go."""
    pools = [free_pool(memory, place) for place in range(2)]
    table = table_of(*pools)
    table.addresses[0] = 1 << 46
    batch = FreePools(table)
    assert batch.edit(OURSELVES, everyone(batch))[:, 0].tolist() == [pools[1].address + PAGE]


def test_tails_go_from_where_the_pool_is_cut_now(memory):
    """A block more may have been cut since, or all of them given back."""
    grown, given_back, same = (Pool(memory, memory.address + place * POOL, 0, 31) for place in range(3))
    batch = Tails(table_of(grown, given_back, same)).part(0, 3)
    assert batch.ranges()[:, 0].tolist() == [pool.address + PAGE for pool in (grown, given_back, same)]
    while grown.header["nextoffset"][0] <= PAGE:
        grown.alloc()
    for offset in sorted(given_back.live):
        given_back.free(offset)
    rows = batch.edit(OURSELVES, everyone(batch))
    assert rows.tolist() == [
        [grown.address + 2 * PAGE, grown.address + POOL],
        [same.address + PAGE, same.address + POOL],
    ]
    memory.words(grown.address + 2 * PAGE, (POOL - 2 * PAGE) // 8)[:] = 0
    assert grown.fills_up() == grown.capacity


def test_free_ends_go_from_pools_that_are_exactly_as_they_were(memory):
    """The others keep every byte."""
    used, same = (pool_in_use(memory, place) for place in range(2))
    table = table_of(used, same)
    batch = FreeEnds(walk(table, Contents(OURSELVES, table)))
    part = batch.part(0, 2)
    used.free(used.alloc())
    used.free(min(used.live))
    before = memory.words(used.address, POOL // 8).copy()
    rows = part.edit(OURSELVES, everyone(batch))
    assert rows.tolist() in batch.ranges()[:, None].tolist()
    assert (memory.words(used.address, POOL // 8) == before).all()
    ((start, end),) = rows.tolist()
    assert (start > same.address, end) == (True, same.address + POOL)
    memory.words(start, (end - start) // 8)[:] = 0
    assert same.fills_up() == same.capacity
