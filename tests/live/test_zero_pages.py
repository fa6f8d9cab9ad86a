"""`zero-pages`: what is zero goes, and nothing in the process ever reads otherwise than before."""

from __future__ import annotations

import numpy as np
import pytest

from dontneed import Span, Spans
from dontneed.kernel.hugetlb import enlarged_pool
from dontneed.reasons import zero_pages
from dontneed.reasons.survey import Limits

from .native_target import ALONE, PAGE, PRESENT, ROUNDS, entries_of, present_pages, running, subject_of

pytestmark = [pytest.mark.needs_command("cc"), pytest.mark.needs_feature("PAGEMAP_SCAN")]

PAGES, HUGE_PAGES = 256, 512
"""In a region of `zero_memory`, and in those that are huge."""
LEFT_ALONE = ("data", "shared", "file", "locked", "read-only", "sealed", "userfaultfd", "hugetlb")


def still_there(target):
    """How many pages of each region are present."""
    return {name: present_pages(target.pid, *at) for name, at in target.named().items() if len(at) == 2}


def test_zeros_go_and_everything_reads_as_before(tmp_path):
    """Byte by byte, in memory of a dozen kinds. The zeros over a file would turn into the file again if they went."""
    with running(tmp_path, "zero_memory") as target, subject_of(target.pid) as subject:
        before = still_there(target)
        found = zero_pages.survey(subject)
        assert still_there(target) == before  # a survey only looks
        released = zero_pages.release(subject, found, Limits())
        assert released.advised == found.releasable_bytes == released.spans.size_bytes
        after = still_there(target)
        assert target.tell("check") == ["errors 0"]
    assert (after["zeros"], after["heap"], after["every-third"]) == (0, 0, -(-PAGES // 3))
    left_alone = [name for name in LEFT_ALONE if name in before]
    assert {name: after[name] for name in left_alone} == {name: before[name] for name in left_alone}
    said = "; ".join(found.refused)
    assert "mlock" in said
    assert ("userfaultfd" in said) == ("userfaultfd" in before)


def test_of_huge_pages_only_whole_ones_go(tmp_path):
    """A part of one frees nothing, and the survey says how much that is."""
    with running(tmp_path, "zero_memory") as target, subject_of(target.pid) as subject:
        if "no-huge" in target.named():
            pytest.skip("needs free huge pages")
        found = zero_pages.survey(subject)
        zero_pages.release(subject, found, Limits())
        after = still_there(target)
    assert (after["huge-zeros"], after["huge-data"]) == (0, HUGE_PAGES)
    assert found.details.in_huge_bytes == (HUGE_PAGES - -(-HUGE_PAGES // 7)) * PAGE
    assert "in huge pages" in "; ".join(found.refused)


@pytest.mark.needs_root
def test_pages_of_a_hugetlb_pool_stay(tmp_path):
    """They would go back to the pool, and to nobody else."""
    with enlarged_pool(1), running(tmp_path, "zero_memory") as target, subject_of(target.pid) as subject:
        start, end = target.named()["hugetlb"]
        assert not zero_pages.survey(subject).spans & Spans([Span(start, end)])


def test_what_a_forked_child_shares_stays_shared(tmp_path):
    """Dropping it would free nothing, for the child has it. And merely to read it, as others do, would copy it."""
    with running(tmp_path, "zero_memory") as target:
        target.tell("fork")
        start, end = target.named()["every-third"]
        with subject_of(target.pid) as subject:
            found = zero_pages.survey(subject)
            zero_pages.release(subject, found, Limits())
        shared = (entries_of(target.pid, start, end) & np.uint64(PRESENT | ALONE)) == np.uint64(PRESENT)
    assert np.count_nonzero(shared) == PAGES
    assert not found.spans & Spans([Span(start, end)])
    assert found.details.shared_bytes >= 3 * PAGES * PAGE
    assert "since a fork" in "; ".join(found.refused)


def test_a_shorter_pause_takes_more_stops(tmp_path):
    """And gives the same back: 682 small pages and a huge one, no more than 2 MiB at a time."""
    with running(tmp_path, "zero_memory") as target, subject_of(target.pid) as subject:
        found = zero_pages.survey(subject)
        released = zero_pages.release(subject, found, Limits(max_pause_seconds=0.0))
        assert target.tell("check") == ["errors 0"]
    assert released.advised == found.releasable_bytes
    assert len(released.pauses) == 2 + bool(found.details.huge)


def test_pinned_memory_refuses_the_whole_process(tmp_path):
    """A read under way writes to the frame, wherever the page has gone meanwhile."""
    with running(tmp_path, "zero_memory", "ring") as target, subject_of(target.pid) as subject:
        (is_pinned,) = target.named()["ring"]
        if not is_pinned:
            pytest.skip("needs io_uring")
        found = zero_pages.survey(subject)
    assert found.releasable_bytes == 0
    assert "pinned" in found.refused[0] or "io_uring" in found.refused[0]


def test_what_is_written_after_the_survey_stays(child):
    """The survey is looked at again when the process stands still."""
    target = child(
        "import ctypes, mmap\nheld = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE)\nheld.madvise(15)\n"
        "held.write(bytes(len(held)))\nprint(ctypes.addressof(ctypes.c_char.from_buffer(held)))\npause()\n"
        "for page in range(0, 64, 2): held[page * 4096 + 99] = 7\npause()\n"
        "print(sum(held[:]) == 32 * 7, all(held[page * 4096 + 99] == 7 for page in range(0, 64, 2)))"
    )
    start = int(target.said[0])
    with subject_of(target.pid) as subject:
        found = zero_pages.survey(subject)
        target.proceed()
        released = zero_pages.release(subject, found, Limits())
    assert Span(start, start + 64 * PAGE) in found.spans
    assert (released.spans & Spans([Span(start, start + 64 * PAGE)])).pages == 32
    assert "written to" in released.notes[-1]
    assert target.proceed() == ["True True"]


def test_writers_lose_nothing(tmp_path):
    """Threads that write and look all the time, on pages that are zero mostly, never find anything but what they wrote.

    A page that is dropped between their writing and their looking would show.
    """
    dropped = 0
    with running(tmp_path, "zero_writers", 3, 1024) as target:
        for _ in range(ROUNDS):
            with subject_of(target.pid) as subject:
                dropped += zero_pages.release(subject, zero_pages.survey(subject), Limits()).advised
        looks, errors = (int(line.split()[1]) for line in target.tell("end"))
    assert errors == 0
    assert looks > ROUNDS
    assert dropped > ROUNDS * PAGE
