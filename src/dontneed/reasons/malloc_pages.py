"""The free pages of glibc's arenas, dropped while all threads stand still: tops, and free chunks in bins.

A stop proves anew whatever it acts upon, drops a slice of what was found, and lets the process go on. How much fits
into a stop follows from what the stops before it took. So a longest pause is kept to, give or take what else goes on on
the machine; where it cannot be, the release ends.

That no thread is inside malloc is told by the locks: an arena whose lock is free is nobody's. But glibc takes no locks
in a process that never had a second thread; there, each thread must wait where it cannot be inside malloc.
"""

from __future__ import annotations

import time
from contextlib import suppress

from dontneed.abi.advice import Advice
from dontneed.abi.glibc_malloc import MULTIPLE_THREADS
from dontneed.errors import Unreadable
from dontneed.kernel.maps import read_maps
from dontneed.kernel.process_memory import read_each, read_memory
from dontneed.kernel.status import read_counters
from dontneed.observe.malloc.allocators import SINCE_2_36, SINGLE_THREADED
from dontneed.observe.malloc.free_chunks import prove
from dontneed.observe.malloc.memory import memory_of
from dontneed.observe.protected import read_protected
from dontneed.observe.slices import in_slices, together
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import HUGE_PAGE_BYTES, MIB, format_bytes, format_seconds, round_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.malloc.free_chunks import FreeChunks
    from dontneed.reasons.survey import Limits
    from dontneed.remote.stop import Stop

SLICE_BYTES = 64 * MIB
"""What a stop drops at most, where no limit is given."""
SECONDS_A_BYTE = 200e-6 / MIB
"""Until it has been measured: of small pages, which are the slowest."""
STOP_SECONDS = 0.003
"""The same, of a stop that drops nothing: to stop the threads, and to prove the arenas."""
_SHARE_OF_LIMIT = 0.6
_LEAST_SLICE_BYTES = HUGE_PAGE_BYTES
"""Less is not worth a stop."""
_STOPS_TO_TELL = 3
_REMEMBERED = 5
"""So many of the latest stops count: others use the processor as well, and a single one may take any time."""
_ATTEMPTS = 5
"""How often to come back for what could not be dropped, since threads were inside malloc."""
_FIRST_WAIT_SECONDS = 0.001
_LONGEST_REST_SECONDS = 0.005


class Dropped(Record):
    """What stops have done.

    Attributes:
        spans: what was dropped.
        pauses: seconds of each stop.
        notes: what was left alone, and why, in sentences.
    """

    spans: Spans
    pauses: tuple[float, ...]
    notes: tuple[str, ...] = ()


def drop_free_pages(
    process: ProcessDirectory, found: FreeChunks, functions: Mapping[str, int], limits: Limits
) -> Dropped:
    """Drop what was found, as far as it is still free.

    Args:
        process: whose.
        found: by a look from outside.
        functions: of glibc, by name.
        limits: what to keep to.
    Raises:
        TargetRefused, NotPermitted, ProcessGone: as `remote.stop.Stop`; what was dropped before stays dropped.
    """
    work = _Work(process, found, functions, limits.max_pause_seconds)
    work.run()
    return Dropped(together(work.dropped), tuple(work.pauses), tuple(work.notes))


class _Work:
    """The stops of one release, one after the other."""

    def __init__(
        self, process: ProcessDirectory, found: FreeChunks, functions: Mapping[str, int], most_seconds: float | None
    ) -> None:
        self._process = process
        self._found = found
        self._functions = functions
        self._most_seconds = most_seconds
        self._seconds_a_byte = [SECONDS_A_BYTE]
        self._stop_seconds = [STOP_SECONDS]  # both guesses, until there are better ones
        self._unclear = ""
        self.dropped: list[Spans] = []
        self.pauses: list[float] = []
        self.notes: list[str] = []

    def run(self) -> None:
        """Drop slice by slice; come back for what belongs to arenas that were in use."""
        self._rehearse()
        left, wait_seconds = self._found.spans, _FIRST_WAIT_SECONDS
        for _ in range(_ATTEMPTS):
            left = self._drop_all(left)
            if not left:
                return
            time.sleep(wait_seconds)
            wait_seconds *= 2
        self._note(f"{format_bytes(left.size_bytes)} left alone: {self._unclear}")

    def _rehearse(self) -> None:
        """Do once, while nobody waits for it, what every stop does: the first time takes several times as long."""
        from dontneed.remote import advise, quiet, stop  # noqa: F401 - imported before the first stop, not during it

        table = read_maps(self._process)
        read_protected(self._process, table, read_counters(self._process))
        with suppress(Unreadable):  # it runs, so that arenas may make no sense
            prove(memory_of(self._process.pid, table), self._found)

    def _drop_all(self, left: Spans) -> Spans:
        """Go once through all of it; what is to be tried again."""
        again: list[Spans] = []
        while left:
            slice_bytes = self._slice_bytes()
            if not slice_bytes:
                fastest, most = format_seconds(self._fastest()), format_seconds(self._most_seconds or 0)
                self._note(
                    f"a stop alone takes {fastest}, more than {most}: {format_bytes(left.size_bytes)} left alone"
                )
                return Spans()
            part = next(in_slices(left, slice_bytes))
            left -= part
            again.append(self._drop(part))
            time.sleep(min(self.pauses[-1], _LONGEST_REST_SECONDS) if left else 0)
        return together(again)

    def _drop(self, part: Spans) -> Spans:
        """Drop what of a slice is free now, in one stop; what could not be told now."""
        from dontneed.remote.advise import advise_inside
        from dontneed.remote.stop import Stop

        free, advise_seconds = Spans(), 0.0
        with Stop(self._process) as stop:
            free, unclear = self._prove(stop, part)
            began = time.perf_counter()
            advise_inside(stop, free, Advice.DONTNEED)
            advise_seconds = time.perf_counter() - began
        self.dropped.append(free)
        self._learn(stop.pause_seconds, advise_seconds, free.size_bytes)
        return unclear

    def _prove(self, stop: Stop, part: Spans) -> tuple[Spans, Spans]:
        """What of a slice is free, and what cannot be told now but may be later."""
        nothing = Spans()
        table = read_maps(self._process)
        protected = read_protected(self._process, table, read_counters(self._process))
        if protected.whole:
            self._note(protected.whole)
            return nothing, nothing
        if not _locks_tell(stop, self._functions) and not _all_wait_elsewhere(stop):
            self._unclear = (
                "it has one thread, so that glibc takes no locks, and that was not seen to wait outside malloc"
            )
            return nothing, part
        try:
            proven = prove(memory_of(self._process.pid, table), self._found)
        except Unreadable as moved:
            self._note(str(moved))
            return nothing, nothing
        for fault in proven.faults.values():
            self._note(f"an arena is left alone: {fault}")
        free = (proven.spans - protected.spans) & part
        if not proven.locks:
            return free, nothing
        self._unclear = "a thread was using its arena at every look"
        return free, part - free

    def _learn(self, pause_seconds: float, advise_seconds: float, dropped_bytes: int) -> None:
        """Take from a stop how long the next will take."""
        self.pauses.append(pause_seconds)
        self._stop_seconds.append(pause_seconds - advise_seconds)
        if dropped_bytes >= _LEAST_SLICE_BYTES:
            self._seconds_a_byte.append(advise_seconds / dropped_bytes)

    def _slice_bytes(self) -> int:
        """How much the next stop may drop; 0 if even the fastest of the latest stops was too long before it did."""
        if self._most_seconds is None:
            return SLICE_BYTES
        if len(self.pauses) >= _STOPS_TO_TELL and self._fastest() > self._most_seconds:
            return 0
        left = self._most_seconds * _SHARE_OF_LIMIT - _usual(self._stop_seconds)
        fits = left / _usual(self._seconds_a_byte)
        return max(_LEAST_SLICE_BYTES, min(round_down(max(int(fits), 0), HUGE_PAGE_BYTES), SLICE_BYTES))

    def _fastest(self) -> float:
        """What a stop takes that drops nothing, if nobody else wants the processor."""
        return min(self._stop_seconds[-_REMEMBERED:])

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


def _usual(measured: list[float]) -> float:
    """The middle one of the latest."""
    latest = sorted(measured[-_REMEMBERED:])
    return latest[len(latest) // 2]


def _locks_tell(stop: Stop, functions: Mapping[str, int]) -> bool:
    """Whether glibc takes its locks: it does once the process has had a second thread."""
    import numpy as np

    single = functions.get(SINGLE_THREADED)
    if single is not None:
        if read_memory(stop.pid, single, 1) != b"\0":
            return False
        if SINCE_2_36 in functions:
            return True
    blocks = np.array([registers.fs_base for registers in stop.registers.values()], np.uint64)
    words, could_be_read = read_each(stop.pid, blocks + np.uint64(MULTIPLE_THREADS), 4)
    return bool(could_be_read.all() and words.any(axis=1).all())


def _all_wait_elsewhere(stop: Stop) -> bool:
    """Whether every thread waits where it cannot be inside malloc."""
    from dontneed.remote.quiet import still_quiet

    return all(still_quiet(stop, thread) for thread in stop.registers)
