"""The optional native part (`src/native`): loaded and called if it was built; or why it is not there.

It can do two things to our own process that no Python code can, since it holds the GIL, or the lock of one of malloc's
arenas, from a check to what rests on it: give back pages of CPython's pools, and of free chunks of malloc's. With it a
process needs no tracer to release those, so neither Yama nor a seccomp filter nor a missing CAP_SYS_PTRACE matters.

Nothing is kept: a child of fork calls it as its parent did.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from time import perf_counter

from dontneed.abi.advice import Advice
from dontneed.errors import KernelLacks, TargetRefused
from dontneed.kernel.madvise import own_target
from dontneed.records import Record
from dontneed.spans import Spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    import numpy as np

    from dontneed.abi.glibc_malloc import StateLayout
    from dontneed.kernel.pagemap import Words

    Numbers = np.ndarray[Any, np.dtype[np.uint32]]

CONTRACT = 1
"""That of src/native/native.h, which this module calls."""

_ROWS = 4096
"""Spans that one hold can give up: more than it has time for."""
_NANOSECONDS = 1_000_000_000
_PATIENCE_SECONDS = 0.1
"""For a lock that malloc holds for microseconds; unless its holder is stopped, or was."""

_MORE, _DONE, _BUSY, _STRANGE = range(4)
"""Outcomes of arenas.c."""
_FAULTS = {_BUSY: "its lock was held all the time", _STRANGE: "it is not what it should be"}


class PoolsHold(Record):
    """What came of one hold of the GIL.

    Attributes:
        looked_at: how many arenas; the next hold goes on behind them.
        spans: what was given up.
        strange: arenas that were not what they should be; in these something was left alone.
        has_moved: the array of arenas is elsewhere now, and nothing was looked at.
        held_seconds: for how long the GIL was held.
    """

    looked_at: int
    spans: Spans
    strange: int
    has_moved: bool
    held_seconds: float


class ArenaHold(Record):
    """What came of one hold of the lock of an arena of malloc's.

    Attributes:
        position: where the next hold goes on; None if there is nothing left to do.
        spans: what was given up.
        fault: why no more was, in a phrase; nothing if all is well.
        held_seconds: for how long.
    """

    position: int | None
    spans: Spans
    fault: str
    held_seconds: float


def is_native() -> bool:
    """Whether the native part is there, and made for this dontneed."""
    return not why_not()


def why_not() -> str:
    """Why the native part is not there, in a phrase; nothing if it is."""
    part = _load()
    return part if isinstance(part, str) else ""


def release_pools(
    array: int, holders: Sequence[int], numbers: Numbers, at_most_seconds: float, *, is_survey: bool = False
) -> PoolsHold:
    """Give back the pages of pools that hold nothing, for about as long as this, with the GIL held.

    Args:
        array: address of the interpreter's array of arena objects.
        holders: addresses of words that are all to hold it still; the interpreter's own is among them.
        numbers: of the arenas: their places in the array.
        at_most_seconds: the next arena is not begun after this.
        is_survey: nothing is given up, nor changed: `spans` says what would be.
    Raises:
        KernelLacks: there is no native part.
        TargetRefused: the caller is in a sub-interpreter, whose GIL may not be the one that guards the pools.
    """
    import numpy as np

    words = np.array(holders, np.uint64)
    rows = np.empty((_ROWS, 2), np.uint64)
    arguments = _pidfd(), int(at_most_seconds * _NANOSECONDS), is_survey
    began = perf_counter()
    try:
        looked_at, filled, strange = _loaded().pools(
            array,
            words.ctypes.data,
            len(words),
            numbers.ctypes.data,
            len(numbers),
            rows.ctypes.data,
            len(rows),
            *arguments,
        )
    except RuntimeError as error:
        raise TargetRefused(str(error), hint="release from the main interpreter") from None
    held_seconds = perf_counter() - began
    return PoolsHold(max(0, looked_at), _given(rows[:filled]), strange, looked_at < 0, held_seconds)


def release_arena(
    address: int, layout: StateLayout, position: int, at_most_seconds: float, *, is_main: bool = False
) -> ArenaHold:
    """Give back the pages inside free chunks of an arena for about as long as this, with its lock held, the GIL free.

    Args:
        address: of its malloc_state.
        layout: that of its build of glibc.
        position: 0, then where the hold before says.
        at_most_seconds: no more is given up after this.
        is_main: whether it is the main arena.
    Raises:
        KernelLacks: there is no native part.
    """
    import numpy as np

    rows = np.empty((_ROWS, 2), np.uint64)
    outcome, position, filled, held = _loaded().arena(
        address,
        layout.top,
        layout.bins,
        layout.system_mem,
        is_main,
        position,
        rows.ctypes.data,
        len(rows),
        _pidfd(),
        int(at_most_seconds * _NANOSECONDS),
        int(_PATIENCE_SECONDS * _NANOSECONDS),
    )
    next_position = position if outcome == _MORE else None
    return ArenaHold(next_position, _given(rows[:filled]), _FAULTS.get(outcome, ""), held / _NANOSECONDS)


def _given(rows: Words) -> Spans:
    """The spans of rows of struct iovec; those that the kernel refused have no length."""
    rows[:, 1] += rows[:, 0]
    return Spans.from_array(rows[rows[:, 0] < rows[:, 1]])


def _loaded() -> Any:
    part = _load()
    if isinstance(part, str):
        msg = f"dontneed has no native part here: {part}"
        raise KernelLacks(msg, hint="a helper process does the same, with ptrace")
    return part


@lru_cache(maxsize=1)
def _load() -> Any:
    """The module; or why there is none."""
    try:
        part = import_module("dontneed.kernel._native")
    except ModuleNotFoundError:
        return "it was not built: that takes a C compiler and Python's headers when dontneed is installed"
    except ImportError as error:
        return str(error)
    if getattr(part, "CONTRACT", None) != CONTRACT:
        return "it was built of another version: install dontneed again"
    return part


def _pidfd() -> int:
    """Ourselves, for process_madvise; -1 where that takes no DONTNEED."""
    target = own_target(Advice.DONTNEED)
    return -1 if target is None else target
