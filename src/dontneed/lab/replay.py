"""Replays a kept trace in the model: does the executable kernel come to the RSS that the real one counted?

The events of one process are done to a modelled address space, and RSS is compared whenever the kernel has counted. Of
each madvise it is known then which pages it took away and which of these were touched again. With another kernel or
another word for huge pages the same touches and calls meet another policy; that is all that a trace can be asked.
"""

from __future__ import annotations

from dontneed.errors import UsageError, WrongType
from dontneed.lab.replayed.events import Call, ReplayedEvents, events_of
from dontneed.lab.replayed.run import Run
from dontneed.model.space.entries import LEAF_PAGES
from dontneed.model.space.mm import PAGE_SHIFT
from dontneed.model.system import System
from dontneed.model.versions import LAST, OLDEST, is_modelled, modelled_version, numbers_of
from dontneed.observe.trace.summary import summarize
from dontneed.observe.trace.timeline import Timeline
from dontneed.observe.trace.trace_file import read_trace
from dontneed.report.replay import Prediction, Replay, ReplayedAdvice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from typing import Any

    from dontneed.lab.replayed.advices import Account
    from dontneed.lab.replayed.run import Lessons
    from dontneed.observe.trace.summary import AdviceUse

HUGE_PAGES = ("always", "madvise", "never")
"""The words for transparent huge pages."""
_PAGE_BYTES = 1 << PAGE_SHIFT
_NS = 1e9


def replay(
    source: str | os.PathLike[str] | Timeline,
    *,
    kernel: str | None = None,
    huge_pages: str | None = None,
    pid: int | None = None,
) -> Replay:
    """Replay a trace in the model, and compare RSS with what the kernel counted.

    Args:
        source: a file that `dontneed trace --output` wrote, or a timeline.
        kernel: what if this one had run, as "2.6.32"; None: the one that was traced.
        huge_pages: what if this was chosen: always, madvise or never; None: what was.
        pid: which process; None: the one with most faults.
    Raises:
        UsageError: no trace, no such process, nothing to compare with, or no such kernel or word.
        NotPermitted: the file may not be read.
    """
    if not isinstance(source, Timeline):
        if not isinstance(source, str) and not hasattr(source, "__fspath__"):
            msg = f"a replay is of a file or a timeline, not of {type(source).__name__}"
            raise WrongType(msg, hint="dontneed.replay('job.trace')")
        source = read_trace(str(source))
    _check(kernel, huge_pages)
    traced_version = modelled_version(source.kernel)
    events = events_of(source, pid)
    traced_words = traced_version, source.huge_pages or "never"
    words = _words(kernel or traced_version, huge_pages, traced_words[1])
    run = _run(source, events, *traced_words)
    if not run.times:
        msg = f"nothing to compare with: the kernel never counts memory of process {events.pid} in this trace"
        raise UsageError(msg, hint="trace it for longer, or choose another process with --pid")
    other = None if words == traced_words else _run(source, events, *words, run.lessons)
    return _Told(source, events, traced_words, is_asked_for=pid is not None).replay(run, words, other)


def _check(kernel: str | None, huge_pages: str | None) -> None:
    if kernel is not None and not is_modelled(kernel):
        msg = f"there is no model of Linux {kernel}"
        raise UsageError(msg, hint=f"from {OLDEST} to {LAST}, as in 2.6.32 or 6.1")
    if huge_pages is not None and huge_pages not in HUGE_PAGES:
        msg = f"{huge_pages!r} is no word for transparent huge pages"
        raise UsageError(msg, hint=", ".join(HUGE_PAGES))


def _words(kernel: str, huge_pages: str | None, traced: str) -> tuple[str, str]:
    """The kernel and the word for huge pages of a what-if; before 2.6.38 there are none.

    Raises:
        UsageError: huge pages were asked of a kernel that has none.
    """
    if System(kernel).behaviour.huge_pages:
        return kernel, huge_pages or traced
    if huge_pages not in (None, "never"):
        msg = f"Linux {kernel} has no transparent huge pages"
        raise UsageError(msg, hint="they came with 2.6.38; without --thp there are none")
    return kernel, "never"


def _run(
    timeline: Timeline, events: ReplayedEvents, version: str, huge_pages: str, lessons: Lessons | None = None
) -> Run:
    system = System(version)
    system.huge_enabled = huge_pages
    run = Run(timeline, events, system, lessons)
    run.replay()
    return run


class _Told:
    """Turns what was replayed into records."""

    def __init__(
        self, timeline: Timeline, events: ReplayedEvents, traced_words: tuple[str, str], *, is_asked_for: bool
    ) -> None:
        self._timeline = timeline
        self._is_asked_for = is_asked_for
        self._events = events
        self._traced_words = traced_words
        self._uses: dict[tuple[int, float], AdviceUse] = {}

    def replay(self, run: Run, words: tuple[str, str], other: Run | None) -> Replay:
        """The record."""
        import numpy as np

        if run.accounts.all:
            self._uses = {(use.thread, use.at): use for use in summarize(self._timeline).advices}
        times = (np.array(run.times, np.int64) - self._timeline.started) / _NS
        real: Any = np.array(run.real, np.int64)
        modelled = np.array(run.modelled, np.int64)
        errors = modelled - real
        worst = int(np.argmax(np.abs(errors)))
        there = real > 0
        return Replay(
            pid=self._events.pid,
            command=self._command(),
            kernel=self._timeline.kernel,
            seconds=self._timeline.seconds,
            faults=run.faults,
            calls=len(self._events.calls),
            times=times,
            rss_bytes=real,
            peak_rss_bytes=int(real.max()),
            last_rss_bytes=int(real[-1]),
            predicted=self._prediction(run, self._traced_words),
            mean_error=float((np.abs(errors[there]) / real[there]).mean()) if there.any() else 0.0,
            largest_error_bytes=int(errors[worst]),
            largest_error_at=float(times[worst]),
            what_if=None if other is None else self._prediction(other, words),
            notes=(*self._notes(run), *(() if other is None else self._what_if_notes(run, other, words))),
        )

    def _prediction(self, run: Run, words: tuple[str, str]) -> Prediction:
        import numpy as np

        modelled: Any = np.array(run.modelled, np.int64)
        return Prediction(
            kernel=words[0],
            huge_pages=words[1],
            rss_bytes=modelled,
            peak_rss_bytes=int(modelled.max()),
            last_rss_bytes=int(modelled[-1]),
            huge_faults=run.huge_faults,
            otherwise=run.process.otherwise,
            advices=tuple(self._advice(account) for account in run.accounts.all),
        )

    def _advice(self, account: Account) -> ReplayedAdvice:
        import numpy as np

        call: Call = account.call
        start, length, advice = call.arguments
        at = (call.began - self._timeline.started) / _NS
        soon = (np.sort(np.array(account.touches, np.int64)) - call.ended) / _NS
        return ReplayedAdvice(
            at=at,
            thread=call.thread,
            start=start,
            end=start + -(-length // _PAGE_BYTES) * _PAGE_BYTES,
            advice=advice,
            result=call.result or 0,
            zapped_bytes=max(account.zapped_pages, 0) * _PAGE_BYTES,
            lazy_bytes=account.lazy_pages * _PAGE_BYTES,
            refaults=len(soon),
            refaulted_bytes=account.brought_pages * _PAGE_BYTES,
            first_seconds=float(soon[0]) if len(soon) else None,
            median_seconds=float(np.median(soon)) if len(soon) else None,
            traced=self._uses.get((call.thread, at)),
        )

    def _command(self) -> str:
        """What the process ran at last."""
        from dontneed.abi import trace_kinds as kinds

        rows = self._events.rows
        names = rows["b"][(rows["kind"] == kinds.EXEC) & (rows["a"] == self._events.pid)]
        if len(names) and names[-1] < len(self._timeline.names):
            return self._timeline.names[int(names[-1])]
        return self._timeline.command

    # What is to be known

    def _notes(self, run: Run) -> Iterator[str]:
        events, timeline = self._events, self._timeline
        yield from timeline.notes
        if events.others:
            yield (
                f"of {events.others + 1} processes in the trace {events.pid} is replayed"
                + (" (--pid)" if self._is_asked_for else ": it has most faults (--pid PID takes another)")
            )
        if timeline.lost:
            yield f"{timeline.lost:,} records were lost: what they told is missing here, and errors may come of it"
        if events.in_the_middle:
            yield (
                "the trace begins in the middle: which pages were there is not known, only how many; "
                "RSS is predicted from there on"
            )
        if run.lessons:
            taken = sum(run.lessons.values()) // _PAGE_BYTES
            yield (
                f"calls that took away pages from before: {len(run.lessons):,}; how many pages, {taken:,}, "
                "is taken from the trace and not predicted"
            )
        yield from self._odd_notes(run)

    def _odd_notes(self, run: Run) -> Iterator[str]:
        if numbers_of(self._timeline.kernel)[:2] > numbers_of(self._traced_words[0])[:2]:
            yield f"Linux {self._timeline.kernel} is newer than what is modelled; {self._traced_words[0]} stands in"
        if swapped := self._most_in_swap():
            most = swapped // _PAGE_BYTES
            yield f"up to {most:,} pages were in swap: which went there, and when, the trace does not tell"
        for name, count in run.process.unseen.items():
            yield f"calls of {name} that are left out, for the trace does not tell what they act on: {count:,}"
        if run.process.unmatched:
            yield f"faults in no mapping that is known: {run.process.unmatched:,}"
        for name, count in run.process.otherwise.items():
            yield f"calls of {name} that the model answers otherwise than the kernel did: {count:,}"

    def _most_in_swap(self) -> int:
        from dontneed.abi import trace_kinds as kinds

        rows = self._events.rows
        swapped = rows["b"][(rows["kind"] == kinds.RSS) & (rows["a"] == kinds.SWAP) & (rows["d"] == 1)]
        return max(int(swapped.max()) if len(swapped) else 0, self._timeline.rss["swap"])

    def _what_if_notes(self, run: Run, other: Run, words: tuple[str, str]) -> Iterator[str]:
        yield (
            "the same calls and touches under another policy: what the program or its allocator would do then "
            "is not known"
        )
        fewer = run.huge_faults - other.huge_faults
        if fewer > 0:
            more = fewer * (LEAF_PAGES - 1)
            yield (
                f"which pages of {fewer:,} huge pages were touched, the trace does not tell: "
                f"without them RSS is up to {more:,} pages more"
            )
        before, now = (System(version).behaviour.fault_around for version in (self._traced_words[0], words[0]))
        if now < before:
            yield (
                f"Linux {words[0]} maps no neighbours of a file's page with it, and touches of those are not seen: "
                "RSS may be more"
            )
        for name, count in other.process.otherwise.items():
            more = count - run.process.otherwise.get(name, 0)
            if more > 0:
                yield f"calls of {name} that would be answered otherwise: {more:,}; what would be done then is unknown"
