"""/proc/PID/status, statm and stat: what the kernel counts for a process, without walking its page tables.

Exact since 6.16. From 6.2 to 6.15 the RSS counters are per-CPU and may lag by some pages a CPU, before 6.2 by up to
64 events a thread. `VmHWM` is not monotonic on 6.18: the stored peak is itself an approximate sum.

Kernel:
    fs/proc/task_mmu.c task_mem(), fs/proc/array.c do_task_stat(); proc(5). RssAnon and its kin since 4.5, VmSwap
    2.6.34, VmPin 3.2, HugetlbPages 4.4.
"""

from __future__ import annotations

from dontneed.errors import ProcessGone
from dontneed.records import Record
from dontneed.units import KIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory

PF_KTHREAD = 0x0020_0000
"""include/linux/sched.h; in the flags of /proc/PID/stat."""


class Counters(Record):
    """What the kernel counts for a process at one moment; 0 where this kernel has no such counter."""

    size_bytes: int = 0
    rss_bytes: int = 0
    rss_anon_bytes: int = 0
    rss_file_bytes: int = 0
    rss_shmem_bytes: int = 0
    swap_bytes: int = 0
    hugetlb_bytes: int = 0
    locked_bytes: int = 0
    pinned_bytes: int = 0
    page_table_bytes: int = 0
    peak_rss_bytes: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    threads: int = 0


class Moment(Record):
    """What `statm` says: enough to see whether a process moves, for 7 microseconds."""

    size_bytes: int
    rss_bytes: int


class Identity(Record):
    """Who a process is and how it lives, from `stat`.

    Attributes:
        started: clock ticks from boot to its start; pid and this together are never given twice.
    """

    command: str
    state: str
    parent: int
    minor_faults: int
    major_faults: int
    kernel_thread: bool
    started: int


_STATUS_FIELDS = {
    b"VmSize": "size_bytes",
    b"VmRSS": "rss_bytes",
    b"RssAnon": "rss_anon_bytes",
    b"RssFile": "rss_file_bytes",
    b"RssShmem": "rss_shmem_bytes",
    b"VmSwap": "swap_bytes",
    b"HugetlbPages": "hugetlb_bytes",
    b"VmLck": "locked_bytes",
    b"VmPin": "pinned_bytes",
    b"VmPTE": "page_table_bytes",
    b"VmHWM": "peak_rss_bytes",
}


def parse_status(text: bytes) -> dict[str, int]:
    """The memory lines of a status file in bytes, and `threads`; absent lines are absent."""
    counted = {}
    for line in text.split(b"\n"):
        key, _, value = line.partition(b":")
        if field := _STATUS_FIELDS.get(key):
            counted[field] = int(value.split()[0]) * KIB
        elif key == b"Threads":
            counted["threads"] = int(value)
    return counted


def parse_stat(text: bytes) -> Identity:
    """A stat file; the command may hold spaces and brackets, so it ends at the last one."""
    begin, end = text.index(b"("), text.rindex(b")")
    words = text[end + 2 :].split()
    return Identity(
        command=text[begin + 1 : end].decode("utf-8", "surrogateescape"),
        state=words[0].decode("ascii"),
        parent=int(words[1]),
        minor_faults=int(words[7]),
        major_faults=int(words[9]),
        kernel_thread=bool(int(words[6]) & PF_KTHREAD),
        started=int(words[19]),
    )


def read_identity(process: ProcessDirectory) -> Identity:
    """Who `process` is; readable for everyone."""
    return parse_stat(process.read("stat"))


def read_counters(process: ProcessDirectory) -> Counters:
    """What the kernel counts for `process`; readable for everyone."""
    identity = read_identity(process)
    return Counters(
        **parse_status(process.read("status")),
        minor_faults=identity.minor_faults,
        major_faults=identity.major_faults,
    )


def read_moment(process: ProcessDirectory) -> Moment:
    """Size and RSS of `process` now; both 0 once it has given up its memory."""
    size, resident, _ = process.read("statm").split(None, 2)
    return Moment(int(size) * PAGE_BYTES, int(resident) * PAGE_BYTES)


def has_memory(process: ProcessDirectory) -> bool:
    """Whether `process` has an address space: it has not ended, and is no kernel thread."""
    try:
        return bool(read_moment(process).size_bytes)
    except ProcessGone:
        return False
