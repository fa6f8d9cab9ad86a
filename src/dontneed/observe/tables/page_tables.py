"""The page tables of a process as the processor reads them, from the kernel's own memory, without stopping anything.

`walk` follows the directories to one page. `dump` counts all pages of a process, mapping by mapping: exact, faster than
anything that /proc has, and without the target's mmap_lock, so that nobody waits. Both need root, or CAP_BPF,
CAP_PERFMON and CAP_SYS_ADMIN, and a kernel with BTF on x86-64; where something is missing they raise, and say what.

    with ProcessDirectory(pid) as process, kernel_memory() as memory:
        table = read_maps(process)
        counts = dump(process, table, memory)  # a TableCounts: .rss[row], .accessed, .dirty, .huge, .zero, …

`kernel_memory()` is set up once (milliseconds) and kept for the next block; `dump` without `memory` takes one itself.
Entries themselves are given by `branches`, of one process, and by `reader`, of many at once.
"""

from __future__ import annotations

from contextlib import nullcontext

from dontneed.abi.page_entry import FRAME_MASK, LEVEL_BITS, POINTER, level_index
from dontneed.abi.page_walk import WalkedEntry, decode_path, is_last
from dontneed.abi.pagemap import ENTRY_BYTES
from dontneed.errors import DontneedError, ProcessGone, TargetRefused, UsageError, WrongType
from dontneed.kernel.kernel_memory import FEW_PAGES, PAGES_A_CALL, kernel_memory
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.tables.branches import BranchReader
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.tasks import Task
    from dontneed.observe.tables.counts import TableCounts
    from dontneed.observe.tables.plain_counts import PlainCounts

_TRIES = 16
_USER_HALF = 1 << 8
_FORMAT = (6, 18)
"""How entries that are not present are read: so since 4.18, and whoever has programs for bpf(2) to run is newer."""


class Walk(Record):
    """The way to a page through the page tables.

    Attributes:
        pid: whose.
        address: the page's, in bytes.
        levels: of tables on this machine, 4 or 5.
        raw: the 64 bits of each entry, from the PGD down to the first that maps a page or has nothing below it.
        zero_frame: the frame of the shared zero page, where it is known.
    """

    pid: int
    address: int
    levels: int
    raw: tuple[int, ...]
    zero_frame: int | None = None

    @property
    def entries(self) -> tuple[WalkedEntry, ...]:
        """The entries in words: each time they are asked for, since that takes longer than reading them."""
        page = self.address // PAGE_BYTES
        return decode_path(page, self.raw, self.levels, _FORMAT, zero_frame=self.zero_frame)

    @property
    def frame(self) -> int | None:
        """The frame behind the page; None where there is none."""
        last = self.entries[-1]
        if last.frame is None or last.table == "PTE":
            return last.frame
        inside = (1 << LEVEL_BITS * (self.levels - len(self.raw))) - 1
        return last.frame & ~inside | self.address // PAGE_BYTES & inside


def walk(pid: int | None, address: int) -> Walk:
    """Follow the page tables of a process to one address, live, without stopping or changing it.

    Args:
        pid: a process id; None is the calling process.
        address: of user space; mapped or not, page-aligned or not.
    Returns:
        A `Walk`: each entry raw, decoded, and in words.
    Raises:
        WrongType, UsageError: no pid, or no address of user space.
        ProcessGone: no such process, or it ended or replaced its program meanwhile.
        NoAddressSpace: a kernel thread.
        NotPermitted: for want of rights, or forbidden by lockdown, seccomp, a container.
        KernelLacks: without bpf(2), BTF, or on another processor than x86-64.
    Kernel:
        since 5.14; bpf(2), /sys/kernel/btf/vmlinux; see `kernel/kernel_memory.py`.
    """
    with ProcessDirectory(pid) as process, kernel_memory() as memory:
        return read_walk(process, address, memory)


def read_walk(process: ProcessDirectory, address: int, memory: KernelMemory, task: Task | None = None) -> Walk:
    """`walk`, of a process that is held, by a way to the kernel's memory that is there already.

    Args:
        process: whose tables.
        address: in bytes.
        memory: as `kernel_memory()` gives it.
        task: the process's own, where it is known: it is looked up otherwise.
    """
    page = _checked_page(address, memory.levels)
    task = task or memory.task(process)
    for _ in range(_TRIES):
        raw = _read_path(memory, task, page)
        if raw is not None:
            return Walk(process.pid, page * PAGE_BYTES, memory.levels, raw, memory.zero_frame)
    msg = f"the page tables of process {process.pid} changed each time they were read, {_TRIES} times"
    raise TargetRefused(msg, hint="try again")


def dump(process: ProcessDirectory, table: MapsTable, memory: KernelMemory | None = None) -> TableCounts:
    """Count the pages of every mapping of a process from its page tables, without stopping it or making it wait.

    Args:
        process: whose.
        table: its mappings, as `kernel.maps.read_maps` gives them right before.
        memory: as `kernel_memory()` gives it; None: taken for this call.
    Returns:
        Bytes by row of `table`; what lies in none of its mappings is counted as unmatched.
    Raises:
        As `walk`.
    """
    from dontneed.observe.tables.counts import TableCounts

    with kernel_memory() if memory is None else nullcontext(memory) as way:
        counts = TableCounts(table, way.zero_frame)
        _count(process, way, counts, PAGES_A_CALL)
        return counts


def dump_plainly(process: ProcessDirectory, table: MapsTable, memory: KernelMemory) -> PlainCounts:
    """`dump` without numpy: the same counts in lists, sooner than numpy is imported and later than it would be."""
    from dontneed.observe.tables.plain_counts import PlainCounts

    counts = PlainCounts(table, memory.zero_frame)
    _count(process, memory, counts, FEW_PAGES)
    return counts


def _count(process: ProcessDirectory, memory: KernelMemory, counts: TableCounts | PlainCounts, most_pages: int) -> None:
    reader = BranchReader(memory, memory.task(process), most_pages)
    for branch in reader:
        counts.add(branch)
    if reader.gone:
        raise _gone(process)
    counts.unsettled_bytes = sum(end - start for start, end in reader.unsettled)


def _checked_page(address: int, levels: int) -> int:
    """The page of an address of user space."""
    if isinstance(address, bool) or not hasattr(address, "__index__"):
        msg = f"an address is an integer, not {type(address).__name__} {address!r}"
        raise WrongType(msg, hint="convert it: int(text, 16)")
    page = int(address.__index__()) // PAGE_BYTES
    if not 0 <= page < _USER_HALF << LEVEL_BITS * (levels - 1):
        msg = f"{address:#x} is no address of user space"
        raise UsageError(msg, hint="`dontneed look PID` shows what is mapped where")
    return page


def _read_path(memory: KernelMemory, task: Task, page: int) -> tuple[int, ...] | None:
    """The entries on the way to a page; None if something moved while they were read.

    The way down shows where the tables are. Then all are read again in one call, from the last one up, with what tells
    that the process is still there: so each table was in its place when the one below it was read.
    """
    places = [task.root]
    seen: list[int] = []
    for level in range(memory.levels - 1, -1, -1):
        offset = level_index(page, level) * ENTRY_BYTES
        if memory.read(places[-1:]):
            return None
        seen.append(memory.word(0, offset))
        if is_last("PTE" if not level else "", seen[-1]):
            break
        places.append(memory.base + (seen[-1] & FRAME_MASK))
    tables = places[::-1]
    watched = [address & -PAGE_BYTES for address in task.watched]
    failed = memory.read([*tables, *watched])
    for nth, (address, value) in enumerate(zip(task.watched, task.values, strict=True), len(tables)):
        if nth in failed or memory.word(nth, address) != value:
            msg = f"process {task.pid} ended or replaced its program while its page tables were read"
            raise ProcessGone(msg)
    if failed:
        return None
    depth = len(places)
    raws = [
        memory.word(depth - 1 - nth, level_index(page, memory.levels - 1 - nth) * ENTRY_BYTES) for nth in range(depth)
    ]
    if [raw & POINTER for raw in raws[:-1]] != [raw & POINTER for raw in seen[:-1]]:
        return None
    if not is_last("PTE" if depth == memory.levels else "", raws[-1]):
        return None  # a table has come meanwhile
    return tuple(raws)


def _gone(process: ProcessDirectory) -> DontneedError:
    """The error for a process that is not any more what it was."""
    try:
        process.read("statm")
    except ProcessGone as gone:
        return gone
    msg = f"process {process.pid} ended or replaced its program while its page tables were read"
    return TargetRefused(msg, hint="try again")
