"""mmap, munmap, mremap, mprotect, mlock, mseal on plain addresses: memory that Python does not know of.

Kernel:
    mm/mmap.c, mm/mremap.c, mm/mprotect.c, mm/mlock.c, mm/mseal.c; mmap(2), mremap(2), mprotect(2), mlock(2), mseal(2).
"""

from __future__ import annotations

import mmap as flags
from ctypes import c_int, c_size_t, c_void_p

from dontneed.abi.syscalls import MSEAL
from dontneed.kernel import libc
from dontneed.kernel.libc import foreign

PROT_NONE, PROT_READ, PROT_WRITE = 0, flags.PROT_READ, flags.PROT_WRITE
MAP_SHARED, MAP_PRIVATE, MAP_ANONYMOUS = flags.MAP_SHARED, flags.MAP_PRIVATE, flags.MAP_ANONYMOUS
MAP_NORESERVE, MAP_FIXED = 0x4000, 0x10
MAP_HUGETLB, MAP_HUGE_2MB = 0x40000, 21 << 26
"""Huge pages from the pool, of the system's default size, or of 2 MiB; include/uapi/asm-generic/hugetlb_encode.h."""
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2

_mremap = foreign("mremap", c_void_p, c_void_p, c_size_t, c_size_t, c_int, c_void_p)


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


def remap_memory(address: int, length: int, new_length: int, *, new_address: int | None = None) -> int:
    """Give a mapping another length: where it is if that can be, or at `new_address` whatever is there.

    Returns:
        Where it is now.
    Raises:
        OSError: as mremap(2).
    """
    how = _MREMAP_MAYMOVE if new_address is None else _MREMAP_MAYMOVE | _MREMAP_FIXED
    result = _mremap(address, length, new_length, how, new_address)
    return int(libc.check(-1 if result == libc.MAP_FAILED else result or 0, "mremap"))


def seal_memory(address: int, length: int) -> None:
    """Forbid, for good, that mappings are unmapped, moved, protected otherwise, or discarded where they are read-only.

    Raises:
        OSError: as mseal(2). ENOSYS: before 6.10, or 32-bit.
    """
    libc.check(libc.syscall(MSEAL, address, length, 0), "mseal")


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
