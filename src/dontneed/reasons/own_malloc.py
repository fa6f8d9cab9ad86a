"""`malloc-free` of our own process, by the native part: the lock of one arena at a time is held, and nobody is stopped.

The steps are those of `malloc_free` (see there): first the pages inside free chunks and tops, by the native part; then
malloc_trim, which takes the same locks, and has little left to do but to consolidate; and the purges of other
allocators. The last two are plain calls of functions that anyone may call.

A thread waits only if it wants the arena that is just at work, and `pauses` are how long that was held. For how long
malloc_trim or a purge hold what, they do not tell, so their whole time counts.
"""

from __future__ import annotations

import time
from functools import partial
from time import perf_counter

from dontneed.kernel.maps import read_maps
from dontneed.kernel.native import release_arena
from dontneed.kernel.own_calls import call_own
from dontneed.observe.malloc.allocators import TRIM, find_allocators
from dontneed.observe.slices import together
from dontneed.reasons import malloc_free
from dontneed.reasons.malloc_calls import Called, purge_call
from dontneed.reasons.malloc_free import NAME, WHY_SAFE, Hands, release_by
from dontneed.reasons.malloc_pages import Dropped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.malloc.allocators import Allocator, Allocators
    from dontneed.observe.malloc.arenas import Arena
    from dontneed.observe.malloc.free_chunks import FreeChunks
    from dontneed.observe.subject import Subject
    from dontneed.reasons.survey import Limits, Released, Survey
    from dontneed.spans import Spans

ACTS_INSIDE = False  # in the calling process, by its own calls

__all__ = ("NAME", "WHY_SAFE", "release", "survey")

_HOLD_SECONDS = 0.004
_REST_SECONDS = 0.0002
"""Between two holds of a lock: who waits for it is awake by then."""
_SHARE_OF_LIMIT = 0.5
_ATTEMPTS = 3
_MOST_HOLDS = 4096
"""Of one arena: some 200 GiB. Threads may free more while we give up; they do not keep us."""

_allocators: dict[tuple[tuple[int, int, str], ...], Allocators] = {}
"""The last that were found, by the code that was mapped then. In a child by fork they are the same."""


def survey(subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """As from outside; but here the survey itself uses malloc, so that memory grows beneath it: then it looks again."""
    for _ in range(_ATTEMPTS):
        found = malloc_free.survey(subject, hint, find=_find_once)
        chunks: FreeChunks | None = found.details and found.details.chunks
        if chunks is None or not any(arena.fault for arena in chunks.arenas):
            break
        subject = subject.replace(table=read_maps(subject.process))
    return found


def _find_once(subject: Subject) -> Allocators:
    """The allocators, looked for anew only when libraries have come or gone: it is most of the work of a survey."""
    code = tuple((row.start, row.inode, row.name) for row in subject.rows() if "x" in row.perms)
    if code not in _allocators:
        _allocators.clear()
        _allocators[code] = find_allocators(subject)
    return _allocators[code]


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Give up the free pages of glibc's arenas, trim them, and have other allocators purge.

    Raises:
        TargetRefused, KernelLacks: nothing could be done at all.
    """
    return release_by(Hands(partial(_drop, subject.protected.spans), _trim, _purge), subject, found, limits)


def _drop(
    protected: Spans, process: ProcessDirectory, found: FreeChunks, functions: Mapping[str, int], limits: Limits
) -> Dropped:
    """Give up what is free in the arenas that were found, as `malloc_pages.drop_free_pages` does from outside."""
    del process, functions  # that glibc takes no locks in a process of one thread does not matter to that thread
    at_most = _HOLD_SECONDS
    if limits.max_pause_seconds is not None:
        at_most = min(at_most, _SHARE_OF_LIMIT * limits.max_pause_seconds)
    mains = {address for address, _ in found.places.mains}
    work = _Work(at_most)
    for arena in found.arenas:
        if arena.memory & protected:
            work.notes.append("an arena is left alone, for some of its memory is to be")
        elif not arena.fault:
            work.empty(arena, is_main=arena.address in mains)
    return Dropped(together(work.given), tuple(work.pauses), tuple(dict.fromkeys(work.notes)))


def _trim(process: ProcessDirectory, libc: Allocator) -> Called:
    """Call malloc_trim."""
    del process
    return _timed(libc.functions[TRIM], 0)


def _purge(process: ProcessDirectory, allocator: Allocator) -> Called:
    """Have another allocator give back what it can."""
    del process
    function, arguments, text = purge_call(allocator)
    texts = (text,) if text else ()
    return _timed(function, *texts, *arguments)


class _Work:
    """The holds of one arena's lock after the other, and what came of them."""

    def __init__(self, at_most_seconds: float) -> None:
        self._at_most_seconds = at_most_seconds
        self.given: list[Spans] = []
        self.pauses: list[float] = []
        self.notes: list[str] = []

    def empty(self, arena: Arena, *, is_main: bool) -> None:
        """Give up what is free in an arena."""
        position = 0
        for _ in range(_MOST_HOLDS):
            hold = release_arena(arena.address, arena.state.layout, position, self._at_most_seconds, is_main=is_main)
            self.given.append(hold.spans)
            self.pauses.append(hold.held_seconds)
            if hold.fault:
                self.notes.append(f"an arena is left alone: {hold.fault}")
            if hold.position is None:
                return
            position = hold.position
            time.sleep(_REST_SECONDS)


def _timed(function: int, *arguments: int | bytes) -> Called:
    began = perf_counter()
    result = call_own(function, *arguments)
    return Called(result, perf_counter() - began)
