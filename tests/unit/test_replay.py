"""Timelines that nobody recorded, replayed in the model: what each event does to predicted RSS."""

from __future__ import annotations

import pytest

from dontneed.abi import mman
from dontneed.abi import trace_kinds as kinds
from dontneed.errors import UsageError

from .replay_world import (
    CHILD,
    DONTNEED,
    FRESH,
    HUGE,
    PRIVATE_ANONYMOUS,
    PROGRAM,
    STACK_TOP,
    THREAD,
    counts,
    executed,
    mapped_anonymous,
    predicted,
)
from .trace_world import HELD, PAGE, PID, called, counted, touched

# What comes and goes


def test_each_touch_brings_a_page_and_a_moment_is_what_was_counted_after_it():
    """Writes bring pages of their own, reads the zero page, which counts for nothing, until it is written to."""
    pages, replayed = predicted(
        touched(HELD),
        counts(1),
        touched(HELD + PAGE, write=False),
        touched(HELD + PAGE),
        counts(2),
        touched(HELD + PAGE),
        maps="10000000-10010000 rw-p 00000000 00:00 0 \n",
    )
    assert pages == [1, 2]
    assert (replayed.rss_bytes // PAGE).tolist() == [1, 2]
    assert replayed.mean_error == 0
    assert (replayed.faults, replayed.calls, replayed.largest_error_bytes) == (4, 0, 0)


def test_the_error_is_a_share_of_rss_and_the_largest_one_is_told_with_its_time():
    """Of what the kernel counted and no fault tells of, the model knows nothing."""
    _, replayed = predicted(touched(HELD), counts(1), touched(HELD + PAGE), counts(4))
    assert replayed.mean_error == pytest.approx((0 + 2 / 4) / 2)
    assert replayed.largest_error_bytes == -2 * PAGE
    assert replayed.largest_error_at == pytest.approx(4e-6)  # the last event
    assert (replayed.peak_rss_bytes, replayed.predicted.peak_rss_bytes) == (4 * PAGE, 2 * PAGE)


def test_mmap_munmap_mremap_and_brk_are_done_where_the_kernel_did_them():
    """A mapping grows elsewhere with its pages; what is unmapped is gone; a heap shrinks."""
    moved = FRESH + HUGE
    pages, replayed = predicted(
        *mapped_anonymous(FRESH, 4 * PAGE),
        touched(FRESH),
        touched(FRESH + PAGE),
        counts(2),
        *called("mremap", FRESH, 4 * PAGE, 8 * PAGE, 1, 0, result=moved),
        touched(moved + 5 * PAGE),
        counts(3),
        *called("munmap", moved, PAGE, between=[counts(2)]),
        *called("brk", 0, result=0x5000_0000),
        *called("brk", 0x5000_4000, result=0x5000_4000),
        touched(0x5000_1000),
        touched(0x5000_3000),
        counts(4),
        *called("brk", 0x5000_2000, result=0x5000_2000, between=[counts(3)]),
        touched(HELD),
    )
    assert replayed.predicted.otherwise == {}
    assert replayed.mean_error == 0
    assert max(pages) == 4
    assert pages[-1] == 3


def test_a_file_is_taken_to_be_cached_and_brings_its_neighbours():
    """Sixteen pages at most, within the mapping; the vdso alone is mapped page by page; a private write copies."""
    vdso = 0x7FFF_F000_0000
    begun = executed()
    record = (PID, kinds.MAPPING, vdso, 2 * PAGE, 0, kinds.mapping_word(3, 5, 2))
    before = [event for event in begun if event[1] != kinds.RETURN]
    _, replayed = predicted(
        *before[:3],
        record,
        *before[3:],
        (PID, kinds.RETURN, kinds.CALL_NUMBERS["execve"], 0),
        touched(PROGRAM + 17 * PAGE, write=False),
        counted(kinds.FILE, 16 * PAGE, space=50 + PID),
        touched(vdso, write=False),
        counted(kinds.FILE, 17 * PAGE, space=50 + PID),
        touched(HELD),
        maps="",
    )
    assert replayed.mean_error == 0
    assert replayed.rss_bytes[-1] == (3 + 17) * PAGE


def test_shared_anonymous_memory_is_empty_at_first_and_of_each_call_its_own():
    """It is counted as shmem, a page with each touch."""
    flags = mman.MAP_ANONYMOUS | mman.MAP_SHARED
    _, replayed = predicted(
        *mapped_anonymous(FRESH, 8 * PAGE, flags=flags, name=4),
        *mapped_anonymous(FRESH + HUGE, 8 * PAGE, flags=flags, name=4),
        touched(FRESH),
        counted(kinds.SHMEM, PAGE),
        touched(FRESH + HUGE + PAGE, write=False),
        counted(kinds.SHMEM, 2 * PAGE),
        touched(HELD),
    )
    assert replayed.mean_error == 0


def test_what_is_populated_locked_or_mapped_as_a_stack_is_so_in_the_model():
    """MAP_POPULATE and mlock bring pages without a fault; MAP_STACK has no huge pages."""
    populated = PRIVATE_ANONYMOUS | mman.MAP_POPULATE
    _, replayed = predicted(
        *called("mmap", 0, 3 * PAGE, 3, populated, -1, 0, result=FRESH, between=[counts(3)]),
        *mapped_anonymous(FRESH + HUGE, 2 * PAGE),
        *called("mlock", FRESH + HUGE, 2 * PAGE, between=[counts(5)]),
        *mapped_anonymous(FRESH + 4 * HUGE, 2 * HUGE, flags=PRIVATE_ANONYMOUS | mman.MAP_STACK),
        touched(FRESH + 4 * HUGE),
        counts(6),
        *called("munlock", FRESH + HUGE, 2 * PAGE),
        *called("mlockall", mman.MCL_FUTURE),
        *called("mmap", 0, 2 * PAGE, 3, PRIVATE_ANONYMOUS, -1, 0, result=FRESH + 8 * HUGE, between=[counts(8)]),
        *called("munlockall"),
        touched(HELD),
        huge_pages="always",
    )
    assert replayed.predicted.otherwise == {}
    assert replayed.mean_error == 0


def test_a_call_that_was_refused_changes_nothing():
    """The kernel's answer counts."""
    pages, _ = predicted(
        touched(HELD),
        *called("munmap", HELD, PAGE, result=-22),
        *called("mmap", 0, PAGE, 3, PRIVATE_ANONYMOUS, -1, 0, result=-12),
        counts(1),
        touched(HELD + PAGE),
    )
    assert pages[-1] == 1


# Threads


def test_munmap_takes_effect_where_the_kernel_counts_what_it_took():
    """Between its beginning and that count the other threads go on, and the pages are still there."""
    munmap, back = called("munmap", FRESH, 2 * PAGE)
    _, replayed = predicted(
        *mapped_anonymous(FRESH, 2 * PAGE),
        touched(FRESH),
        counts(1),
        munmap,
        touched(HELD, thread=THREAD),
        counts(2, thread=THREAD),
        counts(1),
        touched(HELD + PAGE, thread=THREAD),
        counts(2, thread=THREAD),
        back,
        touched(HELD),
        threads={PID: PID, THREAD: PID},
    )
    assert replayed.mean_error == 0


def test_what_a_call_under_way_has_still_to_take_is_part_of_what_others_see():
    """The kernel counts page table by page table; a thread that faults in between is counted with the rest."""
    start = 0x4000_0000
    filled = [touched(start + page * PAGE) for page in (*range(500, 530), 1030)]
    munmap, back = called("munmap", start, 2 * HUGE + 8 * PAGE)
    _, replayed = predicted(
        *mapped_anonymous(start, 2 * HUGE + 8 * PAGE),
        *filled,
        counts(31),
        munmap,
        counts(19),  # 12 pages of the first table are gone
        touched(HELD, thread=THREAD),
        counts(20, thread=THREAD),
        counts(2),
        touched(HELD + PAGE, thread=THREAD),
        counts(3, thread=THREAD),
        touched(HELD + 2 * PAGE, thread=THREAD),
        counts(4, thread=THREAD),
        counts(3),
        back,
        touched(HELD),
        threads={PID: PID, THREAD: PID},
    )
    assert replayed.largest_error_bytes == 0
    assert replayed.last_rss_bytes == 3 * PAGE


def test_munmap_that_takes_nothing_takes_effect_before_something_else_is_mapped_there():
    """Another thread may be given the same addresses before the first one has returned."""
    munmap, back = called("munmap", FRESH, 2 * PAGE)
    pages, replayed = predicted(
        *mapped_anonymous(FRESH, 2 * PAGE),
        munmap,
        *mapped_anonymous(FRESH, 2 * PAGE, thread=THREAD),
        touched(FRESH, thread=THREAD),
        counts(1, thread=THREAD),
        back,
        touched(FRESH + PAGE),
        counts(2),
        threads={PID: PID, THREAD: PID},
    )
    assert pages[-1] == 2
    assert replayed.mean_error == 0
    assert replayed.predicted.otherwise == {}


def test_within_a_call_nothing_is_compared_before_it_returns():
    """A large munmap is counted table by table."""
    _, replayed = predicted(
        *mapped_anonymous(FRESH, 2 * PAGE),
        touched(FRESH),
        touched(FRESH + PAGE),
        counts(2),
        *called("munmap", FRESH, 2 * PAGE, between=[counts(1), counts(0)]),
        touched(HELD),
    )
    assert replayed.mean_error == 0


# Programs and processes


def test_exec_begins_anew_with_the_pages_of_its_arguments():
    """The first count behind it has the pages that the kernel filled; they lie on top of the stack."""
    pages, replayed = predicted(
        touched(HELD),
        counts(1),
        *executed(),
        touched(STACK_TOP - PAGE),
        touched(STACK_TOP - 4 * PAGE),
        counts(4, space=50 + PID),
        touched(STACK_TOP - 4 * PAGE),
    )
    assert pages[0] == 1
    assert pages[-1] == 4
    assert replayed.mean_error == 0
    assert replayed.command == "/bin/program"


def test_a_stack_grows_down():
    """A touch below it lets it grow, as far as it may."""
    _, replayed = predicted(
        *executed(), touched(STACK_TOP - 100 * PAGE), counts(4, space=50 + PID), touched(HELD), maps=""
    )
    assert replayed.mean_error == 0
    assert any("faults in no mapping that is known: 1" in note for note in replayed.notes)  # the last one


def forked(name="clone", *flags):
    """A process forks; the events up to the fork."""
    call, back = called(name, *(flags or (0, 0, 0, 0, 0))[: kinds.ALL_CALLS[kinds.CALL_NUMBERS[name]][1]], result=CHILD)
    return [call, (PID, kinds.FORK, CHILD, CHILD, PID, PID)], back


def test_a_child_begins_with_what_its_parent_had():
    """Its first counts are made by the parent; a page that both have is copied when it is written to."""
    fork, back = forked("fork")
    events = [
        touched(HELD),
        touched(HELD + PAGE),
        counts(2),
        fork[0],
        counts(2, space=7, own=0),
        fork[1],
        back,
        touched(HELD + 2 * PAGE),
        counts(3),
        (CHILD, kinds.RETURN, kinds.CALL_NUMBERS["fork"], 0),
        touched(HELD, thread=CHILD),
        touched(HELD + 5 * PAGE, thread=CHILD),
        counts(3, space=7, thread=CHILD),
        *called("madvise", HELD, 8 * PAGE, DONTNEED, thread=CHILD, between=[counts(0, space=7, thread=CHILD)]),
        touched(HELD, thread=CHILD),
        counts(1, space=7, thread=CHILD),
    ]
    _, replayed = predicted(*events, maps="10000000-10010000 rw-p 00000000 00:00 0 \n", pid=CHILD)
    assert replayed.mean_error == 0
    assert replayed.peak_rss_bytes == 3 * PAGE
    assert [(each.zapped_bytes, each.refaults) for each in replayed.predicted.advices] == [(3 * PAGE, 1)]
    assert any("of 2 processes" in note for note in replayed.notes)


@pytest.mark.parametrize("is_counted", [True, False])
def test_a_child_of_vfork_acts_for_its_parent_until_it_executes_a_program(is_counted):
    """It runs in the parent's memory: that its counts are of the same address space tells so, or else the call."""
    fork, back = forked("vfork")
    events = [
        touched(HELD),
        counts(1),
        *fork,
        touched(HELD + PAGE, thread=CHILD, write=is_counted),
        *([counts(2, thread=CHILD)] if is_counted else []),
        *executed(pid=CHILD),
        back,
        touched(HELD + 2 * PAGE),
        counts(2 + is_counted),
    ]
    _, replayed = predicted(*events, pid=PID)
    assert replayed.mean_error == 0
    assert replayed.faults == 3
    _, child = predicted(*events, pid=CHILD)
    assert (child.command, child.faults, child.last_rss_bytes) == ("/bin/program", 1, 3 * PAGE)


def test_the_process_with_most_faults_is_replayed_unless_another_is_asked_for():
    """A shell that starts the program is seldom meant; the traced one is, of equals."""
    fork, back = forked("fork")
    later = [touched(HELD + nth * PAGE, thread=CHILD) for nth in range(3)]
    events = [touched(HELD), counts(1), *fork, back, *executed(pid=CHILD), *later]
    _, chosen = predicted(*events)
    assert chosen.pid == CHILD
    assert any("of 2 processes in the trace 200 is replayed: it has most faults" in note for note in chosen.notes)
    for pid in (PID, CHILD):
        _, asked = predicted(*events, pid=pid)
        assert asked.pid == pid
        assert not any("most faults" in note for note in asked.notes)
    with pytest.raises(UsageError, match="no process 77") as refused:
        predicted(*events, pid=77)
    assert "200, 100" in refused.value.hint
