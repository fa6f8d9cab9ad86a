"""Reading, writing and touching memory at plain addresses, and counting the page faults that it takes.

Nothing here checks an address: one that is not mapped, or not so, ends the process with SIGSEGV or SIGBUS.

Kernel:
    getrusage(2) counts the faults of one thread since 2.6.26 (RUSAGE_THREAD).
"""

from __future__ import annotations

import ctypes
import resource

from dontneed.units import PAGE_BYTES

_PAGES_A_STEP = 512
_WRITABLE = 0x200
"""PyBUF_WRITE, Include/pybuffer.h."""

_memory_view = ctypes.pythonapi.PyMemoryView_FromMemory
_memory_view.restype = ctypes.py_object
_memory_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)


def fill(address: int, length: int, byte: int) -> None:
    """Write `byte` to `length` bytes at `address`, as memset(3)."""
    ctypes.memset(address, byte, length)


def read_bytes(address: int, length: int) -> bytes:
    """A copy of `length` bytes at `address`."""
    return ctypes.string_at(address, length)


def touch_pages(address: int, pages: int, *, write: bool) -> None:
    """Read one byte of each of `pages` pages at `address`, or write a zero to it.

    A step is many pages: none takes Python time of its own, and what a step allocates is too little to fault as well.
    """
    for first in range(0, pages, _PAGES_A_STEP):
        count = min(_PAGES_A_STEP, pages - first)
        memory = _memory_view(address + first * PAGE_BYTES, count * PAGE_BYTES, _WRITABLE)
        first_bytes = memory[::PAGE_BYTES]
        if write:
            first_bytes[:] = bytes(count)
        else:
            first_bytes.tobytes()


def rewrite_pages(address: int, pages: int) -> None:
    """Write to each of `pages` pages what is there, from the highest down, as a stack grows."""
    for page in reversed(range(address, address + pages * PAGE_BYTES, PAGE_BYTES)):
        ctypes.memmove(page, ctypes.string_at(page, 1), 1)


def count_faults() -> tuple[int, int]:
    """The minor and major page faults of the calling thread so far."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_minflt, usage.ru_majflt
