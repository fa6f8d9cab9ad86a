"""A modelled process: its address space, and the system calls by which it acts on it. Addresses are in bytes here.

What system calls check before they act on whole pages is checked here: that an address begins a page, that a length is
not 0, that an end does not wrap around. Where the kernel refuses, a call returns the errno; `mmap`, `mremap` and
`process_madvise`, whose success is a number too, return it negative, as the kernel does.

A page holds one byte value throughout: `write` fills the whole of every page that it meets.

Kernel:
    mm/mmap.c ksys_mmap_pgoff(), mm/mprotect.c do_mprotect_pkey(), mm/mlock.c do_mlock(), mm/util.c vm_mmap_pgoff().
"""

from __future__ import annotations

from dontneed.abi.errnos import EINVAL, ENOMEM
from dontneed.model.calls import fork as forking
from dontneed.model.calls import heap, mappings, remap, seal, vector
from dontneed.model.calls.advice import madvise
from dontneed.model.paging import faults
from dontneed.model.paging.hugetlb import close
from dontneed.model.paging.zap import zap
from dontneed.model.program import layout
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import KIND, LEAF_PAGES, SHMEM, ZERO
from dontneed.model.space.mm import PAGE_SHIFT, Mm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.model.memory.page_cache import File
    from dontneed.model.program.layout import Program
    from dontneed.model.system import System

PAGE_BYTES = 1 << PAGE_SHIFT
_WITHIN_PAGE = PAGE_BYTES - 1
_ADDRESSES = 1 << 64 - PAGE_SHIFT
"""Pages that 64 bits can name."""

SHARED_ANONYMOUS_NAME = "/dev/zero (deleted)"
"""What /proc/PID/maps calls MAP_SHARED memory without a file."""


class Process:
    """One process.

    Args:
        system: the machine it runs on.
        program: what it has mapped when it starts; None: nothing.
        name: the command.

    Attributes:
        pid, parent: its number, and its parent's.
        mm: its memory.
        threads: how many threads it has.
        peak_pages: its largest size so far (VmPeak).
    """

    def __init__(self, system: System, program: Program | None = None, *, name: str = "program") -> None:
        self.system = system
        self.program = program
        self.name = name
        self.pid = system.new_pid()
        self.parent = 1
        self.threads = 1
        self.mm = Mm(system)
        if program is not None:
            layout.load(self.mm, program)
        self.peak_pages = self.mm.size_pages

    # Mappings

    def mmap(
        self,
        length: int,
        access: int,
        *,
        address: int | None = None,
        shared: bool = False,
        file: File | None = None,
        offset: int = 0,
        flags: int = 0,
    ) -> int:
        """mmap(2).

        Args:
            length: in bytes; rounded up to pages, or to huge pages with the flag HUGETLB.
            access: READ, WRITE, EXEC of `vma`.
            address: where, whatever is there (MAP_FIXED); None: where there is room.
            shared: MAP_SHARED.
            file: what is mapped; None: anonymous memory.
            offset: where in the file, in bytes.
            flags: further flags of `vma`, such as NO_RESERVE.
        Returns:
            The address, or a negative errno.
        """
        unit = LEAF_PAGES if flags & vm.HUGETLB else 1
        pages = -(-length // (unit << PAGE_SHIFT)) * unit
        if not length or offset & _WITHIN_PAGE or (address or 0) & _WITHIN_PAGE:
            return -EINVAL
        first = mappings.find_gap(self.mm, pages, align=unit) if address is None else address >> PAGE_SHIFT
        if not first or first + pages > self.mm.top:
            return -ENOMEM
        if shared and file is None and not flags & vm.HUGETLB:
            file = self.system.new_file(SHARED_ANONYMOUS_NAME, pages, kind=SHMEM, cached=False)
        refused = mappings.mmap(
            self.mm,
            first,
            first + pages,
            access,
            shared=shared,
            file=file,
            offset=offset >> PAGE_SHIFT,
            flags=flags,
        )
        self._note_peak()
        return -refused or first << PAGE_SHIFT

    def munmap(self, address: int, length: int) -> int:
        """munmap(2)."""
        pages = _pages(length)
        if address & _WITHIN_PAGE or not length or (address >> PAGE_SHIFT) + pages > self.mm.top:
            return EINVAL
        first = address >> PAGE_SHIFT
        return mappings.munmap(self.mm, first, first + pages)

    def mprotect(self, address: int, length: int, access: int) -> int:
        """mprotect(2)."""
        if address & _WITHIN_PAGE:
            return EINVAL
        first, pages = address >> PAGE_SHIFT, _pages(length) % _ADDRESSES
        if length and not 0 < pages <= _ADDRESSES - first:
            return ENOMEM
        return mappings.mprotect(self.mm, first, first + pages, access)

    def mlock(self, address: int, length: int, *, on_fault: bool = False) -> int:
        """mlock(2); mlock2(2) with MLOCK_ONFAULT if `on_fault`."""
        first, last = _locked_range(address, length)
        if last > _ADDRESSES:
            return EINVAL
        return mappings.mlock(self.mm, first, last, on_fault=on_fault) if first < last else 0

    def munlock(self, address: int, length: int) -> int:
        """munlock(2)."""
        first, last = _locked_range(address, length)
        if last > _ADDRESSES:
            return EINVAL
        return mappings.munlock(self.mm, first, last) if first < last else 0

    def madvise(self, address: int, length: int, advice: int) -> int:
        """madvise(2)."""
        return madvise(self.mm, address, length, advice)

    def process_madvise(self, ranges: Sequence[tuple[int, int]], advice: int) -> int:
        """process_madvise(2) on itself, with every right: bytes advised, or a negative errno."""
        return vector.process_madvise(self.mm, ranges, advice)

    def mremap(self, address: int, length: int, new_length: int, *, flags: int = 0, new_address: int = 0) -> int:
        """mremap(2), with flags of `remap`: the address, or a negative errno."""
        if (address | new_address) & _WITHIN_PAGE:
            return -EINVAL
        refused, first = remap.mremap(
            self.mm,
            address >> PAGE_SHIFT,
            _pages(length) % _ADDRESSES,
            _pages(new_length) % _ADDRESSES,
            flags,
            new_address >> PAGE_SHIFT,
        )
        self._note_peak()
        return -refused or first << PAGE_SHIFT

    def mseal(self, address: int, length: int) -> int:
        """mseal(2)."""
        first, pages = address >> PAGE_SHIFT, _pages(length) % _ADDRESSES
        if address & _WITHIN_PAGE or (length and not pages) or first + pages > _ADDRESSES:
            return EINVAL
        return seal.mseal(self.mm, first, first + pages)

    def brk(self, address: int) -> int:
        """brk(2): where the heap ends now."""
        end = heap.brk(self.mm, address)
        self._note_peak()
        return end

    # Contents

    def touch(self, address: int, length: int, *, write: bool) -> int:
        """Touch every page of a range; the signal that the first which cannot be touched raises, or 0."""
        return faults.touch(self.mm, *_page_range(address, length), write=write)

    def write(self, address: int, length: int, byte: int) -> int:
        """Fill every page of a range with a byte; the signal that ends this, or 0."""
        first, last = _page_range(address, length)
        signal = faults.touch(self.mm, first, last, write=True)
        if not signal:
            for start, end, _, value in self.mm.table.runs(first, last):
                self.system.frames.store(value, end - start, byte)
        return signal

    def read(self, address: int, length: int) -> frozenset[int] | int:
        """The byte values found in a range; or the signal that reading it raises, as a negative number."""
        first, last = _page_range(address, length)
        if signal := faults.touch(self.mm, first, last, write=False):
            return -signal
        load = self.system.frames.load
        values: set[int] = set()
        for start, end, code, value in self.mm.table.runs(first, last):
            if code & KIND == ZERO:
                values.add(0)
            else:
                values.update(load(frame) for frame in range(value, value + end - start))
        return frozenset(values)

    # The process itself

    def fork(self) -> Process:
        """fork(2)."""
        child = Process(self.system, name=self.name)
        child.program, child.parent = self.program, self.pid
        child.mm = forking.fork(self.mm)
        child.peak_pages = child.mm.size_pages
        return child

    def exit(self) -> None:
        """Give all memory back (exit_mmap). Not even a seal hinders that."""
        mm = self.mm
        if self.system.path is not None:
            self.system.path.exiting()
        doomed = list(mm.vmas)
        for vma in doomed:
            zap(mm, vma, vma.first, vma.last)
            if vma.file is not None:
                vma.file.mappers.discard(mm)
        mm.vmas.clear()
        close(mm, doomed)
        mm.table.free_tables(0, mm.top, 0, 0)
        self.threads = 0

    def _note_peak(self) -> None:
        self.peak_pages = max(self.peak_pages, self.mm.size_pages)


def _pages(length: int) -> int:
    return (length + _WITHIN_PAGE) >> PAGE_SHIFT


def _page_range(address: int, length: int) -> tuple[int, int]:
    """The pages that `length` bytes from `address` on meet."""
    first = address >> PAGE_SHIFT
    return first, _pages(address + length) if length else first


def _locked_range(address: int, length: int) -> tuple[int, int]:
    """The same as mlock(2) computes it: a length that wraps is none."""
    first = address >> PAGE_SHIFT
    return first, first + _pages(length + (address & _WITHIN_PAGE)) % _ADDRESSES
