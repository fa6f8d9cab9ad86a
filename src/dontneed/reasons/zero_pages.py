"""`zero-pages`: resident private anonymous pages that hold nothing but zeros.

Frees: pages that were written once and are all zero now: cleared buffers, tables hardly filled, arrays of zeros.

Safe because a private anonymous page that is not there reads as zeros: dropping it changes no byte. That holds if
nobody writes between the last look and the drop, so all threads are stopped for both, and whatever writes into memory
without being a thread of the process is a reason to refuse.

Needs: to stop the process (ptrace), and to run madvise inside it.

Refuses: memory that is shared, locked, registered with userfaultfd, hugetlb, of a file; stacks; everything where pages
are pinned, or io_uring or AIO are in use (`Protected`), or where the process holds a device that writes into its memory
by frame or from a thread of the kernel (KVM, vhost, VFIO, RDMA, GPUs). Left alone: zero pages inside huge pages that
hold data as well, which would free nothing, and pages that another process maps since a fork. Not seen, and not looked
for: a process that shares the address space without being a thread (CLONE_VM without CLONE_THREAD or CLONE_VFORK).

A release stops all threads, looks again which of the pages are zero, drops them, and lets the threads go on: a slice of
64 MiB or 4,096 ranges at a time, or less where a shorter pause is asked for.

Kernel:
    mm/madvise.c madvise_dontneed_single_vma(); PAGEMAP_SCAN since 6.7, without which only whole huge pages go.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.errors import TargetRefused
from dontneed.kernel.maps import parse_maps
from dontneed.kernel.status import read_counters
from dontneed.observe.mapping import kind_of
from dontneed.observe.protected import read_protected
from dontneed.observe.slices import in_slices, together
from dontneed.observe.zero_pages import find_zero_pages, new_buffer, still_zero
from dontneed.reasons.survey import Released, Survey
from dontneed.spans import Spans
from dontneed.units import HUGE_PAGE_BYTES, MIB, format_bytes, round_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.subject import Subject
    from dontneed.observe.zero_pages import ZeroPages
    from dontneed.reasons.survey import Limits

NAME = "zero-pages"
ACTS_INSIDE = True
WHY_SAFE = "a page that is gone reads as zeros too; looked at again and dropped while all threads stand still"

_KINDS = ("anonymous", "heap")
_SLICE_BYTES = 64 * MIB
_SLICE_RANGES = 4096
_SMALLEST_SLICE_BYTES = HUGE_PAGE_BYTES
_BYTES_A_SECOND = 2 << 30
"""Looked at again and dropped."""
_SECONDS_A_RANGE = 2e-6
"""More, for every range."""
_STOP_SECONDS = 0.002
_WRITERS = ("/dev/kvm", "/dev/vhost", "/dev/vfio/", "/dev/infiniband/", "/dev/nvidia", "/dev/kfd", "/dev/dri/")
"""Devices that write into the memory of whoever holds them, while its threads stand still."""


def survey(subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """Read all resident private anonymous memory, from outside, and find the pages that are zero."""
    del hint
    why_not = subject.protected.whole or _other_writer(subject.process)
    if why_not:
        return _nothing(why_not)
    memory, protected = _eligible(subject.table, subject.kinds), subject.protected
    found = find_zero_pages(subject.process, memory - protected.spans)
    spans = found.small | found.huge
    pause_seconds = _STOP_SECONDS + _work_seconds(min(_SLICE_BYTES, spans.size_bytes), min(_SLICE_RANGES, len(spans)))
    return Survey(
        reason=NAME,
        releasable_bytes=spans.size_bytes,
        spans=spans,
        why_safe=WHY_SAFE,
        cost_seconds=_work_seconds(spans.size_bytes, len(spans)),
        pause_seconds=pause_seconds if spans else 0.0,
        refused=(*(protected.reasons if memory & protected.spans else ()), *_left_alone(found)),
        details=found,
    )


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Drop the pages that are still zero, a slice at a time, each while all threads stand still.

    Raises:
        TargetRefused, NotPermitted, ProcessGone: as `remote.stop.Stop`; slices before are dropped.
    """
    pages: ZeroPages = found.details
    why_not = _other_writer(subject.process)
    if why_not:
        raise TargetRefused(why_not)
    watch = _Watch(subject)
    slice_bytes = _slice_bytes(limits)
    dropped: list[Spans] = []
    pauses: list[float] = []
    left = set()
    for spans, are_huge in ((pages.small, False), (pages.huge, True)):
        rest = spans
        while rest:
            part = next(next(in_slices(rest, slice_bytes)).batches(_SLICE_RANGES))
            zero, pause_seconds, why_not = _drop(watch, part, are_huge=are_huge)
            dropped.append(zero)
            pauses.append(pause_seconds)
            left.add(why_not)
            if limits.max_pause_seconds is not None and pause_seconds > limits.max_pause_seconds:
                slice_bytes = max(_SMALLEST_SLICE_BYTES, round_down(slice_bytes // 2, HUGE_PAGE_BYTES))
            rest -= part
    gone = together(dropped)
    notes = sorted(left - {""})
    if missed := found.spans.size_bytes - gone.size_bytes:
        notes.append(f"{format_bytes(missed)} were written to, or given back, since they were found: left alone")
    return Released(found.spans.size_bytes, gone.size_bytes, gone, tuple(pauses), tuple(notes))


def _drop(watch: _Watch, part: Spans, *, are_huge: bool) -> tuple[Spans, float, str]:
    """Stop, look again, drop, let go: what was dropped, the pause, and why nothing was."""
    from dontneed.remote.advise import advise_inside
    from dontneed.remote.stop import Stop

    with Stop(watch.process) as stop:
        memory, why_not = watch.look()
        zero = still_zero(watch.process, memory & part, watch.buffer)
        zero = zero.inward_huge() if are_huge else zero
        if zero:
            advise_inside(stop, zero, Advice.DONTNEED)
    return zero, stop.pause_seconds, why_not


class _Watch:
    """What may be dropped at this very moment, told as fast as can be: all threads stand still for it.

    Maps is parsed again if it reads otherwise than the last time; a ring of AIO would be a mapping, too.

    Attributes:
        process: whose memory it is.
        buffer: to read into.
    """

    def __init__(self, subject: Subject) -> None:
        self.process = subject.process
        self.buffer = new_buffer()
        self._text = b""
        self._memory = Spans()
        self.look()

    def look(self) -> tuple[Spans, str]:
        """Memory whose pages may be dropped if they are zero; or none, and why."""
        text = self.process.read("maps")
        has_changed = text != self._text
        table = parse_maps(text if has_changed else b"")
        if has_changed:
            self._text, self._memory = text, _eligible(table, table.classify(kind_of))
        protected = read_protected(self.process, table, read_counters(self.process))
        return Spans() if protected.whole else self._memory - protected.spans, protected.whole


def _eligible(table: MapsTable, kinds: list[str]) -> Spans:
    """Memory whose pages may be dropped if they are zero: private, anonymous, read and written by its owner."""
    rows = [row for row, kind in enumerate(kinds) if kind in _KINDS and _is_plain(table.words(row)[0])]
    return Spans((table.starts[row], table.ends[row]) for row in rows)


def _is_plain(perms: str) -> bool:
    return perms.startswith("rw") and perms.endswith("p")


def _work_seconds(size_bytes: int, ranges: int) -> float:
    return size_bytes / _BYTES_A_SECOND + ranges * _SECONDS_A_RANGE


def _slice_bytes(limits: Limits) -> int:
    if limits.max_pause_seconds is None:
        return _SLICE_BYTES
    fits = int(max(0.0, limits.max_pause_seconds - _STOP_SECONDS) * _BYTES_A_SECOND)
    return max(_SMALLEST_SLICE_BYTES, min(_SLICE_BYTES, round_down(fits, HUGE_PAGE_BYTES)))


def _other_writer(process: ProcessDirectory) -> str:
    """Why all memory is left alone: something writes to it that stands still for nobody. In a sentence, or nothing."""
    held = sorted(target for target in set(process.links("fd").values()) if target.startswith(_WRITERS))
    return f"it holds {held[0]}: a device may write into its memory while its threads stand still" if held else ""


def _left_alone(found: ZeroPages) -> list[str]:
    said = []
    if found.in_huge_bytes:
        said.append(
            f"{format_bytes(found.in_huge_bytes)} of zeros lie in huge pages that hold data as well: dropping them "
            "would free nothing"
        )
    if found.shared_bytes:
        said.append(
            f"{format_bytes(found.shared_bytes)} of memory are mapped by another process too, since a fork: dropping "
            "what is zero of them would free nothing"
        )
    return said


def _nothing(why_not: str) -> Survey:
    return Survey(NAME, 0, Spans(), WHY_SAFE, 0.0, 0.0, refused=(why_not,))
