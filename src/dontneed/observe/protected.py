"""Memory of a process that no reason may touch, whatever it holds.

| memory | why |
|---|---|
| locked (mlock) | someone wants it to stay |
| registered with userfaultfd | a discard is an event there, and somebody else fills the page again |
| hugetlb | goes back to a pool, by whole huge pages |
| all that is anonymous, if pages are pinned, or io_uring or AIO are in use | a device, or the kernel, writes by frame |

Locks and userfaultfd are told by smaps alone, which is slow: it is read only if the process has locked memory, or holds
a userfaultfd. Sealed memory (mseal) that can be written may be discarded, which the kernel allows; what it refuses is
refused at once and harms nobody.

Kernel:
    VmLck and VmPin of /proc/PID/status; /proc/PID/fd; VmFlags of smaps since 3.8; io_uring since 5.1.
"""

from __future__ import annotations

from dontneed.errors import NotPermitted
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.kernel.status import Counters

_WHY = {
    "locked": "locked memory (mlock) is wanted where it is",
    "userfaultfd, missing pages": "memory registered with userfaultfd is filled by somebody else",
    "userfaultfd, write-protected": "memory registered with userfaultfd is filled by somebody else",
    "userfaultfd, minor faults": "memory registered with userfaultfd is filled by somebody else",
    "hugetlb": "hugetlb goes back to a pool that the system reserved",
}
"""By the flags of smaps, as abi/vm_flags.py spells them."""

_IO_URING = "anon_inode:[io_uring]"
_USERFAULTFD = "anon_inode:[userfaultfd]"


class Protected(Record):
    """What is to be left alone.

    Attributes:
        spans: memory that is.
        reasons: why, in sentences.
        whole: why anonymous memory is left alone altogether, in a sentence; nothing if it is not.
    """

    spans: Spans
    reasons: tuple[str, ...] = ()
    whole: str = ""


def read_protected(process: ProcessDirectory, table: MapsTable, counters: Counters) -> Protected:
    """Find what is to be left alone. To be called again while the target is held.

    Raises:
        ProcessGone, NotPermitted: as `ProcessDirectory.read`.
    """
    files = _open_files(process)
    whole = _why_whole(counters, files, table)
    if not counters.locked_bytes and not counters.hugetlb_bytes and _USERFAULTFD not in files:
        return Protected(Spans(), (), whole)
    spans, reasons = _read_flagged(process)
    return Protected(spans, reasons, whole)


def _why_whole(counters: Counters, files: set[str], table: MapsTable) -> str:
    if counters.pinned_bytes:
        return f"{format_bytes(counters.pinned_bytes)} are pinned (VmPin): a device writes into them by frame"
    if not files:
        return "its open files cannot be listed, so an io_uring or a userfaultfd would not be seen"
    if _IO_URING in files:
        return "it uses io_uring: reads under way write into its memory by frame"
    if any(table.words(row)[4].startswith("/[aio]") for row in range(len(table))):
        return "it uses AIO: reads under way write into its memory by frame"
    return ""


def _open_files(process: ProcessDirectory) -> set[str]:
    """What the process has open; nothing at all where that cannot be seen."""
    try:
        return set(process.links("fd").values())
    except NotPermitted:
        return set()


def _read_flagged(process: ProcessDirectory) -> tuple[Spans, tuple[str, ...]]:
    """The mappings whose flags say that they are to be left alone."""
    from dontneed.kernel.smaps import read_smaps

    table, counted = read_smaps(process)
    spans, reasons = [], {}
    for row, each in enumerate(counted):
        why = [_WHY[flag] for flag in each.flags if flag in _WHY]
        if why:
            spans.append((table.starts[row], table.ends[row]))
            reasons.update(dict.fromkeys(why))
    return Spans(spans), tuple(reasons)
