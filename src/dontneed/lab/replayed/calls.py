"""The system calls of a replayed process, in the model: with the traced arguments, and at the place the kernel chose.

Each takes the address space, all arguments, and what the kernel returned; it answers as the model does: with an errno
or 0, or, what returns an address, with that or a negative errno.
"""

from __future__ import annotations

from dontneed.abi import mman
from dontneed.model.calls import heap, mappings, remap, seal
from dontneed.model.calls.advice import madvise
from dontneed.model.space.mm import PAGE_SHIFT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from dontneed.model.space.mm import Mm

    Action: TypeAlias = Callable[[Mm, Sequence[int], int], int]

_WITHIN_PAGE = (1 << PAGE_SHIFT) - 1
_ARGUMENTS_OF_MLOCK2 = 3


def _munmap(mm: Mm, arguments: Sequence[int], _result: int) -> int:
    start, length = arguments
    first = start >> PAGE_SHIFT
    return mappings.munmap(mm, first, min(first + pages_in(length), mm.top))


def _brk(mm: Mm, _arguments: Sequence[int], result: int) -> int:
    """Let the heap end where it did; the first answer says where it begins."""
    if not mm.brk:
        mm.brk_first, mm.brk = pages_in(result), result
    return heap.brk(mm, result)


def _mprotect(mm: Mm, arguments: Sequence[int], _result: int) -> int:
    start, length, protection = arguments[:3]
    first = start >> PAGE_SHIFT
    return mappings.mprotect(mm, first, first + pages_in(length), protection & mman.PROTECTIONS)


def _madvise(mm: Mm, arguments: Sequence[int], _result: int) -> int:
    start, length, advice = arguments
    return madvise(mm, start, length, advice)


def _mremap(mm: Mm, arguments: Sequence[int], result: int) -> int:
    old, length, new_length, flags, target = arguments
    if result != old and not flags & remap.FIXED:
        flags, target = flags | remap.FIXED, result  # whatever is in the way here, the kernel chose this place
    first, new_first = old >> PAGE_SHIFT, target >> PAGE_SHIFT
    refused, now = remap.mremap(mm, first, pages_in(length), pages_in(new_length), flags, new_first)
    return -refused or now << PAGE_SHIFT


def _mlock(mm: Mm, arguments: Sequence[int], _result: int) -> int:
    start, length = arguments[:2]
    on_fault = len(arguments) == _ARGUMENTS_OF_MLOCK2 and bool(arguments[-1] & mman.MLOCK_ONFAULT)
    return mappings.mlock(mm, start >> PAGE_SHIFT, pages_in(start + length), on_fault=on_fault)


def _munlock(mm: Mm, arguments: Sequence[int], _result: int) -> int:
    start, length = arguments
    return mappings.munlock(mm, start >> PAGE_SHIFT, pages_in(start + length))


def _mlockall(mm: Mm, arguments: Sequence[int], _result: int) -> int:
    flags = arguments[0]
    mm.lock_future = bool(flags & mman.MCL_FUTURE)
    if flags & mman.MCL_CURRENT:
        for vma in list(mm.vmas):
            mappings.mlock(mm, vma.first, vma.last, on_fault=bool(flags & mman.MCL_ONFAULT))
    return 0


def _munlockall(mm: Mm, _arguments: Sequence[int], _result: int) -> int:
    mm.lock_future = False
    for vma in list(mm.vmas):
        mappings.munlock(mm, vma.first, vma.last)
    return 0


def _mseal(mm: Mm, arguments: Sequence[int], _result: int) -> int:
    start, length = arguments[:2]
    first = start >> PAGE_SHIFT
    return seal.mseal(mm, first, first + pages_in(length))


def _shmdt(mm: Mm, arguments: Sequence[int], _result: int) -> int:
    vma = mm.vmas.find(arguments[0] >> PAGE_SHIFT)
    return 0 if vma is None else mappings.munmap(mm, vma.first, vma.last)


ACTIONS: dict[str, Action] = {
    "munmap": _munmap,
    "brk": _brk,
    "mprotect": _mprotect,
    "pkey_mprotect": _mprotect,
    "madvise": _madvise,
    "mremap": _mremap,
    "mlock": _mlock,
    "mlock2": _mlock,
    "munlock": _munlock,
    "mlockall": _mlockall,
    "munlockall": _munlockall,
    "mseal": _mseal,
    "shmdt": _shmdt,
}
"""By name; mmap is not among them, for what it maps is known by its name only."""

ANSWERED_BY_ADDRESS = ("brk", "mremap")
"""Those that return an address."""


def pages_in(length: int) -> int:
    """How many pages some bytes need."""
    return length + _WITHIN_PAGE >> PAGE_SHIFT
