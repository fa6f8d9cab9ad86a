"""What does it cost to plan, and what does a release cost the process that it is done to?

The time of a plan of a whole process; how long a process waits for its own mmap and munmap while it is surveyed over
and over, beside a look; the longest pause that each reason causes, by size, with a bound and without; and how long
requests to a service take while it is released over and over.
"""

from __future__ import annotations

import os
import resource
import select
import sys
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING

import dontneed
from comparing import Case, at_most, no_worse
from dontneed.units import MIB, format_bytes
from measuring import alternate, spawn, timed
from programs import BUILD, Program
from stall import stall_samples
from worker import RELEASE, SERVICES_PYTHON, TIDY, Workload, native, python_workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from comparing import Comparison
    from measuring import Runner, Samples
    from options import Options

QUESTION = "the cost of a plan, and of a release"
HOLDS = ()

_PLAN, _LOOK, _COMMAND, _NOBODY = "plan()", "look()", "dontneed plan", "left alone"
_ONCE_A_MINUTE = 0.6
"""Seconds of a processor: 1 % of one, if a process is planned once a minute."""

_BOUND_SECONDS = 0.010
_BOUNDED, _UNBOUNDED = f"pauses ≤ {_BOUND_SECONDS * 1e3:g} ms", "no bound"


def run(options: Options) -> list[Comparison]:
    """Plans, stalls, pauses, requests."""
    return [*_plan(options), *_stall(options), *_pauses(options), *_requests(options)]


def _plan(options: Options) -> Iterator[Comparison]:
    """Of a process with some of everything."""
    with python_workload("mixture", options.planned_bytes) as worker:
        checksum = worker.ask("check").result
        about = f"{format_bytes(worker.rss_bytes)} of all kinds"
        runners = [
            timed(_PLAN, lambda: dontneed.plan(worker.pid)),
            timed(_LOOK, lambda: dontneed.look(worker.pid)),
            _timed_command(_COMMAND, "plan", worker.pid),
            _timed_command("dontneed look", "look", worker.pid),
        ]
        samples = alternate(runners, options.rounds)
        assert worker.ask("check").result == checksum, "a plan has changed what a process holds"
    wall = Case(QUESTION, f"a plan of {about}", samples)
    yield wall.compare(_PLAN, _LOOK, at_most(1.0))
    yield wall.compare(_COMMAND, "dontneed look")
    processor = Case(QUESTION, f"processor time of a plan of {about}", samples)
    yield processor.compare(_of_processor(_COMMAND), _of_processor("dontneed look"), at_most(_ONCE_A_MINUTE))


def _timed_command(name: str, *arguments: str | int) -> Runner:
    """A runner for a command of ours: its seconds, and those that it kept a processor busy."""
    command = (sys.executable, "-m", "dontneed", *map(str, arguments))

    def run() -> dict[str, float]:
        busy_before = _processor_seconds()
        elapsed = timed(name, lambda: spawn(*command))()
        return {**elapsed, _of_processor(name): _processor_seconds() - busy_before}

    return run


def _of_processor(name: str) -> str:
    return f"{name}: processor"


def _processor_seconds() -> float:
    """Of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _stall(options: Options) -> Iterator[Comparison]:
    """The same process that `stall.py` looks at: all its pages are zero, so that a survey reads every one."""
    with Program("latency", options.stalled_bytes) as program:
        readers: dict[str, Callable[[], object]] = {
            _NOBODY: lambda: select.select([program.answer_file], [], []),
            _PLAN: lambda: dontneed.plan(program.pid),
            _LOOK: lambda: dontneed.look(program.pid),
        }
        samples = stall_samples(program, readers, options)
    for statistic in ("p50", "p99", "longest"):
        case = Case(
            QUESTION, f"{statistic} of mmap + munmap, {format_bytes(options.stalled_bytes)}", samples[statistic]
        )
        yield case.compare(_PLAN, _LOOK, no_worse() if statistic != "longest" else None)
        yield case.compare(_PLAN, _NOBODY)


def _pauses(options: Options) -> Iterator[Comparison]:
    """By reason and size; what the prototypes of the mechanisms took, in milliseconds, is what we hold ourselves to."""
    threads, dead = options.idle_threads, options.dead_stack_bytes
    for count in (options.released_objects // 4, options.released_objects):
        yield from _pause(options, "free-pools", f"{count:,} objects", partial(_objects, count), 0.0207)
    for size in (options.arena_bytes // 4, options.arena_bytes):
        about = f"{format_bytes(14 * size)} of tops"
        yield from _pause(options, "malloc-free", about, partial(native, "arenas", 14, size), 0.059)
    for size in (options.planned_bytes // 16, options.planned_bytes // 2):
        about = f"{format_bytes(size)} of zeros"
        yield from _pause(options, "zero-pages", about, partial(python_workload, "zeros", size), 0.029)
    for count in (threads // 4, threads):
        about = f"{count} threads with {format_bytes(dead)} each"
        yield from _pause(options, "dead-stack", about, partial(native, "stacks", count, dead), 0.003)
    yield from _pause(options, "clean-file", format_bytes(_file_bytes(options)), partial(_mapped, options), 0.0)
    (BUILD / "mapped").unlink()


def _pause(
    options: Options, reason: str, about: str, start: Callable[[], AbstractContextManager[Workload]], prototype: float
) -> Iterator[Comparison]:
    samples: Samples = {_BOUNDED: [], _UNBOUNDED: []}
    for _ in range(options.released_rounds):
        for name, bound in ((_UNBOUNDED, None), (_BOUNDED, _BOUND_SECONDS)):
            with start() as worker:
                released = worker.release([reason], bound)
            if not released.freed_bytes(reason):
                print(f"benchmarks: {reason} of {about}, {name}: nothing was freed", file=sys.stderr)
            samples[name].append(released.pause_seconds(reason))
    case = Case(QUESTION, f"longest pause by {reason}, {about}", samples)
    yield case.compare(_UNBOUNDED, _BOUNDED, at_most(prototype))
    yield case.compare(_BOUNDED, _UNBOUNDED, at_most(_BOUND_SECONDS))


def _objects(count: int) -> Workload:
    return python_workload("objects", count, "random")


def _file_bytes(options: Options) -> int:
    return options.planned_bytes // 4


def _mapped(options: Options) -> Workload:
    """A file that nobody else maps, on a disk, and written back: a dirty page is not clean."""
    path = BUILD / "mapped"
    if not path.exists() or path.stat().st_size != _file_bytes(options):
        with path.open("wb") as file:
            for _ in range(_file_bytes(options) // MIB):
                file.write(os.urandom(MIB))
            os.fsync(file.fileno())
    return python_workload("mapped_file", str(path))


def _requests(options: Options) -> Iterator[Comparison]:
    """A service asked for a price every 10 ms, while its worker is left alone, released, looked at, or tidied."""
    with python_workload("gunicorn_service", python=SERVICES_PYTHON) as worker:
        for _ in range(options.warm_units):
            worker.ask("unit")
        checksum = worker.ask("check").result
        meanwhile: dict[str, Callable[[], object]] = {
            _NOBODY: lambda: None,
            RELEASE: lambda: dontneed.release(worker.pid),
            f"{RELEASE}, {_BOUNDED}": lambda: dontneed.release(worker.pid, max_pause_seconds=_BOUND_SECONDS),
            _LOOK: lambda: dontneed.look(worker.pid),
            TIDY: lambda: worker.tell("tidy"),
        }
        runners = [_paced(worker, name, call, options.requested_seconds) for name, call in meanwhile.items()]
        samples = alternate(runners, options.released_rounds)
        assert worker.ask("check").result == checksum, "the data of the service was harmed"
    for statistic in ("p50", "p99", "longest"):
        of_statistic = {name: samples[f"{statistic} {name}"] for name in meanwhile}
        case = Case(QUESTION, f"{statistic} of a request every 10 ms, released each second", of_statistic)
        for subject in (RELEASE, f"{RELEASE}, {_BOUNDED}"):
            yield case.compare(subject, _NOBODY)
        yield case.compare(RELEASE, TIDY)


def _paced(worker: Workload, name: str, call: Callable[[], object], seconds: float) -> Runner:
    """A runner for what a client measures while something is called each second."""

    def run() -> dict[str, float]:
        measured = worker.during("pace", partial(_each_second, call, seconds)).result
        return {f"{statistic} {name}": measured[statistic] for statistic in ("p50", "p99", "longest")}

    return run


def _each_second(call: Callable[[], object], seconds: float) -> None:
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        call()
        sleep(max(0.0, min(1.0, left)))
