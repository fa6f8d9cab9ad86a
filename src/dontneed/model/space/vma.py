"""The mappings of an address space (`struct vm_area_struct`), in order, with the rules of splitting and merging.

Kernel:
    2.6.32: mm/mmap.c vma_merge(), split_vma(), can_vma_merge_before(); 6.18: mm/vma.c vma_merge_existing_range(),
    is_mergeable_vma(), is_mergeable_anon_vma(). The numbers of the flags are those of include/linux/mm.h.
"""

from __future__ import annotations

from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.memory.page_cache import File

READ = 1 << 0
WRITE = 1 << 1
EXEC = 1 << 2
SHARED = 1 << 3
MAY_READ = 1 << 4
MAY_WRITE = 1 << 5
MAY_EXEC = 1 << 6
MAY_SHARE = 1 << 7
GROWS_DOWN = 1 << 8
MAYBE_GUARD = 1 << 9
"""Guard markers were installed here (6.18.y, 6.19): sticky, and no hindrance to merging."""
PFNMAP = 1 << 10
LOCKED = 1 << 13
IO = 1 << 14
SEQ_READ = 1 << 15
RAND_READ = 1 << 16
DONT_COPY = 1 << 17
DONT_EXPAND = 1 << 18
LOCK_ON_FAULT = 1 << 19
ACCOUNT = 1 << 20
NO_RESERVE = 1 << 21
HUGETLB = 1 << 22
NONLINEAR = 1 << 23
WIPE_ON_FORK = 1 << 25
DONT_DUMP = 1 << 26
MIXED_MAP = 1 << 28
HUGE_PAGE = 1 << 29
NO_HUGE_PAGE = 1 << 30
MERGEABLE = 1 << 31
DROPPABLE = 1 << 40
SEALED = 1 << 42

ACCESS = READ | WRITE | EXEC
SPECIAL = IO | DONT_EXPAND | PFNMAP | MIXED_MAP
"""Mapped by the kernel or a driver: never merged."""

_anon_vmas = count(1)


def new_anon_vma() -> int:
    """The identity of a fresh `struct anon_vma`: what the anonymous pages of a mapping know their mappers by."""
    return next(_anon_vmas)


class Vma:
    """One mapping of pages `[first, last)`.

    Attributes:
        flags: VM_*.
        file, offset: what is mapped, and from which of its pages on; anonymous memory counts from its first page.
        anon_vma: the identity of its anon_vma; 0 while it never held an anonymous page.
        inherited: its anonymous pages may belong to an ancestor's anon_vma too, so it does not take a neighbour's.
        name: what /proc/PID/maps prints for a mapping without a file.
    """

    __slots__ = ("anon_vma", "file", "first", "flags", "inherited", "last", "name", "offset")

    def __init__(self, first: int, last: int, flags: int, file: File | None, offset: int, name: str = "") -> None:
        self.first = first
        self.last = last
        self.flags = flags
        self.file = file
        self.offset = offset
        self.anon_vma = 0
        self.inherited = False
        self.name = name

    def copy(self) -> Vma:
        """Another mapping that says the same."""
        twin = Vma(self.first, self.last, self.flags, self.file, self.offset, self.name)
        twin.anon_vma = self.anon_vma
        twin.inherited = self.inherited
        return twin

    @property
    def pages(self) -> int:
        """How many pages."""
        return self.last - self.first

    @property
    def is_anonymous(self) -> bool:
        """vma_is_anonymous(): no file and no driver answers its faults."""
        file = self.file
        if file is None:
            return not self.flags & (SPECIAL | HUGETLB)
        return file.is_zero_device and not self.flags & SHARED

    @property
    def has_file(self) -> bool:
        """Whether there is a vm_file: the kernel's own pages have none."""
        return self.file is not None and not self.file.is_kernels

    def file_page(self, page: int) -> int:
        """Which page of its file `page` maps."""
        return self.offset + page - self.first


def _anon_vmas_agree(left: Vma, right: Vma) -> bool:
    """Whether two mappings may have one anon_vma."""
    if left.anon_vma and right.anon_vma:
        return left.anon_vma == right.anon_vma
    return not (left.inherited if left.anon_vma else right.inherited if right.anon_vma else False)


def is_mergeable(left: Vma, right: Vma) -> bool:
    """Whether `left` and `right` could be one mapping: they touch, and say the same of contiguous pages."""
    return (
        left.last == right.first
        and not (left.flags ^ right.flags) & ~MAYBE_GUARD
        and not left.flags & SPECIAL
        and left.file is right.file
        and left.offset + left.last - left.first == right.offset
        and left.name == right.name
        and _anon_vmas_agree(left, right)
    )
