"""`cold`: private anonymous memory that nothing touches for some seconds; by name only.

Frees: frames whose contents go to swap, where a touch brings them back from.

Safe because swapping loses nothing. Whether it was worth it is a guess: what was idle while we watched may be wanted in
the next moment, and comes back at the pace of the swap device. So it is never done unless asked for.

What is known of use without disturbing anyone is one word for a whole mapping, Referenced in smaps: how much of it was
touched since the kernel last looked. So a release

1. marks all that can go (MADV_COLD, which also makes it the first to go when memory is short),
2. waits five seconds, in which the process runs as ever,
3. pages out the mappings of which not one page was touched meanwhile, as far as swap has room for them.

One page in use keeps its mapping: a heap or a mapping with a busy corner stays. That is coarse, and errs on the side of
memory that is used. Which mappings are idle is not known before the watching, so the survey tells the most that could
go, and how much of it bears no mark of use already.

Needs: swap space; process_madvise, which is CAP_SYS_NICE and the right to read the process's memory. Reads smaps, once
in a survey and three times in a release, and so makes a large process wait for its mmap_lock: 50 ms for 4 GiB.

Refuses: to act without swap. Leaves alone: files, shared memory, stacks, locked memory, what another process maps too.

Kernel:
    COLD, PAGEOUT since 5.4, of other processes 5.10; mm/madvise.c. Referenced in smaps since 2.6.22.
"""

from __future__ import annotations

import time

from dontneed.abi.advice import Advice
from dontneed.errors import AdviceRefused, KernelLacks, TargetRefused
from dontneed.kernel.environment import parse_swaps
from dontneed.kernel.madvise import advise_spans
from dontneed.kernel.remote_advice import advisable
from dontneed.kernel.settings import read_setting
from dontneed.kernel.smaps import read_smaps
from dontneed.observe.mapping import kind_of
from dontneed.observe.resident import find_anonymous
from dontneed.observe.slices import in_slices, together
from dontneed.reasons.survey import Released, Survey
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import MIB, PAGE_BYTES, format_bytes, format_seconds, round_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dontneed.observe.subject import Subject
    from dontneed.reasons.survey import Limits

NAME = "cold"
ACTS_INSIDE = False
WHY_SAFE = "it goes to swap, and comes back from there when it is touched: nothing is lost, and nothing is stopped"

_KINDS = ("anonymous", "heap")
_PRIVILEGED = ("locked", "hugetlb", "device memory", "maps frames without page structures")
_WATCH_SECONDS = 5.0
_BYTES_A_SECOND = 500 * MIB
"""Marked, and compressed by zram; a disk is slower."""
_SLICE_BYTES = 4 * MIB
_BREATH_SECONDS = 50e-6
"""Between slices: the kernel holds the process's mmap_lock for all of a call, and whoever waits is to get in."""
_NO_SWAP = TargetRefused(
    "there is no swap: anonymous memory has nowhere to go",
    hint="swap in compressed memory will do: modprobe zram && zramctl --find --size 2G && mkswap /dev/zram0 && "
    "swapon /dev/zram0",
)


class Marks(Record):
    """Private anonymous memory by what smaps knows of its use.

    Attributes:
        touched: mappings with at least one page that was touched since the kernel last looked.
        untouched: the others.
    """

    touched: Spans
    untouched: Spans


def survey(subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """The most that could go, if nothing of it were touched while a release watches.

    Raises:
        TargetRefused: there is no swap.
        NotPermitted, KernelLacks, ProcessGone: as `kernel.remote_advice.advisable`.
    """
    del hint
    room = _swap_room()
    with advisable(subject.process, Advice.COLD), advisable(subject.process, Advice.PAGEOUT):
        marks = _read_marks(subject)
    touched, untouched = (find_anonymous(subject.process, spans).alone for spans in (marks.touched, marks.untouched))
    spans = touched | untouched
    most = min(spans.size_bytes, room)
    return Survey(
        reason=NAME,
        releasable_bytes=most,
        spans=spans,
        why_safe=WHY_SAFE,
        cost_seconds=_WATCH_SECONDS + most / _BYTES_A_SECOND,
        pause_seconds=0.0,
        refused=(_marked(touched.size_bytes),) if touched else (),
    )


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Mark, wait, and page out what was not touched meanwhile.

    Raises:
        TargetRefused: there is no swap.
        NotPermitted, KernelLacks, ProcessGone: as `kernel.remote_advice.advisable`.
    """
    del limits
    _swap_room()
    before = _read_marks(subject)
    watched = find_anonymous(subject.process, before.touched | before.untouched).alone
    _advise(subject, before.touched & watched, Advice.COLD)
    time.sleep(_WATCH_SECONDS)
    idle = _read_marks(subject).untouched & watched
    room = _swap_room()
    fits = next(iter(in_slices(idle, round_down(room, PAGE_BYTES))), Spans())
    gone = _advise(subject, fits, Advice.PAGEOUT)
    notes = [
        f"{format_bytes(found.spans.size_bytes - idle.size_bytes)} were touched while they were watched: they stay"
    ]
    if idle.size_bytes > room:
        notes.append(f"{format_bytes(idle.size_bytes - room)} of idle memory did not fit into swap")
    return Released(found.spans.size_bytes, gone.size_bytes, gone, (), tuple(notes))


def _marked(size_bytes: int) -> str:
    return (
        f"{format_bytes(size_bytes)} bear marks of use, from whenever: only mappings of which nothing is touched in "
        f"{format_seconds(_WATCH_SECONDS)} will go"
    )


def _advise(subject: Subject, spans: Spans, advice: Advice) -> Spans:
    """Give an advice a few MiB at a time; which of it was taken. What was unmapped meanwhile is not."""
    taken = []
    with advisable(subject.process, advice) as pidfd:
        for part in in_slices(spans, _SLICE_BYTES):
            try:
                advise_spans(part, advice, pidfd=pidfd)
            except AdviceRefused:
                continue
            taken.append(part)
            time.sleep(_BREATH_SECONDS)
    return together(taken)


def _read_marks(subject: Subject) -> Marks:
    """What smaps knows of the use of the memory that may go."""
    table, counted = read_smaps(subject.process)
    touched: list[tuple[int, int]] = []
    untouched: list[tuple[int, int]] = []
    for row, counters in enumerate(counted):
        perms, _, _, _, name = table.words(row)
        if not counters.anonymous_bytes or not perms.endswith("p") or kind_of(name, perms) not in _KINDS:
            continue
        if not any(flag in _PRIVILEGED for flag in counters.flags):
            (touched if counters.referenced_bytes else untouched).append((table.starts[row], table.ends[row]))
    return Marks(Spans(touched) - subject.protected.spans, Spans(untouched) - subject.protected.spans)


def _swap_room() -> int:
    """How many bytes swap has room for.

    Raises:
        TargetRefused: there is no swap, or it is full.
    """
    try:
        size, used = parse_swaps(read_setting("/proc/swaps"))
    except KernelLacks:  # built without
        size = used = 0
    if size <= used:
        raise _NO_SWAP
    return size - used
