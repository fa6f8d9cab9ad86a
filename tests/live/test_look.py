"""`look` at quiet children that hold a known number of pages: what it must find is known before it looks."""

from __future__ import annotations

import mmap
import os
import sys

import pytest

from dontneed.observe import address_space
from dontneed.observe.address_space import look
from dontneed.observe.residency import METHODS

PAGE = 4096

HOLD = """if True:
    import ctypes, mmap, os, sys
    PAGE = 4096
    READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE
    PRIVATE, SHARED, ANONYMOUS = 0x02, 0x01, 0x20
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
    libc.munmap.argtypes = libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    def mapped(pages, flags=PRIVATE | ANONYMOUS, fd=-1):
        # in the middle of memory that it cannot merge with
        around = libc.mmap(None, (pages + 2) * PAGE, 0, PRIVATE | ANONYMOUS, -1, 0)
        return libc.mmap(around + PAGE, pages * PAGE, READ | WRITE, flags | 0x10, fd, 0)
    def write(start, pages):
        for page in range(pages):
            ctypes.memset(start + page * PAGE, 1, 1)
    def read(start, pages):
        for page in range(pages):
            ctypes.string_at(start + page * PAGE, 1)
"""
"""What the code of every child below begins with."""


def the_mapping_at(space, start: int):
    """The mapping that begins there."""
    return next(mapping for mapping in space.mappings if mapping.start == start)


@pytest.fixture
def holding(child):
    """Start a child that holds what the code says."""
    return lambda code: child(f"{HOLD}\nexec({code!r})")


def test_every_written_page_is_resident(holding) -> None:
    """100 pages of 300 are written; the mapping has its size, and 100 pages of memory."""
    quiet = holding("start = mapped(300); write(start + 7 * PAGE, 100); print(start)")
    found = the_mapping_at(look(quiet.pid), int(quiet.said[0]))
    assert (found.size_bytes, found.rss_bytes, found.swap_bytes) == (300 * PAGE, 100 * PAGE, 0)
    assert (found.perms, found.kind, found.name, found.device, found.inode) == ("rw-p", "anonymous", "", "00:00", 0)
    assert not found.shared


@pytest.mark.needs_kernel("6.7")
def test_pages_that_were_only_read_are_zero_pages(holding) -> None:
    """Reading brings the zero page, which is no memory; writing takes its place."""
    quiet = holding("start = mapped(300); read(start, 200); print(start); pause(); write(start, 50)")
    start = int(quiet.said[0])
    before = the_mapping_at(look(quiet.pid), start)
    quiet.proceed()
    after = the_mapping_at(look(quiet.pid), start)
    assert (before.rss_bytes, before.zero_bytes) == (0, 200 * PAGE)
    assert (after.rss_bytes, after.zero_bytes) == (50 * PAGE, 150 * PAGE)


def test_what_was_given_back_is_not_resident(holding) -> None:
    """MADV_DONTNEED of every second page of 2,000: 1,000 runs, and as many pages."""
    quiet = holding(
        "start = mapped(2000); write(start, 2000); print(start); pause()\n"
        "for page in range(0, 2000, 2): libc.madvise(start + page * PAGE, PAGE, 4)"
    )
    start = int(quiet.said[0])
    assert the_mapping_at(look(quiet.pid), start).rss_bytes == 2000 * PAGE
    quiet.proceed()
    assert the_mapping_at(look(quiet.pid), start).rss_bytes == 1000 * PAGE


@pytest.mark.parametrize("smaps", [False, True])
def test_a_child_at_rest_adds_up(child, smaps) -> None:
    """Totals are the sums over its mappings, and nothing drifts; the kernel does not count vsyscall as its memory."""
    space = look(child("import json, decimal").pid, smaps=smaps)
    vsyscall = sum(each.size_bytes for each in space.mappings if each.kind == "vsyscall")
    assert (space.drift.rss_bytes, space.drift.size_bytes, space.drift.unmatched_bytes) == (0, 0, 0)
    assert not space.drift.moved
    assert space.total.rss_bytes == sum(each.rss_bytes for each in space.mappings)
    assert space.total.size_bytes == space.counters.size_bytes + vsyscall


@pytest.mark.needs_kernel("6.16")
@pytest.mark.parametrize("smaps", [False, True])
def test_the_kernel_counts_what_we_count(child, smaps) -> None:
    """The kernel's counters are exact since 6.16: to the page what the page map holds."""
    space = look(child("import json, decimal").pid, smaps=smaps)
    counters = space.counters
    assert space.total.rss_bytes == counters.rss_bytes
    assert counters.rss_bytes == counters.rss_anon_bytes + counters.rss_file_bytes + counters.rss_shmem_bytes
    assert space.total.swap_bytes == counters.swap_bytes
    assert space.notes == ()


def test_each_kind_of_memory_is_called_by_its_name(holding, tmp_path) -> None:
    """Heap, stack, vdso and what the child mapped; files by their paths."""
    (tmp_path / "a file").write_bytes(b"x" * PAGE)
    quiet = holding(
        f"fd = os.open({str(tmp_path / 'a file')!r}, os.O_RDWR)\n"
        "memory = os.memfd_create('named'); os.ftruncate(memory, PAGE)\n"
        "zero = os.open('/dev/zero', os.O_RDWR)\n"
        "for start in (mapped(1), mapped(1, SHARED | ANONYMOUS), mapped(1, SHARED, memory), mapped(1, PRIVATE, fd),\n"
        "              mapped(1, PRIVATE, zero)): print(start)"
    )
    space = look(quiet.pid)
    kinds = [the_mapping_at(space, int(start)).kind for start in quiet.said]
    assert kinds == ["anonymous", "shared anonymous", "shared memory", "file", "anonymous"]
    assert the_mapping_at(space, int(quiet.said[3])).name == str(tmp_path / "a file")
    assert the_mapping_at(space, int(quiet.said[3])).inode == (tmp_path / "a file").stat().st_ino
    assert {"heap", "stack", "vdso", "vvar"} <= set(space.mappings.kinds)
    assert {each.kind for each in space.mappings if each.name == "[stack]"} == {"stack"}
    assert next(each for each in space.mappings if os.path.realpath(sys.executable) == each.name).kind == "file"


def test_the_stacks_of_blocked_threads_are_seen(holding) -> None:
    """Three threads that wait: their stacks are where the addresses of their local variables are."""
    quiet = holding(
        "import threading\n"
        "def body():\n"
        "    frame = ctypes.c_long(0); started.release()\n"
        "    libc.pause()\n"
        "started = threading.Semaphore(0)\n"
        "for _ in range(3):\n"
        "    threading.Thread(target=body, daemon=True).start(); started.acquire()\n"
        "libc.usleep(50_000)\n"
    )
    space = look(quiet.pid)
    stacks = [each for each in space.mappings if each.kind == "thread stack"]
    assert space.counters.threads == 4
    assert len(stacks) == 3
    assert {(each.name, each.perms) for each in stacks} == {("", "rw-p")}
    assert all(each.rss_bytes for each in stacks)
    assert [note for note in space.notes if "threads" in note] == []


def test_the_stack_of_a_running_thread_is_not_guessed(holding) -> None:
    """A thread on a processor tells no stack pointer: a note says how many there are, and no mapping is named so."""
    quiet = holding(
        "import threading\ndef body():\n    while True: pass\nthreading.Thread(target=body, daemon=True).start()"
    )
    space = look(quiet.pid)
    assert "thread stack" not in space.mappings.kinds
    assert [note.split()[:2] for note in space.notes if "threads" in note] == [["1", "running"]]


def test_locked_memory_is_resident_and_locked(holding) -> None:
    """mlock(2) faults it all in; smaps and the counters say that it is locked, and how it is called there."""
    quiet = holding("start = mapped(10); assert libc.mlock(start, 10 * PAGE) == 0; print(start)")
    space = look(quiet.pid, smaps=True)
    found = the_mapping_at(space, int(quiet.said[0]))
    assert (found.rss_bytes, found.smaps.locked_bytes, found.smaps.dirty_bytes) == (10 * PAGE,) * 3
    assert "locked" in found.smaps.flags
    assert space.counters.locked_bytes == 10 * PAGE


def test_pages_shared_with_a_fork_are_half_ours(holding) -> None:
    """RSS counts them whole in both processes, PSS half; when the other one is gone they are private again."""
    quiet = holding(
        "start = mapped(64); write(start, 64); print(start); sys.stdout.flush()\n"
        "other = os.fork() or os.read(0, 1) and os._exit(0)\n"
        "print(other); pause(); os.waitpid(other, 0)"
    )
    start, other = (int(word) for word in quiet.said)
    parent, forked = (the_mapping_at(look(pid, pages=True, smaps=True), start) for pid in (quiet.pid, other))
    for each in (parent, forked):
        assert (each.rss_bytes, each.smaps.pss_bytes) == (64 * PAGE, 32 * PAGE)
        assert (each.smaps.shared_dirty_bytes, each.smaps.private_dirty_bytes) == (64 * PAGE, 0)
    assert not look(quiet.pid, pages=True).pages.within(parent.start, parent.end)["exclusive"].any()
    quiet._process.stdin.write(b"\n")  # one line for each of the two who read
    quiet.proceed()
    alone = the_mapping_at(look(quiet.pid, smaps=True), start)
    assert (alone.smaps.pss_bytes, alone.smaps.private_dirty_bytes) == (64 * PAGE, 64 * PAGE)
    assert look(quiet.pid, pages=True).pages.within(parent.start, parent.end)["exclusive"].all()


def test_a_private_copy_of_a_file_is_counted_by_who_holds_it(holding, tmp_path) -> None:
    """32 pages read, 8 of them written: all resident; anonymous are the 8, as RssAnon and smaps say."""
    (tmp_path / "file").write_bytes(b"x" * 32 * PAGE)
    quiet = holding(
        f"fd = os.open({str(tmp_path / 'file')!r}, os.O_RDWR); start = mapped(32, PRIVATE, fd); print(start); pause()\n"
        "read(start, 32); pause(); write(start, 8)"
    )
    start = int(quiet.said[0])
    looks = [look(quiet.pid, smaps=True)]
    for _ in range(2):
        quiet.proceed()
        looks.append(look(quiet.pid, smaps=True))
    found = [the_mapping_at(each, start) for each in looks]
    assert [each.rss_bytes // PAGE for each in found] == [0, 32, 32]
    assert [each.smaps.anonymous_bytes // PAGE for each in found] == [0, 0, 8]


def test_a_difference_is_what_happened_in_between(holding) -> None:
    """One mapping comes, one goes, one grows by 30 pages of memory; everything else stays as it was."""
    quiet = holding(
        "going, staying = mapped(10), mapped(50); write(going, 10); write(staying, 20)\n"
        "print(going, staying); pause()\n"
        "coming = mapped(40); write(coming, 40); libc.munmap(going, 10 * PAGE); write(staying, 50); print(coming)"
    )
    before = look(quiet.pid)
    going, staying = (int(word) for word in quiet.said[0].split())
    coming = int(quiet.proceed()[0])
    difference = before.difference(look(quiet.pid))
    assert [each.rss_bytes for each in difference.gone if each.start == going] == [10 * PAGE]
    assert [each.rss_bytes for each in difference.come if each.start == coming] == [40 * PAGE]
    grown = next(each for each in difference.changed if each.before.start == staying)
    assert (grown.rss_bytes, grown.size_bytes, grown.swap_bytes) == (30 * PAGE, 0, 0)
    assert difference.counters.minor_faults >= 70
    assert difference.counters.rss_anon_bytes >= 60 * PAGE


def test_a_child_at_rest_does_not_differ_from_itself(child) -> None:
    """Two looks, nothing in between."""
    pid = child().pid
    difference = look(pid).difference(look(pid))
    assert (difference.gone, difference.come, difference.changed) == ((), (), ())
    assert set(difference.counters.as_dict().values()) == {0}


@pytest.mark.parametrize("method", METHODS)
def test_a_process_can_look_at_itself(method) -> None:
    """No pid is one's own; 64 pages of ours are among what is resident."""
    if method == "PAGEMAP_SCAN" and "SCAN" not in look().method:
        pytest.skip("needs PAGEMAP_SCAN")
    with mmap.mmap(-1, 64 * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(b"x" * 64 * PAGE)
        space = look(method=method)
    assert space.pid == os.getpid()
    assert space.total.rss_bytes > 64 * PAGE
    assert space.mappings[0].start < space.mappings[-1].start


def test_memory_that_comes_and_goes_meanwhile_is_no_reason_to_fail(holding) -> None:
    """A process that maps, writes and unmaps all the time: every look returns, and what it says is possible."""
    quiet = holding(
        "import threading\n"
        "def churn():\n"
        "    while True:\n"
        "        start = mapped(64); write(start, 64); libc.munmap(start - PAGE, 66 * PAGE)\n"
        "threading.Thread(target=churn, daemon=True).start()"
    )
    looks = [look(quiet.pid, pages=number % 2 == 0, smaps=number % 4 == 0) for number in range(60)]
    assert all(each.rss_bytes <= each.size_bytes for space in looks for each in space.mappings)


@pytest.mark.needs_kernel("6.7")
def test_drift_says_how_much_the_process_moved(holding, monkeypatch) -> None:
    """Memory that is mapped into a hole after maps was read, and before the pages are counted: it is in no mapping."""
    quiet = holding(
        "hole, below = mapped(10_000), mapped(1); libc.munmap(hole, 10_000 * PAGE); pause()\n"
        "libc.mmap(hole, 500 * PAGE, READ | WRITE, PRIVATE | ANONYMOUS | 0x10, -1, 0); write(hole, 500)"
    )
    count_pages = address_space.count_pages

    def count_later(*arguments, **options):
        quiet.proceed()
        return count_pages(*arguments, **options)

    monkeypatch.setattr(address_space, "count_pages", count_later)
    drift = look(quiet.pid).drift
    assert drift.moved
    assert drift.unmatched_bytes >= 500 * PAGE
    assert drift.rss_bytes > 400 * PAGE  # Python may have given back a little of its own meanwhile
    assert drift.size_bytes > 400 * PAGE
    assert drift.seconds > 0
