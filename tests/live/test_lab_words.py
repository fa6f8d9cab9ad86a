"""The words of the live machine's process that go beyond mapping, touching and advising plain memory."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from dontneed.abi import kpageflags
from dontneed.abi.advice import Advice, PosixAdvice
from dontneed.abi.page_table import SLOT_BYTES
from dontneed.errors import DontneedError, KernelLacks, NotPermitted, ProcessGone, UsageError
from dontneed.kernel import files, touch
from dontneed.kernel.environment import read_huge_pages
from dontneed.lab.live import LiveMachine, LiveProcess
from dontneed.lab.machine import (
    HUGETLB,
    PRIVATE_FILE,
    SHARED_ANONYMOUS,
    SHARED_FILE,
    Faults,
    Reading,
)
from dontneed.lab.snapshot import Held, take_snapshot
from dontneed.units import KIB, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.lab.machine import Region

PAGES = 64
AROUND = 16
"""Cached pages that a read fault maps at once, where sysfs says nothing else."""
HUGE_PAGE = 512
FILE_BYTE, BYTE = ord("f"), ord("Z")

needs_huge_pages = pytest.mark.skipif(read_huge_pages() in (None, "never"), reason="huge pages are switched off here")


@pytest.fixture
def process() -> Iterator[LiveProcess]:
    """A fresh process of the live machine."""
    with LiveMachine().start() as started:
        yield started


def _held(process: LiveProcess, region: Region) -> Held:
    return take_snapshot(process, [region]).held(region)


# Files


def test_a_file_is_in_the_page_cache_and_full_of_its_byte(process):
    """All of it, before anyone maps it."""
    file = process.create_file("f", PAGES, FILE_BYTE)
    assert (file.pages, file.size_bytes, file.in_memory) == (PAGES, PAGES * PAGE_BYTES, False)
    assert process.file_bytes(file) == (FILE_BYTE,)
    assert process.cached_pages(file) == PAGES


def test_a_read_of_a_private_file_maps_what_is_cached_around_it(process):
    """Sixteen pages a fault: all pages are cached one by one, and none is dirty."""
    file = process.create_file("f", PAGES, FILE_BYTE)
    region = process.map("p", PAGES, kind=PRIVATE_FILE, file=file)
    assert process.read(region) == Reading((FILE_BYTE,), Faults(PAGES // AROUND, 0))
    held = _held(process, region)
    assert (held.rss_bytes, held.dirty_bytes, held.anonymous_bytes) == (region.size_bytes, 0, 0)
    assert (held.present_pages, held.file_pages) == (PAGES, PAGES)


def test_a_write_to_a_private_file_copies_each_page_and_leaves_the_file(process):
    """What was written is gone with the pages, and the file's bytes are there again."""
    file = process.create_file("f", PAGES, FILE_BYTE)
    region = process.map("p", PAGES, kind=PRIVATE_FILE, file=file)
    assert process.write(region, BYTE) == Faults(PAGES, 0)
    held = _held(process, region)
    assert (held.anonymous_bytes, held.file_pages) == (region.size_bytes, 0)
    assert process.file_bytes(file) == (FILE_BYTE,)
    assert process.advise(region, Advice.DONTNEED) == 0
    assert process.read(region).values == (FILE_BYTE,)


def test_a_write_to_a_shared_file_is_in_the_file_and_survives_dontneed(process):
    """A fault a page, since no folio is larger than a page."""
    file = process.create_file("f", PAGES, FILE_BYTE)
    region = process.map("p", PAGES, kind=SHARED_FILE, file=file)
    assert process.write(region, BYTE) == Faults(PAGES, 0)
    assert process.file_bytes(file) == (BYTE,)
    assert process.advise(region, Advice.DONTNEED) == 0
    assert _held(process, region).present_pages == 0
    assert process.cached_pages(file) == PAGES
    assert process.read(region).values == (BYTE,)


def test_one_store_maps_one_page_of_a_shared_file(process):
    """A large folio would be mapped whole."""
    file = process.create_file("f", PAGES, FILE_BYTE)
    region = process.map("p", PAGES, kind=SHARED_FILE, file=file)
    process.write(region.part("q", 20, 1), BYTE)
    assert _held(process, region).pages == "-" * 20 + "P" + "-" * (PAGES - 21)


def test_a_file_in_memory_is_shared_memory(process):
    """It is the page cache, and smaps names it so."""
    file = process.create_file("f", PAGES, FILE_BYTE, in_memory=True)
    region = process.map("p", PAGES, kind=SHARED_FILE, file=file)
    assert process.read(region).values == (FILE_BYTE,)
    snapshot = take_snapshot(process, [region])
    (mapping,) = (each for each in snapshot.mappings if each.start == region.start)
    assert mapping.kind == "shared memory"
    assert snapshot.counters.rss_shmem_bytes == region.size_bytes


def test_a_child_has_its_parents_files(process):
    """The descriptor is inherited, and what one stores the other reads."""
    file = process.create_file("f", PAGES, FILE_BYTE)
    with process.fork() as child:
        region = child.map("p", PAGES, kind=SHARED_FILE, file=file)
        child.write(region, BYTE)
    assert process.file_bytes(file) == (BYTE,)


def test_a_file_on_a_disk_is_made_where_a_disk_is(monkeypatch):
    """Directories in memory do not count, and where there are no others, that is said."""
    monkeypatch.setattr(files, "_directories", lambda: ["/dev/shm", "/nowhere"])
    with pytest.raises(KernelLacks, match="/dev/shm, /nowhere"):
        files.create_file(1, FILE_BYTE)


# Kinds and protections


@pytest.mark.parametrize(("kind", "with_file"), [(PRIVATE_FILE, False), (SHARED_ANONYMOUS, True)])
def test_a_file_is_for_the_kinds_that_map_one(process, kind, with_file):
    """Anything else is a mistake of the experiment."""
    file = process.create_file("f", 1, FILE_BYTE) if with_file else None
    with pytest.raises(UsageError, match=kind):
        process.map("p", 1, kind=kind, file=file)


@pytest.mark.parametrize(("protection", "perms"), [("rw", "rw-p"), ("r", "r--p"), ("", "---p")])
def test_memory_is_protected_as_it_is_mapped(process, protection, perms):
    """And between fences, whatever it is."""
    region = process.map("p", PAGES, protection=protection)
    if protection:
        assert _held(process, region).mappings[0].endswith(perms)
    assert region.start % SLOT_BYTES == 0
    assert process.touch(region) == (0 if protection else signal.SIGSEGV)


def test_protection_changes_and_is_obeyed(process):
    """A page that may not be written still can be read."""
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    assert process.protect(region, "r") == 0
    assert process.touch(region, write=True) == signal.SIGSEGV
    assert process.read(region).values == (BYTE,)
    assert process.protect(region, "") == 0
    assert process.touch(region) == signal.SIGSEGV


@pytest.mark.needs_root
def test_hugetlb_pages_come_from_the_pool_and_go_back(process):
    """Two faults for two huge pages, in HugetlbPages and not in RSS."""
    with process.machine.hugetlb_pool(2):
        region = process.map("p", 2 * HUGE_PAGE, kind=HUGETLB)
        assert process.write(region, BYTE) == Faults(2, 0)
        held = _held(process, region)
        assert (held.hugetlb_bytes, held.rss_bytes, held.uncounted_pages) == (region.size_bytes, 0, 0)
        assert process.unmap(region) == 0
        assert take_snapshot(process, []).counters.hugetlb_bytes == 0


def test_hugetlb_pages_that_there_are_not_are_refused(process):
    """The pool of the whole machine would have to be larger than the machine."""
    with pytest.raises(DontneedError):
        process.map("p", 1 << 33, kind=HUGETLB)
    assert process.write(process.map("q", 1), BYTE) == Faults(1, 0)


@needs_huge_pages
def test_huge_pages_come_where_they_are_asked_for(process):
    """A fault each."""
    region = process.map("p", 2 * HUGE_PAGE, huge=True)
    assert process.write(region, BYTE) == Faults(2, 0)
    assert _held(process, region).huge_bytes == region.size_bytes


def test_huge_pages_that_are_switched_off_are_lacking(process, monkeypatch):
    """An experiment on them is skipped, and says how to have them."""
    monkeypatch.setattr("dontneed.lab.live.read_huge_pages", lambda: "never")
    with pytest.raises(KernelLacks) as refused:
        process.map("p", HUGE_PAGE, huge=True)
    assert "transparent_hugepage" in refused.value.hint


# Moving, sealing, holes


def test_a_region_that_grows_moves_with_its_pages(process):
    """To between fences of its own; nothing of the old one stays."""
    before = len(take_snapshot(process, []).mappings)
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    grown = process.remap(region, 2 * PAGES)
    assert (grown.name, grown.pages) == ("p", 2 * PAGES)
    assert grown.start not in (region.start, region.end)
    assert grown.start % SLOT_BYTES == 0
    assert _held(process, grown).pages == "P" * PAGES + "-" * PAGES
    assert process.read(grown).values == (0, BYTE)
    assert process.touch(region) == signal.SIGSEGV
    assert process.unmap(grown) == 0
    assert len(take_snapshot(process, []).mappings) == before


def test_a_region_that_shrinks_stays_where_it_is(process):
    """And its end is no longer mapped."""
    before = len(take_snapshot(process, []).mappings)
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    shrunk = process.remap(region, 1)
    assert (shrunk.start, shrunk.pages) == (region.start, 1)
    assert process.read(shrunk) == Reading((BYTE,), Faults(0, 0))
    assert process.touch(region.part("q", 1, 1)) == signal.SIGSEGV
    assert process.unmap(shrunk) == 0
    assert len(take_snapshot(process, []).mappings) == before


def test_a_part_that_moves_leaves_the_rest_of_its_region(process):
    """The rest, its contents and the fences around it."""
    region = process.map("p", 8)
    process.write(region, BYTE)
    moved = process.remap(region.part("q", 0, 2), 2)
    assert moved.start not in range(region.start, region.end)
    assert process.read(moved).values == (BYTE,)
    assert process.read(region.part("r", 2, 6)) == Reading((BYTE,), Faults(0, 0))
    assert process.touch(region) == signal.SIGSEGV


def test_what_cannot_be_moved_is_an_error_and_stays(process):
    """No address space is so large."""
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    with pytest.raises(DontneedError, match=r"mmap|mremap"):
        process.remap(region, (1 << 47) // PAGE_BYTES)
    process.unmap(region.part("q", 0, 1))
    with pytest.raises(DontneedError, match="mremap"):
        process.remap(region, 2 * PAGES)
    assert process.read(region.part("r", 1, PAGES - 1)).values == (BYTE,)


def test_a_hole_is_touched_by_nobody_and_advised_around(process):
    """ENOMEM after everything that is mapped was advised."""
    region = process.map("p", 5)
    process.write(region, BYTE)
    assert process.unmap(region.part("hole", 2, 1)) == 0
    assert _held(process, region).pages == "PP-PP"
    assert process.touch(region) == signal.SIGSEGV
    assert process.advise(region, Advice.DONTNEED) == errno.ENOMEM
    assert _held(process, region).pages == "-----"


@pytest.mark.needs_kernel("6.10")
def test_sealed_memory_is_neither_unmapped_nor_protected_nor_given_up(process):
    """Each with EPERM; the pages of read-only memory stay."""
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    assert process.protect(region, "r") == 0
    assert process.seal(region) == 0
    answers = (process.unmap(region), process.protect(region, "rw"), process.advise(region, Advice.DONTNEED))
    assert answers == (errno.EPERM,) * 3
    assert process.read(region) == Reading((BYTE,), Faults(0, 0))


# Touches that are survived


def test_a_touch_brings_pages_to_the_process_and_not_to_a_copy(process):
    """Reading maps the zero page; writing leaves zeros at the beginning of each page; others see nothing of it."""
    region = process.map("p", 4)
    assert process.touch(region.part("q", 0, 2)) == 0
    held = _held(process, region)
    assert (held.pages, held.uncounted_pages) == ("PP--", 2)
    process.write(region, BYTE)
    assert process.touch(region, write=True) == 0
    assert process.read(region) == Reading((0, BYTE), Faults(0, 0))
    assert _held(process, region).exclusive_pages == 4


@pytest.mark.needs_feature("madvise(GUARD_INSTALL)")
def test_a_guard_is_met_and_survived(process):
    """The pages before it have been touched, those behind it have not."""
    region = process.map("p", 8)
    assert process.advise(region.part("guard", 3, 2), Advice.GUARD_INSTALL) == 0
    assert process.touch(region, write=True) == signal.SIGSEGV
    held = _held(process, region)
    assert (held.pages, held.guarded_pages, held.swapped_pages) == ("PPPGG---", 2, 0)


def test_the_end_of_a_file_is_met_and_survived(process):
    """Behind it, a touch raises SIGBUS."""
    file = process.create_file("f", 1, FILE_BYTE)
    region = process.map("p", 2, kind=SHARED_FILE, file=file)
    assert (process.touch(region.part("q", 0, 1)), process.touch(region)) == (0, signal.SIGBUS)


def test_a_child_lacks_what_is_not_forked(process):
    """Its touch raises SIGSEGV; its parent's does not."""
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    assert process.advise(region, Advice.DONTFORK) == 0
    with process.fork() as child:
        assert (child.touch(region), process.touch(region)) == (signal.SIGSEGV, 0)


def test_a_survived_touch_leaves_the_process_as_visible_as_it_was(process):
    """It was not dumpable for a moment, which hides a process from its own user."""
    region = process.map("p", 1, protection="")
    before = os.stat(f"/proc/{process.pid}").st_uid
    assert process.touch(region) == signal.SIGSEGV
    assert os.stat(f"/proc/{process.pid}").st_uid == before


def test_a_touch_that_cannot_be_made_is_an_error(monkeypatch):
    """Where no process can be cloned, nothing is said about the memory."""
    monkeypatch.setattr(touch, "_CLONE_VM", 0x1_0000)  # CLONE_THREAD, which takes shared signal handlers
    with pytest.raises(OSError, match="clone"):
        touch.touch_surviving(0, 1, write=False)


# Advice by other ways


def test_posix_advice_gives_nothing_up(process):
    """The C library keeps POSIX_MADV_DONTNEED to itself, and refuses what it does not know."""
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    assert process.posix_advise(region, PosixAdvice.DONTNEED) == 0
    assert process.read(region) == Reading((BYTE,), Faults(0, 0))


@pytest.mark.needs_kernel("6.13")
def test_a_vector_is_advised_with_one_call(process):
    """Its bytes are counted; of one with a hole behind another, only the other's; of one alone, its errno."""
    region = process.map("p", 8)
    process.write(region, BYTE)
    first, second = region.part("q", 0, 2), region.part("r", 4, 2)
    assert process.advise_vector([first, second], Advice.DONTNEED) == 4 * PAGE_BYTES
    assert _held(process, region).pages == "--PP--PP"
    process.unmap(region.part("hole", 7, 1))
    holed = region.part("s", 6, 2)
    assert process.advise_vector([region.part("t", 2, 1), holed], Advice.DONTNEED) == PAGE_BYTES
    assert _held(process, region).pages == "---P----"
    assert process.advise_vector([holed], Advice.DONTNEED) == -errno.ENOMEM


# Threads


def test_a_thread_has_a_stack_of_the_size_it_was_given(process):
    """One mapping above a guard; little of it is used."""
    thread = process.start_thread("t", 512)
    held = _held(process, thread.stack)
    assert (thread.name, thread.stack.name) == ("t", "t_stack")
    assert thread.guard_bytes == PAGE_BYTES
    assert 511 <= thread.stack.pages <= 512
    assert 1 <= held.present_pages <= 4
    assert process.touch(thread.stack.part("lowest", 0, 1)) == 0
    guard = thread.stack.replace(start=thread.stack.start - thread.guard_bytes, size_bytes=thread.guard_bytes)
    assert process.touch(guard) == signal.SIGSEGV


def test_a_stack_that_was_used_stays_used_and_its_thread_alive(process):
    """The uppermost pages are there, no others, and the thread still ends as it should."""
    thread = process.start_thread("t", 512)
    process.use_stack(thread, 100)
    assert _held(process, thread.stack).pages == "-" * (thread.stack.pages - 100) + "P" * 100
    assert take_snapshot(process, []).counters.threads == 2
    process.end_thread(thread)
    assert take_snapshot(process, []).counters.threads == 1


@pytest.mark.skipif(not LiveMachine().libc.startswith("glibc"), reason="only glibc keeps stacks")
def test_an_ended_threads_stack_is_kept_nearly_empty_and_used_again(process):
    """The C library gives back all but some pages at the top, and has it ready for the next one."""
    thread = process.start_thread("t", 512)
    process.use_stack(thread, 500)
    process.end_thread(thread)
    assert 4 <= _held(process, thread.stack).present_pages <= 8
    assert process.start_thread("u", 512).stack.start == thread.stack.start


def test_several_threads_are_told_apart(process):
    """Each has a stack of its own, and is ended by its own word."""
    one, other = process.start_thread("t", 64), process.start_thread("u", 64)
    process.use_stack(one, 32)
    assert _held(process, one.stack).present_pages == 32
    assert _held(process, other.stack).present_pages < 8
    process.end_thread(other)
    process.use_stack(one, 64)
    process.end_thread(one)


def test_a_stack_that_is_too_small_is_refused(process):
    """By the C library, in its own words."""
    with pytest.raises(DontneedError, match="pthread_attr_setstacksize: Invalid argument"):
        process.start_thread("t", 1)


# What the kernel says of frames


@pytest.mark.needs_root
def test_frames_say_what_they_are(process):
    """Anonymous memory, a file's page cache, and the zero page."""
    memory, empty = process.map("p", 2), process.map("q", 2)
    process.write(memory, BYTE)
    process.read(empty)
    snapshot = take_snapshot(process, [memory, empty])
    written, zeros = snapshot.frames(memory), snapshot.frames(empty)
    assert len(set(written)) == 2
    assert len(set(zeros)) == 1
    flags = process.machine.frame_flags([*written, *zeros])
    assert all(each & kpageflags.ANON for each in flags[:2])
    assert all(each & kpageflags.ZERO_PAGE for each in flags[2:])


def test_frames_that_are_hidden_are_not_permitted():
    """A page map without frame numbers has zeros for them."""
    with pytest.raises(NotPermitted, match="hidden"):
        LiveMachine().frame_flags([0])


def test_the_c_library_is_named():
    """As its version is looked for in a table."""
    name, _, version = LiveMachine().libc.partition(" ")
    assert name in ("glibc", "musl", "another")
    assert name != "glibc" or float(version) >= 2


# Snapshots of parts


def test_a_part_of_a_region_is_held_too(process):
    """What pagemap says is known of every page; what smaps counts, of whole mappings."""
    region = process.map("p", 8)
    process.write(region.part("q", 2, 3), BYTE)
    snapshot = take_snapshot(process, [region])
    part = snapshot.held(region.part("r", 1, 4))
    assert (part.pages, part.present_pages, part.rss_bytes) == ("-PPP", 3, 0)
    with pytest.raises(KeyError, match="s is no region"):
        snapshot.held(region.replace(name="s", start=region.end))


def test_locked_memory_is_counted(process):
    """By smaps, and by status."""
    region = process.map("p", 8)
    assert process.lock(region) == 0
    snapshot = take_snapshot(process, [region])
    assert snapshot.held(region).locked_bytes == 8 * PAGE_BYTES
    assert snapshot.counters.locked_bytes == 8 * PAGE_BYTES
    assert "locked" in snapshot.held(region).flags


def test_referenced_and_lazily_freed_memory_is_counted(process):
    """COLD takes the marks of use away; FREE marks what may go, in batches."""
    region = process.map("p", PAGES)
    process.write(region, BYTE)
    assert _held(process, region).referenced_bytes == region.size_bytes
    assert process.advise(region, Advice.COLD) == 0
    assert _held(process, region).referenced_bytes == 0
    assert process.advise(region, Advice.FREE) == 0
    assert _held(process, region).lazyfree_bytes % (4 * KIB) == 0
    assert _held(process, region).lazyfree_bytes > 0


def test_a_process_that_is_gone_is_gone_for_every_word(process):
    """No word hangs."""
    region = process.map("p", 1)
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(ProcessGone):
        process.touch(region)
