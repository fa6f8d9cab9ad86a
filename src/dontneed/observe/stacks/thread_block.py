"""Where a thread's stack lies, as its own C library wrote it down: found in struct pthread by shape, not by offset.

The thread pointer (fs_base on x86-64) points to glibc's struct pthread, which lies at the top of the stack block
itself. Four words of it follow one another: the block's address, its size, the guard's size as it is, and as it was
asked for. Offsets differ from version to version; that the block holds the struct itself does not.

Kernel:
    none; glibc nptl/descr.h (stackblock, stackblock_size, guardsize, reported_guardsize), 2.23 to 2.43.
"""

from __future__ import annotations

import struct

from dontneed.records import Record
from dontneed.units import PAGE_BYTES

THREAD_BLOCK_BYTES = 0x980
"""How much to read at fs_base: all versions have the four words before this."""

_MOST_ABOVE_BYTES = 1 << 20
"""The struct and static thread-local storage stand above the stack proper, and are not larger than this."""
_LARGEST_STACK_BYTES = 1 << 40
_WORD_BYTES = 8


class ThreadBlock(Record):
    """The stack block of a thread.

    Attributes:
        start: its lowest address: the guard comes first, then the stack, then struct pthread.
        size_bytes: with the guard.
        guard_bytes: at its start, and not to be touched; 0 for a stack that the program brought.
    """

    start: int
    size_bytes: int
    guard_bytes: int

    @property
    def end(self) -> int:
        """Where the block ends."""
        return self.start + self.size_bytes

    @property
    def stack_start(self) -> int:
        """The lowest address that the stack may grow down to."""
        return self.start + self.guard_bytes

    def holds(self, stack_pointer: int) -> bool:
        """Whether a stack pointer lies within, above the guard."""
        return self.stack_start <= stack_pointer < self.end


def parse_thread_block(data: bytes, thread_pointer: int) -> ThreadBlock | None:
    """The stack block that struct pthread tells of.

    Args:
        data: the bytes at the thread pointer, `THREAD_BLOCK_BYTES` of them.
        thread_pointer: fs_base.
    Returns:
        None if no four words have the shape: the main thread, another C library, no C library at all.
    """
    count = len(data) // _WORD_BYTES
    words = struct.unpack_from(f"<{count}Q", data)
    for first in range(count - 3):
        start, size, guard, asked = words[first : first + 4]
        if not start or start % PAGE_BYTES or size % PAGE_BYTES or guard % PAGE_BYTES:
            continue
        if not guard <= size < _LARGEST_STACK_BYTES or asked > guard + _MOST_ABOVE_BYTES:
            continue
        if start < thread_pointer < start + size <= thread_pointer + _MOST_ABOVE_BYTES:
            return ThreadBlock(start, size, guard)
    return None
