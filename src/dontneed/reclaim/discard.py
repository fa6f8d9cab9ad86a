"""`discard`: give up the contents of a buffer, and prove what became of its frames."""

from __future__ import annotations

import time

from dontneed.errors import UsageError
from dontneed.kernel.exports import exported
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import Counters, read_counters
from dontneed.reasons.buffer import survey
from dontneed.reclaim.apply import apply_parts
from dontneed.reclaim.receipt import Receipt
from dontneed.reclaim.witness import Witness

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LONGEST_WATCH_SECONDS = 7 * 86_400
"""Longer than anyone waits. `time.sleep` refuses nan and 1e300 too, but only when everything has been given up."""


def discard(buffer: Any, *, lazy: bool = False, watch_seconds: float = 0.0, evidence: str = "auto") -> Receipt:
    """Give up the contents of `buffer` and give its frames back to the system; the buffer stays usable.

    Only whole pages inside the buffer are touched, never a byte beside it. Private memory reads as zero afterwards,
    a private file mapping as the file; a shared file mapping loses nothing. `mmap.mmap(-1, n)` is shared anonymous
    memory: it takes MADV_REMOVE, for every process that shares it, and that is what is used.

    Args:
        buffer: writable and contiguous: a numpy array, bytearray, memoryview, mmap, mutable arrow buffer, ….
        lazy: use MADV_FREE: nothing is freed until the kernel needs memory, and a page written meanwhile is kept.
            Private anonymous memory only.
        watch_seconds: wait this long before counting what was touched again; then it is in `refaulted`.
        evidence: `auto`: frames if the kernel shows them, else counters; `none`: do not look, which is
            as fast as C; the page map and the frames take longer than the release, and wait for every other thread.
    Returns:
        A `Receipt`, all amounts in bytes.
    Raises:
        WrongType: no buffer. UsageError: an impossible watch, an unknown evidence, lazy where it cannot be.
        BufferRefused: immutable, not contiguous, locked, sealed, hugetlb, of a device; nothing was changed.
        AdviceRefused, NotPermitted: the kernel refused.
    Kernel:
        MADV_DONTNEED since 2.4, MADV_REMOVE 2.6.16, MADV_FREE 4.5; mm/madvise.c; madvise(2).
    """
    if not 0 <= watch_seconds <= _LONGEST_WATCH_SECONDS:
        msg = f"a watch of {watch_seconds} seconds cannot be"
        raise UsageError(msg, hint="give the seconds after which what was touched again is counted; 0 does not wait")
    began = time.perf_counter()
    with exported(buffer) as (address, length), ProcessDirectory() as process:
        found = survey(process, address, length, lazy=lazy)
        with Witness(process, evidence) as witness:
            witness.see(found.parts)
            before = read_counters(process)
            advised, pause_seconds = apply_parts(found.parts)
            after = read_counters(process)
            outcome = witness.judge(_drop(before, after))
            watched_from = time.perf_counter()
            if watch_seconds:
                time.sleep(watch_seconds)
            refaulted = 0 if lazy else witness.refaulted_bytes()
            waited = time.perf_counter() - watched_from if watch_seconds else 0.0
    return Receipt(
        **outcome.replace(refaulted=refaulted).as_dict(),
        asked=length,
        advised=advised,
        pause_seconds=pause_seconds,
        cost_seconds=time.perf_counter() - began - waited,
        evidence=witness.evidence,
        before=before,
        after=after,
        notes=found.notes + witness.notes,
    )


def _drop(before: Counters, after: Counters) -> int:
    """By how much memory that frees frames when it goes (anonymous and shared, not of files) fell."""
    return (before.rss_anon_bytes - after.rss_anon_bytes) + (before.rss_shmem_bytes - after.rss_shmem_bytes)
