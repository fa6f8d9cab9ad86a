"""/proc/PID/status, stat and statm, parsed: captured texts of several kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from dontneed.kernel.status import Counters, Moment, parse_stat, parse_status, read_counters, read_identity, read_moment

PROCFS = Path(__file__).parents[1] / "data" / "procfs"
KERNELS = ("2.6.32", "3.10", "4.4", "5.10", "6.1", "6.18")
KIB = 1024
PARTS_OF_RSS = {"rss_anon_bytes", "rss_file_bytes", "rss_shmem_bytes"}


class Recorded:
    """A process that has ended long ago, and whose texts were kept: it is read like one that lives."""

    def __init__(self, kernel: str) -> None:
        self._directory = PROCFS / kernel

    def read(self, name: str) -> bytes:
        """As `ProcessDirectory.read`."""
        return (self._directory / name).read_bytes()


@pytest.mark.parametrize(
    ("kernel", "size", "rss", "page_tables", "peak", "threads"),
    [
        ("2.6.32", 7984, 4416, 36, 4420, 1),
        ("3.10", 13696, 3040, 60, 3100, 2),
        ("4.4", 20336, 3668, 72, 3700, 2),
        ("5.10", 8652, 6340, 56, 6400, 1),
        ("6.1", 4456, 2272, 44, 2300, 1),
        ("6.18", 293688, 18428, 100, 18440, 3),
    ],
)
def test_what_all_kernels_count(kernel, size, rss, page_tables, peak, threads) -> None:
    """Virtual size, RSS, page tables and the peak, in KiB; and threads."""
    counters = read_counters(Recorded(kernel))
    told = (counters.size_bytes, counters.rss_bytes, counters.page_table_bytes, counters.peak_rss_bytes)
    assert told == tuple(count * KIB for count in (size, rss, page_tables, peak))
    assert counters.threads == threads


@pytest.mark.parametrize(
    ("kernel", "absent"),
    [
        ("2.6.32", PARTS_OF_RSS | {"swap_bytes", "hugetlb_bytes", "pinned_bytes"}),
        ("3.10", PARTS_OF_RSS | {"hugetlb_bytes"}),
        ("4.4", PARTS_OF_RSS),
        ("5.10", set()),
        ("6.18", set()),
    ],
)
def test_what_a_kernel_does_not_count_is_absent_and_then_0(kernel, absent) -> None:
    """VmSwap came with 2.6.34, VmPin 3.2, HugetlbPages 4.4, RssAnon 4.5."""
    told = parse_status((PROCFS / kernel / "status").read_bytes())
    elsewhere = {"minor_faults", "major_faults"}
    assert set(Counters._fields) - told.keys() == absent | elsewhere
    assert {getattr(read_counters(Recorded(kernel)), field) for field in absent} <= {0}


@pytest.mark.parametrize("kernel", ["5.10", "6.1", "6.18"])
def test_the_parts_of_rss_are_all_of_it(kernel) -> None:
    """Anonymous, file and shmem."""
    counters = read_counters(Recorded(kernel))
    assert counters.rss_bytes == counters.rss_anon_bytes + counters.rss_file_bytes + counters.rss_shmem_bytes


def test_every_counter_of_the_newest_kernel_is_read() -> None:
    """All fields of a process that locks, swaps, and maps hugetlb."""
    counters = read_counters(Recorded("6.18"))
    told = {field: value // KIB for field, value in counters.as_dict().items() if field.endswith("_bytes")}
    assert told == {
        "size_bytes": 293688,
        "rss_bytes": 18428,
        "rss_anon_bytes": 11876,
        "rss_file_bytes": 6360,
        "rss_shmem_bytes": 192,
        "swap_bytes": 192,
        "hugetlb_bytes": 4096,
        "locked_bytes": 64,
        "pinned_bytes": 0,
        "page_table_bytes": 100,
        "peak_rss_bytes": 18440,
    }
    assert (counters.minor_faults, counters.major_faults, counters.threads) == (1784, 0, 3)


@pytest.mark.parametrize(
    ("kernel", "command", "parent", "minor", "major"),
    [
        ("2.6.32", "mmap", 29550, 1290, 0),
        ("3.10", "daemon", 1, 2100, 3),
        ("4.4", "python3", 31000, 4120, 7),
        ("5.10", "cat", 4700, 1090, 0),
        ("6.1", "sleep", 800, 98, 1),
    ],
)
def test_stat_says_who_it_is(kernel, command, parent, minor, major) -> None:
    """With 44 fields or with 52."""
    identity = read_identity(Recorded(kernel))
    assert (identity.command, identity.state, identity.parent) == (command, "S", parent)
    assert (identity.minor_faults, identity.major_faults) == (minor, major)
    assert not identity.kernel_thread


@pytest.mark.parametrize("command", ["a) R 1 (b", "((", "))", "a b", "new\nline", "", "\udcff", "1 (x) S"])
def test_a_command_may_hold_what_surrounds_it(command) -> None:
    """It begins at the first bracket and ends at the last, whatever is between."""
    text = b"17 (%s) Z 16 0 0 0 -1 4227084 5 0 6 0 0 0 0 0 20 0 1 0 4711" % command.encode("utf-8", "surrogateescape")
    identity = parse_stat(text)
    assert (identity.command, identity.state, identity.parent) == (command, "Z", 16)
    assert (identity.minor_faults, identity.major_faults, identity.started) == (5, 6, 4711)


def test_a_kernel_thread_is_known_by_its_flag() -> None:
    """PF_KTHREAD, in the flags of kthreadd on 6.18."""
    assert parse_stat(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 93 0 0 20 0 1 0 9").kernel_thread


@pytest.mark.parametrize("name", ["VmRSS:\\t9 kB", "Threads:\\t9", "a\\nb", ": :"])
def test_a_name_in_status_is_no_counter(name) -> None:
    """The first line holds a name that its process chose; the kernel escapes a newline in it."""
    told = parse_status(b"Name:\t%s\nVmRSS:\t     100 kB\nThreads:\t1\n" % name.encode())
    assert told == {"rss_bytes": 100 * KIB, "threads": 1}


def test_a_zombie_has_threads_and_no_memory() -> None:
    """Its status ends early, and everything else is 0."""
    told = parse_status(b"Name:\tsleep\nState:\tZ (zombie)\nPid:\t7\nThreads:\t1\nSigQ:\t0/1\n")
    assert told == {"threads": 1}


def test_a_moment_is_size_and_rss_in_bytes() -> None:
    """The first two numbers of statm, which are pages."""
    assert read_moment(Recorded("6.18")) == Moment(size_bytes=73422 * 4096, rss_bytes=4607 * 4096)
