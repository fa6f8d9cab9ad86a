"""A process with arenas of malloc in it, built byte by byte as one of three builds of glibc lays them out."""

from __future__ import annotations

import struct

import numpy as np

from dontneed.abi.glibc_malloc import HEAP_BYTES, LAYOUTS
from dontneed.errors import Unreadable
from dontneed.observe.malloc.arenas import Places, read_arenas
from dontneed.observe.malloc.chunks import proven_spans, walk_chains
from dontneed.observe.malloc.memory import MallocMemory, places_of_heaps
from dontneed.spans import Span, Spans
from dontneed.units import MIB, PAGE_BYTES

PAGE = PAGE_BYTES
DATA = 0x7F00_0000_0000
"""Where libc's static data lies."""
DATA_BYTES = 64 * 1024
MAIN = DATA + 0x1C60
BRK = 0x5500_0000_0000
FIRST_HEAP = 0x7E00_0000_0000
UNSORTED = 1


class World:
    """The memory of a process with a main arena and some arenas of threads, all of them free at their ends.

    Heaps are 512 KiB long, of which the top takes the last quarter; an arena may have several.
    """

    HEAP = MIB // 2
    TOP = HEAP // 4

    def __init__(self, layout=LAYOUTS[1], heaps=(1, 1), info=None):
        self.layout = layout
        self.info = info or max(layout.heap_info)
        self.regions = {DATA: bytearray(DATA_BYTES), BRK: bytearray(self.HEAP)}
        self.arenas = [MAIN]
        self.heaps = {}
        base = FIRST_HEAP
        for count in heaps:
            state = base + self.info
            self.arenas.append(state)
            self.heaps[state] = [base + number * HEAP_BYTES for number in range(count)]
            for number in range(count):
                self.regions[base + number * HEAP_BYTES] = bytearray(self.HEAP)
                previous = base + (number - 1) * HEAP_BYTES if number else 0
                self.set(base + number * HEAP_BYTES, state, previous, self.HEAP, self.HEAP)
                if self.info == 48:
                    self.set(base + number * HEAP_BYTES + 32, PAGE)
            base += (count + 1) * HEAP_BYTES
        for number, state in enumerate(self.arenas):
            self.state(state, following=self.arenas[(number + 1) % len(self.arenas)])

    def state(self, address, following):
        """Lay down a malloc_state whose bins are all empty."""
        layout = self.layout
        bins = address + layout.bins
        self.set(bins, *(own - 16 for own in range(bins, bins + 127 * 16, 16) for _ in ["fd", "bk"]))
        self.set(address + layout.next, following)
        last = self.heaps[address][-1] if address != MAIN else BRK
        self.set(address + layout.system_mem, self.HEAP * (len(self.heaps[address]) if address != MAIN else 1))
        self.flags(address, 0 if address == MAIN else 2)
        top = last + self.HEAP - self.TOP
        self.set(address + layout.top, top)
        self.set(top + 8, self.TOP | 1)

    def flags(self, address, flags, mutex=0):
        """Set the lock and the flags of an arena."""
        self.put(address, struct.pack("<II", mutex, flags))

    def top_of(self, arena):
        """Where its top is."""
        return self.get(arena + self.layout.top)

    def fill_bin(self, arena, number, chunks):
        """Put free chunks of 3 pages each, at these addresses, into a bin."""
        head = arena + self.layout.bins + 16 * (number - 1) - 16
        ring = [head, *chunks, head]
        for before, chunk, behind in zip(ring, chunks, ring[2:], strict=False):
            self.set(chunk, 0, 3 * PAGE | 1, behind, before)
            self.set(chunk + 3 * PAGE, 3 * PAGE, 64)
        self.set(head + 16, chunks[0], chunks[-1])
        if number != UNSORTED:
            word = arena + self.layout.binmap + 4 * (number >> 5)
            self.put(word, (self.get(word) & 0xFFFF_FFFF | 1 << (number & 31)).to_bytes(4, "little"))

    # Reading and writing

    def _find(self, address, length):
        for start, data in self.regions.items():
            if start <= address and address + length <= start + len(data):
                return data, address - start
        msg = f"nothing at {address:#x}"
        raise Unreadable(msg)

    def _holds(self, address, length):
        return any(start <= address and address + length <= start + len(data) for start, data in self.regions.items())

    def read(self, address, length):
        """As MallocMemory reads."""
        data, offset = self._find(address, length)
        return bytes(data[offset : offset + length])

    def read_each(self, addresses, length):
        """The same, of many."""
        rows, read = np.zeros((len(addresses), length), np.uint8), np.ones(len(addresses), bool)
        for row, address in enumerate(addresses.tolist()):
            read[row] = self._holds(address, length)
            if read[row]:
                rows[row] = np.frombuffer(self.read(address, length), np.uint8)
        return rows, read

    def put(self, address, data):
        """Write bytes."""
        region, offset = self._find(address, len(data))
        region[offset : offset + len(data)] = data

    def set(self, address, *words):
        """Write words."""
        self.put(address, struct.pack(f"<{len(words)}Q", *words))

    def get(self, address):
        """Read a word."""
        return int.from_bytes(self.read(address, 8), "little")

    def peek(self, address, length):
        """A few bytes, or None."""
        try:
            return self.read(address, length)
        except Unreadable:
            return None

    @property
    def memory(self):
        """What a look sees of it."""
        writable = Spans((start, start + len(data)) for start, data in self.regions.items() if start != DATA)
        return MallocMemory(writable, Span(BRK, BRK + self.HEAP), self.read, self.read_each, self.peek)

    @property
    def places(self):
        """Where the arenas are."""
        return Places(((MAIN, self.layout),), places_of_heaps(self.memory.writable))

    def look(self):
        """Every arena, by address."""
        return {arena.address: arena for arena in read_arenas(self.memory, self.places)}

    def chunks(self, arena):
        """What is proven to be free in the bins of an arena."""
        arenas = self.look()
        return proven_spans(self.memory, arenas[arena], walk_chains(self.memory, arenas.values()))
