"""mseal(2): mappings that nobody may unmap, move, resize, protect otherwise, or discard without leave to write.

What a seal forbids is checked where it is tried: `mappings` (munmap, mprotect, and mmap over it), `remap`, `advice`.
Locking, faults and advice that loses nothing go on as before.

Kernel:
    mm/mseal.c, since 6.10; 64 bits only.
"""

from __future__ import annotations

from dontneed.abi.errnos import EINVAL, ENOMEM, ENOSYS
from dontneed.model.calls.mappings import set_flags
from dontneed.model.space import vma as vm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma


def mseal(mm: Mm, first: int, last: int, flags: int = 0) -> int:
    """mseal(2), in pages: all of the range, or, if any of it is not mapped, nothing. There is no way back.

    Args:
        mm: whose memory.
        first: page number.
        last: page number; equal to `first`, it is a success anywhere.
        flags: none are known.
    Returns:
        The errno, or 0. Sealing what is sealed succeeds.
    """
    if not mm.system.behaviour.seals:
        return ENOSYS
    if flags or last < first:
        return EINVAL
    if _has_hole(mm, first, last):
        return ENOMEM
    page = first
    loses_place = False
    while page < last:
        vma = mm.vmas.find(page)
        assert vma is not None  # noqa: S101 - there is no hole
        end = min(vma.last, last)
        if vma.flags & vm.SEALED:
            loses_place = loses_place and vma.first < page
        elif loses_place:
            _seal_apart(mm, vma, end)
            loses_place = False
        else:
            sealed = set_flags(mm, vma, page, end, vma.flags | vm.SEALED)
            if sealed is None:
                return ENOMEM
            loses_place = sealed.last > end and mm.system.behaviour.seal_loses_place
        page = end
    return 0


def _seal_apart(mm: Mm, vma: Vma, last: int) -> None:
    """Seal a mapping up to `last`, and do not merge it with the one below."""
    mm.vmas.split(last)
    vma.flags |= vm.SEALED
    mm.vmas.merge_above(vma)


def _has_hole(mm: Mm, first: int, last: int) -> bool:
    page = first
    for vma in mm.vmas.within(first, last):
        if vma.first > page:
            return True
        page = vma.last
    return page < last
