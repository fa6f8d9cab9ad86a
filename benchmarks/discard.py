"""What does giving memory back cost, beside C programs that make the same system calls?

One large range by `discard`: its pause (the system call) and all of it (with the survey and the evidence), beside a C
program and beside the same C function called in this process. Many single pages by `advise`. And how long another
Python thread stands still meanwhile, beside `mmap.madvise`, which holds the GIL.
"""

from __future__ import annotations

import os
from functools import partial
from time import perf_counter, sleep
from typing import TYPE_CHECKING

import dontneed
from comparing import THROUGHPUT, Case, at_least_times, at_most
from dontneed.spans import Spans
from dontneed.units import GIB, format_bytes
from measuring import alternate, timed
from memory import Memory
from programs import Program
from ticking import longest_standstill

if TYPE_CHECKING:
    from collections.abc import Callable

    from comparing import Comparison
    from measuring import Runner
    from options import Options

QUESTION = "giving memory back"
HOLDS = ()

PROGRAM, CALLED = "a C program", "C called in this process"
ADVISE, MMAP_MADVISE, SLEEP = "advise", "mmap.madvise", "sleep"
EVIDENCE = ("none", "counters", "frames") if os.geteuid() == 0 else ("none", "counters")


def run(options: Options) -> list[Comparison]:
    """One large range of small and of huge pages, many single pages, and another thread meanwhile."""
    return [
        *_one_range(options, huge=False),
        *_one_range(options, huge=True),
        *_many_pages(options),
        *_another_thread(options),
    ]


def _one_range(options: Options, *, huge: bool) -> list[Comparison]:
    size = options.discarded_bytes
    with Program("advise", "huge" if huge else "pages", size) as program, Memory(size, huge=huge) as memory:
        memory.fill()
        case_name = (
            f"{format_bytes(memory.huge_bytes)} of huge pages" if huge else f"{format_bytes(size)} of 4 KiB pages"
        )
        runners = [
            lambda: {PROGRAM: _throughput(size, int(program.ask("")) * 1e-9)},
            _after(memory.fill, lambda: {CALLED: _throughput(size, memory.drop())}),
            *(_after(memory.fill, _discard(memory, evidence)) for evidence in EVIDENCE),
        ]
        case = Case(QUESTION, case_name, alternate(runners, options.few_rounds), THROUGHPUT)
    return [row for evidence in EVIDENCE for row in _range_rows(case, evidence)]


def _range_rows(case: Case, evidence: str) -> list[Comparison]:
    pause, whole = _names(evidence)
    promise = at_least_times(0.95)
    # C proves nothing, so evidence is what comes on top: without it, the whole call is held to the promise too.
    return [
        case.compare(pause, PROGRAM, promise),
        case.compare(pause, CALLED),
        case.compare(whole, PROGRAM, promise if evidence == "none" else None),
    ]


def _names(evidence: str) -> tuple[str, str]:
    """What the two samples of one `discard` are called: its pause, and all of it."""
    return f"{_name(evidence)}: its pause", f"{_name(evidence)}: all"


def _name(evidence: str) -> str:
    return f"discard, evidence {evidence}"


def _discard(memory: Memory, evidence: str) -> Runner:
    pause, whole = _names(evidence)

    def run() -> dict[str, float]:
        began = perf_counter()
        receipt = dontneed.discard(memory.buffer, evidence=evidence)
        elapsed = perf_counter() - began
        return {
            pause: _throughput(receipt.advised, receipt.pause_seconds),
            whole: _throughput(receipt.advised, elapsed),
        }

    return run


def _many_pages(options: Options) -> list[Comparison]:
    """Each second page of a range, so that no two can be advised together."""
    count = options.scattered_pages
    with Program("advise", "scattered", count) as program, Memory.of_pages(2 * count) as memory:
        spans = Spans.of_pages(memory.page_addresses[::2])
        runners = [
            lambda: {PROGRAM: int(program.ask("")) * 1e-9},
            _after(memory.fill, lambda: {CALLED: memory.drop_each_second()}),
            _after(memory.fill, timed(ADVISE, lambda: dontneed.advise(spans, dontneed.Advice.DONTNEED))),
        ]
        case = Case(QUESTION, f"{count:,} scattered pages", alternate(runners, options.rounds))
    return [case.compare(ADVISE, peer, at_least_times(1.8)) for peer in (PROGRAM, CALLED)]


def _another_thread(options: Options) -> list[Comparison]:
    """The longest standstill of a thread that looks at the clock all the time."""
    size = options.waiting_bytes
    discards = [_name(evidence) for evidence in EVIDENCE]
    with Memory(size, huge=False) as memory:
        runners = [
            _after(memory.fill, _standstill(name, partial(dontneed.discard, memory.buffer, evidence=evidence)))
            for name, evidence in zip(discards, EVIDENCE, strict=True)
        ]
        runners += [
            _after(memory.fill, _standstill(MMAP_MADVISE, memory.drop_by_mmap)),
            _standstill(SLEEP, partial(sleep, 0.05)),
        ]
        samples = alternate(runners, options.rounds)
    case = Case(QUESTION, f"standstill of another thread, {format_bytes(size)}", samples)
    return [
        case.compare(subject, peer, at_most(0.005) if peer == MMAP_MADVISE else None)
        for subject in discards
        for peer in (MMAP_MADVISE, SLEEP)
    ]


def _standstill(name: str, call: Callable[[], object]) -> Runner:
    return lambda: {name: longest_standstill(call)}


def _after(prepare: Callable[[], object], runner: Runner) -> Runner:
    """A runner whose measurement is taken after something that is not measured."""

    def run() -> dict[str, float]:
        prepare()
        return runner()

    return run


def _throughput(size: int, seconds: float) -> float:
    return size / GIB / seconds
