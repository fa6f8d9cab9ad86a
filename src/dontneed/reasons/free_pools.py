"""`free-pools`: pages in CPython's pools of small objects that no object lies in.

Frees: after many small objects have gone, what pymalloc keeps of each arena that still holds one: pools with no block
in use, but for the page of their header; what was never cut off in pools in use; and the last blocks of such pools
where all of them are free. CPython 3.10 to 3.14 with a GIL.

Safe because nothing of CPython reads those pages again before it has written them: the GIL is held from the last look
at a pool until its pages are dropped, so no object can be made or die meanwhile, and the pool is told before. A free
pool forgets its last life (`szidx`, "never used") and is set up anew by its next user; blocks at the end of a pool in
use are taken off its free list, and count as never cut off. At every instant what is written so far is a sound pool: if
we die, nothing is lost but some blocks, until their pool is empty.

Needs: to stop one thread of the process that waits in a system call without the GIL (ptrace), and to have it take the
GIL. Nothing is loaded into the process, and no thread is stopped but that one; those that want the GIL wait for it,
some milliseconds at a time, as they do for each other.

Refuses: other versions, builds without a GIL, PYTHONMALLOC other than pymalloc, debug hooks, sub-interpreters, an
interpreter that is shutting down, a process of which no Python thread waits for anything; arenas in memory that is
locked or registered with userfaultfd, and all of them where a device or io_uring writes by frame (`Protected`). Left
alone: pools that changed since the survey. What is free inside huge pages is given up as well, and free when the kernel
splits those.

Source:
    CPython: Objects/obmalloc.c; mm/madvise.c madvise_dontneed_single_vma().
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.errors import AdviceRefused, DontneedError, ProcessGone, TargetRefused
from dontneed.kernel.maps import read_maps
from dontneed.kernel.process_memory import read_memory
from dontneed.kernel.status import read_counters
from dontneed.observe.presence import lie_within
from dontneed.observe.protected import read_protected
from dontneed.observe.python.arenas import find_arenas, hold_pools, private_memory, read_objects
from dontneed.observe.python.free_lists import read_lists
from dontneed.observe.python.pools import are_free, page_up, read_pools
from dontneed.observe.python.runtime import find_runtime
from dontneed.observe.resident import find_anonymous
from dontneed.reasons.pool_edits import FreeEnds, FreePools, Tails
from dontneed.reasons.survey import Released, Survey
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dontneed.kernel.pagemap import Words
    from dontneed.observe.presence import Truths
    from dontneed.observe.python.arenas import Arenas
    from dontneed.observe.python.pools import Pools
    from dontneed.observe.python.runtime import PythonRuntime
    from dontneed.observe.subject import Subject
    from dontneed.reasons.pool_edits import Batch
    from dontneed.reasons.survey import Limits
    from dontneed.remote.gil import Gil, HeldGil

NAME = "free-pools"
ACTS_INSIDE = True
WHY_SAFE = (
    "no object lies in them, and CPython writes them before it reads them; looked at again, told to the pools, and "
    "dropped while the GIL is held"
)

_MAX_HOLD_SECONDS = 0.020
"""A hold of the GIL that nobody asked to be shorter: a few of CPython's own switch intervals."""
_HOLD_SECONDS = 0.001
_POOL_SECONDS = {FreePools: 8e-6, Tails: 6e-6, FreeEnds: 30e-6}
"""What a pool takes under the GIL, to begin with; then it is measured."""
_SLOWER_AT_MOST, _SLOWEST = 1.3, 4
_MOST_POOLS = 4096
_FEWEST_POOLS = 8
_HEADROOM = 0.6
"""Of the time that a hold may take, this much is planned for."""


class Details(Record):
    """What a survey found, for the release that follows it."""

    runtime: PythonRuntime
    arenas: Arenas
    batches: tuple[Batch, ...]


def survey(subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """Find the pools, and which of their pages nothing lies in; from outside, while the process runs on."""
    if subject.protected.whole:
        return _nothing(subject.protected.whole)
    try:
        details, refused = _find(subject, hint)
    except ProcessGone:
        raise
    except DontneedError as error:
        return _nothing(str(error))
    spans = Spans.from_array(_all_ranges(details))
    resident = find_anonymous(subject.process, spans)
    small = resident.alone - details.arenas.presence.huge
    pools = {type(batch): len(batch.pools) for batch in details.batches}
    work_seconds = sum(count * _POOL_SECONDS[sort] for sort, count in pools.items())
    return Survey(
        reason=NAME,
        releasable_bytes=small.size_bytes,
        spans=spans,
        why_safe=WHY_SAFE,
        cost_seconds=work_seconds * (1 + _HOLD_SECONDS / (_MAX_HOLD_SECONDS * _HEADROOM)),
        pause_seconds=min(work_seconds, _MAX_HOLD_SECONDS * _HEADROOM) + _HOLD_SECONDS if work_seconds else 0.0,
        refused=(*refused, *left_alone(resident.alone.size_bytes - small.size_bytes, resident.shared.size_bytes)),
        hint=details.arenas.hint,
        details=details,
    )


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Give the pages back, a slice at a time, each while the GIL is held.

    Raises:
        TargetRefused: no thread can hold the GIL, or the interpreter is in no state for it. Later, that is a note.
        NotPermitted, ProcessGone: as `remote.stop.Stop`.
    """
    import numpy as np

    from dontneed.remote.gil import Gil

    if found.details is None:
        raise TargetRefused("; ".join(found.refused) or "no pools were found in it")
    protected = read_protected(subject.process, read_maps(subject.process), read_counters(subject.process))
    if protected.whole:
        raise TargetRefused(protected.whole)
    task = _Task(Gil(subject.process, found.details.runtime), found.details, protected.spans)
    most_seconds = _MAX_HOLD_SECONDS if limits.max_pause_seconds is None else limits.max_pause_seconds
    try:
        for batch in found.details.batches:
            task.give_up(batch, most_seconds)
    except TargetRefused as error:
        if not task.pauses:
            raise
        task.refusals.add(str(error))
    spans = Spans.from_array(np.concatenate([np.zeros((0, 2), np.uint64), *(each.array for each in task.dropped)]))
    return Released(found.spans.size_bytes, task.advised, spans, tuple(task.pauses), tuple(task.notes(found)))


class _Task:
    """A release on its way.

    Attributes:
        dropped, advised, pauses: what was given up, how many bytes of it, and how long the GIL was held for each slice.
        refusals: why some of it was not, in sentences.
    """

    def __init__(self, gil: Gil, details: Details, protected: Spans) -> None:
        self.dropped: list[Spans] = []
        self.advised = 0
        self.pauses: list[float] = []
        self.refusals: set[str] = set()
        self._gil = gil
        self._arenas = details.arenas
        self._protected = protected

    def give_up(self, batch: Batch, most_seconds: float) -> None:
        """Give up what the pools of one batch can, in holds of about `most_seconds` at most.

        Raises:
            TargetRefused, NotPermitted, ProcessGone.
        """
        seconds = _POOL_SECONDS[type(batch)]
        first = 0
        while first < len(batch.pools):
            fit = int((most_seconds * _HEADROOM - _HOLD_SECONDS) / seconds)
            count = min(max(fit, _FEWEST_POOLS), _MOST_POOLS)
            part = batch.part(first, first + count)
            with self._gil.held() as held:
                self._give_up_part(held, part)
            self.pauses.append(held.held_seconds)
            seconds = _paced(held.held_seconds / len(part.pools), seconds, _POOL_SECONDS[type(batch)])
            first += count

    def _give_up_part(self, held: HeldGil, part: Batch) -> None:
        from dontneed.remote.advise import advise_inside

        there = self._still_in_their_arenas(held.stop.pid, part.pools)
        spans = Spans.from_array(part.edit(held.stop.pid, there)) - self._protected
        try:
            self.advised += advise_inside(held.stop, spans, Advice.DONTNEED)
            self.dropped.append(spans)
        except AdviceRefused as error:  # the pools are sound all the same: nobody reads what was to go
            self.advised += error.advised
            self.refusals.add(str(error))

    def _still_in_their_arenas(self, pid: int, pools: Pools) -> Truths:
        """Which pools were cut off an arena that is still there, by the interpreter's own array.

        Raises:
            TargetRefused: the words that hold its address no longer agree.
        """
        import numpy as np

        arrays = {int.from_bytes(read_memory(pid, holder, 8), "little") for holder in self._arenas.holders}
        if len(arrays) != 1:
            raise TargetRefused("its array of arenas has moved since it was looked at", hint="try again")
        numbers, rows = np.unique(pools.numbers, return_inverse=True)
        objects, read = read_objects(pid, arrays.pop(), numbers)
        return read[rows] & hold_pools(objects[rows], pools.addresses)

    def notes(self, found: Survey) -> Iterator[str]:
        """What the owner should know."""
        yield from sorted(self.refusals)
        left = found.spans.size_bytes - sum(spans.size_bytes for spans in self.dropped)
        if left:
            why = "" if self.refusals else ": their pools changed since they were surveyed"
            yield f"{format_bytes(left)} were left alone{why}"


def _paced(measured: float, expected: float, at_first: float) -> float:
    """What a pool will take, after a hold in which it took `measured` seconds and `expected` were.

    A hold may take long because we, or the borrowed thread, wait for a processor. Shorter ones would not help, but be
    the more: so one that was fast is believed at once, and one that was slow by and by, and not without limit.
    """
    return min(measured, expected * _SLOWER_AT_MOST, at_first * _SLOWEST)


def _find(subject: Subject, hint: Mapping[str, int] | None) -> tuple[Details, tuple[str, ...]]:
    """What can be given up, and what is left alone.

    Raises:
        TargetRefused, NotPermitted, ProcessGone, KernelLacks.
    """
    import numpy as np

    runtime = find_runtime(subject)
    arenas = find_arenas(subject, runtime, hint)
    pools = read_pools(subject.pid, arenas)
    plain = lie_within(private_memory(subject) - subject.protected.spans, pools.addresses)
    refused = [] if plain.all() else [f"{(~plain).sum()} pools lie in memory that is left alone"]
    refused += subject.protected.reasons
    pools = pools.take(plain)
    lists = read_lists(subject.pid, pools)
    free = are_free(pools.headers) & pools.present[:, 1:].any(axis=1)
    tails = (pools.headers["count"] > 0) & (pools.behind(page_up(pools.headers["nextoffset"].astype(np.int32))) > 0)
    tails &= ~np.isin(pools.addresses, lists.pools.addresses)  # those go with the free blocks before them
    batches = (FreePools(pools.take(free)), Tails(pools.take(tails)), FreeEnds(lists))
    return Details(runtime, arenas, batches), tuple(refused)


def _all_ranges(details: Details) -> Words:
    import numpy as np

    return np.concatenate([batch.ranges() for batch in details.batches])


def left_alone(huge_bytes: int, shared_bytes: int) -> Iterator[str]:
    """What of the pages found is free for nobody yet, in sentences."""
    if huge_bytes:
        yield f"{format_bytes(huge_bytes)} lie in huge pages: they are given up, and free when the kernel splits those"
    if shared_bytes:
        yield f"{format_bytes(shared_bytes)} are shared since a fork: free when the other process gives them up too"


def _nothing(why_not: str) -> Survey:
    return Survey(NAME, 0, Spans(), WHY_SAFE, 0.0, 0.0, refused=(why_not,))
