"""Free chunks in the bins of an arena: those that are proven to be free, and those that only look so."""

from __future__ import annotations

import numpy as np
import pytest

from dontneed.abi.glibc_malloc import HEAP_BYTES
from dontneed.observe.malloc.chunks import proven_spans, walk_chains
from dontneed.spans import Spans

from .malloc_world import BRK, DATA, MAIN, PAGE, UNSORTED, World

LARGE = 110


def _world_with_chunks(bins=(LARGE,), arena=1):
    """An arena with three free chunks of three pages in each of these bins."""
    world = World(heaps=(1, 2))
    address = world.arenas[arena]
    start = (world.heaps[address][0] if address != MAIN else BRK) + 4 * PAGE
    chains = []
    for number in bins:
        chains.append([start + 5 * PAGE * nth for nth in range(3)])
        world.fill_bin(address, number, chains[-1])
        start += 16 * PAGE
    return world, address, chains


def _pages_of(chunks):
    """Two of the three pages: the first holds the header."""
    return Spans((chunk + PAGE, chunk + 3 * PAGE) for chunk in chunks)


@pytest.mark.parametrize("arena", [0, 1, 2], ids=["main", "one heap", "two heaps"])
@pytest.mark.parametrize("bins", [(UNSORTED,), (LARGE,), (UNSORTED, 99, LARGE)])
def test_the_whole_pages_of_free_chunks_are_found(bins, arena):
    """In the unsorted bin and in those that are large enough."""
    world, address, chains = _world_with_chunks(bins, arena)
    assert world.chunks(address) == _pages_of(chunk for chain in chains for chunk in chain)


def test_bins_of_chunks_without_a_whole_page_are_not_walked():
    """There is nothing to gain."""
    world, address, _ = _world_with_chunks((98,))
    assert not world.chunks(address)


@pytest.mark.parametrize("offset", [16, PAGE - 48, PAGE - 16])
def test_nothing_of_the_48_bytes_at_a_chunk_is_given_up(offset):
    """Nextsize links are there, in the first chunk of its size."""
    world = World()
    arena = world.arenas[1]
    chunk = world.heaps[arena][0] + 4 * PAGE + offset
    world.fill_bin(arena, LARGE, [chunk])
    (span,) = world.chunks(arena)
    assert chunk + 48 <= span.start
    assert span.end <= chunk + 3 * PAGE


CHUNK_FAULTS = {
    "is mapped by itself": lambda w, c: w.set(c + 8, 3 * PAGE | 3),
    "is in use by another arena": lambda w, c: w.set(c + 8, 3 * PAGE | 5),
    "is behind a free one": lambda w, c: w.set(c + 8, 3 * PAGE),
    "is not what the chunk behind says": lambda w, c: w.set(c + 3 * PAGE, 2 * PAGE),
    "is in use, as the chunk behind says": lambda w, c: w.set(c + 3 * PAGE + 8, 64 | 1),
    "has a bk that leads elsewhere": lambda w, c: w.set(c + 24, c),
    "reaches out of its heap": lambda w, c: w.set(c + 8, HEAP_BYTES | 1),
    "wraps round the address space": lambda w, c: w.set(c + 8, (1 << 64) - 8 * PAGE | 1),
}


@pytest.mark.parametrize("nth", [0, 1, 2])
@pytest.mark.parametrize("fault", CHUNK_FAULTS)
def test_a_chain_is_believed_up_to_the_first_chunk_that_is_not_free(fault, nth):
    """What lies behind cannot be known to be in the bin any more."""
    world, address, (chunks, other) = _world_with_chunks((UNSORTED, LARGE))
    CHUNK_FAULTS[fault](world, chunks[nth])
    assert world.chunks(address) == _pages_of(chunks[:nth] + other)


def _changed_since(change):
    """Walk the chains, change something, and see what is proven now."""
    world, address, (chunks, other) = _world_with_chunks((UNSORTED, LARGE))
    chains = walk_chains(world.memory, world.look().values())
    change(world, address, chunks)
    return proven_spans(world.memory, world.look()[address], chains), chunks, other


def test_a_chunk_that_was_taken_since_breaks_the_chain():
    """Its neighbours are linked past it; everything else of it may look the same."""
    spans, chunks, other = _changed_since(lambda world, address, c: world.fill_bin(address, UNSORTED, [c[0], c[2]]))
    assert spans == _pages_of([chunks[0], *other])


def test_a_chunk_that_was_put_first_since_breaks_the_chain():
    """The bin no longer leads to the chunk that we knew as its first."""
    spans, _, other = _changed_since(
        lambda world, address, c: world.fill_bin(address, UNSORTED, [c[0] + 32 * PAGE, *c])
    )
    assert spans == _pages_of(other)


def test_a_chunk_whose_bk_is_not_the_bin_is_not_its_first():
    """A link from the bin alone is half of the truth."""
    spans, _, other = _changed_since(lambda world, _, c: world.set(c[0] + 24, c[1]))
    assert spans == _pages_of(other)


def test_a_bin_that_leads_past_its_first_chunk_breaks_the_chain():
    """A bk to the bin alone is the other half."""
    spans, _, other = _changed_since(lambda world, address, c: world.set(address + world.layout.bins, c[1]))
    assert spans == _pages_of(other)


def test_a_chunk_in_a_heap_of_another_arena_is_not_believed():
    """Two arenas that share a chunk are broken, whatever the links say."""
    world = World(heaps=(1, 2))
    address, other = world.arenas[1:]
    chunk = world.heaps[other][0] + 4 * PAGE
    world.fill_bin(address, LARGE, [chunk])
    assert not world.chunks(address)


def test_a_chunk_that_is_not_aligned_is_none():
    """Even if all its neighbours agree."""
    world = World()
    arena = world.arenas[1]
    start = world.heaps[arena][0] + 4 * PAGE
    world.fill_bin(arena, LARGE, [start, start + 8 * PAGE + 8, start + 16 * PAGE])
    assert world.chunks(arena) == _pages_of([start])
    hinted = walk_chains(world.memory, world.look().values())
    assert hinted.chunks.tolist() == [start]
    hinted = hinted.replace(
        arenas=hinted.arenas.repeat(2), bins=hinted.bins.repeat(2), chunks=np.array([start, start + 8 * PAGE + 8], "u8")
    )
    assert proven_spans(world.memory, world.look()[arena], hinted) == _pages_of([start])


def test_a_chunk_that_reaches_beyond_its_heap_is_none():
    """What lies there can be read, and says that the chunk is free; but it is not the arena's."""
    world = World()
    arena = world.arenas[1]
    heap = world.heaps[arena][0]
    world.regions[heap] += bytearray(8 * PAGE)
    world.fill_bin(arena, LARGE, [heap + world.HEAP - PAGE])
    assert not world.chunks(arena)


def test_a_walk_reads_nothing_outside_the_arenas():
    """Torn links lead anywhere: to memory of devices, or such that somebody else has to fill."""
    world, _, (chunks,) = _world_with_chunks()
    world.set(chunks[1] + 16, DATA + 256)
    assert walk_chains(world.memory, world.look().values()).chunks.tolist() == chunks[:2]


def test_a_walk_that_runs_in_a_circle_ends():
    """Torn reads make circles; the hints are then wrong, and proven to be."""
    world, address, (chunks,) = _world_with_chunks()
    world.set(chunks[1] + 16, chunks[0])
    chains = walk_chains(world.memory, world.look().values())
    assert not chains.is_whole
    assert proven_spans(world.memory, world.look()[address], chains) == _pages_of(chunks[:2])


def test_arenas_that_are_left_alone_are_not_walked():
    """Nothing of them is believed."""
    world, address, _ = _world_with_chunks()
    world.flags(address, 2 | 4)
    assert not len(walk_chains(world.memory, world.look().values()).chunks)
