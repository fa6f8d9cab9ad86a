"""The evidence behind a receipt: what became of every frame that left, or what the counters allow us to say.

# Why RSS proves nothing

Half a huge page released lowers RSS and frees no frame: all 512 stay in one folio until the last is unmapped, or until
the kernel splits it. A page that a forked child shares leaves RSS and stays in use. A page of a file leaves RSS and
stays in the page cache. So each page is judged by what it was (its page-map entry before) and by what became of its
frame:

| before | the frame afterwards | verdict |
|---|---|---|
| anonymous, ours alone | no longer anonymous, or mapped by someone who got it anew | freed |
| | still anonymous and mapped by nobody: in a huge page, in a queue, pinned | deferred |
| anonymous, shared | mapped by someone | shared |
| of a file | mapped by someone; by nobody | shared; cached |
| shared anonymous, removed | no longer swap-backed page cache | freed |
| the zero page | | nothing: it was no memory |

Without root frames are hidden. Then the page map still says which pages are ours alone and which are mapped by a huge
page, and the process's RSS says how much went at most: an upper bound, and the receipt says so.

Kernel:
    pagemap(5) bits 56, 61, 63; kpageflags, kpagecount: Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import os
import sys
import time

from dontneed.abi import kpageflags
from dontneed.abi import pagemap as abi
from dontneed.abi.advice import Advice
from dontneed.errors import AdviceRefused, KernelLacks, NotPermitted, ProcessGone, UsageError
from dontneed.kernel.kpage import read_frame_flags, read_map_counts
from dontneed.kernel.madvise import advise_range
from dontneed.kernel.pagemap import read_own_entries, scan_categories, scan_pages
from dontneed.records import Record
from dontneed.spans import Span
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES, round_down, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    import numpy as np
    from typing_extensions import Self

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.reasons.buffer import Part

    Truths = np.ndarray[Any, np.dtype[np.bool_]]

EVIDENCE = ("auto", "frames", "counters", "none")
"""What can be asked of a witness; `auto` is frames where the kernel shows them, else counters."""

_CHUNK_BYTES = 32 * HUGE_PAGE_BYTES
_FRAMES_AT_ONCE = 4096
_ASIDE_SECONDS = 50e-6
"""A sleep of any length lets a waiting thread in; the kernel makes some 100 µs of this one."""


class Outcome(Record):
    """What became of the pages of a part, in bytes; the words are those of `Receipt`."""

    freed: int = 0
    deferred: int = 0
    shared: int = 0
    lazy: int = 0
    cached: int = 0
    refaulted: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        mine = self.as_dict()
        return Outcome(**{word: mine[word] + amount for word, amount in other.as_dict().items()})


class Witness:
    """Sees the pages of some parts before and after their release. A context manager.

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
        self._seen = []
        if self.evidence == "none":
            return
        for part in parts:
            for chunk in _chunks(part):
                self._seen.append(_Sighting(self._fd, chunk, with_frames=self.evidence == "frames"))
                _step_aside()

    def judge(self, rss_drop_bytes: int) -> Outcome:
        """What became of what was seen.

        Args:
            rss_drop_bytes: by how much the process's RSS fell, the bound of what `counters` can claim.
        """
        if self.evidence == "frames":
            _empty_queue()
        total = Outcome()
        for sighting in self._seen:
            _step_aside()
            after = read_own_entries(self._fd, sighting.part.span.start, sighting.part.span.end)
            if self.evidence == "frames":
                neighbours = _frames_around(self._fd, sighting.part.span)
                total += judge_by_frames(sighting.part, sighting.entries, after, neighbours)
            else:
                total += judge_by_entries(
                    sighting.part,
                    sighting.entries,
                    after,
                    zero_bytes=sighting.zero_bytes,
                    split_bytes=sighting.split_bytes,
                )
        if self.evidence == "counters":
            total = total.replace(freed=max(0, min(total.freed, rss_drop_bytes)))
        return total

    def refaulted_bytes(self) -> int:
        """Bytes of what was seen that are present now, zero pages not counted."""
        present = 0
        for sighting in self._seen:
            _step_aside()
            present += _present_bytes(self._fd, sighting.part.span)
        return present

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
            self._require_frames()
        except (NotPermitted, KernelLacks):
            if evidence == "frames":
                raise
            return "counters"
        return "frames"

    def _require_frames(self) -> None:
        """Look up a frame of our own, which is there for sure: this very object's page."""
        import numpy as np

        here = round_down(id(self))
        frame = read_own_entries(self._fd, here, here + PAGE_BYTES) & np.uint64(abi.PFN_MASK)
        if not frame.any():
            msg = "the kernel hides frame numbers from this process"
            raise NotPermitted(msg, hint="they take CAP_SYS_ADMIN in the first user namespace: run as root (sudo)")
        read_frame_flags(frame)
        read_map_counts(frame)


def _chunks(part: Part) -> Iterator[Part]:
    """A part in pieces that are looked at in a millisecond or two, cut between huge pages."""
    start, end = part.span.start, part.span.end
    for cut in range(round_down(start, _CHUNK_BYTES), end, _CHUNK_BYTES):
        yield part.replace(span=Span(max(start, cut), min(end, cut + _CHUNK_BYTES)))


def _step_aside() -> None:
    """Let other Python threads run: they could hardly take the GIL in the instants in which system calls let it go."""
    if sys.modules.get("threading") and sys.modules["threading"].active_count() > 1:
        time.sleep(_ASIDE_SECONDS)


class _Sighting:
    """The pages of a part before its release."""

    def __init__(self, fd: int, part: Part, *, with_frames: bool) -> None:
        self.part = part
        self.entries = read_own_entries(fd, part.span.start, part.span.end)
        self.zero_bytes, _, self.split_bytes = (0, 0, 0) if with_frames else _zero_and_split(fd, part.span)


def _empty_queue() -> None:
    """Make the kernel empty this processor's queue of pages on their way to the LRU lists.

    A page that was touched just now waits there, up to 31 of them, and a page that leaves the process meanwhile is not
    free until the queue is emptied. MADV_COLD does that first of all; the page it is given hardly matters.
    """
    here = round_down(id(Outcome))
    try:
        advise_range(here, PAGE_BYTES, Advice.COLD)
    except AdviceRefused:
        return  # locked memory, or a kernel before 5.4: those few pages count as deferred, which they are


def judge_by_frames(part: Part, before: Words, after: Words, neighbours: Words) -> Outcome:
    """The verdict on every page of a part, from what became of its frame.

    Args:
        part: what was released.
        before: its page-map entries when it was seen, one a page.
        after: its page-map entries now.
        neighbours: frames that the process still maps just outside the part.
    """
    import numpy as np

    present = before >= np.uint64(abi.PRESENT)
    left = present & (_frames(before) != _frames(after))
    entries, frames = before[left], _frames(before[left])
    flags = _flags_of(frames)
    mapped = _mapped(frames, flags)

    was_file = _has(entries, abi.FILE)
    was_alone = _has(entries, abi.EXCLUSIVE)
    is_anonymous = _has(flags, kpageflags.ANON)
    is_shmem = _has(flags, kpageflags.SWAPBACKED) & ~is_anonymous
    in_split = _has(flags, kpageflags.THP) & np.isin(_block(frames), _blocks_still_held(neighbours, after))
    verdict = np.select(
        [
            _has(flags, kpageflags.ZERO_PAGE),
            was_file & mapped & part.keeps_cache,
            was_file & part.keeps_cache,
            was_file & is_shmem & ~mapped,
            was_file,
            mapped & ~was_alone,
            in_split | (is_anonymous & ~mapped),
        ],
        [_NOTHING, _SHARED, _CACHED, _DEFERRED, _FREED, _SHARED, _DEFERRED],
        default=_FREED,
    )
    return Outcome(
        freed=_bytes(verdict == _FREED),
        deferred=_bytes(verdict == _DEFERRED),
        shared=_bytes(verdict == _SHARED),
        cached=_bytes(verdict == _CACHED),
        lazy=_lazy_bytes(_frames(before[present & ~left])) if part.advice.name == "FREE" else 0,
    )


def _lazy_bytes(stayed: Words) -> int:
    """Bytes of the frames that stayed, without the zero page, which MADV_FREE leaves alone."""
    return _bytes(~_has(read_frame_flags(stayed), kpageflags.ZERO_PAGE))


_NOTHING, _FREED, _DEFERRED, _SHARED, _CACHED = range(5)


def judge_by_entries(part: Part, before: Words, after: Words, *, zero_bytes: int = 0, split_bytes: int = 0) -> Outcome:
    """The verdict on a part without frames: what its page map allows at most. Pure.

    Args:
        part: what was released.
        before: its page-map entries when it was seen, one a page.
        after: its page-map entries now.
        zero_bytes: how much of it was small zero pages; the huge one looks like a page of a file.
        split_bytes: how much of it was in huge pages that reach beyond it.
    """
    import numpy as np

    was_present, is_present = before >= np.uint64(abi.PRESENT), after >= np.uint64(abi.PRESENT)
    if part.advice.name == "FREE":
        return Outcome(lazy=_bytes(was_present & is_present & ~_has(before, abi.FILE)) - zero_bytes)
    left = before[was_present]
    was_file, was_alone = _has(left, abi.FILE), _has(left, abi.EXCLUSIVE)
    anonymous_alone = _bytes(~was_file & was_alone)
    deferred = min(split_bytes, anonymous_alone)
    freed = anonymous_alone - deferred
    if part.kind == "shared anonymous":
        freed += _bytes(was_file)
    return Outcome(
        freed=freed,
        deferred=deferred,
        shared=max(0, _bytes(~was_file & ~was_alone) - zero_bytes) + part.keeps_cache * _bytes(was_file & ~was_alone),
        cached=part.keeps_cache * _bytes(was_file & was_alone),
    )


def _flags_of(frames: Words) -> Words:
    """The flags of frames, some thousands at a time, since the GIL is held meanwhile."""
    import numpy as np

    flags = np.zeros(len(frames), np.uint64)
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        flags[first : first + _FRAMES_AT_ONCE] = read_frame_flags(frames[first : first + _FRAMES_AT_ONCE])
        _step_aside()
    return flags


def _frames(entries: Words) -> Words:
    """The frame of each entry; 0 for a page that is not present."""
    import numpy as np

    frames: Words = np.where(entries >= np.uint64(abi.PRESENT), entries & np.uint64(abi.PFN_MASK), np.uint64(0))
    return frames


def _has(words: Words, bit: int) -> Truths:
    import numpy as np

    found: Truths = words & np.uint64(bit) != 0
    return found


def _bytes(pages: Truths) -> int:
    import numpy as np

    return int(np.count_nonzero(pages)) * PAGE_BYTES


def _mapped(frames: Words, flags: Words) -> Truths:
    """Which frames some process maps; asked only of those that are in use."""
    import numpy as np

    mapped = _has(flags, kpageflags.MMAP | kpageflags.ANON | kpageflags.LRU)
    mapped[mapped] = read_map_counts(frames[mapped]) > np.uint64(0)
    return mapped


def _block(frames: Words) -> Words:
    """Which naturally aligned huge page of physical memory a frame lies in."""
    import numpy as np

    blocks: Words = frames // np.uint64(HUGE_PAGE_BYTES // PAGE_BYTES)
    return blocks


def _blocks_still_held(neighbours: Words, after: Words) -> Words:
    """The huge pages of physical memory of which the process maps a part, in the released range or beside it."""
    import numpy as np

    frames = np.concatenate((neighbours, _frames(after)))
    blocks: Words = np.unique(_block(frames[frames != 0]))
    return blocks


def _frames_around(fd: int, span: Span) -> Words:
    """Frames that are mapped outside of `span`, in the huge pages that its ends may cut."""
    import numpy as np

    before = read_own_entries(fd, round_down(span.start, HUGE_PAGE_BYTES), span.start)
    try:
        behind = read_own_entries(fd, span.end, round_up(span.end, HUGE_PAGE_BYTES))
    except ProcessGone:  # it is our own page map, so that is the end of the address space
        behind = np.zeros(0, np.uint64)
    return _frames(np.concatenate((before, behind)))


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


def _present_bytes(fd: int, span: Span) -> int:
    import numpy as np

    entries = read_own_entries(fd, span.start, span.end)
    present_bytes = _bytes(entries >= np.uint64(abi.PRESENT))
    if not present_bytes:
        return 0
    zero_bytes, huge_zero_bytes, _ = _zero_and_split(fd, span)
    return present_bytes - zero_bytes - huge_zero_bytes
