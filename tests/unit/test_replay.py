"""Timelines that nobody recorded, replayed in the model: what each event does to predicted RSS, and what is told."""

from __future__ import annotations

import pytest

from dontneed.abi import mman
from dontneed.abi import trace_kinds as kinds
from dontneed.errors import UsageError, WrongType
from dontneed.lab.replay import replay

from .trace_world import HELD, LIBRARY, PAGE, PID, called, counted, timeline_of, touched

HUGE = 2 << 20
DONTNEED, FREE = 4, 8
CHILD, THREAD = 200, 101
STACK_TOP, PROGRAM = 0x7FFF_FFFF_F000, 0x40_0000
FRESH = 0x3000_0000
PRIVATE_ANONYMOUS = mman.MAP_ANONYMOUS | 2
NAMES = ("", "[stack]", "/bin/program", "[vdso]", "/dev/zero (deleted)")


def counts(pages, **options):
    """A count of anonymous memory."""
    return counted(kinds.ANONYMOUS, pages * PAGE, **options)


def mapped_anonymous(start, length, *, thread=PID, flags=PRIVATE_ANONYMOUS, protection=3, name=0):
    """An mmap of anonymous memory, with the record that the kernel makes of it."""
    record = (thread, kinds.MAPPING, start, length, 0, kinds.mapping_word(name, protection, flags))
    arguments = (0, length, protection, flags, -1, 0)
    return called("mmap", *arguments, thread=thread, result=start, between=[record])


def executed(name=2, pid=PID):
    """A program that begins, as the kernel tells of it: the program's pages, and a stack of two arguments' pages."""
    return [
        (pid, kinds.EXEC, pid, name),
        (pid, kinds.MAPPING, STACK_TOP - 33 * PAGE, 33 * PAGE, 0, kinds.mapping_word(1, 3, 2)),
        (pid, kinds.MAPPING, PROGRAM, 32 * PAGE, 0, kinds.mapping_word(2, 5, 2)),
        touched(STACK_TOP - 3 * PAGE, thread=pid),
        counts(3, thread=pid, space=50 + pid),
        (pid, kinds.RETURN, kinds.CALL_NUMBERS["execve"], 0),
    ]


def predicted(*events, **options):
    """Pages that the model comes to at each moment, with the replay."""
    pid = options.pop("pid", None)
    replayed = replay(timeline_of(*events, names=NAMES, **options), pid=pid)
    return (replayed.predicted.rss_bytes // PAGE).tolist(), replayed


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


# Attribution


def test_a_madvise_has_what_it_took_away_and_what_of_that_was_touched_again():
    """The trace cannot tell a page that was never there from one that was taken away; the model can."""
    _, replayed = predicted(
        *[touched(HELD + nth * PAGE) for nth in range(4)],
        counts(4),
        *called("madvise", HELD, 8 * PAGE, DONTNEED, between=[counts(0)]),
        touched(HELD),
        counts(1),
        touched(HELD + 6 * PAGE),
        counts(2),
        touched(HELD),
    )
    (advice,) = replayed.predicted.advices
    assert (advice.zapped_bytes, advice.refaults, advice.refaulted_bytes) == (4 * PAGE, 1, PAGE)
    assert (advice.traced.zapped_bytes, advice.traced.refaults) == (4 * PAGE, 2)
    assert (advice.start, advice.end, advice.advice, advice.result) == (HELD, HELD + 8 * PAGE, DONTNEED, 0)
    assert advice.first_seconds == pytest.approx(1e-6)
    assert advice.median_seconds == pytest.approx(1e-6)


def test_pages_that_something_else_becomes_of_are_no_refaults():
    """Unmapped, mapped over, or taken away once more: then it is the last call's."""
    drop = called("madvise", HELD, 4 * PAGE, DONTNEED)
    _, replayed = predicted(
        *[touched(HELD + nth * PAGE) for nth in range(4)],
        counts(4),
        *drop,
        *called("munmap", HELD, PAGE),
        *mapped_anonymous(HELD, PAGE),
        touched(HELD),
        touched(HELD + PAGE),
        *drop,
        touched(HELD),
        touched(HELD + PAGE),
        touched(HELD + 3 * PAGE),
        counts(3),
        touched(HELD),
    )
    first, second = replayed.predicted.advices
    assert (first.zapped_bytes, first.refaults) == (
        4 * PAGE,
        2,
    )  # the pages 1 and 3: that one was not there to be taken
    assert (second.zapped_bytes, second.refaults) == (2 * PAGE, 2)  # the pages 0 and 1


def test_free_marks_pages_and_takes_none():
    """They stay in RSS; a touch of one is no fault."""
    _, replayed = predicted(
        touched(HELD),
        touched(HELD + PAGE),
        counts(2),
        *called("madvise", HELD, 8 * PAGE, FREE),
        touched(HELD + 2 * PAGE),
        counts(3),
        touched(HELD),
    )
    (advice,) = replayed.predicted.advices
    assert (advice.zapped_bytes, advice.lazy_bytes, advice.refaults) == (0, 2 * PAGE, 0)
    assert (advice.traced.refaults, replayed.mean_error) == (2, 0)  # the touches behind it


def test_a_madvise_that_is_refused_half_way_has_done_what_it_did_before():
    """ENOMEM for a hole comes at the end of the walk."""
    _, replayed = predicted(
        touched(HELD),
        counts(1),
        *called("madvise", HELD, 1 << 20, DONTNEED, result=-12, between=[counts(0)]),
        touched(HELD),
    )
    assert (replayed.predicted.advices[0].zapped_bytes, replayed.predicted.advices[0].result) == (PAGE, -12)
    assert replayed.predicted.otherwise == {}


def test_huge_pages_that_were_taken_away_come_back_as_one():
    """One touch brings 512 pages; where huge pages are off then, each page is awaited for itself."""
    start = 0x4000_0000
    events = [
        *mapped_anonymous(start, 2 * HUGE),
        touched(start),
        counts(512),
        *called("madvise", start, HUGE, DONTNEED, between=[counts(0)]),
        touched(start + 7 * PAGE),
        counts(512),
        touched(start + 8 * PAGE),
        touched(start + 8 * PAGE),
    ]
    _, replayed = predicted(*events, huge_pages="always")
    (advice,) = replayed.predicted.advices
    assert (advice.zapped_bytes, advice.refaults, advice.refaulted_bytes) == (HUGE, 1, HUGE)
    assert (replayed.predicted.huge_faults, replayed.mean_error) == (2, 0)


# What if


def test_what_if_huge_pages_had_been_always_on():
    """Each first touch of 2 MiB brings it whole; the prediction for the traced kernel stays beside it."""
    start = 0x4000_0000
    events = [*mapped_anonymous(start, 2 * HUGE), touched(start), counts(1), touched(start + HUGE), counts(2)]
    timeline = timeline_of(*events, touched(HELD), names=NAMES)
    replayed = replay(timeline, huge_pages="always")
    assert (replayed.predicted.huge_pages, replayed.what_if.huge_pages) == ("never", "always")
    assert (replayed.what_if.rss_bytes // PAGE).tolist() == [512, 1024]
    assert (replayed.predicted.rss_bytes // PAGE).tolist() == [1, 2]
    assert any("allocator" in note for note in replayed.notes)
    assert replay(timeline, huge_pages="never").what_if is None  # as it was


def test_without_the_huge_pages_that_were_there_a_prediction_is_a_lower_bound_and_says_so():
    """Of a huge page the trace shows one touch."""
    start = 0x4000_0000
    events = [*mapped_anonymous(start, HUGE), touched(start), counts(512), touched(HELD)]
    _, replayed = predicted(*events, huge_pages="always")
    assert replayed.what_if is None
    replayed = replay(timeline_of(*events, names=NAMES, huge_pages="always"), huge_pages="never")
    assert replayed.what_if.peak_rss_bytes == PAGE
    assert any("RSS is up to 511 pages more" in note for note in replayed.notes)


def test_an_older_kernel_says_what_it_would_refuse_and_what_cannot_be_known():
    """2.6.32 has no MADV_FREE, no neighbours of a file's page, and no huge pages."""
    begun = executed()
    touch = touched(PROGRAM, write=False)
    brought = counted(kinds.FILE, 16 * PAGE, space=50 + PID)
    free = called("madvise", STACK_TOP - PAGE, PAGE, FREE)
    timeline = timeline_of(*begun, touch, brought, *free, touched(HELD), maps="", names=NAMES)
    with pytest.raises(UsageError, match="no transparent huge pages"):
        replay(timeline, kernel="2.6.32", huge_pages="always")
    replayed = replay(timeline, kernel="2.6.32")
    assert replayed.mean_error == 0
    assert replayed.what_if.last_rss_bytes == 4 * PAGE
    assert (replayed.what_if.kernel, replayed.what_if.huge_pages) == ("2.6.32", "never")
    assert any("calls of madvise that would be answered otherwise: 1;" in note for note in replayed.notes)
    assert any("maps no neighbours" in note for note in replayed.notes)


# Beginnings in the middle


def test_a_trace_that_begins_in_the_middle_counts_from_there_on_and_says_so():
    """Which pages were there is not known; a fault that finds one protected tells of that one."""
    _, replayed = predicted(
        touched(HELD),
        counts(11),
        (PID, kinds.FAULT, LIBRARY, 0, kinds.USER | kinds.PRESENT),
        touched(HELD + PAGE),
        counts(12),
        touched(HELD),
        rss={"anonymous": 10 * PAGE, "file": 5 * PAGE},
    )
    assert replayed.mean_error == 0
    assert replayed.last_rss_bytes == 17 * PAGE
    assert any("begins in the middle" in note for note in replayed.notes)


def test_a_heap_from_before_grows_and_shrinks_where_it_ends():
    """Its lines in maps say where that is; pages from before that go with its end are learned."""
    maps = (
        "50000000-50002000 rw-p 00000000 00:00 0 [heap]\n"
        "50002000-50004000 rwxp 00000000 00:00 0 [heap]\n"
        "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n"
    )
    _, replayed = predicted(
        touched(0x5000_0000),
        counts(3),
        *called("brk", 0x5000_6000, result=0x5000_6000),
        touched(0x5000_5000),
        counts(4),
        *called("brk", 0x5000_3000, result=0x5000_3000, between=[counts(2)]),
        touched(0x5000_1000),
        maps=maps,
        rss={"anonymous": 2 * PAGE},
    )
    assert replayed.predicted.otherwise == {}
    assert replayed.mean_error == 0
    assert any("calls that took away pages from before: 1; how many pages, 1," in note for note in replayed.notes)


def test_pages_from_before_that_a_call_took_away_are_learned_and_not_predicted():
    """How many, is taken from the trace once; what-ifs are given the same; behind it all is known."""
    drop = called("madvise", HELD, 8 * PAGE, DONTNEED, between=[counts(3)])
    events = [
        touched(HELD),
        counts(11),
        *drop,
        touched(HELD),
        counts(4),
        *called("madvise", HELD, 8 * PAGE, DONTNEED, between=[counts(2)]),
        touched(LIBRARY + PAGE, write=False),
    ]
    timeline = timeline_of(*events, names=NAMES, rss={"anonymous": 10 * PAGE})
    replayed = replay(timeline, huge_pages="always")
    assert any("calls that took away pages from before: 1; how many pages, 7," in n for n in replayed.notes)
    assert replayed.largest_error_bytes == PAGE  # the second one took a page that nothing tells of
    assert replayed.what_if.rss_bytes.tolist() == replayed.predicted.rss_bytes.tolist()


# What is told


def test_what_the_trace_cannot_tell_is_told():
    """Lost records, swap, calls whose ranges stand in memory, faults in no mapping, a kernel that is too new."""
    _, replayed = predicted(
        touched(HELD),
        counts(1),
        counted(kinds.SWAP, 5 * PAGE),
        touched(0x7000_0000_0000),
        *called("process_madvise", 3, 0x1000, 1, DONTNEED, 0, result=PAGE),
        touched(HELD),
        lost=4,
        kernel="99.1.0",
        notes=("it ended",),
    )
    said = "\n".join(replayed.notes)
    for words in (
        "it ended",
        "4 records were lost",
        "99.1.0 is newer",
        "5 pages were in swap",
        "calls of process_madvise that are left out",
        "faults in no mapping that is known: 1",
    ):
        assert words in said


def test_an_answer_of_the_model_that_is_not_the_kernels_is_told():
    """For mprotect a hole is ENOMEM: if the kernel did it, the model has missed a mapping."""
    _, replayed = predicted(touched(HELD), counts(1), *called("mprotect", 0x7000_0000, PAGE, 1), touched(HELD))
    assert replayed.predicted.otherwise == {"mprotect": 1}
    assert any(
        "calls of mprotect that the model answers otherwise than the kernel did: 1" in note for note in replayed.notes
    )


def test_what_cannot_be_replayed_is_refused():
    """No counts, no such kernel, no such word, no trace."""
    nothing = timeline_of(touched(HELD), names=NAMES)
    with pytest.raises(UsageError, match="nothing to compare with"):
        replay(nothing)
    with pytest.raises(UsageError, match=r"no model of Linux 2\.4"):
        replay(nothing, kernel="2.4")
    with pytest.raises(UsageError, match="no word for transparent huge pages"):
        replay(nothing, huge_pages="on")
    with pytest.raises(WrongType, match="not of int"):
        replay(7)


def test_calls_that_are_not_all_there_are_left_out():
    """A call without its further arguments, since records were lost; one that did not return; one that never began."""
    call, _, back = called("mremap", HELD, PAGE, 2 * PAGE, 1, 0, result=FRESH)
    pages, _ = predicted(
        (PID, kinds.RETURN, kinds.CALL_NUMBERS["munmap"], 0),
        touched(HELD),
        counts(1),
        call,
        back,
        touched(HELD + PAGE),
        counts(2),
        called("munmap", HELD, 16 * PAGE)[0],
        maps="10000000-10010000 rw-p 00000000 00:00 0 \n",
    )
    assert pages[-1] == 2
