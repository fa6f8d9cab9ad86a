"""Replays of timelines that nobody recorded: what is told of madvise, of what-ifs, and of what a trace cannot know."""

from __future__ import annotations

import pytest

from dontneed.abi import trace_kinds as kinds
from dontneed.errors import UsageError, WrongType
from dontneed.lab.replay import replay

from .replay_world import (
    DONTNEED,
    FREE,
    FRESH,
    HUGE,
    NAMES,
    PROGRAM,
    STACK_TOP,
    counts,
    executed,
    mapped_anonymous,
    predicted,
)
from .trace_world import HELD, LIBRARY, PAGE, PID, called, counted, timeline_of, touched

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
