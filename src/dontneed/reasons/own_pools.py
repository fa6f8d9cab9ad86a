"""`free-pools` of our own process, by the native part: the GIL is ours already, so nobody has to be stopped for it.

The same pages, for the same reasons, as `free_pools` gives back from outside. A survey holds the GIL as well, in turns
with everybody else, and so is as exact as the release.

Needs: the native part (`kernel.native`). No rights, no ptrace, no helper process.

Refuses: what `free_pools` refuses, but no state of any thread; and a caller in a sub-interpreter.
"""

from __future__ import annotations

import time
from time import perf_counter

from dontneed.abi.pymalloc import ARENA_BYTES
from dontneed.errors import DontneedError, ProcessGone, TargetRefused
from dontneed.kernel.native import release_pools
from dontneed.observe.python.arenas import find_arenas
from dontneed.observe.python.runtime import find_runtime
from dontneed.observe.resident import find_anonymous
from dontneed.observe.slices import together
from dontneed.reasons.free_pools import NAME, WHY_SAFE, left_alone
from dontneed.reasons.survey import Released, Survey
from dontneed.records import Record
from dontneed.spans import Spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dontneed.kernel.native import Numbers
    from dontneed.observe.python.arenas import Arenas
    from dontneed.observe.python.runtime import PythonRuntime
    from dontneed.observe.subject import Subject
    from dontneed.reasons.survey import Limits

ACTS_INSIDE = False  # in the calling process, by its own calls

__all__ = ("NAME", "WHY_SAFE", "release", "survey")

_HOLD_SECONDS = 0.004
"""Less than CPython's switch interval: whoever waits for the GIL has not even asked for it yet."""
_SHARE_OF_LIMIT = 0.5
"""An arena that is begun in time is done to its end."""

_hint: dict[str, int] = {}
"""What the last survey found out. It holds as long as the interpreter does, and in its children by fork as well."""
_runtimes: list[PythonRuntime] = []
"""The same: our interpreter, once it has been found to be one whose pools are plain."""


class Turns(Record):
    """What came of some holds of the GIL, with everybody else's turns between them.

    Attributes:
        spans: what was given up, or would be.
        pauses: seconds of each hold.
        notes: what was left alone, in sentences.
    """

    spans: Spans
    pauses: tuple[float, ...]
    notes: tuple[str, ...]


def survey(subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """Find the arenas from outside, and what their pools would give up with the GIL held."""
    if subject.protected.whole:
        return _nothing(subject.protected.whole)
    began = perf_counter()
    try:
        if not _runtimes:
            _runtimes.append(find_runtime(subject))
        arenas = find_arenas(subject, _runtimes[0], hint or _hint)
        turns = _take_turns(arenas, _outside(arenas, subject.protected.spans), _HOLD_SECONDS, is_survey=True)
    except ProcessGone:
        raise
    except DontneedError as error:
        return _nothing(str(error))
    _hint.update(arenas.hint or {})
    resident = find_anonymous(subject.process, turns.spans)
    small = resident.alone - arenas.presence.huge
    huge_bytes = resident.alone.size_bytes - small.size_bytes
    return Survey(
        reason=NAME,
        releasable_bytes=small.size_bytes,
        spans=turns.spans,
        why_safe=WHY_SAFE,
        cost_seconds=perf_counter() - began + 2 * sum(turns.pauses),
        pause_seconds=2 * max(turns.pauses, default=0.0),
        refused=(*turns.notes, *subject.protected.reasons, *left_alone(huge_bytes, resident.shared.size_bytes)),
        hint=arenas.hint,
        details=arenas,
    )


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Give the pages back, as many arenas at a time as fit into a hold of the GIL.

    Raises:
        TargetRefused: nothing was found, or the caller is in a sub-interpreter.
        KernelLacks: there is no native part.
    """
    arenas: Arenas | None = found.details
    if arenas is None:
        raise TargetRefused("; ".join(found.refused) or "no pools were found in it")
    at_most = _HOLD_SECONDS
    if limits.max_pause_seconds is not None:
        at_most = min(at_most, _SHARE_OF_LIMIT * limits.max_pause_seconds)
    turns = _take_turns(arenas, _outside(arenas, subject.protected.spans), at_most)
    return Released(found.releasable_bytes, turns.spans.size_bytes, turns.spans, turns.pauses, turns.notes)


def _take_turns(arenas: Arenas, numbers: Numbers, at_most: float, *, is_survey: bool = False) -> Turns:
    """Hold the GIL as often as it takes to look at these arenas.

    Raises:
        TargetRefused, KernelLacks: as `release_pools`.
    """
    given, pauses, strange, notes = [], [], 0, []
    while len(numbers):
        hold = release_pools(arenas.array, arenas.holders, numbers, at_most, is_survey=is_survey)
        if hold.has_moved:
            notes.append(f"{len(numbers)} arenas left alone: the array of arenas moved meanwhile")
            break
        given.append(hold.spans)
        pauses.append(hold.held_seconds)
        strange += hold.strange
        numbers = numbers[hold.looked_at :]
        time.sleep(0)  # lets go of the GIL, for whoever has waited
    if strange:
        notes.append(f"{strange} arenas are not what they should be: what is odd in them was left alone")
    return Turns(together(given), tuple(pauses), tuple(notes))


def _outside(arenas: Arenas, protected: Spans) -> Numbers:
    """The numbers of the arenas that have nothing in common with memory that is to be left alone."""
    import numpy as np

    rows = zip(arenas.numbers.tolist(), arenas.objects["address"].tolist(), strict=True)
    if not protected:
        return arenas.numbers.astype(np.uint32)
    plain = [number for number, start in rows if not Spans([(start, start + ARENA_BYTES)]) & protected]
    return np.array(plain, np.uint32)


def _nothing(why_not: str) -> Survey:
    return Survey(NAME, 0, Spans(), WHY_SAFE, 0.0, 0.0, refused=(why_not,))
