"""Files without a name, whose pages are in the page cache one by one, clean, before anyone maps them.

A fault on a file maps what is cached around it, and a folio at once where the file system made a large one: exact
predictions need pages that are cached singly. A file system sizes a folio by the write that makes it, so we write a
page at a time; then everything is written back, so that a page is dirty only if somebody makes it so.

Kernel:
    mm/filemap.c filemap_map_pages(), fs/iomap/buffered-io.c; O_TMPFILE since 3.11; memfd_create(2) since 3.17.
"""

from __future__ import annotations

import ctypes
import errno
import os

from dontneed.errors import KernelLacks
from dontneed.kernel import libc
from dontneed.kernel.mappings import MAP_SHARED, PROT_NONE, map_memory, unmap_memory
from dontneed.units import PAGE_BYTES

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
_NOT_HERE = (errno.EACCES, errno.EISDIR, errno.ENOENT, errno.ENOTSUP, errno.EROFS)
"""A directory where O_TMPFILE makes nothing: not ours, not there, or of a file system (or a kernel) without it."""


def create_file(pages: int, byte: int, *, in_memory: bool = False) -> int:
    """A file without a name, full of `byte`; its descriptor, open for reading and writing.

    Args:
        pages: its length.
        byte: its contents.
        in_memory: shared memory (memfd_create) instead of a file on a disk.
    Raises:
        KernelLacks: no directory that we know is on a disk.
        OSError: the disk is full, or fails.
    """
    fd = os.memfd_create("file") if in_memory else _open_on_disk()
    try:
        for page in range(pages):
            os.pwrite(fd, bytes([byte]) * PAGE_BYTES, page * PAGE_BYTES)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # nobody reads ahead into large folios later on
    except BaseException:  # whatever it was, nobody else closes the file
        os.close(fd)
        raise
    return fd


def read_file_bytes(fd: int) -> set[int]:
    """The distinct byte values in a file, found by pread(2)."""
    found: set[int] = set()
    for offset in range(0, os.fstat(fd).st_size, PAGE_BYTES):
        found.update(os.pread(fd, PAGE_BYTES, offset))
    return found


def count_cached_pages(fd: int) -> int:
    """How many pages of a file are in the page cache, as mincore(2) says of a mapping that nobody touches.

    Raises:
        OSError: as mincore(2). Since 5.2 all pages of a file that we may not write to count as cached.
    """
    size = os.fstat(fd).st_size
    residency = ctypes.create_string_buffer(size // PAGE_BYTES)
    address = map_memory(size, protection=PROT_NONE, flags=MAP_SHARED, fd=fd)
    try:
        libc.check(libc.mincore(address, size, residency), "mincore")
    finally:
        unmap_memory(address, size)
    return sum(each & 1 for each in residency.raw)


def _open_on_disk() -> int:
    """A file without a name in the first directory that is on a disk."""
    for directory in _directories():
        try:
            fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            continue
        if _file_system_of(fd) not in _IN_MEMORY:
            return fd
        os.close(fd)
    msg = f"no file can be made on a disk: {', '.join(_directories())} are in memory, or closed to us"
    raise KernelLacks(msg, hint="let TMPDIR name a directory on a disk")


def _directories() -> list[str]:
    usual = ("/var/tmp", "/tmp", os.path.expanduser("~"))  # noqa: S108 - what is made there has no name to guess
    return list(dict.fromkeys((os.environ.get("TMPDIR", usual[0]), *usual)))


def _file_system_of(fd: int) -> str:
    """The type of the file system that a file is on; nothing where its device is on no list, as for btrfs."""
    device = os.fstat(fd).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.split()[2] == wanted:
                return line.partition(" - ")[2].split()[0]
    return ""
