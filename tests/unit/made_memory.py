"""Anonymous memory that tests of the native part make up structures in: nothing of the interpreter's or of malloc's."""

from __future__ import annotations

import ctypes
import mmap
from contextlib import contextmanager

import numpy as np

from dontneed.kernel import mappings

PAGE = mmap.PAGESIZE


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


@contextmanager
def making_memory():
    """Make memory, `make(length, alignment)`, that is there until the block ends."""
    made = []

    def make(length, alignment=PAGE, skew=0):
        made.append(Memory(length, alignment, skew))
        return made[-1]

    yield make
    for each in made:
        each.close()
