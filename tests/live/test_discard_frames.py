"""`discard`: what became of the frames.

What a receipt says of them is not believed: the tests note their numbers before, and ask the kernel of each of them
afterwards, in code of their own.
"""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest

from dontneed.kernel.kpage import read_frame_flags, read_map_counts

from .conftest import (
    ANON,
    HUGE,
    LRU,
    MIB,
    MMAP,
    PAGE,
    PRIVATE,
    THP,
    address_of,
    assert_became,
    discarded,
    fill,
    forked,
    frames_behind,
    has,
    huge_page,
    kept_from_everyone,
    map_path,
    raw,
    small_pages,
    words_of,
)

pytestmark = pytest.mark.usefixtures("one_processor")

PAGEOUT = 21
"""MADV_PAGEOUT, which the mmap module has no name for."""

either_evidence = pytest.mark.parametrize(
    "evidence", [pytest.param("frames", marks=pytest.mark.needs_root), "counters"]
)


# What became of its frames


@pytest.mark.needs_root
def test_small_pages_are_freed_and_no_frame_of_them_is_held_any_more():
    """The receipt's claim, frame by frame, by other means than its own."""
    memory = small_pages(4 * MIB)
    contents = fill(memory)
    frames = frames_behind(memory)
    assert frames.all()
    receipt = discarded(memory)
    assert_became(receipt, freed=contents.size)
    assert receipt.evidence == "frames"
    assert not frames_behind(memory).any()
    assert not kept_from_everyone(frames).any()
    assert not has(words_of("kpageflags", frames), ANON | LRU | MMAP).all()


@either_evidence
def test_a_whole_huge_page_is_freed(evidence):
    """All 512 frames, in one piece."""
    memory = huge_page()
    frames = frames_behind(memory)
    assert_became(discarded(memory, evidence=evidence), freed=HUGE)
    if evidence == "frames":
        assert not kept_from_everyone(frames).any()


@either_evidence
def test_half_a_huge_page_is_deferred_until_the_other_half_goes(evidence):
    """RSS fell by half of it, and not a frame was free: the kernel keeps it whole."""
    memory = huge_page()
    frames = frames_behind(memory)
    first, second = memory[: HUGE // 2], memory[HUGE // 2 :]
    receipt = discarded(first, evidence=evidence)
    assert_became(receipt, deferred=HUGE // 2)
    assert receipt.before.rss_anon_bytes - receipt.after.rss_anon_bytes == pytest.approx(HUGE // 2, abs=PAGE * 16)
    if evidence == "frames":
        assert kept_from_everyone(frames[: len(frames) // 2]).all()
        assert has(words_of("kpageflags", frames), THP).all()
    assert_became(discarded(second, evidence=evidence), freed=HUGE // 2)
    if evidence == "frames":
        assert not kept_from_everyone(frames).any()


@either_evidence
def test_pages_that_a_forked_child_shares_are_free_for_no_one(evidence):
    """They leave this process; the child has its contents still, and loses them when it ends."""
    memory = small_pages(MIB)
    contents = fill(memory)
    frames = frames_behind(memory)
    with forked(lambda: np.array_equal(raw(memory), contents)):
        assert_became(discarded(memory, evidence=evidence), shared=MIB)
        if evidence == "frames":
            assert (words_of("kpagecount", frames) == 1).all()
    assert not raw(memory).any()


@either_evidence
def test_half_a_huge_page_that_a_child_shares_is_shared(evidence):
    """What the child maps is not merely waiting to be split."""
    memory = huge_page()
    with forked():
        assert_became(discarded(memory[: HUGE // 2], evidence=evidence), shared=HUGE // 2)


@pytest.mark.needs_root
def test_frames_that_a_pipe_holds_are_deferred():
    """By vmsplice a pipe borrows pages, as a device does from its driver."""
    memory = small_pages(4 * PAGE)
    fill(memory)
    frames = frames_behind(memory)
    reading, writing = os.pipe()
    lent = (ctypes.c_size_t * 2)(address_of(memory), 3 * PAGE)
    assert ctypes.CDLL(None).vmsplice(writing, lent, ctypes.c_size_t(1), 0) == 3 * PAGE
    assert_became(discarded(memory), freed=PAGE, deferred=3 * PAGE)
    assert kept_from_everyone(frames).sum() == 3
    os.close(reading)
    os.close(writing)
    assert not kept_from_everyone(frames).any()


@either_evidence
@pytest.mark.parametrize("advice", ["MADV_NOHUGEPAGE", "MADV_HUGEPAGE"])
def test_the_zero_page_is_no_memory(evidence, advice):
    """Memory that was only read is one frame that all share, a small one or a huge one."""
    memory = mmap.mmap(-1, 2 * HUGE, flags=PRIVATE)
    memory.madvise(getattr(mmap, advice))
    assert not raw(memory).any()
    assert_became(discarded(memory, evidence=evidence))


@either_evidence
def test_shared_anonymous_memory_is_removed_for_every_process_that_shares_it(evidence):
    """`mmap.mmap(-1, n)` is MAP_SHARED, where MADV_DONTNEED frees nothing; the receipt says what was done instead."""
    memory = mmap.mmap(-1, MIB)
    fill(memory)
    with forked(lambda: not raw(memory).any()):
        receipt = discarded(memory, evidence=evidence)
        assert_became(receipt, freed=MIB)
    assert ["MADV_REMOVE" in note for note in receipt.notes] == [True]
    assert not raw(memory).any()


# Files


@pytest.fixture
def path(tmp_path):
    """A file of 1 MiB."""
    path = tmp_path / "file"
    path.write_bytes(b"F" * MIB)
    return path


@either_evidence
@pytest.mark.parametrize("map_file", [map_path, lambda path: np.memmap(path, mode="r+")], ids=["mmap", "memmap"])
def test_a_shared_mapping_of_a_file_loses_nothing(path, map_file, evidence):
    """Its pages stay in the cache, what was written with them."""
    memory = map_file(path)
    contents = fill(memory)
    receipt = discarded(memory, evidence=evidence)
    assert_became(receipt, cached=MIB)
    assert "nothing is lost" in receipt.notes[0]
    assert np.array_equal(raw(memory), contents)
    assert path.read_bytes() == contents.tobytes()


@either_evidence
def test_pages_of_a_file_that_are_mapped_elsewhere_are_shared(path, evidence):
    """Even the cache cannot drop them."""
    memory, other = map_path(path), map_path(path)
    assert raw(memory).all()
    assert raw(other).all()
    assert_became(discarded(memory, evidence=evidence), shared=MIB)


@either_evidence
@pytest.mark.parametrize(
    "map_file",
    [lambda path: map_path(path, access=mmap.ACCESS_COPY), lambda path: np.memmap(path, mode="c")],
    ids=["mmap", "memmap"],
)
def test_a_private_mapping_of_a_file_reads_as_the_file_again(path, map_file, evidence):
    """The copies that were written are freed and their changes lost; what was only read stays in the cache."""
    memory = map_file(path)
    assert raw(memory).all()
    raw(memory)[: 64 * PAGE] = 1
    receipt = discarded(memory, evidence=evidence)
    assert_became(receipt, freed=64 * PAGE, cached=MIB - 64 * PAGE)
    assert "changes made here are lost" in receipt.notes[0]
    assert (raw(memory) == ord("F")).all()


# Lazily


@either_evidence
def test_lazily_freed_memory_stays_until_the_kernel_wants_it(evidence):
    """RSS does not move; a page that is written again is kept, the others go when memory is short."""
    memory = small_pages(MIB)
    contents = fill(memory)
    assert raw(memory)[: 2 * PAGE].all()
    receipt = discarded(memory, lazy=True, evidence=evidence)
    assert_became(receipt, lazy=MIB)
    assert receipt.after.rss_anon_bytes == pytest.approx(receipt.before.rss_anon_bytes, abs=PAGE * 16)
    raw(memory)[:PAGE] = 7
    memory.madvise(PAGEOUT)
    assert (raw(memory)[:PAGE] == 7).all()
    assert not raw(memory)[PAGE:].any()
    assert contents.any()


@either_evidence
def test_lazily_freed_zero_pages_are_no_memory_either(evidence):
    """MADV_FREE passes them by."""
    memory = small_pages(16 * PAGE)
    assert not raw(memory).any()
    raw(memory)[0] = 1
    assert_became(discarded(memory, lazy=True, evidence=evidence), lazy=PAGE)


# By what the witness reads


@pytest.mark.needs_root
def test_frames_are_looked_up_in_any_order_and_as_often_as_asked():
    """Runs of neighbours are read together, and the answers are put back where they belong."""
    memory = small_pages(64 * PAGE)
    fill(memory)
    frames = frames_behind(memory)
    asked = np.concatenate((frames[::-1], frames[::3], frames[5:9])).reshape(-1, 2)
    with forked():  # twice, so that a frame looked up wrongly would show
        assert np.array_equal(read_map_counts(asked), words_of("kpagecount", asked.reshape(-1)).reshape(-1, 2))
        assert (read_map_counts(asked) == 2).all()
    assert has(read_frame_flags(asked), ANON).all()


@pytest.mark.needs_root
def test_frames_that_no_machine_has_have_no_flags():
    """Beyond the last one a read ends."""
    beyond = np.array([1 << 50, (1 << 50) + 1], np.uint64)
    assert read_frame_flags(beyond).tolist() == read_map_counts(beyond).tolist() == [0, 0]
    assert read_frame_flags(beyond[:0]).tolist() == []
