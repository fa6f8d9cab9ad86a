"""`look_all`: RSS, USS, PSS, swap and page tables of every process of the machine.

Four ways to know who shares what with whom. The kernel's own count (smaps_rollup) is the fastest while a process is
small, but walks all its tables while that waits. The page map says the same in windows, and keeps nobody waiting. All
page tables, read together, say it of processes that share much, or have hugetlb pages. And the counters that everybody
may read know RSS and swap, and no shares.
"""

from __future__ import annotations

import os
from time import perf_counter

from dontneed.errors import DontneedError, KernelLacks, NotPermitted, UsageError
from dontneed.observe.holders.holder import Holder, Holders, total_of
from dontneed.observe.holders.roll import Amounts, Roll, read_rollup
from dontneed.units import MIB, format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.kernel.status import Counters
    from dontneed.observe.holders.roll import Count, Member

TABLES, WINDOWS, ROLLUP, STATUS = "page tables", "pagemap", "smaps_rollup", "status"
METHODS = ("auto", TABLES, WINDOWS, ROLLUP, STATUS)
"""Ways to know shares; `auto` takes for each process the best that is open to us, and says which."""

_SMALL_BYTES = 256 * MIB
"""So much the kernel walks in about a millisecond, if all of it is in pages of 4 KiB."""

_WHOLE_MACHINE = ("pid:[4026531836]", "")
"""The first pid namespace: PROC_PID_INIT_INO, 0xEFFFFFFC, in include/linux/proc_ns.h; or a kernel without any."""


def look_all(method: str = "auto") -> Holders:
    """Look at all processes: what each holds of the machine's memory, alone (USS) and with others (PSS).

    Stops and changes nothing. No process has to wait for it longer than about a millisecond, large ones less. Without
    the right to see frames the kernel walks a large process for us, which can stall it for tens of milliseconds per
    GiB, and is noted.

    Args:
        method: one of `METHODS`; `auto` takes the best that is open to us, process by process.
    Returns:
        A `Holders`; all sizes in bytes.
    Raises:
        UsageError: `method` is not one of `METHODS`.
        NotPermitted, KernelLacks: the method asked for is not there; or there is no /proc. `auto` goes on to the next.
    Kernel:
        /proc/PID/smaps_rollup since 4.14, smaps before; PAGEMAP_SCAN since 6.7, and pagemap with kpagecount, by root;
        bpf(2) since 5.14, by root; status; proc(5).
    """
    if method not in METHODS:
        msg = f"there is no method {method!r} to look at all processes"
        raise UsageError(msg, hint=f"one of {', '.join(METHODS)}")
    began = perf_counter()
    look = _Look()
    if method == "auto":
        look.by_all_ways()
    elif method == TABLES:
        look.by_tables()
    elif method == WINDOWS:
        from dontneed.observe.holders.windows import read_by_windows

        look.one_by_one(read_by_windows, WINDOWS)
    elif method == ROLLUP:
        look.one_by_one(read_rollup, ROLLUP)
    look.by_status()
    processes = tuple(sorted(look.found, key=lambda holder: holder.pid))
    methods = [each for each in METHODS if any(holder.method == each for holder in processes)]
    return Holders(processes, total_of(processes), " + ".join(methods), perf_counter() - began, tuple(look.notes()))


class _Look:
    """One look, with what it has found so far.

    Attributes:
        found: processes that are done with.
    """

    def __init__(self) -> None:
        self.found: list[Holder] = []
        self._roll = Roll()
        self._waiting: list[int] | None = None
        self._left: list[Member] = []
        self._notes: list[str] = []

    def by_all_ways(self) -> None:
        """Each process by the best way that is open to us."""
        self.one_by_one(_count_courteously)
        if any(isinstance(member.refusal, KernelLacks) for member in self._large_left()):
            self._by_tables_if_possible()
        if large := self._large_left():
            self._stall(large)

    def _large_left(self) -> list[Member]:
        return [member for member in self._left if _is_large(member.counters)]

    def _by_tables_if_possible(self) -> None:
        """All of them anew, so that shares are of one moment."""
        found, left = self.found, self._left
        self.found, self._left = [], []
        try:
            self.by_tables()
        except (NotPermitted, KernelLacks) as refusal:
            self.found, self._left = found, left
            self._notes.append(refusal.in_words)
            return
        self._waiting, self._left = [member.pid for member in self._left], []
        self.one_by_one(_count_courteously)

    def _stall(self, members: list[Member]) -> None:
        """Have the kernel walk large processes, and say so."""
        self._left = [member for member in self._left if member not in members]
        self._waiting = [member.pid for member in members]
        before = len(self.found)
        self.one_by_one(read_rollup, ROLLUP)
        if stalled := len(self.found) - before:
            whose = _counted(stalled, "large process was", "large processes were")
            self._notes.append(f"{whose} stalled by smaps_rollup while it was read: {_why(members)}")

    def by_tables(self) -> None:
        """All whose page tables can be read; the others wait for another way.

        Raises:
            NotPermitted, KernelLacks: page tables cannot be read.
        """
        from dontneed.kernel.kernel_memory import kernel_memory

        with kernel_memory() as memory:
            self._read_tables(memory)

    def _read_tables(self, memory: KernelMemory) -> None:
        from dontneed.observe.holders.all_tables import AllTables

        all_shown = _namespace() in _WHOLE_MACHINE
        everyone = AllTables(
            memory, self._roll.pids, lambda pid: self._roll.member(pid, memory=memory), all_shown=all_shown
        )
        shares = everyone.read()
        first: dict[int, int] = {}
        for pid, member in everyone.members.items():
            owner = everyone.owners[pid]
            same_as = first.setdefault(owner, pid)
            amounts = Amounts(*(int(column[owner]) for column in (shares.rss, shares.swapped, shares.uss, shares.pss)))
            self.found.append(_holder(member, TABLES, amounts, same_as=None if same_as == pid else same_as))
        self._left, self._waiting = list(everyone.unread.values()), []
        self._notes += everyone.frames.notes
        if not everyone.all_counted:
            self._notes.append("what is shared with processes that were not read counts as not shared; try again")
        if everyone.unsettled_bytes:
            self._notes.append(
                f"page tables of {format_bytes(everyone.unsettled_bytes)} of addresses changed each time they were "
                "read: what is there is in no sum; try again"
            )

    def one_by_one(self, count: Count, method: str | None = None) -> None:
        """All that can be counted so; the others are left."""
        for member in self._visit(count):
            if member.amounts is None:
                self._left.append(member)
            else:
                how = method or (WINDOWS if _is_large(member.counters) else ROLLUP)
                self.found.append(_holder(member, how, member.amounts))
        self._waiting = []

    def by_status(self) -> None:
        """All the others."""
        for member in [*self._left, *self._visit()]:
            amounts = Amounts(member.counters.rss_bytes, member.counters.swap_bytes)
            self.found.append(_holder(member, STATUS, amounts))

    def _visit(self, count: Count | None = None) -> Iterator[Member]:
        """Whoever is not done with: at first, all."""
        for pid in self._roll.pids() if self._waiting is None else self._waiting:
            member = self._roll.member(pid, count=count)
            if member is not None:
                yield member

    def notes(self) -> list[str]:
        """What could not be seen."""
        refusals = [member.refusal for member in self._left if member.refusal is not None]
        return [*self._notes, *_about_refusals(refusals), *_about_the_rest(len(self._roll.hidden))]


def _is_large(counters: Counters) -> bool:
    """Whether a process would have to wait long while the kernel walks its tables."""
    return counters.rss_bytes > _SMALL_BYTES


def _count_courteously(process: ProcessDirectory, counters: Counters) -> Amounts:
    """By the fastest way that does not let it wait long."""
    if not _is_large(counters):
        return read_rollup(process, counters)
    from dontneed.observe.holders.windows import read_by_windows

    return read_by_windows(process, counters)


def _holder(member: Member, method: str, amounts: Amounts, *, same_as: int | None = None) -> Holder:
    return Holder(
        pid=member.pid,
        command=member.command,
        rss_bytes=amounts.rss_bytes,
        uss_bytes=amounts.uss_bytes,
        pss_bytes=amounts.pss_bytes,
        swap_bytes=amounts.swap_bytes,
        hugetlb_bytes=member.counters.hugetlb_bytes,
        page_table_bytes=member.counters.page_table_bytes,
        method=method,
        same_as=same_as,
    )


# What could not be seen


def _why(members: list[Member]) -> str:
    return next((member.refusal.in_words for member in members if member.refusal is not None), "")


def _about_refusals(refusals: list[DontneedError]) -> Iterator[str]:
    """Why USS and PSS are not known."""
    forbidden = sum(isinstance(refusal, NotPermitted) for refusal in refusals)
    if forbidden:
        whose = _counted(forbidden, "process", "processes")
        yield f"USS and PSS of {whose} are not known, by want of rights; {_how_to_get_them()}"
    if others := [refusal for refusal in refusals if not isinstance(refusal, NotPermitted)]:
        whose = _counted(len(others), "process", "processes")
        yield f"USS and PSS of {whose} are not known: {others[0].in_words}"


def _how_to_get_them() -> str:
    if os.geteuid():
        return "run as root (sudo)"
    return "root needs CAP_SYS_PTRACE, and every capability that the process has"


def _about_the_rest(hidden: int) -> Iterator[str]:
    """Who is not in the table."""
    if hidden:
        whose = _counted(hidden, "process is", "processes are")
        yield f"{whose} hidden by /proc (hidepid), and in no row; {_how_to_get_them()}"
    elif _hides_others() and os.geteuid():
        yield f"/proc hides the processes of other users (hidepid): they are in no row; {_how_to_get_them()}"
    if _namespace() not in _WHOLE_MACHINE and _proc_is_ours():
        yield "only processes of this pid namespace are in the table; the others are to be seen from the host"


def _hides_others() -> bool:
    """Whether /proc is mounted so that it shows everybody their own processes only."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            words = [line.split() for line in mounts]
    except FileNotFoundError:  # it does not even have ourselves
        return False
    options = [line[-1].split(",") for line in words if line[4] == "/proc"]
    return bool(options) and any(each.startswith("hidepid=") and each[8:] not in _SHOWN for each in options[-1])


_SHOWN = ("0", "off", "1", "noaccess")
"""Values of hidepid with which everybody's numbers are to be seen."""


def _proc_is_ours() -> bool:
    """Whether /proc shows our pid namespace, and not one around it, where our number is another one."""
    return os.readlink("/proc/self") == str(os.getpid())


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except FileNotFoundError:  # a kernel built without pid namespaces has only the one
        return ""


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
