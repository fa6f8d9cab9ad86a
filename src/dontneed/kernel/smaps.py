"""/proc/PID/smaps: per mapping, counters that take a walk over all its page-table entries.

Exact, and slow for its target: the walk of a mapping holds the target's mmap_lock (50 ms for 4 GiB of 4 KiB pages), so
dontneed reads it only when asked. Zero pages are in no counter; hugetlb is outside Rss and Pss.

Kernel:
    fs/proc/task_mmu.c show_smap(); proc(5). LazyFree since 4.12, VmFlags 3.8, Pss_Dirty 6.0, KSM 6.8.
"""

from __future__ import annotations

from dontneed.abi.vm_flags import flag_words
from dontneed.kernel.maps import MapsTable, parse_maps
from dontneed.records import Record
from dontneed.units import KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dontneed.kernel.procfs import ProcessDirectory


class SmapsCounters(Record):
    """What smaps says of one mapping, in bytes; 0 where this kernel prints no such line. `flags` are words."""

    rss_bytes: int = 0
    pss_bytes: int = 0
    shared_clean_bytes: int = 0
    shared_dirty_bytes: int = 0
    private_clean_bytes: int = 0
    private_dirty_bytes: int = 0
    referenced_bytes: int = 0
    anonymous_bytes: int = 0
    lazyfree_bytes: int = 0
    huge_bytes: int = 0
    hugetlb_bytes: int = 0
    swap_bytes: int = 0
    locked_bytes: int = 0
    flags: tuple[str, ...] = ()

    @property
    def dirty_bytes(self) -> int:
        """Shared and private dirty, the Dirty column of `pmap -x`."""
        return self.shared_dirty_bytes + self.private_dirty_bytes

    @property
    def uss_bytes(self) -> int:
        """The unique set size: what only this process maps."""
        return self.private_clean_bytes + self.private_dirty_bytes


_LINES = {
    b"Rss": "rss_bytes",
    b"Pss": "pss_bytes",
    b"Shared_Clean": "shared_clean_bytes",
    b"Shared_Dirty": "shared_dirty_bytes",
    b"Private_Clean": "private_clean_bytes",
    b"Private_Dirty": "private_dirty_bytes",
    b"Referenced": "referenced_bytes",
    b"Anonymous": "anonymous_bytes",
    b"LazyFree": "lazyfree_bytes",
    b"AnonHugePages": "huge_bytes",
    b"ShmemPmdMapped": "huge_bytes",
    b"FilePmdMapped": "huge_bytes",
    b"Shared_Hugetlb": "hugetlb_bytes",
    b"Private_Hugetlb": "hugetlb_bytes",
    b"Swap": "swap_bytes",
    b"Locked": "locked_bytes",
}


def parse_smaps(text: bytes) -> tuple[MapsTable, list[SmapsCounters]]:
    """The mappings in the text of an smaps file, and the counters of each."""
    headers: list[bytes] = []
    counted: list[SmapsCounters] = []
    values: dict[str, Any] = {}
    for line in text.split(b"\n"):
        key, colon, rest = line.partition(b":")
        if field := _LINES.get(key):
            if value := int(rest[:-3]):  # most are 0; the unit is always kB
                values[field] = values.get(field, 0) + value * KIB
        elif key == b"VmFlags":
            counted.append(SmapsCounters(**values, flags=flag_words(rest.decode("ascii"))))
        elif colon and b"-" in key and line[:1] in b"0123456789abcdef":
            if len(counted) < len(headers):  # a kernel without VmFlags
                counted.append(SmapsCounters(**values))
            headers.append(line)
            values = {}
    if len(counted) < len(headers):
        counted.append(SmapsCounters(**values))
    return parse_maps(headers), counted


def read_smaps(process: ProcessDirectory) -> tuple[MapsTable, list[SmapsCounters]]:
    """Mappings and counters of `process`, mapping by mapping from one text.

    Raises:
        ProcessGone, NotPermitted, KernelLacks: as `ProcessDirectory.read`.
    """
    return parse_smaps(process.read("smaps"))
