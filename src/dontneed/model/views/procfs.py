"""The text files of /proc that tell of a modelled process's memory, in the bytes that its kernel would print.

`maps` and `smaps` are complete. `status` goes as far as the number of threads: what follows tells of signals,
capabilities and CPUs. The binary files are in `pagemap.py`.

Kernel:
    fs/proc/task_mmu.c show_map_vma(), show_smap(), task_mem(); fs/proc/array.c proc_pid_status().
"""

from __future__ import annotations

from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, FILE, HUGETLB, LEAF_PAGES, SHMEM, SWAP
from dontneed.model.space.mm import PAGE_SHIFT
from dontneed.model.views.smaps_counts import count_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.model.process import Process
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.versions import Behaviour

_KIB_SHIFT = 10
_PAGE_KIB = 1 << PAGE_SHIFT - _KIB_SHIFT
_HUGE_PAGE_KIB = 2048
_NAME_COLUMN = 73

_VSYSCALL_START, _VSYSCALL_END = 0xFFFF_FFFF_FF60_0000, 0xFFFF_FFFF_FF60_1000

_ALL_BITS = (1 << 64) - 1

_NO_DEVICE = "00:00"
_DEVICES = {FILE: "fe:00", SHMEM: "00:01", HUGETLB: "00:10"}
"""Major and minor number of what files are on, by their kind."""

_FLAG_LETTERS = (
    (vm.READ, "rd"),
    (vm.WRITE, "wr"),
    (vm.EXEC, "ex"),
    (vm.SHARED, "sh"),
    (vm.MAY_READ, "mr"),
    (vm.MAY_WRITE, "mw"),
    (vm.MAY_EXEC, "me"),
    (vm.MAY_SHARE, "ms"),
    (vm.GROWS_DOWN, "gd"),
    (vm.PFNMAP, "pf"),
    (vm.MAYBE_GUARD, "gu"),
    (vm.LOCKED, "lo"),
    (vm.IO, "io"),
    (vm.SEQ_READ, "sr"),
    (vm.RAND_READ, "rr"),
    (vm.DONT_COPY, "dc"),
    (vm.DONT_EXPAND, "de"),
    (vm.LOCK_ON_FAULT, "lf"),
    (vm.ACCOUNT, "ac"),
    (vm.NO_RESERVE, "nr"),
    (vm.HUGETLB, "ht"),
    (vm.NONLINEAR, "nl"),
    (vm.WIPE_ON_FORK, "wf"),
    (vm.DONT_DUMP, "dd"),
    (vm.MIXED_MAP, "mm"),
    (vm.HUGE_PAGE, "hg"),
    (vm.NO_HUGE_PAGE, "nh"),
    (vm.MERGEABLE, "mg"),
    (vm.DROPPABLE, "dp"),
    (vm.SEALED, "sl"),
)
"""In the order of their bits in the kernel, in which they are printed."""

_SIZE_LINES = ("KernelPageSize", "MMUPageSize")
_COUNT_LINES = (
    "Rss",
    "Pss",
    "Pss_Dirty",
    "Shared_Clean",
    "Shared_Dirty",
    "Private_Clean",
    "Private_Dirty",
    "Referenced",
    "Anonymous",
    "KSM",
    "LazyFree",
    "AnonHugePages",
    "ShmemPmdMapped",
    "FilePmdMapped",
    "Shared_Hugetlb",
    "Private_Hugetlb",
    "Swap",
    "SwapPss",
)


def maps(process: Process) -> bytes:
    """/proc/PID/maps."""
    lines = [_map_line(vma) for vma in process.mm.vmas]
    lines.append(_vsyscall_line(process.system.behaviour))
    return _text(lines)


def smaps(process: Process) -> bytes:
    """/proc/PID/smaps."""
    behaviour = process.system.behaviour
    lines = []
    for vma in process.mm.vmas:
        lines.append(_map_line(vma))
        lines += smaps_lines(process.mm, vma)
    lines.append(_vsyscall_line(behaviour))
    lines += smaps_lines(process.mm, vm.Vma(0, 1, vm.EXEC, None, 0))
    return _text(lines)


def status(process: Process) -> bytes:
    """/proc/PID/status, up to the number of threads."""
    prints = process.system.behaviour.prints
    lines = []
    for name, value in (*_identity(process), *_memory(process), *_life(process)):
        if prints(name):
            lines.append(f"{name}:\t{value}")
    return _text(lines)


# maps


def _map_line(vma: Vma) -> str:
    offset, device, inode, name = 0, _NO_DEVICE, 0, vma.name
    if vma.file is not None and vma.has_file:
        offset, device = vma.offset << PAGE_SHIFT, _DEVICES.get(vma.file.kind, _NO_DEVICE)
        inode, name = vma.file.inode, vma.file.name
    start, end = vma.first << PAGE_SHIFT, vma.last << PAGE_SHIFT
    return _padded(f"{start:08x}-{end:08x} {_permissions(vma)} {offset:08x} {device} {inode} ", name)


def _vsyscall_line(behaviour: Behaviour) -> str:
    """The page that is in no process's tables, and that every process sees above all others."""
    permissions = "--xp" if behaviour.vsyscall_execute_only else "r-xp"
    return _padded(f"{_VSYSCALL_START:x}-{_VSYSCALL_END:x} {permissions} 00000000 00:00 0 ", "[vsyscall]")


def _padded(head: str, name: str) -> str:
    escaped = name.replace("\n", "\\012")
    return f"{head:{_NAME_COLUMN}}{escaped}" if name else head


def _permissions(vma: Vma) -> str:
    flags = vma.flags
    return (
        f"{'r' if flags & vm.READ else '-'}{'w' if flags & vm.WRITE else '-'}{'x' if flags & vm.EXEC else '-'}"
        f"{'s' if flags & vm.MAY_SHARE else 'p'}"
    )


# smaps


def smaps_lines(mm: Mm, vma: Vma) -> Iterator[str]:
    """What smaps prints of a mapping below its line of maps."""
    behaviour = mm.system.behaviour
    counts = count_pages(mm, vma)
    yield _smaps_line("Size", vma.pages * _PAGE_KIB)
    if behaviour.smaps_sizes_first:
        yield from _page_sizes(vma)
    for name in _COUNT_LINES:
        if behaviour.prints(name):
            yield _smaps_line(name, counts.kib(name))
    if not behaviour.smaps_sizes_first:
        yield from _page_sizes(vma)
    if behaviour.prints("Locked"):
        yield _smaps_line("Locked", counts.kib("Pss") if vma.flags & vm.LOCKED else 0)
    if behaviour.prints("THPeligible"):
        yield f"{'THPeligible:':16}{int(_may_be_huge(mm, vma)):8}"
    if behaviour.prints("VmFlags"):
        letters = "".join(f"{letters} " for flag, letters in _FLAG_LETTERS if vma.flags & flag)
        yield f"VmFlags: {letters}"


def _page_sizes(vma: Vma) -> Iterator[str]:
    for name in _SIZE_LINES:
        yield _smaps_line(name, _HUGE_PAGE_KIB if vma.flags & vm.HUGETLB else _PAGE_KIB)


def _smaps_line(name: str, kib: int) -> str:
    return f"{name + ':':16}{kib:8} kB"


def _may_be_huge(mm: Mm, vma: Vma) -> bool:
    """Whether a fault in a mapping may bring a huge page."""
    enabled = "never" if mm.huge_disabled else mm.system.huge_enabled
    wanted = enabled == "always" or (enabled == "madvise" and vma.flags & vm.HUGE_PAGE)
    if not wanted or not vma.is_anonymous or vma.flags & (vm.NO_HUGE_PAGE | vm.SPECIAL):
        return False
    return mm.system.behaviour.huge_pages and -(-vma.first // LEAF_PAGES) < vma.last // LEAF_PAGES


# status


def _identity(process: Process) -> Iterator[tuple[str, str]]:
    """Who the process is: root, and alone in its group and session."""
    yield "Name", process.name
    yield "Umask", "0022"
    yield "State", "S (sleeping)"
    yield "Tgid", str(process.pid)
    yield "Ngid", "0"
    yield "Pid", str(process.pid)
    yield "PPid", str(process.parent)
    yield "TracerPid", "0"
    yield "Uid", "0\t0\t0\t0"
    yield "Gid", "0\t0\t0\t0"
    yield "FDSize", "64"
    yield "Groups", " "
    for space in ("NStgid", "NSpid", "NSpgid", "NSsid"):
        yield space, str(process.pid)
    yield "Kthread", "0"


def _memory(process: Process) -> Iterator[tuple[str, str]]:
    """The lines of task_mem()."""
    mm = process.mm
    behaviour = mm.system.behaviour
    resident = mm.resident
    data, stack, text, library = _kinds_of_size(process)
    tables = [size >> PAGE_SHIFT for size in mm.table.table_bytes()]
    for name, pages in (
        ("VmPeak", process.peak_pages),
        ("VmSize", mm.size_pages),
        ("VmLck", mm.locked_pages),
        ("VmPin", 0),
        ("VmHWM", max(mm.peak_pages, mm.rss_pages)),
        ("VmRSS", mm.rss_pages),
        ("RssAnon", resident[ANON]),
        ("RssFile", resident[FILE]),
        ("RssShmem", resident[SHMEM]),
        ("VmData", data),
        ("VmStk", stack),
        ("VmExe", text),
        ("VmLib", library),
        ("VmPTE", sum(tables) if behaviour.counts_upper_tables else tables[0]),
        *([] if behaviour.counts_upper_tables else [("VmPMD", tables[1])]),
        ("VmSwap", resident[SWAP]),
        ("HugetlbPages", mm.hugetlb_pages),
    ):
        yield name, f"{pages * _PAGE_KIB:8} kB"


def _life(process: Process) -> Iterator[tuple[str, str]]:
    yield "CoreDumping", "0"
    yield "THP_enabled", str(int(not process.mm.huge_disabled))
    yield "untag_mask", f"{_ALL_BITS:#x}"
    yield "Threads", str(process.threads)


def _kinds_of_size(process: Process) -> tuple[int, int, int, int]:
    """How many pages are mapped as private writable memory, as stack, as the program's code and as other code."""
    data = stack = text = library = 0
    program = process.program.text if process.program is not None else None
    for vma in process.mm.vmas:
        if vma.flags & vm.GROWS_DOWN:
            stack += vma.pages
        elif vma.flags & (vm.WRITE | vm.SHARED) == vm.WRITE:
            data += vma.pages
        elif vma.flags & vm.EXEC and vma.file is program:
            text += vma.pages
        elif vma.flags & vm.EXEC:
            library += vma.pages
    return data, stack, text, library


def _text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
