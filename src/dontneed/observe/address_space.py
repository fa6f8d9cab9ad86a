"""`look`: all mappings of one process at one moment, with what is behind them.

maps, the page map and the counters are three moments, each coherent only in itself. The counters are read before and
after, and `drift` says how much the process moved in between.
"""

from __future__ import annotations

from time import perf_counter

from dontneed.errors import NoAddressSpace, ProcessGone, UsageError
from dontneed.kernel.maps import MapsTable, read_maps
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import Counters, Identity, Moment, has_memory, read_counters, read_identity, read_moment
from dontneed.observe.mapping import Kinds, Mappings
from dontneed.observe.residency import METHODS, count_pages
from dontneed.observe.stacks.thread_stacks import mark_thread_stacks
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.smaps import SmapsCounters
    from dontneed.observe.difference import Difference
    from dontneed.observe.pages import PageMap
    from dontneed.observe.residency import Residency


_TRIES = 3
"""A process that replaces its program while it is looked at is there all the same, with other memory."""
_ENDED = ("Z", "X")


class Total(Record):
    """The sums over all mappings, in bytes; None where the method cannot tell or was not asked."""

    size_bytes: int
    rss_bytes: int
    swap_bytes: int
    huge_bytes: int | None
    zero_bytes: int | None
    hugetlb_bytes: int
    pss_bytes: int | None = None
    uss_bytes: int | None = None
    accessed_bytes: int | None = None
    dirty_bytes: int | None = None


class Drift(Record):
    """How much the process moved while it was read.

    Attributes:
        rss_bytes, size_bytes: change of its counters from the beginning to the end.
        unmatched_bytes: pages seen outside all mappings that were read: mapped meanwhile.
        seconds: how long the reading took.
    """

    rss_bytes: int
    size_bytes: int
    unmatched_bytes: int
    seconds: float

    @property
    def moved(self) -> bool:
        """Whether anything changed that we could see."""
        return bool(self.rss_bytes or self.size_bytes or self.unmatched_bytes)


class AddressSpace(Record):
    """What `look` returns: the mappings of a process at one moment, with their counters and, when asked, their pages.

    Attributes:
        pid, command: whose they are.
        mappings: a sequence of `Mapping`, in address order.
        total: the sums over all mappings.
        counters: what the kernel counts for the process; total and counters agree when nothing moved.
        drift: how much the process moved while it was read.
        method: how it was read, as `maps + page tables`.
        notes: what could not be seen, and why, in sentences.
        pages: the page map, when asked for.
    """

    pid: int
    command: str
    mappings: Mappings
    total: Total
    counters: Counters
    drift: Drift
    method: str
    notes: tuple[str, ...] = ()
    pages: PageMap | None = None

    def difference(self, other: AddressSpace) -> Difference:
        """What changed from this look to a later one: mappings gone, come and changed, and the counters."""
        from dontneed.observe.difference import difference_of

        return difference_of(self.mappings, other.mappings, self.counters, other.counters)


def look(pid: int | None = None, pages: bool = False, *, smaps: bool = False, method: str = "auto") -> AddressSpace:  # noqa: FBT001, FBT002
    """Look at the address space of a process, without stopping or changing it.

    Args:
        pid: a process id; None is the calling process.
        pages: also read the page map: runs of pages with their state, and frame numbers for root (CAP_SYS_ADMIN).
        smaps: also read the kernel's own counters (PSS, dirty, referenced, lazyfree, locked, VmFlags). Exact, and it
            may stall a large target for tens of milliseconds per GiB: see `kernel/smaps.py`.
        method: how to count pages, one of `METHODS`; `auto` takes the first that works and says which.
    Returns:
        An `AddressSpace`; all sizes in bytes.
    Raises:
        WrongType, UsageError: `pid` cannot be a pid, `method` is not one of `METHODS`.
        ProcessGone: no such process, a zombie, or it ended while it was read.
        NoAddressSpace: a kernel thread.
        NotPermitted: the process belongs to someone else.
        KernelLacks: the method asked for is not there.
    Kernel:
        The page tables (root, since 5.14, x86-64; bpf(2)); /proc/PID/maps, pagemap (PAGEMAP_SCAN since 6.7, its entries
        before), smaps, status, stat, statm; proc(5).
    """
    if method not in METHODS:
        msg = f"there is no method {method!r} to count pages"
        raise UsageError(msg, hint=f"one of {', '.join(METHODS)}")
    with ProcessDirectory(pid) as process:
        for _ in range(_TRIES - 1):
            try:
                return _read(process, method, smaps=smaps or method == "smaps", pages=pages)
            except ProcessGone:  # noqa: PERF203 - two times at most
                if not has_memory(process):
                    raise
        return _read(process, method, smaps=smaps or method == "smaps", pages=pages)


def _read(process: ProcessDirectory, method: str, *, smaps: bool, pages: bool) -> AddressSpace:
    """The steps of a look, in the order in which their facts are needed."""
    began = perf_counter()
    before = read_moment(process)
    identity = read_identity(process)
    table, counted_by_kernel = _read_mappings(process, identity, smaps=smaps)
    notes: list[str] = []
    kinds = Kinds(table)
    residency = count_pages(process, table, kinds, method=method, smaps=counted_by_kernel, notes=notes)
    page_map = _read_pages(process, table) if pages else None
    counters = read_counters(process)
    if counters.threads > 1:
        mark_thread_stacks(process, table, kinds, notes)
    after = _still_there(process.pid, read_moment(process))
    source = "smaps" if smaps else "maps"
    return AddressSpace(
        pid=process.pid,
        command=identity.command,
        mappings=Mappings(table, kinds, residency, counted_by_kernel),
        total=_total(table, residency, counted_by_kernel),
        counters=counters,
        drift=Drift(
            rss_bytes=after.rss_bytes - before.rss_bytes,
            size_bytes=after.size_bytes - before.size_bytes,
            unmatched_bytes=residency.unmatched_bytes,
            seconds=perf_counter() - began,
        ),
        method=source if residency.method == source else f"{source} + {residency.method}",
        notes=tuple(notes),
        pages=page_map,
    )


def _read_mappings(
    process: ProcessDirectory, identity: Identity, *, smaps: bool
) -> tuple[MapsTable, list[SmapsCounters] | None]:
    if smaps:
        from dontneed.kernel.smaps import read_smaps

        table, counted = read_smaps(process)
    else:
        table, counted = read_maps(process), None
    if not table:
        raise why_empty(process, identity)
    return table, counted


def _read_pages(process: ProcessDirectory, table: MapsTable) -> PageMap:
    from dontneed.observe.pages import read_page_map

    return read_page_map(process, table)


def why_empty(process: ProcessDirectory, identity: Identity) -> Exception:
    """A process without mappings: a kernel thread, or one that has ended, is ending, or starts another program."""
    pid = process.pid
    if identity.kernel_thread:
        return NoAddressSpace(
            f"process {pid} ({identity.command}) is a kernel thread: it has no memory of its own to look at",
            hint="its memory is the kernel's; `ps -e` lists the processes there are",
        )
    if identity.state not in _ENDED:
        return ProcessGone(
            f"process {pid} ({identity.command}) ended, or started another program, while it was looked at",
            hint="look again",
        )
    if others := [thread for thread in process.threads() if thread != pid]:
        return ProcessGone(
            f"the first thread of process {pid} ({identity.command}) has ended, and others live on with its memory",
            hint=f"look at one of them: {others[0]}",
        )
    return ProcessGone(
        f"process {pid} ({identity.command}) has ended; only its entry is left (state {identity.state})",
        hint=f"its parent, {identity.parent}, has yet to collect it with wait()",
    )


def _still_there(pid: int, moment: Moment) -> Moment:
    """A process that ended while it was read leaves half a picture: better none."""
    if not moment.size_bytes:
        msg = f"process {pid} ended while it was looked at"
        raise ProcessGone(msg)
    return moment


def _total(table: MapsTable, counted: Residency, smaps: list[SmapsCounters] | None) -> Total:
    return Total(
        size_bytes=table.size_bytes,
        rss_bytes=counted.total("rss") or 0,
        swap_bytes=counted.total("swap") or 0,
        huge_bytes=counted.total("huge"),
        zero_bytes=counted.total("zero"),
        hugetlb_bytes=sum(counted.hugetlb.values()),
        pss_bytes=sum(row.pss_bytes for row in smaps) if smaps is not None else None,
        uss_bytes=sum(row.uss_bytes for row in smaps) if smaps is not None else None,
        accessed_bytes=counted.total("accessed"),
        dirty_bytes=counted.total("dirty"),
    )
