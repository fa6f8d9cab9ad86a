"""PROCMAP_QUERY: the mapping at an address, without reading the others.

Kernel:
    since 6.11; fs/proc/task_mmu.c do_procmap_query(); include/uapi/linux/fs.h; an ioctl of /proc/PID/maps. For all
    mappings of a process, reading maps is faster.
"""

from __future__ import annotations

import errno
import os
import struct
from array import array
from fcntl import ioctl

from dontneed.abi.pagemap import PROCMAP_QUERY
from dontneed.errors import ProcessGone
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dontneed.kernel.procfs import ProcessDirectory

_STRUCT = struct.Struct("<QQQQQQQQQIIIIQQ")
"""size query_flags query_addr vma_start vma_end vma_flags vma_page_size vma_offset inode dev_major dev_minor
vma_name_size build_id_size vma_name_addr build_id_addr."""
_OR_NEXT = 0x10
_PERMS = ((0x1, "r"), (0x2, "w"), (0x4, "x"))
_SHARED = 0x8
_NAME_BYTES = 4096 + 64
_ABSENT = (errno.ENOTTY, errno.EINVAL, errno.ENAMETOOLONG)
"""No answer to be had: no such ioctl; or a path longer than PATH_MAX, which maps prints all the same."""


class MappedPart(Record):
    """A mapping, or the part of it that someone asked about.

    Attributes:
        start, end: addresses.
        perms, name: as `/proc/PID/maps` has them.
        page_bytes: the size of its pages: more than a page for hugetlb.
    """

    start: int
    end: int
    perms: str
    name: str
    page_bytes: int


def read_mappings_at(process: ProcessDirectory, addresses: Iterable[int]) -> list[MappedPart | None]:
    """The mapping at each address, or the next one above it; nothing at all where PROCMAP_QUERY is absent.

    Raises:
        NotPermitted, ProcessGone: as `ProcessDirectory.open`.
    """
    fd = process.open("maps")
    try:
        return [_query(fd, address) for address in addresses]
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return []
    finally:
        os.close(fd)


def read_parts(process: ProcessDirectory, start: int, end: int) -> list[MappedPart]:
    """The parts of mappings that lie in `[start, end)`, in order; from all of maps where PROCMAP_QUERY is absent.

    Raises:
        NotPermitted, ProcessGone: as `ProcessDirectory.open`.
    """
    fd = process.open("maps")
    try:
        found = list(_query_all(fd, start, end))
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        found = list(_from_maps(process, start, end))
    finally:
        os.close(fd)
    return [part.replace(start=max(start, part.start), end=min(end, part.end)) for part in found]


def _query_all(fd: int, start: int, end: int) -> Iterator[MappedPart]:
    while start < end:
        part = _query(fd, start)
        if part is None or part.start >= end:
            return
        yield part
        start = part.end


def _query(fd: int, address: int) -> MappedPart | None:
    """The mapping at `address`, or the next one above it."""
    name = array("B", bytes(_NAME_BYTES))
    words = (_STRUCT.size, _OR_NEXT, address, *(0,) * 8, _NAME_BYTES, 0, name.buffer_info()[0], 0)
    query = bytearray(_STRUCT.pack(*words))
    try:
        ioctl(fd, PROCMAP_QUERY, query)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        if error.errno == errno.ESRCH:
            raise ProcessGone("the process ended while a mapping of it was asked for") from None
        raise
    _, _, _, start, end, flags, page_bytes, _, _, _, _, name_bytes, _, _, _ = _STRUCT.unpack(query)
    return MappedPart(
        start,
        end,
        "".join(letter if flags & bit else "-" for bit, letter in _PERMS) + ("s" if flags & _SHARED else "p"),
        name.tobytes()[: max(0, name_bytes - 1)].replace(b"\n", b"\\012").decode("utf-8", "surrogateescape"),
        page_bytes,
    )


def _from_maps(process: ProcessDirectory, start: int, end: int) -> Iterator[MappedPart]:
    from dontneed.kernel.maps import read_maps

    table = read_maps(process)
    for row in range(len(table)):
        if table.ends[row] > start and table.starts[row] < end:
            yield MappedPart(table.starts[row], table.ends[row], *table.words(row)[::4], PAGE_BYTES)
