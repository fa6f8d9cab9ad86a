"""How much of the dead stack of idle threads comes back, and how long does a thread stand still for it?

Beside malloc_trim(0), which knows of no stacks; and beside threads that drop their dead stack by themselves, which is
as fast as it can be. What each thread keeps on its stack is checked there before and after.
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

QUESTION = "release of dead stack"
HOLDS = ()

_BEFORE, _FALL, _USE_BEFORE = "before", "fall of RSS", "the same before"
_BY_ITSELF = "madvise by the thread itself"


def run(options: Options) -> list[Comparison]:
    """Many idle threads that have been deep."""
    return list(_compare(options))


def _compare(options: Options) -> Iterator[Comparison]:
    threads, each = options.idle_threads, options.dead_stack_bytes
    measured = repeated(partial(_measure, threads, each), options.released_rounds)
    about = f"{threads} threads with {format_bytes(each)} of dead stack"
    rss = Case(QUESTION, f"RSS: {about}", measured["RSS"], HELD)
    yield rss.compare(RELEASE, TRIM, gives_back(measured["RSS"][_BEFORE], 0.95, 0.05, of=threads * each))
    pause = Case(QUESTION, f"longest pause of a thread: {about}", measured["pause"])
    yield pause.compare(RELEASE, _BY_ITSELF, at_most(0.003))
    proof = Case(QUESTION, f"frames proven free: {about}", measured["proof"], GIVEN_BACK)
    yield proof.compare(RELEASE, _FALL, all_proven(measured["proven"][RELEASE]))
    yield Case(QUESTION, f"as deep again: {about}", measured["use"]).compare(RELEASE, _USE_BEFORE)


def _measure(threads: int, dead_bytes: int) -> Measured:
    """One process: as it is, after malloc_trim, after a release, and after its threads do the same by themselves."""
    with native("stacks", threads, dead_bytes) as worker:
        use_before = worker.ask("use").seconds
        before = worker.rss_bytes
        worker.ask("tidy")
        trimmed = worker.rss_bytes
        released = worker.release()
        use_after = worker.ask("use").seconds
        return {
            ("RSS", _BEFORE): before,
            ("RSS", TRIM): trimmed,
            ("RSS", RELEASE): released.after_bytes,
            ("pause", RELEASE): released.receipt.pause_seconds,
            ("pause", _BY_ITSELF): worker.ask("drop").seconds,
            ("proof", RELEASE): released.proven_bytes,
            ("proof", _FALL): released.before_bytes - released.after_bytes,
            ("proven", RELEASE): released.is_proven,
            ("use", _USE_BEFORE): use_before,
            ("use", RELEASE): use_after,
        }
