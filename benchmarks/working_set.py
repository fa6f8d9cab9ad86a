"""How near to the truth is each way to find a working set, and what does it cost the process that is watched?

A process holds much and touches a part of it that is known, over and over, reading or writing. What is found stands
beside that part: 1 is the truth. What it costs is how long the process takes for a pass over its part while it is
watched, beside a process that is left alone. A kernel that works for it, or keeps it waiting, makes a pass longer.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import dontneed
from comparing import FOUND, Case, Target
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.smaps import read_smaps
from dontneed.units import KIB, PAGE_BYTES, format_bytes
from measuring import alternate
from programs import Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from comparing import Comparison
    from dontneed.observe.working_set import MappingUse
    from measuring import Runner, Samples
    from options import Options

QUESTION = "working set"
HOLDS = ()

ALONE, ALONE_LATER, TRUTH = "left alone", "left alone, later", "what it touches"
_TABLES, _SMAPS, _ACCESSED, _WRITTEN = "tables", "smaps", "accessed", "written"
_AT_LEAST, _AT_MOST = "at least", "at most"
_SMAPS_LOOP = "smaps, read over and over"
_MISSED_BYTES = 4 * PAGE_BYTES
_SLOWER = 1.1
_SMALL_BYTES = 256 * KIB


def run(options: Options) -> list[Comparison]:
    """A hot set that the TLB holds, and one that it does not; read, and written to."""
    held = options.decoded_bytes
    found, costs = [], []
    for how in ("read", "write"):
        for hot_bytes in (_SMALL_BYTES, held // 8):
            what = f"{format_bytes(hot_bytes)} of {format_bytes(held)}, {how} over and over"
            methods = [_TABLES, _SMAPS, _ACCESSED, *([_WRITTEN] if how == "write" else [])]
            samples = _ask(options, held, hot_bytes, methods, how)
            found += _found(what, samples, hot_bytes, methods)
            if hot_bytes > _SMALL_BYTES:
                costs += _costs(what, samples, methods)
    return [*found, *costs]


def _ask(options: Options, held: int, hot_bytes: int, methods: list[str], how: str) -> Samples:
    """By those first that change nothing: whoever clears the marks changes what they see."""
    with Program("hotset", held, hot_bytes // PAGE_BYTES, how) as program:
        start = int(program.greeting, 16)
        seconds = options.stalled_seconds
        watched = {method: _watched(program, start, method, seconds) for method in methods}
        first = [_alone(program, seconds, ALONE), _looped(program, seconds), watched.pop(_TABLES), watched.pop(_SMAPS)]
        then = [_alone(program, seconds, ALONE_LATER), *watched.values()]
        return alternate(first, options.few_rounds) | alternate(then, options.few_rounds)


def _found(what: str, samples: Samples, hot_bytes: int, methods: list[str]) -> list[Comparison]:
    case = Case(QUESTION, f"found: {what}", {**samples, TRUTH: [float(hot_bytes)]}, FOUND)
    near = Target("all but 4 pages, and no more", lambda found, truth, _: truth - _MISSED_BYTES <= found <= truth)
    exact = Target("exact", lambda found, truth, _: found == truth)
    least = Target("no more", lambda found, truth, _: found <= truth)
    most = Target("no less", lambda found, truth, _: found >= truth)
    promises = {f"{_TABLES}, {_AT_LEAST}": least, f"{_TABLES}, {_AT_MOST}": most}
    promises |= {f"{_SMAPS}, {_AT_MOST}": most, _ACCESSED: near}
    if _WRITTEN in methods:
        promises[_WRITTEN] = exact
    return [case.compare(name, TRUTH, promise) for name, promise in promises.items()]


def _costs(what: str, samples: Samples, methods: list[str]) -> list[Comparison]:
    """Each beside a process left alone in the same rounds."""
    passes = {name: samples[f"pass {name}"] for name in (ALONE, ALONE_LATER, _SMAPS_LOOP, *methods)}
    case = Case(QUESTION, f"a pass: {what}", passes)
    hardly = Target(f"≤ {_SLOWER:g} times as long", lambda _subject, _peer, ratio: ratio >= 1 / _SLOWER)
    return [
        *(case.compare(name, ALONE, hardly) for name in (_TABLES, _SMAPS)),
        case.compare(_SMAPS_LOOP, ALONE),
        *(case.compare(name, ALONE_LATER, hardly) for name in methods if name not in (_TABLES, _SMAPS)),
    ]


def _alone(program: Program, seconds: float, name: str) -> Runner:
    return lambda: {f"pass {name}": float(program.ask(str(seconds)))}


def _looped(program: Program, seconds: float) -> Runner:
    """What others do to find Referenced: they read smaps again and again."""

    def run() -> dict[str, float]:
        program.tell(str(seconds))
        with ProcessDirectory(program.pid) as process:
            _until_answered(program, lambda: read_smaps(process))
        return {f"pass {_SMAPS_LOOP}": float(program.answer())}

    return run


def _watched(program: Program, start: int, method: str, seconds: float) -> Runner:
    """A working set by one method, and how long a pass takes meanwhile, with what the method does to begin."""

    def run() -> dict[str, float]:
        program.tell(str(seconds))
        found = dontneed.working_set(program.pid, seconds, method)
        passed = float(program.answer())
        use = next(each for each in found.mappings if each.start <= start < each.end)
        return {f"pass {method}": passed, **_amounts(method, use)}

    return run


def _amounts(method: str, use: MappingUse) -> dict[str, float]:
    if method in (_ACCESSED, _WRITTEN):
        return {method: float(use.touched_bytes)}
    return {f"{method}, {_AT_LEAST}": float(use.touched_bytes), f"{method}, {_AT_MOST}": float(use.at_most_bytes or 0)}


def _until_answered(program: Program, reader: Callable[[], object]) -> None:
    while not select.select([program.answer_file], [], [], 0)[0]:
        reader()
