"""`working_set`: how much of its memory a process uses while it is watched, by the method that is asked for."""

from __future__ import annotations

from dontneed.errors import UsageError
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.observe.address_space import look
from dontneed.observe.working_set import WorkingSet, check, check_program, faults_between, read_program, use_of, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dontneed.observe.mapping import Mapping
    from dontneed.observe.working_set import IsOver
    from dontneed.remote.written import Written
    from dontneed.spans import Spans

_KNOWN_ERROR = (
    "exact for private anonymous memory; reads, files and shared memory are not seen; what mremap moved counts as "
    "written, and so does all of a huge page that came meanwhile"
)
_NEEDED = ("userfaultfd write watch", "pidfd_getfd")


def working_set(
    pid: int | None = None, seconds: float = 10.0, method: str = "auto", *, split_huge_pages: bool = False
) -> WorkingSet:
    """Find out how much of each of its mappings a process uses, by watching it for some seconds.

    By default nothing of the process is changed, and two bounds are told: what it used for certain, and what it may
    have used. The two methods that know better disturb it, and are taken only when they are named:

    - `accessed` clears the marks of use at the beginning, so that reclaim takes its pages for idle for a while.
    - `written` has it make a userfaultfd, which we hold, and write-protects its pages: each costs it a short fault when
      it is first written to. Whatever ends us, the kernel undoes that.

    Args:
        pid: a process id; None is the calling process.
        seconds: for which it is watched.
        method: `auto`: `tables`, or `smaps` where page tables cannot be read; `accessed`; `written`.
        split_huge_pages: of `written`: watch huge pages too; those that are written to are taken apart by that.
    Returns:
        A `WorkingSet`; all sizes in bytes.
    Raises:
        WrongType, UsageError: no pid, no such method, no time.
        ProcessGone: no such process, or it ended meanwhile.
        NoAddressSpace: a kernel thread.
        NotPermitted: it belongs to someone else; `tables` needs root.
        KernelLacks: the method asked for is not there.
        TargetRefused: it replaced its program meanwhile; or it cannot be acted on, and is as it was.
    Kernel:
        bpf(2) since 5.14; /proc/PID/smaps, clear_refs; userfaultfd(2), asynchronous since 6.7; see `dontneed doctor`.
    """
    return working_set_until(pid, seconds, method, lambda: False, split_huge_pages=split_huge_pages)


def working_set_until(
    pid: int | None, seconds: float, method: str, is_over: IsOver, *, split_huge_pages: bool = False
) -> WorkingSet:
    """`working_set`, which ends early when `is_over` says so; `written` ends early by a KeyboardInterrupt instead."""
    check(seconds, method)
    if method != "written":
        if split_huge_pages:
            msg = "huge pages are split by the method `written` alone"
            raise UsageError(msg, hint="leave it away, or take --method written")
        return watch(pid, seconds, method, is_over)
    return _by_writes(pid, seconds, split_huge_pages=split_huge_pages)


def _by_writes(pid: int | None, seconds: float, *, split_huge_pages: bool) -> WorkingSet:
    from dontneed.remote.helper import ask
    from dontneed.remote.written import WriteOrder

    _require_interfaces()
    with ProcessDirectory(pid) as process:
        look(process.pid)  # a kernel thread, a zombie and somebody else's are refused in its words
        program, before = read_program(process), read_identity(process)
        order = WriteOrder(process.pid, before.started, seconds, split_huge_pages)
        found: Written = ask("dontneed.remote.written", order, process.pid)
        space, after = look(process.pid), read_identity(process)
        check_program(process, program)
    return WorkingSet(
        pid=space.pid,
        command=space.command,
        mappings=tuple(use_of(*each) for each in _columns(space.mappings, found)),
        method="written",
        source="userfaultfd + PAGEMAP_SCAN",
        known_error=_KNOWN_ERROR,
        disturbed=True,
        seconds=found.seconds,
        **faults_between(before, after),
        notes=(*found.notes, *space.notes),
    )


def _require_interfaces() -> None:
    """Raise if this kernel or user has not what is needed, before anything is done to the process.

    Raises:
        KernelLacks, NotPermitted.
    """
    from dontneed.kernel.features import why_missing

    missing = why_missing(_NEEDED, "writes cannot be watched")
    if missing is not None:
        raise missing


def _columns(mappings: Sequence[Mapping], found: Written) -> list[tuple[Mapping, int, None, int | None]]:
    """What was written to in each mapping; None of what was not watched."""
    starts = [mapping.start for mapping in mappings]
    ends = [mapping.end for mapping in mappings]
    written = _bytes_between(found.spans, starts, ends)
    unwatched = _bytes_between(found.unwatched, starts, ends)
    return [
        (mapping, amount, None, None if missed else amount)
        for mapping, amount, missed in zip(mappings, written, unwatched, strict=True)
    ]


def _bytes_between(spans: Spans, starts: list[int], ends: list[int]) -> list[int]:
    """How many bytes of spans lie between each start and end."""
    import numpy as np

    first, last = spans.array[:, 0], spans.array[:, 1]
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(last - first, dtype=np.uint64)])

    def before(addresses: list[int]) -> Any:
        """How many bytes of spans lie before each address."""
        at = np.array(addresses, np.uint64)
        nth = np.searchsorted(first, at, "right")
        beyond = np.where(nth > 0, last[np.maximum(nth, 1) - 1], 0) if len(first) else np.zeros(len(at), np.uint64)
        return running[nth] - np.where(beyond > at, beyond - at, np.uint64(0))

    amounts: list[int] = (before(ends) - before(starts)).tolist()
    return amounts
