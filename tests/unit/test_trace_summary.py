"""What timelines come to that were made up: who caused what, in which mapping, and how soon it was wanted again."""

from __future__ import annotations

import json

import pytest

from dontneed.abi import trace_kinds as kinds
from dontneed.observe.trace.summary import summarize
from dontneed.report.json import format_json
from dontneed.report.timeline import format_timeline, timeline_document
from dontneed.report.trace_events import events_of, format_events

from .trace_world import HELD, LIBRARY, PAGE, PID, called, counted, timeline_of, touched

FILE, ANONYMOUS, SWAP = kinds.FILE, kinds.ANONYMOUS, kinds.SWAP
FREED, FLUSH = kinds.FREED, kinds.TLB_FLUSH
DONTNEED = 4


def dropped(start, pages, *, left, thread=PID, zapped=True):
    """A madvise(DONTNEED) that zaps, flushes and frees."""
    within = [counted(ANONYMOUS, left, thread=thread), (thread, FLUSH, 3, pages), (thread, FREED, 5, 1)]
    return called("madvise", start, pages * PAGE, DONTNEED, thread=thread, between=within if zapped else ())


def test_a_madvise_has_what_it_zapped_and_what_came_back_how_soon():
    """Pages touched twice count once, other pages not at all; the frames and flushes are those within the call."""
    timeline = timeline_of(
        *dropped(HELD, 4, left=6 * PAGE),
        touched(HELD + PAGE),
        counted(ANONYMOUS, 7 * PAGE),
        touched(HELD + PAGE + 8, write=False),
        touched(HELD + 3 * PAGE),
        counted(ANONYMOUS, 8 * PAGE),
        touched(HELD + 5 * PAGE),
        rss={"anonymous": 10 * PAGE},
    )
    (use,) = summarize(timeline).advices
    assert (use.zapped_bytes, use.freed_frames, use.flushes, use.result) == (4 * PAGE, 2, 1, 0)
    assert (use.refaults, use.refaulted_bytes) == (2, 2 * PAGE)
    assert (use.first_seconds, use.median_seconds) == pytest.approx((1e-6, 2.5e-6))


def test_a_touch_belongs_to_the_last_madvise_of_its_page_and_to_none_after_munmap():
    """What was given up twice is wanted again once; a new mapping at the old place wants nothing again."""
    timeline = timeline_of(
        *dropped(HELD, 4, left=6 * PAGE),
        *dropped(HELD, 2, left=6 * PAGE),
        touched(HELD),
        touched(HELD + 2 * PAGE),
        *called("munmap", HELD, 4 * PAGE),
        touched(HELD + 3 * PAGE),
    )
    assert [use.refaults for use in summarize(timeline).advices] == [1, 1]


def test_changes_of_rss_are_put_down_to_the_thread_that_makes_them():
    """Two threads of one address space: each change is against the counter before, whosever event that was."""
    other = PID + 1
    timeline = timeline_of(
        touched(HELD),
        touched(HELD + PAGE, thread=other),
        counted(ANONYMOUS, 11 * PAGE, thread=other),
        counted(ANONYMOUS, 12 * PAGE),
        *dropped(HELD, 2, left=10 * PAGE, thread=other),
        rss={"anonymous": 10 * PAGE},
        threads={PID: PID, other: PID},
    )
    summary = summarize(timeline)
    assert [(use.faults, use.brought_bytes, use.zapped_bytes) for use in summary.mappings] == [(2, 2 * PAGE, 2 * PAGE)]
    assert summary.advices[0].thread == other
    assert (summary.peak_rss_bytes, summary.last_rss_bytes) == (12 * PAGE, 10 * PAGE)


def test_faults_are_sorted_by_mapping_and_by_what_they_wanted():
    """Mappings of the start by name; one without any is told apart; a fetch is neither a read nor a write."""
    fetch = (PID, kinds.FAULT, LIBRARY, 0, kinds.USER | kinds.INSTRUCTION)
    timeline = timeline_of(
        touched(HELD), touched(HELD, write=False), fetch, counted(FILE, 16 * PAGE), touched(0x5000), touched(HELD + 9)
    )
    uses = {use.name if use.end else "nowhere": use for use in summarize(timeline).mappings}
    assert [(name, use.faults, use.reads, use.writes, use.fetches) for name, use in uses.items()] == [
        ("", 3, 1, 2, 0),
        ("nowhere", 1, 0, 1, 0),
        ("/lib/a.so", 1, 0, 0, 1),
    ]
    assert uses["/lib/a.so"].brought_bytes == 16 * PAGE
    assert uses["/lib/a.so"].perms == "r--p"


def test_mappings_grow_move_shrink_and_go():
    """A heap that grows stays one; what mremap moved is found at its new place; exec leaves nothing."""
    heap, moved = 0x3000_0000, 0x5000_0000
    mapping = kinds.mapping_word(1, 3, 2)
    timeline = timeline_of(
        (PID, kinds.MAPPING, heap, 2 * PAGE, 0, mapping),
        touched(heap),
        (PID, kinds.MAPPING, heap + 2 * PAGE, 2 * PAGE, 0, mapping),
        touched(heap + 3 * PAGE),
        *called("brk", heap + PAGE, result=heap + PAGE),
        touched(heap + 3 * PAGE),
        *called("mremap", HELD, 4 * PAGE, 8 * PAGE, 1, 0, result=moved),
        touched(moved + 7 * PAGE),
        touched(HELD),
        touched(HELD + 4 * PAGE),
        *called("munmap", LIBRARY, 2 * PAGE, result=-22),
        touched(LIBRARY),
        (PID, kinds.EXEC, PID, 0),
        touched(moved),
    )
    found = {(use.start, use.name): use.faults for use in summarize(timeline).mappings}
    assert found == {(heap, "[heap]"): 2, (moved, ""): 1, (HELD, ""): 1, (LIBRARY, "/lib/a.so"): 1, (0, ""): 3}


def test_a_child_begins_with_its_parents_mappings():
    """And goes its own way from there; a thread does not: it has the same."""
    child, thread = 200, 101
    timeline = timeline_of(
        (PID, kinds.FORK, child, child, PID, PID),
        (PID, kinds.FORK, thread, PID, PID, PID),
        *called("munmap", HELD, 0x10000, thread=child),
        touched(HELD, thread=child),
        touched(HELD, thread=thread),
        touched(LIBRARY, thread=child),
    )
    found = {(use.start, use.faults) for use in summarize(timeline).mappings}
    assert found == {(HELD, 1), (LIBRARY, 1), (0, 1)}


def test_swap_is_no_rss_and_a_process_that_has_ended_holds_nothing():
    """The kernel does not tell how memory is taken apart at an exit; a thread's exit is none of the process."""
    timeline = timeline_of(
        counted(ANONYMOUS, 5 * PAGE),
        counted(SWAP, 9 * PAGE),
        (PID, kinds.FORK, 101, PID, PID, PID),
        (101, kinds.EXIT, PID),
        (PID, kinds.EXIT, PID),
        maps="",
    )
    summary = summarize(timeline)
    assert (summary.peak_rss_bytes, summary.last_rss_bytes) == (5 * PAGE, 0)
    assert int(summary.rss["swap"].max()) == 9 * PAGE
    living = summarize(timeline.replace(events=timeline.events[:-1]))
    assert living.last_rss_bytes == 5 * PAGE


def test_calls_are_added_up_by_name_with_those_that_failed():
    """And one that never returned counts, and takes no time."""
    timeline = timeline_of(
        *called("mprotect", HELD, PAGE, 0),
        *called("mprotect", HELD, PAGE, 0, result=-13),
        (PID, kinds.CALL, kinds.CALL_NUMBERS["exit_group"], 0),
    )
    uses = {use.name: (use.count, use.failed, use.seconds) for use in summarize(timeline).calls}
    assert uses == {"mprotect": (2, 1, pytest.approx(2e-6)), "exit_group": (1, 0, 0.0)}


def test_an_empty_timeline_comes_to_nothing_and_can_be_printed():
    """A process that slept."""
    timeline = timeline_of(rss={"file": PAGE})
    summary = summarize(timeline)
    assert (summary.mappings, summary.calls, summary.advices, summary.peak_rss_bytes) == ((), (), (), PAGE)
    assert "nothing was lost" in "\n".join(format_timeline(timeline, summary, 20))


def test_the_picture_has_the_peak_and_the_tables_what_was_done():
    """RSS as bars as high as it was, below them a line for each kind of memory, then calls, mappings and advices."""
    timeline = timeline_of(
        *[event for nth in range(1, 65) for event in (touched(HELD), counted(ANONYMOUS, nth * PAGE))],
        *dropped(HELD, 4, left=PAGE),
        lost=3,
        exit_code=-9,
        command="a\x1b[2Jb",
    )
    text = "\n".join(format_timeline(timeline, summarize(timeline), 20))
    assert "LOST: 3 records" in text
    assert "signal 9" in text
    assert "at most 256 KiB" in text
    assert "█" in text
    assert "10000000-10004000 DONTNEED" in text
    assert "\x1b" not in text
    top = next(line for line in text.splitlines() if "┤" in line)
    assert top.rstrip("▁▂▃▄▅▆▇ ").endswith("█")


def test_each_event_is_a_line_and_an_object_with_names():
    """A call has all its arguments, as many as the call takes; nothing is left as a, b, c, d."""
    timeline = timeline_of(
        *called("mmap", 0, PAGE, 3, 0x22, (1 << 64) - 1, 0, result=HELD),
        touched(HELD),
        counted(ANONYMOUS, PAGE),
        (PID, kinds.ALLOCATED, 77, 9),
        (PID, FREED, 77, 9),
        (PID, FLUSH, 99, (1 << 64) - 1),
        (PID, kinds.MAPPING, HELD, PAGE, 0, kinds.mapping_word(1, 3, 2)),
        (PID, kinds.FORK, 101, PID, PID, PID),
        (PID, kinds.EXEC, PID, 1),
        (PID, kinds.EXIT, PID),
        (PID, kinds.LOST, 5),
        *called("munmap", HELD, PAGE),
    )
    events = list(events_of(timeline))
    assert events[0]["arguments"] == [0, PAGE, 3, 0x22, (1 << 64) - 1, 0]
    assert events[1]["result"] == HELD
    assert events[2]["access"] == "write"
    assert events[6] == {"at_ns": 8000, "thread": PID, "cpu": 0, "kind": "tlb flush", "reason": "99", "pages": None}
    assert events[-2]["arguments"] == [HELD, PAGE]
    assert len(list(format_events(timeline))) == len(events) == 14
    document = json.loads(format_json(timeline_document(timeline, summarize(timeline), events=True)))
    assert document["schema"] == 1
    assert document["events"] == events
    assert "events" not in timeline_document(timeline, summarize(timeline), events=False)
