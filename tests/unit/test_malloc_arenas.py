"""Arenas of malloc as three builds of glibc lay them out: found as they are, and left alone if broken in any one way.

Every check that protects a process from us has a test here that fails without it.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from dontneed.abi.glibc_malloc import HEAP_BYTES, LAYOUTS, STATE_BYTES
from dontneed.errors import Unreadable
from dontneed.kernel.maps import parse_maps
from dontneed.observe.malloc.arenas import Places, find_main_arenas, read_arenas
from dontneed.observe.malloc.memory import memory_of, places_of_heaps, read_heaps
from dontneed.observe.malloc.state import find_states, fitting_layouts, parse_state
from dontneed.spans import Span, Spans
from dontneed.units import MIB

from .malloc_world import BRK, DATA, DATA_BYTES, FIRST_HEAP, MAIN, PAGE, UNSORTED, World

LARGE = 110

every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=[layout.builds for layout in LAYOUTS])


# What is there is found


@every_layout
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_main_arena_is_found_with_its_layout(layout, threads):
    """All layouts agree in what lies behind the bins: only the ring of arenas tells which it is."""
    world = World(layout, heaps=(1,) * threads)
    assert find_main_arenas(world.memory, [(DATA, DATA + DATA_BYTES)]) == [(MAIN, layout)]


@every_layout
def test_every_arena_is_sound_and_its_top_is_whole_pages_behind_the_header(layout):
    """The first page of a top holds its header, and what malloc writes there must stay."""
    world = World(layout, heaps=(1, 2, 3))
    arenas = world.look()
    assert list(arenas) == world.arenas
    assert all(arena.is_sound for arena in arenas.values())
    for address, arena in arenas.items():
        top = world.top_of(address)
        assert arena.top == Span(top + PAGE, top + world.TOP)


@pytest.mark.parametrize("info", [32, 48])
def test_heaps_before_and_after_2_35_are_both_known(info):
    """heap_info grew by the size of a page."""
    assert all(arena.is_sound for arena in World(info=info, heaps=(2,)).look().values())


@pytest.mark.parametrize("offset", [0, 16, PAGE - 48, PAGE - 32, PAGE - 16])
def test_nothing_of_the_48_bytes_at_a_top_is_given_up(offset):
    """malloc_trim leaves that much, too."""
    world = World()
    arena = world.arenas[1]
    top = world.top_of(arena) + offset
    world.set(arena + world.layout.top, top)
    world.set(top + 8, world.TOP - offset | 1)
    found = world.look()[arena].top
    assert top + 48 <= found.start < top + 48 + PAGE
    assert found.end == world.heaps[arena][-1] + world.HEAP


def test_a_top_without_a_whole_page_gives_up_nothing():
    """The least top is 32 bytes long."""
    world = World()
    arena = world.arenas[1]
    end = world.heaps[arena][-1] + world.HEAP
    world.set(arena + world.layout.top, end - 32)
    world.set(end - 24, 32 | 1)
    found = world.look()[arena]
    assert found.is_sound
    assert not found.top


def test_a_main_arena_that_was_never_used_has_no_top():
    """Its top is a bin then (initial_top), and the word behind it no size."""
    world = World()
    world.set(MAIN + world.layout.top, MAIN + world.layout.top)
    world.set(MAIN + world.layout.system_mem, 0)
    found = world.look()[MAIN]
    assert found.is_sound
    assert not found.top


def test_a_main_arena_that_left_brk_is_known_by_its_flag():
    """Where brk fails it goes on in mapped memory, which ends wherever."""
    world = World()
    region = 0x7D00_0000_0000
    world.regions[region] = bytearray(world.HEAP)
    world.flags(MAIN, 2)
    world.set(MAIN + world.layout.top, region + 64 * 1024)
    world.set(region + 64 * 1024 + 8, 64 * 1024 | 1)
    found = world.look()[MAIN]
    assert found.is_sound
    assert found.top == Span(region + 64 * 1024 + PAGE, region + 128 * 1024)
    assert not found.memory & Spans((heap, heap + HEAP_BYTES) for heaps in world.heaps.values() for heap in heaps)


@every_layout
def test_fast_chunks_are_seen_where_a_build_has_them(layout):
    """They are what malloc_trim consolidates, and nothing else does."""
    world = World(layout)
    assert not world.look()[MAIN].state.has_fast_chunks
    start, end = layout.fastbins
    if start < end:
        world.set(MAIN + end - 8, BRK + 64)
        assert world.look()[MAIN].state.has_fast_chunks


# Each contradiction alone is reason enough


def _two_newest(world, arena):
    """Both heaps behind the first say that it is the one before them."""
    world.set(world.heaps[arena][2] + 8, world.heaps[arena][0])


def _with_top(world, arena, size):
    world.set(world.top_of(arena) + 8, size)


def _move_top(world, arena, by):
    top = world.top_of(arena) + by
    world.set(arena + world.layout.top, top)
    world.set(top + 8, world.TOP - by | 1)


def _top_in_old_heap(world, arena):
    """It ends where the newest heap ends, and takes in whatever lies between."""
    top = world.heaps[arena][0] + world.HEAP - world.TOP
    world.set(arena + world.layout.top, top)
    world.set(top + 8, world.heaps[arena][-1] + world.HEAP - top | 1)


def _set_field(field):
    return lambda world, arena, value: world.set(arena + getattr(world.layout, field), value)


def _grow_top(world, arena):
    """It ends at a page, in memory that is mapped, and is not where the heap ends."""
    world.regions[world.heaps[arena][-1]] += bytearray(PAGE)
    _with_top(world, arena, world.TOP + PAGE | 1)


def _longer_than_a_heap(world, arena):
    base = world.heaps[arena][-1]
    world.regions[base] += bytearray(HEAP_BYTES)
    world.set(base + 24, HEAP_BYTES + PAGE)


def _as_long_as(world, arena, size):
    """A heap of this size, with all that depends on it."""
    base = world.heaps[arena][-1]
    world.set(base + 16, size)
    world.set(arena + world.layout.system_mem, size + world.HEAP * (len(world.heaps[arena]) - 1))
    _with_top(world, arena, base + size - world.top_of(arena) | 1)


def _uses_more_than_it_has(world, arena):
    world.regions[world.heaps[arena][-1]] += bytearray(PAGE)
    _as_long_as(world, arena, world.HEAP + PAGE)


THREAD_ARENA_FAULTS = {
    "an unknown flag": (lambda w, a: w.flags(a, 2 | 4), "flags"),
    "grows by brk": (lambda w, a: w.flags(a, 0), "brk"),
    "a bin of which one link leads back": (lambda w, a: w.set(a + w.layout.bins + 160, BRK + 64), "bins"),
    "a bin that is filled and not marked": (
        lambda w, a: w.set(a + w.layout.bins + 160, BRK + 64, BRK + 64),
        "bins",
    ),
    "a heap that is not whole pages": (lambda w, a: _as_long_as(w, a, w.HEAP - 16), "number of pages"),
    "a heap of no bytes": (lambda w, a: w.set(w.heaps[a][-1] + 16, 0), "number of pages"),
    "a heap writable to within a page": (lambda w, a: w.set(w.heaps[a][-1] + 24, w.HEAP + 16), "number of pages"),
    "a heap that uses more than it has": (_uses_more_than_it_has, "more than it has ever had"),
    "a heap longer than heaps are": (_longer_than_a_heap, "longer"),
    "a heap that is not all mapped": (lambda w, a: w.set(w.heaps[a][-1] + 24, w.HEAP + PAGE), "anonymous"),
    "two newest heaps": (_two_newest, "chain"),
    "a chain that ends elsewhere": (lambda w, a: w.set(w.heaps[a][0] + 8, 0x1234_0000_0000), "chain"),
    "a chain in a circle": (lambda w, a: w.set(w.heaps[a][0] + 8, w.heaps[a][2]), "chain"),
    "less memory than its heaps": (lambda w, a: _set_field("system_mem")(w, a, 2 * w.HEAP), "as long as"),
    "a top that is not aligned": (lambda w, a: _move_top(w, a, 8), "aligned"),
    "a top that is mapped by itself": (lambda w, a: _with_top(w, a, w.TOP | 3), "marked"),
    "a top of another arena": (lambda w, a: _with_top(w, a, w.TOP | 5), "marked"),
    "a top behind a free chunk": (lambda w, a: _with_top(w, a, w.TOP), "marked"),
    "a top that cannot be read": (lambda w, a: _set_field("top")(w, a, 0x1234_0000_0000), "marked"),
    "a top shorter than a chunk": (lambda w, a: _move_top(w, a, w.TOP - 16), "shorter"),
    "a top in an older heap": (_top_in_old_heap, "not in its newest heap"),
    "a top that ends too early": (lambda w, a: _with_top(w, a, w.TOP - PAGE | 1), "does not end"),
    "a top that ends too late": (_grow_top, "does not end"),
}


@every_layout
@pytest.mark.parametrize("fault", THREAD_ARENA_FAULTS)
def test_an_arena_with_a_fault_is_left_alone_and_the_others_are_not(layout, fault):
    """One contradiction means that we do not understand what is there."""
    breaks, said = THREAD_ARENA_FAULTS[fault]
    world = World(layout, heaps=(1, 3, 1))
    broken = world.arenas[2]
    breaks(world, broken)
    arenas = world.look()
    assert said in arenas[broken].fault
    assert not arenas[broken].top
    assert not arenas[broken].memory
    assert all(arena.is_sound for address, arena in arenas.items() if address != broken)


def _main_top(world, top, size):
    world.set(MAIN + world.layout.top, top)
    world.set(top + 8, size | 1)


def _main_in_mapped_memory(world, length):
    region = 0x7D00_0000_0000
    world.regions[region] = bytearray(world.HEAP)
    world.flags(MAIN, 2)
    _main_top(world, region + PAGE, length)


MAIN_ARENA_FAULTS = {
    "an unknown flag": (lambda w: w.flags(MAIN, 4), "flags"),
    "a bin of which one link leads back": (lambda w: w.set(MAIN + w.layout.bins + 160, BRK + 64), "bins"),
    "a top that is not aligned": (lambda w: _main_top(w, w.top_of(MAIN) + 8, w.TOP - 8), "aligned"),
    "a top that is marked": (lambda w: w.set(w.top_of(MAIN) + 8, w.TOP | 7), "marked"),
    "a top shorter than a chunk": (lambda w: _main_top(w, BRK + w.HEAP - 16, 16), "shorter"),
    "a top longer than all it has": (lambda w: w.set(MAIN + w.layout.system_mem, w.TOP - PAGE), "longer"),
    "a top that ends within a page": (lambda w: _main_in_mapped_memory(w, 32 * 1024 + 16), "at a page"),
    "a top that is not all mapped": (lambda w: _main_in_mapped_memory(w, w.HEAP), "anonymous"),
    "a top that ends before brk": (lambda w: w.set(w.top_of(MAIN) + 8, w.TOP - PAGE | 1), "brk"),
    "a top outside brk": (lambda w: _main_top(w, w.top_of(w.arenas[1]), w.TOP), "brk"),
}


@every_layout
@pytest.mark.parametrize("fault", MAIN_ARENA_FAULTS)
def test_a_main_arena_with_a_fault_is_left_alone_and_the_others_are_not(layout, fault):
    """The main arena has no heap_info to agree with, so that less is known of it."""
    breaks, said = MAIN_ARENA_FAULTS[fault]
    world = World(layout, heaps=(1, 3, 1))
    breaks(world)
    arenas = world.look()
    assert said in arenas[MAIN].fault
    assert not arenas[MAIN].top
    assert not arenas[MAIN].memory
    assert all(arena.is_sound for address, arena in arenas.items() if address != MAIN)


def test_an_arena_that_is_locked_is_not_sound():
    """A thread is inside malloc with it: whatever it says may be half a truth."""
    world = World()
    world.flags(world.arenas[1], 2, mutex=1)
    world.flags(world.arenas[2], 2, mutex=2)
    arenas = world.look()
    assert [arenas[address].is_sound for address in world.arenas] == [True, False, False]


def test_an_arena_that_does_not_stand_at_the_start_of_its_first_heap_is_left_alone():
    """Its first heap is the one that holds it, and not just any without another before it."""
    world = World(heaps=(2,))
    arena = world.arenas[1]
    first, second = world.heaps[arena]
    world.set(first + 8, second)
    world.set(second + 8, 0)
    world.set(arena + world.layout.top, first + world.HEAP - world.TOP)
    world.set(first + world.HEAP - world.TOP + 8, world.TOP | 1)
    assert "start of its first heap" in world.look()[arena].fault


def test_an_arena_whose_heaps_are_of_huge_pages_is_left_alone():
    """From 2.35 on heap_info says so; whatever else is different then is not known."""
    world = World(heaps=(2,))
    arena = world.arenas[1]
    world.set(world.heaps[arena][1] + 32, 2 * MIB)
    assert "huge pages" in world.look()[arena].fault


def test_an_arena_whose_heaps_are_nowhere_is_left_alone():
    """With a tunable for huge pages heaps lie elsewhere."""
    world = World()
    places = Places(world.places.mains, np.array([world.heaps[world.arenas[2]][0]], np.uint64))
    arenas = {arena.address: arena for arena in read_arenas(world.memory, places)}
    assert "none of its heaps" in arenas[world.arenas[1]].fault
    assert arenas[world.arenas[2]].is_sound


def test_an_arena_outside_the_ring_is_none():
    """It looks like one in every other way."""
    world = World(heaps=(1, 1, 1))
    world.set(world.arenas[1] + world.layout.next, world.arenas[3])
    assert list(world.look()) == [MAIN, world.arenas[1], world.arenas[3]]


@pytest.mark.parametrize("following", [0x1234_0000_0000, MAIN + 8], ids=["leads nowhere", "not aligned"])
def test_a_ring_that_does_not_close_is_refused_altogether(following):
    """Then nobody knows which arenas there are."""
    world = World()
    world.set(world.arenas[2] + world.layout.next, following)
    with pytest.raises(Unreadable):
        world.look()


def test_a_ring_that_runs_in_a_circle_without_the_main_arena_ends():
    """We must not go round for ever."""
    world = World()
    world.set(world.arenas[2] + world.layout.next, world.arenas[1])
    with pytest.raises(Unreadable):
        world.look()


def test_arenas_of_another_layout_than_the_main_one_are_left_alone():
    """They cannot be of the same libc."""
    world = World(LAYOUTS[1], heaps=(1, 1))
    other = World(LAYOUTS[0], heaps=(1, 1), info=48)
    strange = world.arenas[1]
    world.put(strange, other.read(strange, STATE_BYTES))
    world.set(strange + world.layout.next, world.arenas[2])
    assert "bins" in world.look()[strange].fault


# Bytes that are no arena


@every_layout
def test_only_the_layout_that_built_it_fits_a_state(layout):
    """Of three that differ by a few words."""
    world = World(layout)
    data = world.read(world.arenas[1], STATE_BYTES)
    assert fitting_layouts(world.arenas[1], data) == [layout]


@every_layout
@pytest.mark.parametrize("content", [bytes(STATE_BYTES), b"\xff" * STATE_BYTES, bytes(range(256)) * 9, b""])
def test_no_layout_fits_what_is_no_state(layout, content):
    """Zeros above all: memory that was never written."""
    assert fitting_layouts(MAIN, content, (layout,)) == []


def test_a_state_that_was_moved_does_not_fit():
    """Its bins lead to where they were: a copy, not an arena."""
    world = World()
    assert fitting_layouts(MAIN + 64, world.read(MAIN, STATE_BYTES)) == []


@pytest.mark.parametrize("link", [BRK + 8, 16], ids=["not aligned", "in the first page"])
def test_a_bin_that_leads_where_no_chunk_can_be_does_not_fit(link):
    """The map of bins alone does not make it one."""
    world = World()
    world.fill_bin(MAIN, LARGE, [BRK + PAGE])
    assert fitting_layouts(MAIN, world.read(MAIN, STATE_BYTES)) == [world.layout]
    world.set(MAIN + world.layout.bins + 16 * (LARGE - 1), link, link)
    assert fitting_layouts(MAIN, world.read(MAIN, STATE_BYTES)) == []


@pytest.mark.parametrize("link", [0, 8], ids=["fd", "bk"])
def test_a_filled_bin_of_which_one_link_leads_back_does_not_fit(link):
    """Somebody is just putting a chunk there, or it is no bin."""
    world = World()
    world.fill_bin(MAIN, LARGE, [BRK + PAGE])
    pair = MAIN + world.layout.bins + 16 * (LARGE - 1)
    world.set(pair + link, pair - 16)
    assert fitting_layouts(MAIN, world.read(MAIN, STATE_BYTES)) == []


def test_a_state_that_is_cut_off_is_none():
    """Static data may begin or end anywhere."""
    world = World(heaps=())
    bins = MAIN + world.layout.bins
    for cut in (8, 16, 1000, 2000):
        assert not find_states(bins + cut, world.read(bins + cut, PAGE))
        assert not find_states(DATA, world.read(DATA, bins + cut - DATA))


def test_the_unsorted_bin_is_in_no_map():
    """Glibc does not mark it."""
    world = World()
    world.fill_bin(MAIN, UNSORTED, [BRK + PAGE])
    assert fitting_layouts(MAIN, world.read(MAIN, STATE_BYTES)) == [world.layout]
    assert parse_state(MAIN, world.read(MAIN, STATE_BYTES), world.layout).filled_bins() == [UNSORTED]


def test_two_states_with_closing_rings_at_one_place_are_both_left_alone():
    """What cannot be decided is not guessed."""
    world = World(LAYOUTS[1], heaps=())
    other = MAIN + LAYOUTS[1].bins - LAYOUTS[0].bins
    assert {address for address, _ in find_states(DATA, world.read(DATA, DATA_BYTES))} >= {MAIN, other}
    world.set(MAIN + world.layout.next, MAIN)
    assert find_main_arenas(world.memory, [(DATA, DATA + DATA_BYTES)]) == [(MAIN, LAYOUTS[1])]
    overlapping = {MAIN: other, other: MAIN}
    read = world.read

    def either(address, length):
        """Every state says that the other one follows, and that one, that this does."""
        data = bytearray(read(address, length))
        if address in overlapping:
            for layout in LAYOUTS:
                data[layout.next : layout.next + 8] = struct.pack("<Q", address)
        return bytes(data)

    assert find_main_arenas(world.memory.replace(read=either), [(DATA, DATA + DATA_BYTES)]) == []


# Where heaps can be


def test_heaps_are_looked_for_at_multiples_of_64_mib_only():
    """That is how glibc finds the heap of a chunk."""
    spans = Spans([(FIRST_HEAP + PAGE, FIRST_HEAP + 3 * HEAP_BYTES), (BRK, BRK + PAGE)])
    assert places_of_heaps(spans).tolist() == [BRK, FIRST_HEAP + HEAP_BYTES, FIRST_HEAP + 2 * HEAP_BYTES]


def test_a_heap_of_an_arena_that_is_in_no_heap_is_none():
    """Whatever lies at a multiple of 64 MiB is read, and its first word is not followed just anywhere."""
    world = World()
    world.set(world.heaps[world.arenas[1]][0], 0x7F12_3456_7890)
    assert list(read_heaps(world.memory, world.places.heaps)) == [world.arenas[2]]


def test_only_private_anonymous_memory_that_can_be_written_is_looked_at():
    """Never a file, never shared memory, never a guard."""
    table = parse_maps(
        b"550000000000-550000021000 rw-p 00000000 00:00 0    [heap]\n"
        b"7e0000000000-7e0000100000 rw-p 00000000 00:00 0 \n"
        b"7e0000100000-7e0004000000 ---p 00000000 00:00 0 \n"
        b"7e0008000000-7e0008001000 rw-p 00000000 00:00 0    [anon:glibc: malloc arena]\n"
        b"7f0000000000-7f0000001000 rw-p 00001000 fe:00 77   /usr/lib/libc.so.6\n"
        b"7f0000001000-7f0000002000 rw-s 00000000 00:01 78   /dev/zero (deleted)\n"
        b"7f0000002000-7f0000003000 r--p 00000000 00:00 0 \n"
        b"7fff00000000-7fff00021000 rw-p 00000000 00:00 0    [stack]\n"
    )
    memory = memory_of(1, table)
    assert [(span.start, span.end) for span in memory.writable] == [
        (0x5500_0000_0000, 0x5500_0002_1000),
        (0x7E00_0000_0000, 0x7E00_0010_0000),
        (0x7E00_0800_0000, 0x7E00_0800_1000),
    ]
    assert memory.brk == Span(0x5500_0000_0000, 0x5500_0002_1000)
