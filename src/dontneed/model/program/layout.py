"""What a fresh process has mapped: a small program, the C library, a heap, a stack, and what the kernel adds.

The places are those of a process whose address space is not randomised, so that every run of the model is the same one.

Kernel:
    fs/binfmt_elf.c load_elf_binary(), arch/x86/mm/mmap.c, arch/x86/entry/vdso/vma.c.
"""

from __future__ import annotations

from dontneed.model.calls.mappings import MMAP_TOP, mmap, mprotect
from dontneed.model.memory.frames import KERNEL_FRAME
from dontneed.model.memory.page_cache import KERNELS
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import FILE, PFN, YOUNG
from dontneed.model.space.mm import PAGE_SHIFT, Mm
from dontneed.model.space.vma import EXEC, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.memory.page_cache import File
    from dontneed.model.system import System
    from dontneed.model.versions import Behaviour

_PROGRAM_FIRST = 0x5_5555_5554
_STACK_TOP = 0x7_FFFF_FFFF
_STACK_PAGES = 33
_STACK_USED_PAGES = 3
_HEAP_PAGES = 33
_HEAP_USED_PAGES = 2
_VVAR_PAGES = 4
_VCLOCK_PAGES = 2
_VDSO_PAGES = 2

_RELRO = 0
"""The access of a segment that is written to by the dynamic linker, and made read-only then."""

_Segments = tuple[tuple[int, int], ...]
"""Access and pages of the segments of a file, one behind the other."""

_TEXT = READ | EXEC
_DATA = READ | WRITE
_PROGRAM: _Segments = ((READ, 2), (_TEXT, 5), (READ, 3), (_RELRO, 1), (_DATA, 1))
_LIBC: _Segments = ((READ, 38), (_TEXT, 342), (READ, 83), (_RELRO, 4), (_DATA, 2))
_LIBC_ZEROED_PAGES = 13
_LINKER: _Segments = ((READ, 1), (_TEXT, 38), (READ, 10), (_RELRO, 2), (_DATA, 2))


class Program:
    """The files of a small program: every process of a machine maps these, and shares their page cache.

    Attributes:
        text: the program itself.
        libc, linker: the C library, and what loads it.
        vdso: the kernel's own pages of code.
    """

    def __init__(self, system: System) -> None:
        self.text = _file(system, "/usr/bin/program", _PROGRAM)
        self.libc = _file(system, "/usr/lib/x86_64-linux-gnu/libc.so.6", _LIBC)
        self.linker = _file(system, "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", _LINKER)
        self.vdso = system.new_file("[vdso]", _VDSO_PAGES, kind=FILE)
        self.vdso.nature = KERNELS


def load(mm: Mm, program: Program) -> None:
    """Map a program into an empty address space, and touch what it has touched when it runs."""
    heap = _map_file(mm, _PROGRAM_FIRST, program.text, _PROGRAM)
    _map_used(mm, heap, _HEAP_PAGES, _HEAP_USED_PAGES, name="[heap]")
    mm.brk_first, mm.brk = heap, heap + _HEAP_PAGES << PAGE_SHIFT

    first = MMAP_TOP - program.linker.pages
    _map_file(mm, first, program.linker, _LINKER)
    first = _map_kernel_pages(mm, first, program)
    first -= program.libc.pages + _LIBC_ZEROED_PAGES
    zeroed = _map_file(mm, first, program.libc, _LIBC)
    _map_used(mm, zeroed, _LIBC_ZEROED_PAGES, 1)

    mmap(mm, _STACK_TOP - _STACK_PAGES, _STACK_TOP, READ | WRITE, flags=vm.GROWS_DOWN, name="[stack]")
    touch(mm, _STACK_TOP - _STACK_USED_PAGES, _STACK_TOP, write=True)
    mm.minor_faults = mm.major_faults = 0


def _file(system: System, name: str, segments: _Segments) -> File:
    return system.new_file(name, sum(pages for _, pages in segments), kind=FILE)


def _map_file(mm: Mm, first: int, file: File, segments: _Segments) -> int:
    """Map a file's segments from a page on, and touch their beginnings; the page behind them."""
    offset = 0
    for access, pages in segments:
        start, end = first + offset, first + offset + pages
        writable = access in (_RELRO, _DATA)
        mmap(mm, start, end, _DATA if writable else access, file=file, offset=offset)
        touch(mm, start, end if writable else start + 1, write=writable)
        if access == _RELRO:
            mprotect(mm, start, end, READ)
        offset += pages
    return first + offset


def _map_used(mm: Mm, first: int, pages: int, used: int, *, name: str = "") -> None:
    """Map anonymous memory, and write to the first pages of it."""
    mmap(mm, first, first + pages, _DATA, name=name)
    touch(mm, first, first + used, write=True)


def _map_kernel_pages(mm: Mm, top: int, program: Program) -> int:
    """Map what the kernel gives to every process below a page; the lowest of its pages."""
    behaviour = mm.system.behaviour
    first = top - _VDSO_PAGES
    flags = vm.DONT_EXPAND
    mmap(mm, first, top, _TEXT, file=program.vdso, flags=flags, name="[vdso]")
    touch(mm, first, first + 1, write=False)
    by_number = flags | vvar_flags(behaviour)
    if behaviour.vvar_clocks_apart:
        first = _map_by_number(mm, first, _VCLOCK_PAGES, by_number, "[vvar_vclock]")
    if behaviour.vvar:
        first = _map_by_number(mm, first, _VVAR_PAGES, by_number, "[vvar]")
        mm.table.put(first, first + 1, PFN | YOUNG, KERNEL_FRAME)
    return first


def vvar_flags(behaviour: Behaviour) -> int:
    """The flags of [vvar] that it has without anybody's asking."""
    kind = vm.PFNMAP if behaviour.vvar_by_number else vm.MIXED_MAP
    return vm.DONT_EXPAND | vm.DONT_DUMP | kind | (vm.IO if behaviour.vvar_is_io else 0)


def _map_by_number(mm: Mm, top: int, pages: int, flags: int, name: str) -> int:
    """Map pages without page structures, which never can be written to; the lowest of them."""
    first = top - pages
    mmap(mm, first, top, READ, flags=flags, name=name)
    vma = mm.vmas.find(first)
    assert vma is not None  # noqa: S101 - it was just mapped
    vma.flags &= ~(vm.MAY_WRITE | vm.MAY_EXEC)
    return first
