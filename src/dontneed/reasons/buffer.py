"""`buffer`: memory whose contents its owner gives up.

Safe because the caller says so, and because only whole pages inside the buffer are touched: what else lies on its first
and last page stays. What "give up" means depends on the memory:

| memory | advice | afterwards |
|---|---|---|
| private anonymous (numpy, bytearray, malloc) | MADV_DONTNEED | reads as zero; the frames are free |
| shared anonymous (`mmap.mmap(-1, n)`) | MADV_REMOVE | reads as zero, for every process that shares it; free |
| private file mapping (ACCESS_COPY, np.memmap mode c) | MADV_DONTNEED | reads the file again; own changes are lost |
| shared file mapping, memfd, /dev/shm | MADV_DONTNEED | nothing is lost; the page cache keeps it |

Refused, before anything is changed: locked memory, sealed memory, hugetlb, memory of a device or of the kernel.

Kernel:
    mm/madvise.c madvise_dontneed_free(), madvise_remove(); since 2.4 and 2.6.16; madvise(2).
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.errors import BufferRefused, UsageError
from dontneed.kernel.procmap import MappedPart, read_parts
from dontneed.kernel.status import read_counters
from dontneed.observe.mapping import kind_of
from dontneed.records import Record
from dontneed.spans import Span
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.kernel.status import Counters

_PRIVATE_MEMORY = ("anonymous", "heap", "stack", "thread stack")
_FILES = ("file", "shared memory")


class Part(Record):
    """A part of the buffer that lies in one mapping.

    Attributes:
        span: its pages.
        kind: the kind of memory, as `observe.mapping.KINDS`.
        shared: MAP_SHARED.
        advice: what gives its contents up.
    """

    span: Span
    kind: str
    shared: bool
    advice: Advice

    @property
    def keeps_cache(self) -> bool:
        """Whether pages of a file stay in the page cache when they leave this process."""
        return self.kind in _FILES


class BufferSurvey(Record):
    """What giving up a buffer would do.

    Attributes:
        asked: bytes of the buffer.
        parts: its whole pages, by mapping; none when it holds no whole page.
        notes: what the owner should know, in sentences.
    """

    asked: int
    parts: tuple[Part, ...]
    notes: tuple[str, ...]


def survey(process: ProcessDirectory, address: int, length: int, *, lazy: bool = False) -> BufferSurvey:
    """Find out what lies behind a buffer of the calling process, and how its contents can be given up. Changes nothing.

    Args:
        process: the calling process.
        address: where the buffer begins.
        length: its length in bytes.
        lazy: by MADV_FREE: the kernel takes the pages when it needs them.
    Raises:
        BufferRefused: locked, sealed, hugetlb, or not ordinary memory; says what to do.
        UsageError: `lazy` for anything but private anonymous memory.
    """
    span = Span.inward(address, length)
    if not span:
        return BufferSurvey(length, (), (_too_small(length),))
    mapped = read_parts(process, span.start, span.end)
    _refuse_unmapped(span, mapped)
    parts = tuple(_plan(part, lazy=lazy) for part in mapped)
    counters = read_counters(process)
    _refuse_protected(process, mapped, counters)
    return BufferSurvey(length, parts, tuple(_notes(parts, counters)))


def _too_small(length: int) -> str:
    return (
        "the buffer is empty: there is nothing to give back"
        if not length
        else f"no whole page of {PAGE_BYTES} bytes lies inside these {length} bytes: nothing can be given back"
    )


def _refuse_unmapped(span: Span, mapped: list[MappedPart]) -> None:
    if sum(part.end - part.start for part in mapped) != span.size_bytes:
        msg = f"part of the buffer at {span} is not mapped: its owner has unmapped it behind its back"
        raise BufferRefused(msg)


def _plan(part: MappedPart, *, lazy: bool) -> Part:
    """What gives up one part, by its kind of memory.

    Raises:
        BufferRefused, UsageError: nothing does.
    """
    kind = kind_of(part.name, part.perms)
    shared = part.perms.endswith("s")
    span = Span(part.start, part.end)
    if part.page_bytes > PAGE_BYTES or kind == "hugetlb":
        msg = f"the memory at {span} is hugetlb: it goes back by whole huge pages, to a pool that the system reserved"
        hint = "unmap it, or advise whole huge pages: dontneed.advise(span, Advice.DONTNEED), Linux 5.18+"
        raise BufferRefused(msg, hint=hint)
    if kind not in (*_PRIVATE_MEMORY, *_FILES, "shared anonymous"):
        msg = f"the memory at {span} ({part.name}) belongs to the kernel or a driver"
        raise BufferRefused(msg, hint="close the object that mapped it")
    if lazy and kind not in _PRIVATE_MEMORY:
        msg = f"MADV_FREE takes private anonymous memory only, and {span} is {'shared' if shared else 'of a file'}"
        raise UsageError(msg, hint="discard it without lazy=True")
    if kind == "shared anonymous":
        return Part(span, kind, shared, Advice.REMOVE)
    return Part(span, kind, shared, Advice.FREE if lazy else Advice.DONTNEED)


def _refuse_protected(process: ProcessDirectory, mapped: list[MappedPart], counters: Counters) -> None:
    """Refuse locked and sealed memory before the first page is touched: the kernel would do so half-way.

    Both are seen in smaps only, which is slow, so it is read only if the process has locked anything, or if a mapping
    cannot be written: the kernel guards sealed memory only against those who could not overwrite it anyway.
    """
    if not counters.locked_bytes and all("w" in part.perms for part in mapped):
        return
    from dontneed.kernel.smaps import read_smaps

    table, kept = read_smaps(process)
    for row, counted in enumerate(kept):
        if not any(table.starts[row] < part.end and part.start < table.ends[row] for part in mapped):
            continue
        where = f"{table.starts[row]:x}-{table.ends[row]:x}"
        if "locked" in counted.flags:
            msg = f"the memory at {where} is locked (mlock): someone wants it to stay"
            hint = "munlock it first, or drop it all the same: dontneed.advise(buffer, Advice.DONTNEED_LOCKED)"
            raise BufferRefused(msg, hint=hint)
        if "sealed" in counted.flags and "w" not in table.words(row)[0]:
            msg = f"the memory at {where} is sealed (mseal) and read-only: its contents cannot be given up"
            raise BufferRefused(msg, hint="only the end of the process takes it away")


def _notes(parts: tuple[Part, ...], counters: Counters) -> Iterable[str]:
    if any(part.kind == "shared anonymous" for part in parts):
        yield (
            "shared anonymous memory (mmap.mmap(-1, n) is MAP_SHARED): MADV_DONTNEED would free nothing, so its pages "
            "were removed (MADV_REMOVE), for every process that shares them"
        )
    if any(part.keeps_cache and part.shared for part in parts):
        yield "a shared mapping of a file: nothing is lost, only this process's mapping of the pages goes"
    if any(part.keeps_cache and not part.shared for part in parts):
        yield "a private mapping of a file: it reads as the file again; changes made here are lost"
    if counters.pinned_bytes:
        pinned = f"this process has {counters.pinned_bytes} bytes pinned for devices (VmPin)"
        yield f"{pinned}; pinned frames are not free until unpinned"
