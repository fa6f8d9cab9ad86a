"""What becomes of an entry of a page table when its page is zapped: kind by kind, on one kernel.

Kernel:
    2.6.32: mm/memory.c zap_pte_range(); 6.18: zap_present_ptes() and zap_nonpresent_ptes(), mm/huge_memory.c
    zap_huge_pmd().
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.model.space import entries
from dontneed.model.space.entries import DIRTY, HUGE, KIND, KIND_NAMES, YOUNG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.model.versions import Behaviour

_FLAG_NAMES = ((DIRTY, "dirty"), (YOUNG, "young"), (HUGE, "huge"))
_FORGOTTEN = ((DIRTY, "dirty"), (YOUNG, "young"))
_HANDED_ON = ((DIRTY, "dirty"), (YOUNG, "used"))
"""What the page of a file is told of the flags of its entry."""


def words_of(code: int) -> str:
    """An entry in words: its kind, and those of its flags that matter to a zap."""
    return ", ".join([KIND_NAMES[code & KIND], *(word for bit, word in _FLAG_NAMES if code & bit)])


def outcome_of(behaviour: Behaviour, code: int) -> str:
    """What becomes of an entry."""
    return _OUTCOMES[code & KIND](behaviour, code)


def outcomes(behaviour: Behaviour) -> tuple[tuple[str, str], ...]:
    """Every entry that one kernel knows, in words, and what becomes of it."""
    known = [
        entries.NONE,
        entries.ANON | DIRTY,
        entries.FILE,
        entries.FILE | DIRTY,
        entries.FILE | YOUNG,
        entries.SHMEM | DIRTY,
        entries.ZERO,
        entries.PFN,
        entries.SWAP,
        entries.MIGRATION,
        entries.POISON,
    ]
    known += [entries.NONLINEAR] if behaviour.nonlinear else []
    known += [entries.ANON | HUGE] if behaviour.huge_pages else []
    known += [entries.GUARD] if behaviour.knows(Advice.GUARD_INSTALL) else []
    return tuple((words_of(code), outcome_of(behaviour, code)) for code in known)


def _anonymous(_behaviour: Behaviour, code: int) -> str:
    flags = [word for bit, word in _FORGOTTEN if code & bit]
    lost = f", {' and '.join(flags)} forgotten" if flags else ""
    freed = "the huge page and its spare table go" if code & HUGE else "the frame goes with its last reference"
    return f"cleared{lost}; anon counter down; {freed}"


def _file(behaviour: Behaviour, code: int) -> str:
    counter = "shmem" if code & KIND == entries.SHMEM and behaviour.rss_by_kind else "file"
    kept = [word for bit, word in _HANDED_ON if code & bit]
    marked = f"; the page is marked {' and '.join(kept)}" if kept else ""
    return f"cleared{marked}; {counter} counter down; the page cache keeps the frame"


def _swap(behaviour: Behaviour, _code: int) -> str:
    counter = "swap counter down" if behaviour.counts_swap else "no counter of this process knows of it"
    return f"cleared; {counter}; the slot is free with its last entry"


def _migration(behaviour: Behaviour, _code: int) -> str:
    return "cleared; RSS counter down" if behaviour.rss_by_kind else "cleared; RSS is not counted down: it leaks one"


_OUTCOMES: dict[int, Callable[[Behaviour, int], str]] = {
    entries.NONE: lambda _behaviour, _code: "skipped",
    entries.ANON: _anonymous,
    entries.FILE: _file,
    entries.SHMEM: _file,
    entries.ZERO: lambda _behaviour, _code: "cleared; no frame was held, no counter moves",
    entries.PFN: lambda _behaviour, _code: "cleared; there is no page structure, no counter moves",
    entries.SWAP: _swap,
    entries.MIGRATION: _migration,
    entries.NONLINEAR: lambda _behaviour, _code: "cleared, unless the mapping is nonlinear: then it stays",
    entries.POISON: lambda _behaviour, _code: "cleared",
    entries.GUARD: lambda _behaviour, _code: "kept by a discard, dropped by munmap",
    entries.HUGETLB: lambda _behaviour, _code: "cleared; the huge page goes back to its pool, or stays in its file",
}
