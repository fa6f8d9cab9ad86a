"""Where the kernel sees physical memory: found by trial, and proven on pages of our own.

All of physical memory is mapped into the kernel in one piece, the direct map, which begins at an address that is chosen
anew at each boot. Page tables of our own, walked from every address where it could begin, must lead to the frames that
pagemap says of three pages of ours, and from exactly one of these addresses they may.

Kernel:
    arch/x86/include/asm/page_64.h: page_offset_base, a multiple of 1 GiB; arch/x86/mm/kaslr.c.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from contextlib import contextmanager
from ctypes import addressof, c_char

from dontneed.abi import page_entry as abi
from dontneed.abi.pagemap import ENTRY_BYTES, PFN_MASK, PRESENT
from dontneed.errors import KernelLacks
from dontneed.units import GIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dontneed.kernel.kernel_memory import KernelMemory

_WORD = struct.Struct("<Q")
_KERNEL_BEGINS, _KERNEL_ENDS = 0xFF << 56, 1 << 64
"""Around every address of the kernel, with four levels and with five."""
_CANDIDATES = ((0, 64), *((first, first + 1024) for first in range(64, 1 << 14, 1024)))
"""How many GiB below the first table of ours the direct map may begin: as far as there is memory; by calls."""


def find_direct_map(memory: KernelMemory, root: int) -> tuple[int, int]:
    """Where the direct map begins, and the frame of the zero page.

    Args:
        memory: that can read pages, and knows how many levels of tables there are.
        root: address of our own uppermost table.
    Raises:
        PermissionError: frame numbers are hidden from us.
        KernelLacks: nothing can be proven.
    """
    with _own_pages() as pages:
        frames = _own_frames(pages)
        bases: list[int] = []
        for first, end in _CANDIDATES:
            bases = [base for nth in range(first, end) if (base := (root & -GIB) - GIB * nth) >= _KERNEL_BEGINS]
            for address, frame in zip(pages, frames, strict=True):
                bases = _leading(memory, bases, root, address, frame)
            if bases:
                break
    if len(bases) != 1:
        msg = "the page tables of a page of our own do not lead to its frame: what would be read cannot be believed"
        raise KernelLacks(
            msg, hint="memory encryption or a hypervisor may be in the way; `dontneed look` needs neither"
        )
    return bases[0], frames[-1]


def _leading(memory: KernelMemory, bases: list[int], root: int, address: int, frame: int) -> list[int]:
    """Those of some addresses from which, if the direct map began there, our tables lead from a page to its frame."""
    tables = dict.fromkeys(bases, root)
    for level in range(memory.levels - 1, -1, -1):
        failed = set(memory.read(list(tables.values())))
        place = abi.level_index(address // PAGE_BYTES, level) * ENTRY_BYTES
        below = {}
        for nth, base in enumerate(tables):
            entry = 0 if nth in failed else memory.word(nth, place)
            table = base + (entry & abi.FRAME_MASK)
            if entry & abi.PRESENT and not (level and entry & abi.HUGE) and table < _KERNEL_ENDS:
                below[base] = table
        tables = below
    return [base for base, page in tables.items() if page == base + frame * PAGE_BYTES]


@contextmanager
def _own_pages() -> Iterator[tuple[int, ...]]:
    """Three pages of our own: two written to, and one that was only read, so that it is the zero page."""
    with mmap.mmap(-1, 3 * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[0] = memory[PAGE_BYTES] = 1
        memory[2 * PAGE_BYTES]
        first = addressof(c_char.from_buffer(memory))
        yield first, first + PAGE_BYTES, first + 2 * PAGE_BYTES


def _own_frames(pages: Sequence[int]) -> list[int]:
    """The frames behind pages of our own, by pagemap."""
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        read = [os.pread(file.fileno(), ENTRY_BYTES, page // PAGE_BYTES * ENTRY_BYTES) for page in pages]
    entries = [_WORD.unpack(entry)[0] for entry in read]
    frames = [entry & PFN_MASK for entry in entries if entry & PRESENT]
    if len(frames) != len(pages) or not all(frames):
        raise PermissionError(errno.EPERM, "frame numbers are hidden from this user", "pagemap")
    return frames
