"""What became of a page that was given up: judged by what it was, and by what its frame is now.

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
| of a file | mapped by someone; still a page of the cache; neither | shared; cached; freed |
| shared anonymous, removed | no longer swap-backed page cache | freed |
| the zero page | | nothing: it was no memory |

Without root frames are hidden. Then the page map still says which pages are ours alone and which are mapped by a huge
page, and the process's RSS says how much went at most: an upper bound, and the receipt says so.

Kernel:
    pagemap(5) bits 56, 61, 63; kpageflags, kpagecount: Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import sys
import time

from dontneed.abi import kpageflags
from dontneed.abi import pagemap as abi
from dontneed.kernel.kpage import read_frame_flags, read_map_counts
from dontneed.records import Record
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words
    from dontneed.reasons.buffer import Part

    Truths = np.ndarray[Any, np.dtype[np.bool_]]

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
    left = have_left(before, after)
    entries = before[left]
    held = _blocks_still_held(neighbours, after)
    verdicts = _verdicts(part, entries, held)
    for _ in range(_LOOKS_AGAIN):
        doubtful = verdicts == _DEFERRED
        if not doubtful.any():
            break
        time.sleep(_BETWEEN_LOOKS_SECONDS)
        verdicts[doubtful] = _verdicts(part, entries[doubtful], held)
    return Outcome(
        freed=bytes_of(verdicts == _FREED),
        deferred=bytes_of(verdicts == _DEFERRED),
        shared=bytes_of(verdicts == _SHARED),
        cached=bytes_of(verdicts == _CACHED),
        lazy=_lazy_bytes(frames_of(before[present & ~left])) if part.advice.name == "FREE" else 0,
    )


_NOTHING, _FREED, _DEFERRED, _SHARED, _CACHED = range(5)

_LOOKS_AGAIN = 2
_BETWEEN_LOOKS_SECONDS = 2e-3
"""A frame on its way to somebody else, or in a queue, looks as one that is held does, for an instant."""


def _verdicts(part: Part, entries: Words, held: Words) -> np.ndarray[Any, np.dtype[np.int64]]:
    """One of the words above for each page that left, by its entry before and by what its frame is at this moment.

    Args:
        part: what was released.
        entries: what the page map said of them before.
        held: the huge pages of physical memory of which the process maps a part still.
    """
    import numpy as np

    frames = frames_of(entries)
    flags = _flags_of(frames)
    mapped = _mapped(frames, flags)
    was_file = _has(entries, abi.FILE)
    was_alone = _has(entries, abi.EXCLUSIVE)
    is_anonymous = _has(flags, kpageflags.ANON)
    is_shmem = _has(flags, kpageflags.SWAPBACKED) & ~is_anonymous
    in_cache = _has(flags, kpageflags.LRU | kpageflags.UPTODATE) & ~is_anonymous & ~_has(flags, kpageflags.BUDDY)
    in_split = _has(flags, kpageflags.THP) & np.isin(_block(frames), held)
    return np.select(
        [
            _has(flags, kpageflags.ZERO_PAGE),
            was_file & mapped & part.keeps_cache,
            was_file & part.keeps_cache & in_cache,
            was_file & is_shmem & ~mapped,
            was_file,
            mapped & ~was_alone,
            in_split | (is_anonymous & ~mapped),
        ],
        [_NOTHING, _SHARED, _CACHED, _DEFERRED, _FREED, _SHARED, _DEFERRED],
        default=_FREED,
    )


def _lazy_bytes(stayed: Words) -> int:
    """Bytes of the frames that stayed, without the zero page, which MADV_FREE leaves alone."""
    return bytes_of(~_has(read_frame_flags(stayed), kpageflags.ZERO_PAGE))


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
        return Outcome(lazy=bytes_of(was_present & is_present & ~_has(before, abi.FILE)) - zero_bytes)
    left = before[was_present]
    was_file, was_alone = _has(left, abi.FILE), _has(left, abi.EXCLUSIVE)
    anonymous_alone = bytes_of(~was_file & was_alone)
    deferred = min(split_bytes, anonymous_alone)
    freed = anonymous_alone - deferred
    if part.kind == "shared anonymous":
        freed += bytes_of(was_file)
    return Outcome(
        freed=freed,
        deferred=deferred,
        shared=max(0, bytes_of(~was_file & ~was_alone) - zero_bytes)
        + part.keeps_cache * bytes_of(was_file & ~was_alone),
        cached=part.keeps_cache * bytes_of(was_file & was_alone),
    )


def have_left(before: Words, after: Words) -> Truths:
    """Which pages are gone: absent, or, where frames are shown, on another frame by now."""
    import numpy as np

    present = before >= np.uint64(abi.PRESENT)
    left: Truths = present & ((after < np.uint64(abi.PRESENT)) | (frames_of(before) != frames_of(after)))
    return left


def step_aside() -> None:
    """Let other Python threads run: they could hardly take the GIL in the instants in which system calls let it go."""
    if sys.modules.get("threading") and sys.modules["threading"].active_count() > 1:
        time.sleep(_ASIDE_SECONDS)


def _flags_of(frames: Words) -> Words:
    """The flags of frames, some thousands at a time, since the GIL is held meanwhile."""
    import numpy as np

    flags = np.zeros(len(frames), np.uint64)
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        flags[first : first + _FRAMES_AT_ONCE] = read_frame_flags(frames[first : first + _FRAMES_AT_ONCE])
        step_aside()
    return flags


def frames_of(entries: Words) -> Words:
    """The frame of each entry; 0 for a page that is not present."""
    import numpy as np

    frames: Words = np.where(entries >= np.uint64(abi.PRESENT), entries & np.uint64(abi.PFN_MASK), np.uint64(0))
    return frames


def _has(words: Words, bit: int) -> Truths:
    import numpy as np

    found: Truths = words & np.uint64(bit) != 0
    return found


def bytes_of(pages: Truths) -> int:
    """How many bytes the pages are that are true."""
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

    frames = np.concatenate((neighbours, frames_of(after)))
    blocks: Words = np.unique(_block(frames[frames != 0]))
    return blocks
