"""`dead-stack` of the calling thread: it is here and not deeper, so nobody has to stop it.

See `dead_stack.release_own_stack`. Other threads have to be stopped for theirs: that takes a helper process.
"""

from __future__ import annotations

from dontneed.errors import DontneedError
from dontneed.kernel.own_stack import lowest_own_address, own_stack_bounds
from dontneed.observe.resident import find_anonymous
from dontneed.reasons.dead_stack import NAME, WHY_SAFE, release_own_stack
from dontneed.reasons.survey import Survey
from dontneed.spans import Spans
from dontneed.units import round_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dontneed.observe.subject import Subject
    from dontneed.reasons.survey import Limits, Released

ACTS_INSIDE = False  # in the calling process, by its own calls

__all__ = ("NAME", "WHY_SAFE", "release", "survey")

_SECONDS = 0.0002


def survey(subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """Find what of the stack lies below where the thread is now."""
    del hint
    try:
        start, end = own_stack_bounds()
        pointer = lowest_own_address(start, end)
    except DontneedError as refusal:
        return Survey(NAME, 0, Spans(), WHY_SAFE, 0.0, 0.0, refused=(str(refusal),))
    stack = Spans((row.start, row.end) for row in subject.rows() if row.start <= pointer < row.end)
    below = stack & Spans([(start, round_down(pointer))])
    dead = find_anonymous(subject.process, below - subject.protected.spans).alone
    return Survey(NAME, dead.size_bytes, dead, WHY_SAFE, _SECONDS, _SECONDS, refused=subject.protected.reasons)


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Give it up.

    Raises:
        TargetRefused, KernelLacks: as `release_own_stack`.
    """
    del subject, found, limits
    return release_own_stack()
