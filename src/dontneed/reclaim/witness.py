"""The evidence behind a receipt: sees pages before their release, and asks afterwards what became of each.

With root, by frames: `verdict.judge_by_frames`. Without, frames are hidden; then the page map still says which pages
were the process's alone and which were mapped by a huge page, and its RSS says how much went at most: an upper bound,
and the receipt says so.

Pages are seen in pieces of up to 64 MiB of addresses: all of a piece's entries are read, and those that are to be
judged are marked, since what surrounds a released page decides whether its huge page is gone.

Kernel:
    /proc/PID/pagemap; the page map of another process needs PTRACE_MODE_READ, its frames CAP_SYS_ADMIN.
"""

from __future__ import annotations

import os

from dontneed.abi import pagemap as abi
from dontneed.abi.advice import Advice
from dontneed.errors import AdviceRefused, KernelLacks, NotPermitted, ProcessGone, UsageError
from dontneed.kernel.kpage import read_frame_flags, read_map_counts
from dontneed.kernel.madvise import advise_range
from dontneed.kernel.pagemap import read_entries, read_own_entries, scan_categories, scan_pages
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.reclaim.verdict import (
    Outcome,
    bytes_of,
    frames_of,
    have_left,
    judge_by_entries,
    judge_by_frames,
    step_aside,
)
from dontneed.spans import Span
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES, round_down, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from typing_extensions import Self

    from dontneed.kernel.pagemap import Words
    from dontneed.reasons.buffer import Part
    from dontneed.spans import Spans

    _Read = Callable[[int, int, int], Words]
    """`read_entries`, or for the calling process `read_own_entries`."""

EVIDENCE = ("auto", "frames", "counters", "none")
"""What can be asked of a witness; `auto` is frames where the kernel shows them, else counters."""

_PIECE_BYTES = 32 * HUGE_PAGE_BYTES
_GAP_BYTES = HUGE_PAGE_BYTES
"""Spans that are farther apart are seen in pieces of their own."""


class Witness:
    """Sees pages of a process before and after their release. A context manager.

    Args:
        process: the process they belong to.
        evidence: one of `EVIDENCE`.
    Attributes:
        evidence: `frames`, `counters` or `none`: what it came to.
        notes: why it is less than was hoped for, in sentences.
    Raises:
        UsageError: no such evidence.
        NotPermitted, KernelLacks: it was asked for by name, and it is hidden or absent.
    """

    def __init__(self, process: ProcessDirectory, evidence: str) -> None:
        if evidence not in EVIDENCE:
            msg = f"there is no evidence {evidence!r}"
            raise UsageError(msg, hint=f"one of {', '.join(EVIDENCE)}")
        self.notes: tuple[str, ...] = ()
        self._seen: list[_Sighting] = []
        self._read = read_own_entries if process.pid == os.getpid() else read_entries
        self._fd = -1 if evidence == "none" else self._opened(process, evidence)
        try:
            self.evidence = "none" if self._fd < 0 else self._settled(evidence)
        except BaseException:  # nobody will hold this object to close it, whatever ended its making
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def see(self, parts: Sequence[Part]) -> None:
        """Remember the pages of `parts` as they are now."""
        self._see((piece, None) for part in parts for piece in _pieces(part))

    def see_within(self, part: Part, spans: Spans) -> None:
        """Remember those pages of `part` that lie in `spans`, as they are now."""
        self._see((piece, spans) for piece in _pieces_around(part, spans))

    def judge(self, rss_drop_bytes: int, released: Spans | None = None) -> Outcome:
        """What became of what was seen.

        Args:
            rss_drop_bytes: by how much the process's RSS fell, the bound of what `counters` can claim.
            released: judge no other pages than these.
        """
        if self.evidence == "frames":
            _empty_queues()
        total = Outcome()
        for sighting in self._seen:
            step_aside()
            if released is not None:
                sighting.narrow(released)
            total += sighting.judged(self._fd, with_frames=self.evidence == "frames")
        if self.evidence == "counters":
            total = total.replace(freed=max(0, min(total.freed, rss_drop_bytes)))
        return total

    def refaulted_bytes(self) -> int:
        """Bytes of what was seen that are present now, zero pages not counted."""
        present = 0
        for sighting in self._seen:
            step_aside()
            present += sighting.present_bytes(self._fd)
        return present

    def _see(self, pieces: Iterator[tuple[Part, Spans | None]]) -> None:
        self._seen = []
        if self.evidence == "none":
            return
        for piece, spans in pieces:
            self._seen.append(_Sighting(self._fd, piece, spans, self._read, with_frames=self.evidence == "frames"))
            step_aside()

    def _opened(self, process: ProcessDirectory, evidence: str) -> int:
        """The page map; -1 where it is closed to us, as to a process that has dropped its rights with setuid()."""
        try:
            return process.open("pagemap")
        except (NotPermitted, KernelLacks) as error:
            if evidence != "auto":
                raise
            self.notes = (f"nobody looked what became of it: {error}",)
            return -1

    def _settled(self, evidence: str) -> str:
        if evidence not in ("auto", "frames"):
            return evidence
        try:
            _require_frames()
        except (NotPermitted, KernelLacks):
            if evidence == "frames":
                raise
            return "counters"
        return "frames"


class _Sighting:
    """The pages of a piece before its release, and which of them are to be judged (None: all)."""

    def __init__(self, fd: int, part: Part, spans: Spans | None, read: _Read, *, with_frames: bool) -> None:
        self._part = part
        self._read = read
        self._wanted = None if spans is None else spans.pages_within(part.span)
        self._before = self._entries(fd)
        self._zero_bytes, _, self._split_bytes = (0, 0, 0) if with_frames else _zero_and_split(fd, part.span)

    def narrow(self, released: Spans) -> None:
        """Judge no page that is not in `released`."""
        inside = released.pages_within(self._part.span)
        self._wanted = inside if self._wanted is None else self._wanted & inside

    def judged(self, fd: int, *, with_frames: bool) -> Outcome:
        """What became of it."""
        after = self._entries(fd)
        before, now = self._chosen(self._before), self._chosen(after)
        neighbours = self._neighbours(fd, after) if with_frames else None
        if self._wanted is not None:  # of scattered pages, those that stayed are not watched
            self._wanted &= have_left(self._before, after)
        if neighbours is None:
            zero_bytes, split_bytes = (self._zero_bytes, self._split_bytes) if self._wanted is None else (0, 0)
            return judge_by_entries(self._part, before, now, zero_bytes=zero_bytes, split_bytes=split_bytes)
        return judge_by_frames(self._part, before, now, neighbours)

    def present_bytes(self, fd: int) -> int:
        """How much of it is there now."""
        import numpy as np

        present = bytes_of(self._chosen(self._entries(fd)) >= np.uint64(abi.PRESENT))
        if not present or self._wanted is not None:
            return present
        zero_bytes, huge_zero_bytes, _ = _zero_and_split(fd, self._part.span)
        return present - zero_bytes - huge_zero_bytes

    def _entries(self, fd: int) -> Words:
        return self._read(fd, self._part.span.start, self._part.span.end)

    def _chosen(self, entries: Words) -> Words:
        return entries if self._wanted is None else entries[self._wanted]

    def _neighbours(self, fd: int, after: Words) -> Words:
        """Frames that the process maps beside what is judged, in the huge pages that it may be a part of."""
        import numpy as np

        around = _frames_around(fd, self._part.span, self._read)
        return around if self._wanted is None else np.concatenate((around, frames_of(after[~self._wanted])))


def _pieces(part: Part) -> Iterator[Part]:
    """A part in pieces that are looked at in a millisecond or two, cut between huge pages."""
    start, end = part.span.start, part.span.end
    for cut in range(round_down(start, _PIECE_BYTES), end, _PIECE_BYTES):
        yield part.replace(span=Span(max(start, cut), min(end, cut + _PIECE_BYTES)))


def _pieces_around(part: Part, spans: Spans) -> Iterator[Part]:
    """The same for scattered spans: pieces that hold them, without the large gaps between them."""
    import numpy as np

    rows = spans.array
    if not len(rows):
        return
    cuts = np.flatnonzero(rows[1:, 0] - rows[:-1, 1] > np.uint64(_GAP_BYTES)) + 1
    for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(rows)], strict=True):
        yield from _pieces(part.replace(span=Span(int(rows[first, 0]), int(rows[last - 1, 1]))))


def _require_frames() -> None:
    """Look up a frame of our own, which is there for sure: the page of an object here.

    Raises:
        NotPermitted, KernelLacks: frame numbers or their flags are hidden, or not there.
    """
    import numpy as np

    here = round_down(id(Witness))
    with ProcessDirectory() as ourselves:
        fd = ourselves.open("pagemap")
    try:
        frame = read_own_entries(fd, here, here + PAGE_BYTES) & np.uint64(abi.PFN_MASK)
    finally:
        os.close(fd)
    if not frame.any():
        msg = "the kernel hides frame numbers from this process"
        raise NotPermitted(msg, hint="they take CAP_SYS_ADMIN in the first user namespace: run as root (sudo)")
    read_frame_flags(frame)
    read_map_counts(frame)


def _empty_queues() -> None:
    """Make the kernel empty this processor's queue of pages on their way to the LRU lists.

    A page that was touched just now waits there, up to 31 of them, and a page that leaves the process meanwhile is not
    free until the queue is emptied. MADV_COLD does that first of all; the page it is given hardly matters.
    """
    here = round_down(id(Outcome))
    try:
        advise_range(here, PAGE_BYTES, Advice.COLD)
    except AdviceRefused:
        return  # locked memory, or a kernel before 5.4: those few pages count as deferred, which they are


def _frames_around(fd: int, span: Span, read: _Read) -> Words:
    """Frames that are mapped outside of `span`, in the huge pages that its ends may cut."""
    import numpy as np

    before = read(fd, round_down(span.start, HUGE_PAGE_BYTES), span.start)
    try:
        behind = read(fd, span.end, round_up(span.end, HUGE_PAGE_BYTES))
    except ProcessGone:  # it is a page map that was read just now, so that is the end of the address space
        behind = np.zeros(0, np.uint64)
    return frames_of(np.concatenate((before, behind)))


def _zero_and_split(fd: int, span: Span) -> tuple[int, int, int]:
    """Bytes of `span` in zero pages, in huge zero pages, and in huge pages that reach beyond it.

    0 each without PAGEMAP_SCAN, which alone can tell.
    """
    categories = scan_categories(fd)
    if not categories:
        return 0, 0, 0
    zero = huge_zero = split = 0
    first, last = round_up(span.start, HUGE_PAGE_BYTES), round_down(span.end, HUGE_PAGE_BYTES)
    for window in scan_pages(fd, span.start, span.end, wanted=abi.IS_PRESENT, returned=categories, at_once=True):
        runs = iter(window)
        for start, end, found in zip(runs, runs, runs, strict=True):
            if found & abi.IS_ZERO and found & abi.IS_HUGE:
                huge_zero += end - start
            elif found & abi.IS_ZERO:
                zero += end - start
            elif found & abi.IS_HUGE:
                split += max(0, min(end, first) - start) + max(0, end - max(start, last, first))
    return zero, huge_zero, split
