"""Carry out what a survey found: the one place that releases pages of the calling process."""

from __future__ import annotations

from time import perf_counter

from dontneed.errors import AdviceRefused
from dontneed.kernel.madvise import advise_range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.reasons.buffer import Part


def apply_parts(parts: Iterable[Part]) -> tuple[int, float]:
    """Give each part its advice, in address order.

    Returns:
        Bytes advised, and the seconds that the system calls took.
    Raises:
        AdviceRefused, NotPermitted: the kernel refused a part; the earlier ones are gone, and `advised` counts them.
    """
    advised = 0
    began = perf_counter()
    try:
        for part in parts:
            advised += advise_range(part.span.start, part.span.size_bytes, part.advice)
    except AdviceRefused as refused:
        refused.advised += advised
        raise
    return advised, perf_counter() - began
