"""A traced process in the model: its events become page faults and system calls of a modelled address space."""

from __future__ import annotations

from dontneed.abi import mman
from dontneed.abi import trace_kinds as kinds
from dontneed.lab.replayed.calls import ACTIONS, ANSWERED_BY_ADDRESS, pages_in
from dontneed.lab.replayed.files import ReplayedFiles
from dontneed.model.calls import fork as forking
from dontneed.model.calls import mappings
from dontneed.model.paging.faults import fill_page, touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import YOUNG, ZERO
from dontneed.model.space.mm import PAGE_SHIFT, Mm

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.kernel.maps import MapsTable
    from dontneed.model.space.vma import Vma
    from dontneed.model.system import System

_STACK, _HEAP = "[stack]", "[heap]"
_MAX_ERRNO = 4095


class ReplayedProcess:
    """The modelled twin of a traced process.

    Args:
        system: the modelled machine.

    Attributes:
        mm: its memory.
        unmatched: faults in no mapping that is known.
        otherwise: calls that the model answers otherwise than the traced kernel did, by name.
        unseen: calls whose effect the trace does not tell, by name.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.mm = Mm(system)
        self.unmatched = 0
        self.otherwise: dict[str, int] = {}
        self.unseen: dict[str, int] = {}
        self._files = ReplayedFiles(system)
        self._near: Vma | None = None

    # Beginnings

    def begin_in_the_middle(self, table: MapsTable) -> None:
        """Map what /proc/PID/maps said; which of its pages are there is not known, so none is."""
        for row, (start, end) in enumerate(zip(table.starts, table.ends, strict=True)):
            perms, offset, _, _, name = table.words(row)
            if end >> PAGE_SHIFT > self.mm.top:  # [vsyscall]
                continue
            access = sum(
                bit for letter, bit in zip("rwx", (vm.READ, vm.WRITE, vm.EXEC), strict=True) if letter in perms
            )
            self._map(start, end, access, name, offset, shared=perms[3] == "s")
            if name == _HEAP:
                self.mm.brk_first, self.mm.brk = self.mm.brk_first or start >> PAGE_SHIFT, end

    def exec(self) -> None:
        """A new program: a fresh address space."""
        self.mm = Mm(self.system)
        self._near = None

    def fork(self) -> None:
        """Go on as the child that was just forked."""
        self.mm = forking.fork(self.mm)
        self._near = None

    def fill_arguments(self, pages: int) -> None:
        """Have the uppermost pages of the stack be there, which exec fills with arguments and environment."""
        for vma in reversed(list(self.mm.vmas)):
            if vma.flags & vm.GROWS_DOWN:
                touch(self.mm, max(vma.last - pages, vma.first), vma.last, write=True)
                return

    # Events

    def fault(self, address: int, code: int) -> int:
        """A page fault; how many pages it brought into RSS."""
        page = address >> PAGE_SHIFT
        mm, vma = self.mm, self._near
        if vma is None or not vma.first <= page < vma.last:
            vma = self._near = mm.vmas.find(page)
        if code & kinds.WRITE and vma is not None and fill_page(mm, vma, page):
            return 1
        before = mm.rss_pages
        signal = touch(mm, page, page + 1, write=bool(code & kinds.WRITE))
        self.unmatched += signal > 0 and vma is None
        return mm.rss_pages - before

    def reveal(self, address: int) -> None:
        """A fault says that a page was there and protected, of which the trace has no beginning.

        Of a file it was the file's page; else the zero page, which needs no fork to be protected.
        """
        page = address >> PAGE_SHIFT
        vma = self.mm.vmas.find(page)
        if vma is None or self.mm.table.get(page)[0]:
            return
        if vma.file is None:
            self.mm.table.put(page, page + 1, ZERO | YOUNG, 0)
        else:
            touch(self.mm, page, page + 1, write=False)

    def mapped(self, start: int, length: int, offset: int, name: str, protection: int, flags: int) -> None:
        """A mapping that exec makes, or another call that tells of no more."""
        shared = bool(flags & mman.MAP_SHARED)
        self._map(start, start + length, protection & mman.PROTECTIONS, name, offset, shared=shared)

    def call(self, name: str, arguments: Sequence[int], result: int, file_name: str | None = None) -> None:
        """A system call that the kernel answered so.

        Args:
            name: of the call.
            arguments: all of them.
            result: what it returned, signed.
            file_name: what mmap maps, where the kernel has told.
        """
        self._near = None
        if name == "mmap":
            if not -_MAX_ERRNO <= result < 0:
                self._mmap(arguments, result, file_name)
            return
        is_refused = -_MAX_ERRNO <= result < 0
        if name in _UNSEEN and not is_refused:
            self.unseen[name] = self.unseen.get(name, 0) + 1
        if name not in ACTIONS or (is_refused and name != "madvise"):
            return  # what the kernel refused changed nothing, but for what madvise did before
        answer = ACTIONS[name](self.mm, arguments, result)
        if answer != (result if name in ANSWERED_BY_ADDRESS else -result):
            self.otherwise[name] = self.otherwise.get(name, 0) + 1

    # Calls

    def _map(self, start: int, end: int, access: int, name: str, offset: int, *, shared: bool) -> None:
        file = self._files.named(name)
        flags = self._files.flags(name) | (vm.GROWS_DOWN if name == _STACK else 0)
        mappings.mmap(
            self.mm,
            start >> PAGE_SHIFT,
            end >> PAGE_SHIFT,
            access,
            shared=shared,
            file=file,
            offset=offset >> PAGE_SHIFT if file is not None else 0,
            flags=flags,
            name=name if file is None and name not in ("", _HEAP) else "",
        )

    def _mmap(self, arguments: Sequence[int], result: int, file_name: str | None) -> None:
        _, length, protection, how, _, offset = arguments
        shared = bool(how & mman.MAP_SHARED)
        flags, file = 0, None
        if how & mman.MAP_ANONYMOUS:
            file = self._files.shared() if shared and not how & mman.MAP_HUGETLB else None
        elif file_name is not None:
            file = self._files.named(file_name)
            flags = self._files.flags(file_name)
        for bit, flag in _MMAP_FLAGS:
            if how & bit:
                flags |= flag
        if how & mman.MAP_STACK and self.system.behaviour.small_stacks:
            flags |= vm.NO_HUGE_PAGE
        first = result >> PAGE_SHIFT
        last = first + pages_in(length)
        refused = mappings.mmap(
            self.mm,
            first,
            last,
            protection & mman.PROTECTIONS,
            shared=shared,
            file=file,
            offset=offset >> PAGE_SHIFT,
            flags=flags,
        )
        if not refused and how & (mman.MAP_POPULATE | mman.MAP_NONBLOCK) == mman.MAP_POPULATE:
            mappings.populate(self.mm, first, last)


_MMAP_FLAGS = (
    (mman.MAP_GROWSDOWN, vm.GROWS_DOWN),
    (mman.MAP_LOCKED, vm.LOCKED),
    (mman.MAP_NORESERVE, vm.NO_RESERVE),
    (mman.MAP_HUGETLB, vm.HUGETLB),
)
_UNSEEN = ("process_madvise", "remap_file_pages")
"""What these act on stands in memory that the trace does not have, or is emulated."""
