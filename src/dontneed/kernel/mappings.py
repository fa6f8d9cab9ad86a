"""mmap, munmap, mprotect, mlock on plain addresses: memory that Python does not know of.

Kernel:
    mm/mmap.c, mm/mprotect.c, mm/mlock.c; mmap(2), mprotect(2), mlock(2).
"""

from __future__ import annotations

import mmap as flags

from dontneed.kernel import libc

PROT_NONE, PROT_READ, PROT_WRITE = 0, flags.PROT_READ, flags.PROT_WRITE
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = flags.MAP_SHARED, flags.MAP_PRIVATE, flags.MAP_ANONYMOUS
MAP_NORESERVE, MAP_FIXED = 0x4000, 0x10


def map_memory(
    length: int,
    *,
    address: int = 0,
    protection: int = PROT_READ | PROT_WRITE,
    flags: int = MAP_PRIVATE | MAP_ANONYMOUS,
    fd: int = -1,
    offset: int = 0,
) -> int:
    """Map `length` bytes; the address of the mapping.

    Raises:
        OSError: as mmap(2).
    """
    result = libc.mmap(address, length, protection, flags, fd, offset)
    return int(libc.check(-1 if result == libc.MAP_FAILED else result or 0, "mmap"))


def unmap_memory(address: int, length: int) -> None:
    """Unmap `length` bytes at `address`.

    Raises:
        OSError: as munmap(2).
    """
    libc.check(libc.munmap(address, length), "munmap")


def protect_memory(address: int, length: int, protection: int) -> None:
    """Change what may be done with `length` bytes at `address`.

    Raises:
        OSError: as mprotect(2).
    """
    libc.check(libc.mprotect(address, length, protection), "mprotect")


def lock_memory(address: int, length: int) -> None:
    """Lock `length` bytes at `address` into memory, faulting them in.

    Raises:
        OSError: as mlock(2).
    """
    libc.check(libc.mlock(address, length), "mlock")


def unlock_memory(address: int, length: int) -> None:
    """Undo `lock_memory`.

    Raises:
        OSError: as munlock(2).
    """
    libc.check(libc.munlock(address, length), "munlock")
