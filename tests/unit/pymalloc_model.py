"""pymalloc told once more, as slowly as it takes to be sure: pools and arenas in memory of our own, for tests.

Names are those of Objects/obmalloc.c.
"""

from __future__ import annotations

import mmap

import numpy as np

from dontneed.abi import pymalloc as abi
from dontneed.observe.presence import Presence
from dontneed.observe.python.arenas import object_type
from dontneed.observe.python.pools import Pools, header_type
from dontneed.spans import Spans

POOL, OVERHEAD = abi.POOL_BYTES, abi.HEADER_BYTES


class Memory:
    """Private anonymous memory of this process, at an address that is a multiple of 2 MiB."""

    def __init__(self, length):
        self._mapped = mmap.mmap(-1, length + (2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        whole = np.frombuffer(self._mapped, np.uint8)
        shift = -whole.ctypes.data % (2 << 20)
        self.bytes = whole[shift : shift + length]
        self.address = self.bytes.ctypes.data

    def words(self, address, count):
        """Words of it, to be read and written."""
        offset = address - self.address
        return self.bytes[offset : offset + 8 * count].view(np.uint64)

    @property
    def span(self):
        """Where it lies."""
        return self.address, self.address + len(self.bytes)


class Pool:
    """A pool, as pymalloc handles it; `live` has the offsets of the blocks in use."""

    def __init__(self, memory, address, number, szidx):
        self.memory, self.address = memory, address
        self.header = memory.bytes[address - memory.address :][:OVERHEAD].view(header_type())
        self.header["arenaindex"] = number
        self.header["szidx"] = abi.NEVER_USED
        self.header["count"] = 0
        self.take(szidx)

    def take(self, szidx):
        """allocate_from_new_pool(): set up, unless its last life was of the same class; one block is in use then."""
        self.header["count"] = 1
        if self.header["szidx"][0] == szidx:
            first = self.offset(self.header["freeblock"][0])
            self.header["freeblock"] = self.link(first)
        else:
            self.header["szidx"] = szidx
            first = OVERHEAD
            self.header["nextoffset"] = OVERHEAD + 2 * self.size
            self.header["maxnextoffset"] = POOL - self.size
            self.header["freeblock"] = self.address + OVERHEAD + self.size
            self.set_link(OVERHEAD + self.size, 0)
        self.live = {first}

    @property
    def size(self):
        """Of its blocks."""
        return (int(self.header["szidx"][0]) + 1) * abi.ALIGNMENT

    def offset(self, address):
        """Of an address in it."""
        return int(address) - self.address

    def link(self, offset):
        """The first word of a block."""
        return self.memory.words(self.address + offset, 1)[0]

    def set_link(self, offset, value):
        """Change it."""
        self.memory.words(self.address + offset, 1)[0] = value

    def alloc(self):
        """pymalloc_alloc() from this pool: the offset of a block; None if it is full."""
        block = int(self.header["freeblock"][0])
        if not block:
            return None
        self.header["count"] += 1
        offset = self.offset(block)
        following = self.link(offset)
        self.header["freeblock"] = following
        if not following and self.header["nextoffset"] <= self.header["maxnextoffset"]:  # pymalloc_pool_extend()
            end = int(self.header["nextoffset"][0])
            self.header["freeblock"] = self.address + end
            self.header["nextoffset"] += self.size
            self.set_link(end, 0)
        self.live.add(offset)
        return offset

    def free(self, offset):
        """pymalloc_free()."""
        self.live.remove(offset)
        self.set_link(offset, self.header["freeblock"][0])
        self.header["freeblock"] = self.address + offset
        self.header["count"] -= 1

    def fill(self, rng, upto=POOL):
        """Take blocks, in no order that can be foreseen, and give most back: a pool with a past."""
        while self.header["nextoffset"][0] < upto and self.alloc() is not None:
            pass
        blocks = sorted(self.live)
        rng.shuffle(blocks)
        limit = rng.choice([4000, POOL])
        early = [offset for offset in blocks if offset < limit]
        stay = set(early[: rng.randrange(1, max(2, len(early) // 4))])
        for offset in blocks:
            if offset not in stay:
                self.free(offset)

    def fills_up(self):
        """How many blocks are in use when it is full: tried on a copy. None in use is handed out, and none twice."""
        before, live = self.memory.words(self.address, POOL // 8).copy(), set(self.live)
        while True:
            taken = set(self.live)
            offset = self.alloc()
            if offset is None:
                break
            assert offset not in taken, "a block in use is handed out"
            assert (offset - OVERHEAD) % self.size == 0
            assert OVERHEAD <= offset <= POOL - self.size
            self.memory.words(self.address + offset, self.size // 8)[:] = 0xDEAD  # its owner writes
        count, self.live = len(self.live), live
        self.memory.words(self.address, POOL // 8)[:] = before
        return count

    @property
    def capacity(self):
        """How many blocks fit."""
        return (POOL - OVERHEAD) // self.size


def table_of(*pools):
    """Pools as a survey has them, all of their pages present."""
    addresses = np.array([pool.address for pool in pools], np.uint64)
    headers = np.concatenate([pool.header for pool in pools])
    return Pools(addresses, headers["arenaindex"].astype(np.uint64), headers, np.ones((len(pools), 4), np.bool_))


def presence_of(*memories):
    """All of some memory is there, in small pages."""
    return Presence(Spans(memory.span for memory in memories), Spans())


def arena_object(address, pool_address, free=0):
    """A struct arena_object in use."""
    first = -(-address // POOL) * POOL
    total = (address + abi.ARENA_BYTES - first) // POOL
    return np.array([(address, pool_address, free, total, 0, 0, 0)], object_type())
