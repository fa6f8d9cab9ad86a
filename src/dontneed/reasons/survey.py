"""What a reason says before and after: `Survey` and `Released`; and the bounds that it is to keep, `Limits`.

Every reason is a module with

    NAME, WHY_SAFE                                      its name, and one sentence for people
    ACTS_INSIDE                                         it stops threads of the target, and acts by them
    survey(subject, hint) -> Survey                     changes nothing, stops nothing
    release(subject, found, limits) -> Released         re-checks what it saw while the target is held, then acts
"""

from __future__ import annotations

from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from dontneed.spans import Spans


class Survey(Record):
    """What a reason would give back, found without changing anything.

    Attributes:
        reason: its name.
        releasable_bytes: present now, and free for everyone after a release, as far as can be seen from outside.
        spans: what would be given up.
        why_safe: why nobody will notice, in a sentence.
        cost_seconds: how long a release takes, about.
        pause_seconds: the longest time for which a thread stands still meanwhile, about.
        refused: what is left alone, and why, in sentences.
        watched: what a witness has to see, where that is more than `spans`; then a release may find something even if
            nothing can be promised.
        hint: facts that make a second survey of the same process fast.
        details: whatever `release` wants of the survey; never leaves the process.
    """

    reason: str
    releasable_bytes: int
    spans: Spans
    why_safe: str
    cost_seconds: float
    pause_seconds: float
    refused: tuple[str, ...] = ()
    watched: Spans | None = None
    hint: Mapping[str, int] | None = None
    details: Any = None


class Released(Record):
    """What a reason gave up.

    Attributes:
        asked: bytes that the survey wanted.
        advised: bytes that the kernel accepted.
        spans: what was given up, or looked through by an allocator that keeps that to itself.
        pauses: seconds of each stop, or hold of the GIL.
        notes: what the owner should know, in sentences: what changed meanwhile and was left alone.
    """

    asked: int
    advised: int
    spans: Spans
    pauses: tuple[float, ...]
    notes: tuple[str, ...] = ()


class Limits(Record):
    """What a release is to keep to.

    Attributes:
        max_pause_seconds: for which any thread may stand still at a stretch; None: as long as the work takes.
    """

    max_pause_seconds: float | None = None
