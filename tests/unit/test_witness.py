"""What a witness makes of page-map entries and frames that the tests make up: every row of its table."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

from dontneed import Advice, KernelLacks, NotPermitted, Span, UsageError
from dontneed.kernel.kpage import read_frame_flags
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.reasons.buffer import Part
from dontneed.reclaim import verdict, witness
from dontneed.reclaim.verdict import Outcome, judge_by_entries, judge_by_frames
from dontneed.reclaim.witness import Witness
from dontneed.units import HUGE_PAGE_BYTES as HUGE
from dontneed.units import PAGE_BYTES as PAGE

PRESENT, FILE, ALONE = 1 << 63, 1 << 61, 1 << 56
"""Bits of the page map."""
LRU, BUDDY, MMAP, ANON, SWAPBACKED, THP, ZERO = (1 << bit for bit in (5, 10, 11, 12, 14, 22, 24))
"""Bits of /proc/kpageflags."""

FRAME = 0x12345
PAGES_IN_HUGE = HUGE // PAGE


def part_of(kind, *, shared=False, advice=Advice.DONTNEED, pages=1):
    return Part(Span(PAGE, (1 + pages) * PAGE), kind, shared, advice)


ANONYMOUS = part_of("anonymous")
SHARED_ANONYMOUS = part_of("shared anonymous", shared=True, advice=Advice.REMOVE)
PRIVATE_FILE = part_of("file")
SHARED_FILE = part_of("file", shared=True)
SHARED_MEMORY = part_of("shared memory", shared=True)
LAZY = part_of("anonymous", advice=Advice.FREE)


def entries(*values):
    return np.array(values, np.uint64)


@pytest.fixture
def frames(monkeypatch):
    """What the kernel says of frames: (flags, how often mapped) by number; of others, that they are free."""
    known = {}

    def ask(position):
        def answer(asked):
            words = [known.get(frame, (BUDDY, 0))[position] for frame in asked.reshape(-1).tolist()]
            return np.array(words, np.uint64).reshape(asked.shape)

        return answer

    monkeypatch.setattr(verdict, "read_frame_flags", ask(0))
    monkeypatch.setattr(verdict, "read_map_counts", ask(1))
    return known


def judged(part, before, after=0, neighbours=()):
    """The verdict on one page by frames: what is not nothing, without its amount, which is a page."""
    outcome = judge_by_frames(part, entries(before), entries(after), entries(*neighbours))
    found = {word: amount for word, amount in outcome.as_dict().items() if amount}
    assert set(found.values()) <= {PAGE}
    return " ".join(found) or "nothing"


OURS, FORKED, OF_A_FILE = PRESENT | ALONE | FRAME, PRESENT | FRAME, PRESENT | FILE | FRAME

VERDICTS = [
    ("free now", ANONYMOUS, OURS, (BUDDY, 0), "freed"),
    ("somebody else's anonymous memory now", ANONYMOUS, OURS, (ANON | LRU | SWAPBACKED | MMAP, 1), "freed"),
    ("somebody's page cache now", ANONYMOUS, OURS, (LRU, 0), "freed"),
    ("a page table now", ANONYMOUS, OURS, (1 << 26, 0), "freed"),
    ("mapped by nobody and not free", ANONYMOUS, OURS, (ANON | LRU | SWAPBACKED, 0), "deferred"),
    ("in a queue", ANONYMOUS, OURS, (ANON | SWAPBACKED, 0), "deferred"),
    ("mapped by a child", ANONYMOUS, FORKED, (ANON | LRU | SWAPBACKED | MMAP, 1), "shared"),
    ("mapped by a child that ended", ANONYMOUS, FORKED, (BUDDY, 0), "freed"),
    ("the zero page", ANONYMOUS, FORKED, (ZERO, 0), "nothing"),
    ("the huge zero page", ANONYMOUS, OF_A_FILE, (ZERO | THP, 0), "nothing"),
    ("a copy of a file's page", PRIVATE_FILE, OURS, (BUDDY, 0), "freed"),
    ("cached", SHARED_FILE, OF_A_FILE, (LRU, 0), "cached"),
    ("cached, only read by a private mapping", PRIVATE_FILE, OF_A_FILE | ALONE, (LRU, 0), "cached"),
    ("cached, and mapped by another", SHARED_FILE, OF_A_FILE, (LRU | MMAP, 1), "shared"),
    ("shared memory, cached", SHARED_MEMORY, OF_A_FILE, (LRU | SWAPBACKED, 0), "cached"),
    ("shared memory, mapped by another", SHARED_MEMORY, OF_A_FILE, (LRU | SWAPBACKED | MMAP, 2), "shared"),
    ("shared anonymous, removed", SHARED_ANONYMOUS, OF_A_FILE, (BUDDY, 0), "freed"),
    ("shared anonymous, removed, somebody's now", SHARED_ANONYMOUS, OF_A_FILE, (ANON | SWAPBACKED | MMAP, 1), "freed"),
    ("shared anonymous, still a page of it", SHARED_ANONYMOUS, OF_A_FILE, (LRU | SWAPBACKED, 0), "deferred"),
    ("a private copy that was never made", SHARED_ANONYMOUS, PRESENT | FILE | ALONE | FRAME, (BUDDY, 0), "freed"),
]


@pytest.mark.parametrize(
    ("part", "before", "now", "verdict"), [row[1:] for row in VERDICTS], ids=[row[0] for row in VERDICTS]
)
def test_a_page_is_judged_by_what_it_was_and_by_what_its_frame_is_now(frames, part, before, now, verdict):
    """The table of the module, row by row."""
    frames[FRAME] = now
    assert judged(part, before) == verdict


@pytest.mark.parametrize("before", [0, 1 << 62 | FRAME << 5])
def test_a_page_that_was_not_there_is_nothing(frames, before):
    """Never touched, or swapped out: there was no frame."""
    frames[FRAME << 5] = frames[FRAME] = (ANON, 0)
    assert judged(ANONYMOUS, before) == "nothing"


def test_a_page_that_is_still_there_did_not_leave(frames):
    """Touched again and given the same frame, or never gone."""
    frames[FRAME] = (ANON | LRU, 1)
    assert judged(ANONYMOUS, OURS, after=OURS) == "nothing"


def test_a_page_with_another_frame_left_its_old_one(frames):
    """Touched again and given another frame: the first one came back all the same."""
    frames[FRAME + 1] = (ANON | LRU, 1)
    assert judged(ANONYMOUS, OURS, after=OURS + 1) == "freed"


HEAD = FRAME // PAGES_IN_HUGE * PAGES_IN_HUGE


def test_a_part_of_a_huge_page_is_deferred_while_its_neighbour_is_mapped(frames):
    """Where the kernel counts maps by folio only (CONFIG_NO_PAGE_MAPCOUNT), the count of the gone part is not 0."""
    frames[HEAD] = (ANON | LRU | THP, 1)
    assert judged(ANONYMOUS, PRESENT | ALONE | HEAD, neighbours=[HEAD + PAGES_IN_HUGE - 1]) == "deferred"
    assert judged(ANONYMOUS, PRESENT | ALONE | HEAD, neighbours=[HEAD + PAGES_IN_HUGE, HEAD - 1]) == "freed"
    assert judged(ANONYMOUS, PRESENT | ALONE | HEAD) == "freed"


def test_a_part_of_a_huge_page_is_deferred_while_the_rest_of_it_is_in_the_part(frames):
    """A page in the midst was touched again before anyone looked, or only some pages were advised."""
    frames.update({HEAD + nth: (ANON | LRU | THP, 1) for nth in range(3)})
    before = entries(*(PRESENT | ALONE | HEAD + nth for nth in range(3)))
    outcome = judge_by_frames(ANONYMOUS, before, entries(0, PRESENT | ALONE | HEAD + 1, 0), entries())
    assert outcome == Outcome(deferred=2 * PAGE)


def test_a_part_of_a_huge_page_that_a_child_maps_is_shared(frames):
    """Also while we map the rest of it: the child's claim is on this page."""
    frames[HEAD] = (ANON | LRU | THP | MMAP, 1)
    assert judged(ANONYMOUS, PRESENT | HEAD, neighbours=[HEAD + 1]) == "shared"


def test_a_lazily_freed_page_is_lazy_while_it_keeps_its_frame(frames):
    """The zero page among them is none, and a page that the kernel took meanwhile is freed."""
    frames[FRAME] = (ANON | LRU, 1)
    frames[FRAME + 1] = (ZERO, 0)
    before = entries(OURS, FORKED + 1, OURS + 2, 0)
    after = entries(OURS, FORKED + 1, 0, 0)
    assert judge_by_frames(LAZY, before, after, entries()) == Outcome(lazy=PAGE, freed=PAGE)


# By entries alone


def test_without_frames_a_page_is_judged_by_who_maps_it():
    """Exclusive pages are free at most; the rest is shared, or stays in the cache."""
    before = entries(OURS, OURS, OURS, FORKED, FORKED, 0, 1 << 62)
    assert judge_by_entries(ANONYMOUS, before, before * 0) == Outcome(freed=3 * PAGE, shared=2 * PAGE)


def test_without_frames_zero_pages_are_told_by_the_scan():
    """Their entries look as those of shared pages do."""
    before = entries(OURS, FORKED, FORKED, FORKED)
    assert judge_by_entries(ANONYMOUS, before, before * 0, zero_bytes=2 * PAGE) == Outcome(freed=PAGE, shared=PAGE)
    assert judge_by_entries(ANONYMOUS, before, before * 0, zero_bytes=3 * PAGE) == Outcome(freed=PAGE)


def test_without_frames_what_a_huge_entry_shares_with_others_is_deferred():
    """As much of it as was ours."""
    before = entries(OURS, OURS, OURS)
    assert judge_by_entries(ANONYMOUS, before, before * 0, split_bytes=PAGE) == Outcome(freed=2 * PAGE, deferred=PAGE)
    forked = entries(FORKED, FORKED, OURS)
    assert judge_by_entries(ANONYMOUS, forked, forked * 0, split_bytes=3 * PAGE) == Outcome(
        shared=2 * PAGE, deferred=PAGE
    )


@pytest.mark.parametrize(
    ("part", "outcome"),
    [
        (SHARED_FILE, Outcome(cached=PAGE, shared=2 * PAGE)),
        (SHARED_MEMORY, Outcome(cached=PAGE, shared=2 * PAGE)),
        (PRIVATE_FILE, Outcome(cached=PAGE, shared=2 * PAGE)),
        (SHARED_ANONYMOUS, Outcome(freed=3 * PAGE)),
    ],
)
def test_without_frames_pages_of_a_file_stay_cached_and_removed_ones_do_not(part, outcome):
    """Shared anonymous memory is removed for all who map it."""
    before = entries(OF_A_FILE | ALONE, OF_A_FILE, OF_A_FILE, 0)
    assert judge_by_entries(part, before, before * 0) == outcome


def test_without_frames_lazily_freed_pages_are_those_that_stay():
    """Without zero pages."""
    before = entries(OURS, OURS, FORKED, 0)
    after = entries(OURS, 0, FORKED, 0)
    assert judge_by_entries(LAZY, before, after, zero_bytes=PAGE) == Outcome(lazy=PAGE)


# Huge pages at the ends


@pytest.fixture
def scanned(monkeypatch):
    """`_zero_and_split` of a span, given what PAGEMAP_SCAN finds in it."""

    def scan(start, end, *runs, categories=witness.abi.IS_HUGE | witness.abi.IS_ZERO):
        windows = [[word for run in runs for word in run]]
        monkeypatch.setattr(witness, "scan_categories", lambda _fd: categories)
        monkeypatch.setattr(witness, "scan_pages", lambda *_asked, **_masks: iter(windows))
        return witness._zero_and_split(-1, Span(start, end))

    return scan


IS_HUGE, IS_ZERO = witness.abi.IS_HUGE, witness.abi.IS_ZERO


@pytest.mark.parametrize(
    ("start", "end", "split"),
    [
        (2 * HUGE, 4 * HUGE, 0),
        (2 * HUGE - PAGE, 4 * HUGE, PAGE),
        (2 * HUGE, 4 * HUGE + PAGE, PAGE),
        (HUGE + PAGE, 4 * HUGE - PAGE, 2 * HUGE - 2 * PAGE),
        (HUGE + PAGE, HUGE + 3 * PAGE, 2 * PAGE),
        (HUGE, HUGE + 3 * PAGE, 3 * PAGE),
        (2 * HUGE - 3 * PAGE, 2 * HUGE, 3 * PAGE),
        (2 * HUGE - PAGE, 2 * HUGE + PAGE, 2 * PAGE),
    ],
)
def test_huge_pages_that_the_ends_cut_are_told_from_whole_ones(scanned, start, end, split):
    """They are freed when the last part goes, and deferred until then."""
    assert scanned(start, end, (start, end, IS_HUGE)) == (0, 0, split)


def test_small_pages_at_the_ends_are_not_cut(scanned):
    """Only what a huge entry maps."""
    start, end = HUGE - 2 * PAGE, 2 * HUGE + PAGE
    assert scanned(start, end, (start, HUGE, 0), (HUGE, 2 * HUGE, IS_HUGE), (2 * HUGE, end, 0)) == (0, 0, 0)


def test_zero_pages_are_counted_and_huge_ones_are_not_cut(scanned):
    """The huge zero page is one for all."""
    runs = ((PAGE, 3 * PAGE, IS_ZERO), (4 * PAGE, 5 * PAGE, 0), (5 * PAGE, 9 * PAGE, IS_ZERO | IS_HUGE))
    assert scanned(PAGE, 9 * PAGE, *runs) == (2 * PAGE, 4 * PAGE, 0)


def test_without_pagemap_scan_neither_can_be_told(scanned):
    """Before 6.7; the receipt is a bound all the same."""
    assert scanned(PAGE, 9 * PAGE, (PAGE, 9 * PAGE, IS_ZERO), categories=0) == (0, 0, 0)


# Who may see what


def evidence_of(asked):
    with ProcessDirectory() as process, Witness(process, asked) as found:
        return found.evidence


@pytest.mark.parametrize("error", [NotPermitted("not root"), KernelLacks("a container hides it")])
def test_without_frames_auto_is_counters_and_frames_is_an_error(monkeypatch, error):
    """No file descriptor is left behind by the error."""

    def refuse(_frames):
        raise error

    monkeypatch.setattr(witness, "read_frame_flags", refuse)
    monkeypatch.setattr(witness, "read_own_entries", lambda *_asked: entries(OURS))
    assert evidence_of("auto") == "counters"
    assert evidence_of("counters") == "counters"
    assert evidence_of("none") == "none"
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(type(error)):
        evidence_of("frames")
    assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize(
    ("missing", "means", "says"),
    [
        (PermissionError(), NotPermitted, "not permitted to read /proc/kpageflags"),
        (FileNotFoundError(), KernelLacks, "no /proc/kpageflags"),
    ],
    ids=["forbidden", "absent"],
)
def test_flags_that_cannot_be_read_are_forbidden_or_absent(monkeypatch, missing, means, says):
    """Two different things to do about it."""

    def refuse(*_asked):
        raise missing

    monkeypatch.setattr("dontneed.kernel.kpage.os", SimpleNamespace(open=refuse, O_RDONLY=0, O_CLOEXEC=0))
    with pytest.raises(means, match=says):
        read_frame_flags(entries(FRAME))


def test_frames_that_are_all_zero_are_hidden(monkeypatch):
    """Never frame 0: CAP_SYS_ADMIN is missing."""
    monkeypatch.setattr(witness, "read_own_entries", lambda *_asked: entries(PRESENT | ALONE))
    assert evidence_of("auto") == "counters"
    with pytest.raises(NotPermitted, match="hides frame numbers") as refused:
        evidence_of("frames")
    assert "CAP_SYS_ADMIN" in refused.value.hint


def test_an_evidence_that_there_is_not_is_refused():
    """And nothing was opened for it."""
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError, match="'hearsay'"), ProcessDirectory() as process:
        Witness(process, "hearsay")
    assert len(os.listdir("/proc/self/fd")) == opened


@pytest.mark.parametrize(("drop", "freed"), [(3 * PAGE, 3 * PAGE), (100 * PAGE, 8 * PAGE), (0, 0), (-5 * PAGE, 0)])
def test_counters_claim_no_more_than_rss_fell_by(monkeypatch, drop, freed):
    """Another thread may have touched memory meanwhile, and less is certain then; below 0 nothing is."""
    before = iter([entries(*(OURS + nth for nth in range(8))), entries(*[0] * 8)])
    monkeypatch.setattr(witness, "read_own_entries", lambda *_asked: next(before))
    monkeypatch.setattr(witness, "_zero_and_split", lambda *_asked: (0, 0, 0))
    with ProcessDirectory() as process, Witness(process, "counters") as found:
        found.see([part_of("anonymous", pages=8)])
        assert found.judge(drop) == Outcome(freed=freed)


def test_outcomes_of_parts_add_up():
    """Word by word."""
    one = Outcome(freed=1, deferred=2, shared=3, lazy=4, cached=5, refaulted=6)
    assert one + one == Outcome(freed=2, deferred=4, shared=6, lazy=8, cached=10, refaulted=12)


# A page map that is closed


def test_without_a_page_map_nothing_is_claimed_and_it_is_said(monkeypatch):
    """A process that has dropped its rights may not open its own: `auto` does without, a named evidence is refused."""

    def closed(_process, name):
        message = f"not permitted to read {name}"
        raise NotPermitted(message)

    monkeypatch.setattr(ProcessDirectory, "open", closed)
    with ProcessDirectory() as process:
        with Witness(process, "auto") as found:
            found.see([part_of("anonymous")])
            assert (found.evidence, found.judge(1 << 20), found.refaulted_bytes()) == ("none", Outcome(), 0)
            assert "not permitted" in " ".join(found.notes)
        with Witness(process, "none") as found:
            assert found.notes == ()
        with pytest.raises(NotPermitted):
            Witness(process, "counters")
