"""How much of the free tops of thread arenas comes back, beside malloc_trim(0), which leaves them alone?

Fourteen threads have each filled and freed an arena above some blocks that they keep. The peer has its turn first, in
the same process. Every byte that is kept is checked there before and after, and the threads use their arenas again.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from comparing import GIVEN_BACK, HELD, Case, all_proven, at_most, gives_back
from dontneed.units import format_bytes
from worker import RELEASE, TRIM, native, repeated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from comparing import Comparison
    from options import Options
    from worker import Measured

QUESTION = "release of the free tops of thread arenas"
HOLDS = ()

_THREADS = 14
_BEFORE, _FALL, _USE_BEFORE = "before", "fall of RSS", "the same before"
_LONGEST_STOP = 0.059
"""Seconds that the prototype of this mechanism stopped all threads, without a bound."""


def run(options: Options) -> list[Comparison]:
    """Without a bound for the pause, and with one."""
    return [row for bound in (None, 0.010) for row in _compare(options, bound)]


def _compare(options: Options, bound: float | None) -> Iterator[Comparison]:
    measured = repeated(partial(_measure, options.arena_bytes, bound), options.released_rounds)
    free = _THREADS * options.arena_bytes
    about = f"{format_bytes(free)} free in {_THREADS} arenas"
    about += f", pauses ≤ {bound * 1e3:g} ms" if bound else ""
    rss = Case(QUESTION, f"RSS: {about}", measured["RSS"], HELD)
    yield rss.compare(RELEASE, TRIM, gives_back(measured["RSS"][_BEFORE], 0.9, 0.05, of=free))
    pause = Case(QUESTION, f"longest pause: {about}", measured["pause"])
    yield pause.compare(RELEASE, TRIM, at_most(bound or _LONGEST_STOP))
    proof = Case(QUESTION, f"frames proven free: {about}", measured["proof"], GIVEN_BACK)
    yield proof.compare(RELEASE, _FALL, all_proven(measured["proven"][RELEASE]))
    yield Case(QUESTION, f"all used again: {about}", measured["use"]).compare(RELEASE, _USE_BEFORE)


def _measure(arena_bytes: int, bound: float | None) -> Measured:
    """One process: as it is, after malloc_trim, after a release."""
    with native("arenas", _THREADS, arena_bytes) as worker:
        use_before = worker.ask("use").seconds
        before = worker.rss_bytes
        trimmed = worker.ask("tidy")
        trimmed_rss = worker.rss_bytes
        released = worker.release(max_pause_seconds=bound)
        return {
            ("RSS", _BEFORE): before,
            ("RSS", TRIM): trimmed_rss,
            ("RSS", RELEASE): released.after_bytes,
            ("pause", TRIM): trimmed.seconds,
            ("pause", RELEASE): released.receipt.pause_seconds,
            ("proof", RELEASE): released.proven_bytes,
            ("proof", _FALL): released.before_bytes - released.after_bytes,
            ("proven", RELEASE): released.is_proven,
            ("use", _USE_BEFORE): use_before,
            ("use", RELEASE): worker.ask("use").seconds,
        }
