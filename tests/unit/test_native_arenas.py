"""The native part on an arena of malloc that we make up: what it gives back, and that it leaves alone all that is odd.

Each refusal is one check in src/native/arenas.c: without that check its test fails.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import time

import numpy as np
import pytest

from dontneed import Span, Spans
from dontneed.abi.glibc_malloc import BINS, HEAP_BYTES, LAYOUTS
from dontneed.kernel import mappings, native

from .made_memory import PAGE, making_memory

pytestmark = pytest.mark.skipif(not native.is_native(), reason=f"needs the native part: {native.why_not()}")

LONG = 3600.0
LAYOUT = LAYOUTS[1]
UNSORTED, LARGE = 1, 110


class Heaps:
    """A thread arena of two heaps, with free chunks in both, and a top of 50 pages behind 70 in the newer one."""

    is_main = False

    def __init__(self, memory):
        self.memory = memory(2 * HEAP_BYTES, HEAP_BYTES)
        self.first, self.newest = self.memory.address, self.memory.address + HEAP_BYTES
        self.state = self.first + 48
        self.top = self.newest + 70 * PAGE + 16
        self.end = self.newest + 120 * PAGE
        self.memory.bytes[: 64 * PAGE] = self.memory.bytes[HEAP_BYTES : HEAP_BYTES + 128 * PAGE] = 0xAA
        self[self.first] = self.state, 0, 40 * PAGE, 40 * PAGE
        self[self.newest] = self.state, self.first, 120 * PAGE, 128 * PAGE
        self[self.state] = (2 << 32,)
        self[self.state + LAYOUT.top] = (self.top,)
        self[self.state + LAYOUT.system_mem] = (160 * PAGE,)
        self[self.top + 8] = (self.end - self.top | 1,)
        for number in range(1, BINS + 1):
            self.fill_bin(number)
        self.chunks = [self.newest + 2 * PAGE + 32, self.first + 10 * PAGE, self.newest + 30 * PAGE + 4000]
        self.sizes = [10 * PAGE, 8 * PAGE + 64, 20 * PAGE]
        self.inner = [Span.inward(at + 48, size - 48) for at, size in zip(self.chunks, self.sizes, strict=True)]
        for chunk, size in zip(self.chunks, self.sizes, strict=True):
            self[chunk + 8] = (size | 1,)
            self[chunk + size] = size, 48
        self.fill_bin(UNSORTED, self.chunks[:1])
        self.fill_bin(LARGE, self.chunks[1:])

    def __setitem__(self, address, words):
        place = address - self.memory.address
        self.memory.bytes[place : place + 8 * len(words)] = np.array(words, np.uint64).view(np.uint8)

    def fill_bin(self, number, chunks=()):
        """Link a bin and its chunks, in their order."""
        bin_ = self.bin_at(number)
        ring = [bin_, *chunks, bin_]
        for before, chunk in itertools.pairwise(ring):
            self[before + 16] = (chunk,)
            self[chunk + 24] = (before,)

    def bin_at(self, number):
        """Where its links would be those of a chunk."""
        return self.state + LAYOUT.bins + 16 * (number - 1) - 16

    @property
    def top_pages(self):
        """What can be given up of the top."""
        return Span(self.newest + 71 * PAGE, self.end)

    def release(self, position=0, at_most=LONG):
        """Hold the arena's lock once."""
        return native.release_arena(self.state, LAYOUT, position, at_most, is_main=self.is_main)

    def mutex(self):
        """The arena's lock, to be read and written."""
        return ctypes.c_uint32.from_address(self.state)

    def present(self):
        """Which pages of both heaps are there."""
        newest = self.memory.present(self.newest, 128 * PAGE)
        return np.array(self.memory.present(self.first, 64 * PAGE) + newest)


@pytest.fixture
def memory():
    """Make memory: `memory(length, alignment)`."""
    with making_memory() as make:
        yield make


@pytest.fixture
def heaps(memory):
    """An arena that is sound."""
    return Heaps(memory)


def test_what_is_inside_free_chunks_goes_and_their_headers_stay(heaps):
    """Of the top, up to the end of the newest heap; in the bins, between a chunk's header and its last partial page."""
    was_there, before = heaps.present(), heaps.memory.bytes.copy()
    hold = heaps.release()
    assert (hold.spans, hold.fault, hold.position) == (Spans([heaps.top_pages, *heaps.inner]), "", None)
    gone = Spans([heaps.top_pages, *heaps.inner]).size_bytes // PAGE
    assert was_there.sum() - heaps.present().sum() == gone
    for span in hold.spans:
        before[span.start - heaps.memory.address : span.end - heaps.memory.address] = 0
    assert (heaps.memory.bytes == before).all()
    assert heaps.mutex().value == 0


def test_what_is_not_there_is_not_given_up_again(heaps):
    """A second look costs little, and says that there was nothing to do."""
    heaps.release()
    again = heaps.release()
    assert (len(again.spans), again.position, again.fault) == (0, None, "")


def test_of_a_chunk_that_is_there_in_part_only_that_part_is_given_up(heaps):
    """As little as it takes: every range costs."""
    heaps.release()
    for page in (3, 5):
        heaps[heaps.inner[2].start + page * PAGE] = (1,)
    start = heaps.inner[2].start
    assert heaps.release().spans == Spans([(start + 3 * PAGE, start + 6 * PAGE)])


def test_a_hold_ends_when_there_is_no_room_for_more_rows(heaps, monkeypatch):
    """The next one goes on."""
    monkeypatch.setattr(native, "_ROWS", 2)
    first = heaps.release()
    second = heaps.release(first.position)
    assert [len(first.spans), len(second.spans), second.position] == [2, 2, None]
    assert first.spans | second.spans == Spans([heaps.top_pages, *heaps.inner])


def test_a_hold_without_time_gives_up_one_chunk_and_the_next_goes_on(heaps):
    """However many chunks there are, holds come to an end, and are short."""
    position, found = 0, []
    while position is not None:
        hold = heaps.release(position, at_most=0.0)
        found.append(hold.spans)
        position = hold.position
    wanted = [Spans([span]) for span in (heaps.top_pages, *heaps.inner)]
    assert [spans for spans in found if spans] == wanted


def test_a_large_top_goes_in_several_holds(memory):
    """4 MiB at a time at most, so that no thread waits long for its arena."""
    heaps = Heaps(memory)
    heaps[heaps.newest + 16] = 16384 * PAGE, 16384 * PAGE
    heaps[heaps.top + 8] = (heaps.newest + HEAP_BYTES - heaps.top | 1,)
    heaps[heaps.state + LAYOUT.system_mem] = (HEAP_BYTES + 40 * PAGE,)
    heaps.memory.bytes[HEAP_BYTES + 71 * PAGE :: PAGE] = 1
    position, sizes = 0, []
    while position is not None:
        hold = heaps.release(position, at_most=0.0)
        sizes.append(hold.spans.size_bytes)
        position = hold.position
    assert max(sizes) == 4 << 20
    assert sum(sizes) == HEAP_BYTES - 71 * PAGE + sum(span.size_bytes for span in heaps.inner)


class MainArena(Heaps):
    """The same chunks, as those of an arena that grows by brk."""

    is_main = True

    def __init__(self, memory):
        super().__init__(memory)
        self[self.state] = (0,)
        self[self.first] = self[self.newest] = 0, 0, 0, 0


def test_the_main_arena_has_no_heaps(memory):
    """Its top ends where brk ended, and its chunks may lie anywhere."""
    arena = MainArena(memory)
    assert arena.release().spans == Spans([arena.top_pages, *arena.inner])


def test_a_main_arena_that_was_never_used_has_no_top(memory):
    """Its top is a bin then."""
    arena = MainArena(memory)
    arena[arena.state + LAYOUT.top] = (arena.bin_at(UNSORTED),)
    assert arena.release().spans == Spans(arena.inner)


@pytest.mark.parametrize(
    ("field", "value"),
    [("system_mem", 49 * PAGE), ("size", 50 * PAGE - 32 | 1), ("size", 50 * PAGE - 16), ("size", 50 * PAGE - 16 | 3)],
)
def test_a_main_arena_that_is_not_what_it_should_be_is_left_alone(memory, field, value):
    """Its top is shorter than all it has, ends at a page, and is marked as tops are."""
    arena = MainArena(memory)
    arena[arena.top + 8 if field == "size" else arena.state + LAYOUT.system_mem] = (value,)
    hold = arena.release()
    assert (len(hold.spans), hold.fault) == (0, STRANGE)


STRANGE = "it is not what it should be"
FIRST, NEWEST, STATE, TOP_CHUNK = "first", "newest", "state", "top"


@pytest.mark.parametrize(
    ("where", "offset", "value"),
    [
        (STATE, 0, 6 << 32),
        (STATE, 0, 0),
        (STATE, LAYOUT.top, 0),
        (STATE, LAYOUT.system_mem, 161 * PAGE),
        (NEWEST, 0, 16),
        (NEWEST, 8, 48),
        (NEWEST, 16, 0),
        (NEWEST, 16, 129 * PAGE),
        (NEWEST, 24, HEAP_BYTES + PAGE),
        (NEWEST, 24, 128 * PAGE + 8),
        (FIRST, 0, 16),
        (FIRST, 8, NEWEST),
        (TOP_CHUNK, 8, 50 * PAGE - 16),
        (TOP_CHUNK, 8, 50 * PAGE - 16 | 3),
        (TOP_CHUNK, 8, 50 * PAGE - 16 | 5),
        (TOP_CHUNK, 8, 50 * PAGE | 1),
        (TOP_CHUNK, 8, 17),
    ],
)
def test_an_arena_that_is_not_what_it_should_be_is_left_alone(heaps, where, offset, value):
    """Each word is held against the others."""
    heaps[getattr(heaps, where) + offset] = (getattr(heaps, value) if isinstance(value, str) else value,)
    was_there = heaps.present()
    hold = heaps.release()
    assert (len(hold.spans), hold.fault) == (0, STRANGE)
    assert (heaps.present() == was_there).all()
    assert heaps.mutex().value == 0


@pytest.mark.parametrize("size", [120 * PAGE + 16, 129 * PAGE], ids=["no number of pages", "more than it ever had"])
def test_a_heap_of_a_length_that_cannot_be_is_left_alone(heaps, size):
    """Whatever else agrees with it."""
    heaps[heaps.newest + 16] = (size,)
    heaps[heaps.top + 8] = (heaps.newest + size - heaps.top | 1,)
    heaps[heaps.state + LAYOUT.system_mem] = (40 * PAGE + size,)
    assert heaps.release().fault == STRANGE


@pytest.mark.parametrize("top", [8, -70 * PAGE - 16, 50 * PAGE - 32], ids=["not aligned", "in heap_info", "too short"])
def test_a_top_where_none_can_be_is_left_alone(heaps, top):
    """Its size is right for where it is, so that its place alone is wrong."""
    place = heaps.top + top
    heaps[heaps.state + LAYOUT.top] = (place,)
    if place != heaps.newest:
        heaps[place + 8] = (heaps.end - place | 1,)
    assert heaps.release().fault == STRANGE


def test_a_top_beyond_what_its_heap_ever_used_is_not_even_read(heaps):
    """Nobody may touch what lies there."""
    mappings.protect_memory(heaps.newest + 128 * PAGE, 64 * PAGE, mappings.PROT_NONE)
    heaps[heaps.state + LAYOUT.top] = (heaps.newest + 130 * PAGE,)
    assert heaps.release().fault == STRANGE


def test_an_arena_that_does_not_stand_in_its_first_heap_is_left_alone(heaps):
    """A heap's word alone does not make an arena of what it points to."""
    stranger = heaps.first + 3 * PAGE
    start = heaps.state - heaps.memory.address
    heaps.memory.bytes[3 * PAGE : 4 * PAGE] = heaps.memory.bytes[start : start + PAGE]
    heaps[heaps.first] = heaps[heaps.newest] = (stranger,)
    hold = native.release_arena(stranger, LAYOUT, 0, LONG)
    assert (len(hold.spans), hold.fault) == (0, STRANGE)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, 10 * PAGE),
        (8, 10 * PAGE | 5),
        (8, 17),
        (16, 8),
        (24, 16),
        (10 * PAGE, 8 * PAGE),
        (10 * PAGE + 8, 49),
    ],
)
def test_a_chunk_that_contradicts_its_neighbours_ends_it(heaps, offset, value):
    """What was given up before it was sound, and nothing behind it is touched."""
    link = {8: 0, 16: heaps.chunks[0] + 8, 24: heaps.chunks[1]}.get(offset, 0)
    heaps[heaps.chunks[0] + offset] = (link if offset in (16, 24) else value,)
    hold = heaps.release()
    given = [heaps.top_pages, heaps.inner[0]] if offset == 16 else [heaps.top_pages]
    assert (hold.spans, hold.fault, hold.position) == (Spans(given), STRANGE, None)


def test_a_chunk_that_leads_nowhere_ends_it(heaps):
    """A bin ends where it began."""
    heaps[heaps.chunks[0] + 16] = (0,)
    hold = heaps.release()
    assert (hold.spans, hold.fault) == (Spans([heaps.top_pages, heaps.inner[0]]), STRANGE)


def test_a_chunk_of_another_arena_ends_it(heaps):
    """What is in our bins is ours."""
    heaps[heaps.first] = (heaps.state + 16,)
    heaps[heaps.newest + 8] = (0,)
    heaps[heaps.state + LAYOUT.system_mem] = (120 * PAGE,)
    assert heaps.release().fault == STRANGE


@pytest.mark.parametrize("place", [38 * PAGE, 20 * PAGE + 8], ids=["beyond its heap", "not aligned"])
def test_a_chunk_where_none_can_be_ends_it(heaps, place):
    """Even where the words around it agree."""
    chunk, size = heaps.first + place, 4 * PAGE
    heaps[chunk + 8] = (size | 1,)
    heaps[chunk + size] = size, 48
    heaps.fill_bin(UNSORTED, [chunk])
    hold = heaps.release()
    assert (hold.spans, hold.fault) == (Spans([heaps.top_pages]), STRANGE)


def test_a_lock_that_is_held_is_waited_for_only_so_long(heaps):
    """A thread that was stopped inside malloc must not take us along."""
    heaps.mutex().value = 1
    was_there = heaps.present()
    hold = heaps.release()
    assert (len(hold.spans), hold.fault, hold.position) == (0, "its lock was held all the time", None)
    assert (heaps.present() == was_there).all()
    assert heaps.mutex().value == 2  # so whoever holds it wakes somebody, who may not be there


def test_a_lock_that_is_given_back_is_taken(heaps, monkeypatch):
    """As malloc does: by the word itself, and a wake of those who wait."""
    monkeypatch.setattr(native, "_PATIENCE_SECONDS", LONG)
    heaps.mutex().value = 1
    wake = ctypes.CDLL(None).syscall

    def give_back():
        while heaps.mutex().value != 2:
            time.sleep(0.001)
        heaps.mutex().value = 0
        wake(202, ctypes.c_void_p(heaps.state), 129, 1)

    thread = threading.Thread(target=give_back)
    thread.start()
    hold = heaps.release()
    thread.join()
    assert (hold.fault, heaps.mutex().value) == ("", 0)
    assert heaps.top_pages in hold.spans


def test_chunks_that_the_kernel_does_not_let_go_are_not_said_to_be_given_up(heaps):
    """Locked memory stays where it is; the rest goes."""
    if mappings.libc.mlock(heaps.first, 40 * PAGE):
        pytest.skip("needs to lock 160 KiB of memory")
    try:
        hold = heaps.release()
        assert hold.spans == Spans([heaps.top_pages, heaps.inner[0], heaps.inner[2]])
        assert hold.fault == ""
    finally:
        mappings.libc.munlock(heaps.first, 40 * PAGE)
