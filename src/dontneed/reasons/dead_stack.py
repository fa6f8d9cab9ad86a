"""`dead-stack`: stack that a thread once used and has come back from.

Frees: pages below the stack pointer of threads that called deep once; the kernel never takes them back by itself.

Safe because nothing there is alive: a function that is called next writes before it reads. What is dead is looked up
while the thread stands still, in a stack that is proven to be its own, and 32 KiB below its stack pointer are kept
(`observe.stacks.dead_stacks` has the whole argument).

Needs: to stop the thread (ptrace), one at a time, and to run madvise by it. For the calling thread's own stack nothing:
`release_own_stack()`.

Refuses: threads on the stack of a signal handler, of a coroutine, or of the program's making; stacks that are locked;
threads with addresses below their stack pointer at hand; threads of another C library than glibc.

Kernel:
    mm/madvise.c madvise_dontneed_single_vma(). A page of a huge page in a stack is freed when all of that is.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter

from dontneed.abi.advice import Advice
from dontneed.errors import AdviceRefused, DontneedError, NotPermitted, ProcessGone, TargetRefused
from dontneed.kernel.maps import read_maps
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.procmap import MappedPart, read_mappings_at
from dontneed.kernel.stack_pointers import read_stack_pointers
from dontneed.kernel.status import read_counters
from dontneed.observe.protected import read_protected
from dontneed.observe.resident import find_anonymous
from dontneed.observe.slices import in_slices, together
from dontneed.observe.stacks.dead_stacks import find_dead_stack
from dontneed.reasons.survey import Released, Survey
from dontneed.spans import Spans
from dontneed.units import KIB, MIB, PAGE_BYTES, round_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dontneed.kernel.maps import MapsTable
    from dontneed.observe.subject import Subject
    from dontneed.reasons.survey import Limits

NAME = "dead-stack"
ACTS_INSIDE = True
WHY_SAFE = "nothing below a thread's stack pointer is alive; looked up while that one thread stands still"

_LEAST_BYTES = 4 * PAGE_BYTES
"""Less is not worth a stop."""
_STOP_SECONDS = 0.0006
_BYTES_A_SECOND = 8 << 30
_SLICE_BYTES = 64 * MIB
_SMALLEST_SLICE_BYTES = MIB
_PATIENCE_SECONDS = 0.5
_GLANCES, _GLANCE_SECONDS = 3, 0.002
"""A thread that runs shows no stack pointer; most sleep again a moment later."""
_TRY_LATER = "call it from a thread's own stack"
_OWN_MARGIN_BYTES = 64 * KIB
"""Below the calling thread's stack pointer: its own calls on the way to madvise need a few KiB."""


def survey(subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """Find the dead stack of every thread that sleeps, without stopping any."""
    del hint
    pointers, running = _stack_pointers(subject.process)
    stacks = [
        find_dead_stack(subject.process, thread, pointer, _mapping_at(subject.table, pointer))
        for thread, pointer in pointers.items()
    ]
    resident = find_anonymous(subject.process, together(Spans([stack.span]) for stack in stacks)).alone
    pages = resident - subject.protected.spans
    worth = {}
    for stack in stacks:
        own = pages.within(stack.span)
        if own.size_bytes >= _LEAST_BYTES:
            worth[stack.thread] = own
    spans = together(worth.values())
    most_bytes = max((own.size_bytes for own in worth.values()), default=0)
    refused = _in_words(stack.why_not for stack in stacks)
    if pages != resident:
        refused += subject.protected.reasons
    if running:
        refused.append(f"{_threads(len(running))} running: what is dead of their stacks is not seen from outside")
    return Survey(
        reason=NAME,
        releasable_bytes=spans.size_bytes,
        spans=spans,
        why_safe=WHY_SAFE,
        cost_seconds=len(worth) * 2 * _STOP_SECONDS + spans.size_bytes / _BYTES_A_SECOND,
        pause_seconds=_STOP_SECONDS + min(_SLICE_BYTES, most_bytes) / _BYTES_A_SECOND if worth else 0.0,
        refused=tuple(refused),
        details=worth,
    )


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Stop one thread after the other, look again what is dead of its stack, and drop that.

    Raises:
        TargetRefused, NotPermitted, KernelLacks: no thread can be acted on, and why the first one could not.
        ProcessGone: the process has ended.
    """
    process = subject.process
    protected = read_protected(process, read_maps(process), read_counters(process)).spans
    work = _Work(process, _slice_bytes(limits))
    for thread, pages in found.details.items():
        for part in in_slices(pages - protected, work.slice_bytes):
            work.drop(thread, part)
    gone = together(work.dropped)
    if work.refusals and not gone:
        raise work.refusals[0]
    notes = [*_in_words(work.why_not), *sorted({str(refusal) for refusal in work.refusals})]
    return Released(found.spans.size_bytes, gone.size_bytes, gone, tuple(work.pauses), tuple(notes))


def release_own_stack() -> Released:
    """Drop the dead stack of the calling thread. Stops nothing and takes no rights; some 0.1 ms.

    64 KiB below the stack pointer are kept.

    Raises:
        TargetRefused: the thread runs on another stack than its own, or the stack is locked.
        KernelLacks: the C library does not tell where the stack is.
    """
    from dontneed.kernel.madvise import advise_spans
    from dontneed.kernel.own_stack import lowest_own_address, own_stack_bounds

    start, end = own_stack_bounds()
    pointer = lowest_own_address(start, end)
    keep = round_down(pointer - _OWN_MARGIN_BYTES)
    with ProcessDirectory() as process:
        mapping = _mapping_now(process, pointer)
        if mapping is None or not mapping.start <= pointer < mapping.end:
            raise TargetRefused("the stack of the calling thread is not where its C library says", hint=_TRY_LATER)
        start = max(start, mapping.start)
        dead = find_anonymous(process, Spans([(start, keep)]) if start < keep else Spans()).alone
    try:
        advised = advise_spans(dead, Advice.DONTNEED)
    except AdviceRefused as refusal:
        raise TargetRefused("the stack of the calling thread is locked (mlockall?)", hint=refusal.hint) from refusal
    return Released(dead.size_bytes, advised, dead, ())


class _Work:
    """The release of one thread's stack after the other, and what came of it.

    Attributes:
        slice_bytes: how much goes in one stop.
        dropped: what was given up.
        pauses: seconds of each stop.
        why_not: of each thread why nothing was said of its stack, or nothing.
        refusals: of threads that could not be acted on.
    """

    def __init__(self, process: ProcessDirectory, slice_bytes: int) -> None:
        self.slice_bytes = slice_bytes
        self.dropped: list[Spans] = []
        self.pauses: list[float] = []
        self.why_not: list[str] = []
        self.refusals: list[DontneedError] = []
        self._process = process

    def drop(self, thread: int, pages: Spans) -> None:
        """Drop those pages of one thread's stack that are still dead.

        Raises:
            ProcessGone: the process has ended, and not just this thread.
        """
        try:
            self._drop(thread, pages)
        except (TargetRefused, NotPermitted) as refusal:
            self.refusals.append(refusal)
        except ProcessGone:
            self._process.read("stat")

    def _drop(self, thread: int, pages: Spans) -> None:
        from dontneed.remote.advise import advise_inside
        from dontneed.remote.stop import Stop

        with Stop(self._process, [thread], _PATIENCE_SECONDS) as stop:
            registers = stop.registers[thread]
            pointer, words, block = registers.rsp, registers.words, registers.fs_base
            dead = find_dead_stack(self._process, thread, pointer, _mapping_now(self._process, pointer), words, block)
            part = pages.within(dead.span)
            if part:
                advise_inside(stop, part, Advice.DONTNEED)
        self.pauses.append(stop.pause_seconds)
        self.why_not.append(dead.why_not)
        self.dropped.append(part)


def _slice_bytes(limits: Limits) -> int:
    if limits.max_pause_seconds is None:
        return _SLICE_BYTES
    fits = int(max(0.0, limits.max_pause_seconds - _STOP_SECONDS) * _BYTES_A_SECOND)
    return max(_SMALLEST_SLICE_BYTES, min(_SLICE_BYTES, round_down(fits)))


def _stack_pointers(process: ProcessDirectory) -> tuple[dict[int, int], list[int]]:
    """The stack pointers of the threads that sleep at one of a few glances; and the threads that never did."""
    pointers, running = read_stack_pointers(process)
    for _ in range(_GLANCES - 1):
        if not running:
            break
        time.sleep(_GLANCE_SECONDS)
        more, running = read_stack_pointers(process)
        pointers = {**more, **pointers}
        running = [thread for thread in running if thread not in pointers]
    return pointers, running


def _mapping_at(table: MapsTable, address: int) -> MappedPart | None:
    """The mapping at an address, or the last one below it."""
    row = bisect_right(table.starts, address) - 1
    if row < 0:
        return None
    perms, _, _, _, name = table.words(row)
    return MappedPart(table.starts[row], table.ends[row], perms, name, PAGE_BYTES)


def _mapping_now(process: ProcessDirectory, address: int) -> MappedPart | None:
    found = read_mappings_at(process, [address])
    return found[0] if found else _mapping_at(read_maps(process), address)


def _in_words(reasons: Iterable[str]) -> list[str]:
    counted = Counter(reasons)
    return [f"{_threads(count)} {why_not}: left alone" for why_not, count in counted.items() if why_not]


def _threads(count: int) -> str:
    return f"{count} threads are" if count > 1 else "1 thread is"
