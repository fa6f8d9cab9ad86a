"""The array of arena objects, found in memory that the tests make up: by agreement alone."""

from __future__ import annotations

import os
import random
from types import SimpleNamespace

import numpy as np
import pytest

from dontneed.abi import pymalloc as abi
from dontneed.errors import TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.python.arenas import find_arenas
from dontneed.spans import Spans

from .pymalloc_model import POOL, Memory, Pool, arena_object

ARENAS = 20
POOLS = 3
"""In use, of each arena."""


class World:
    """Arenas, their array, and the data of an interpreter that points to it among other things."""

    def __init__(self, array_at=4096, arenas=ARENAS):
        self.data = Memory(8192)
        self.tables = Memory(64 << 10)
        self.arenas = Memory(arenas * abi.ARENA_BYTES)
        self.data.words(self.data.address, 1024)[:] = np.arange(1024) * 48 + 5
        self.objects = np.concatenate([self._arena(number) for number in range(arenas)])
        self.place(array_at)
        self.holder = self.data.address + 800
        self.hold(self.holder, self.array)

    def _arena(self, number):
        address = self.arenas.address + number * abi.ARENA_BYTES
        for place in range(POOLS):
            rng = random.Random(place)  # noqa: S311 - a test that can be repeated
            Pool(self.arenas, address + place * POOL, number, place + 3).fill(rng, 600)
        return arena_object(address, address + POOLS * POOL, 64 - POOLS)

    def place(self, offset):
        """Put the array somewhere: the first power of two that has room, the rest linked as not in use."""
        count = max(16, 1 << (len(self.objects) - 1).bit_length())
        self.array = self.tables.address + offset
        unused = np.zeros(count - len(self.objects), self.objects.dtype)
        unused["pool_address"] = 0xDEAD  # what realloc() left there
        unused["nextarena"][:-1] = self.array + 48 * np.arange(len(self.objects) + 1, count)
        self.tables.words(self.tables.address, (64 << 10) // 8)[:] = 0xFFFF_FFFF_FFFF
        whole = np.concatenate((self.objects, unused))
        self.tables.words(self.array, count * 6)[:] = whole.view(np.uint64)

    def hold(self, address, value):
        """Have a word of the interpreter's data point somewhere."""
        self.data.words(address, 1)[0] = value

    def find(self, hint=None):
        """What is found, as of a process that has these three mappings and no more."""
        rows = [
            SimpleNamespace(start=span[0], end=span[1], perms="rw-p") for span in (self.tables.span, self.arenas.span)
        ]
        with ProcessDirectory() as process:
            subject = SimpleNamespace(pid=os.getpid(), process=process, rows=lambda *_kinds: rows)
            runtime = SimpleNamespace(mapped=SimpleNamespace(data=Spans([self.data.span])))
            return find_arenas(subject, runtime, hint)


@pytest.fixture
def world():
    """Twenty arenas and their array."""
    return World()


def test_the_one_word_that_agrees_with_all_pools_is_found(world):
    """And the arenas behind it, those in use of an array with room for more."""
    found = world.find()
    assert (found.holders, found.array) == ((world.holder,), world.array)
    assert found.numbers.tolist() == list(range(ARENAS))
    assert found.objects.tobytes() == world.objects.tobytes()


def test_the_next_time_it_is_found_by_the_hint(world, monkeypatch):
    """No pool is looked for."""
    hint = world.find().hint
    assert hint == {"holder": world.holder}
    monkeypatch.setattr("dontneed.observe.python.arenas._find_holders", None)
    world.place(20 << 10)
    world.hold(world.holder, world.array)
    assert world.find(hint).array == world.array


def test_a_wrong_hint_does_no_harm(world):
    """It may point to any word, or to none."""
    for wrong in (8, world.holder + 8, world.array, world.array + 48, world.arenas.address):
        assert world.find({"holder": wrong}).holders == (world.holder,)


def test_words_of_the_same_value_are_all_kept(world):
    """One of them is the interpreter's own; which one cannot be told now, so that there is no hint."""
    world.hold(world.data.address + 1600, world.array)
    found = world.find()
    assert found.holders == (world.holder, world.data.address + 1600)
    assert found.hint is None


@pytest.mark.parametrize("side", [-8, 8])
def test_of_such_words_the_one_beside_the_length_is_the_interpreters(world, side):
    """Compilers put it before or behind; what lies beside the others are pointers, and zeros."""
    world.hold(world.data.address + 1600, world.array)
    world.hold(world.holder + side, (0xABCD << 32) + 32)
    assert world.find().hint == {"holder": world.holder}


def test_other_words_that_point_into_the_array_are_none(world):
    """The first of the usable arenas, say: from there, the numbers in the pools are wrong."""
    world.hold(world.data.address + 1600, world.array + 48)
    world.hold(world.data.address + 1608, world.array + 48 * 16)
    assert world.find().holders == (world.holder,)


@pytest.mark.parametrize("arenas", [3, 15, 16, 17, 33])
def test_arrays_of_every_length_are_read_whole(arenas):
    """They begin with sixteen objects, and double."""
    assert len(World(arenas=arenas).find().numbers) == arenas


def test_an_arena_that_has_gone_is_no_longer_among_them(world):
    """Its object is not in use any more, and linked to the others that are not."""
    world.objects["address"][4] = 0
    world.objects["nextarena"][4] = world.array + 48 * ARENAS
    world.place(4096)
    assert world.find().numbers.tolist() == [number for number in range(ARENAS) if number != 4]


def test_debug_hooks_are_seen_by_what_lies_before_the_array(world):
    """A plain array has the C library's own words there."""
    world.tables.words(world.array - 8, 1)[0] = int.from_bytes(abi.DEBUG_HOOK, "little")
    with pytest.raises(TargetRefused, match="debug hooks"):
        world.find()


def test_a_process_without_pools_is_refused(world):
    """PYTHONMALLOC=malloc, or an allocator of its own."""
    world.arenas.bytes[:] = 0
    with pytest.raises(TargetRefused, match="no pools"):
        world.find()


def test_an_array_that_is_nowhere_is_refused(world):
    """The layout is another one than we know."""
    world.hold(world.holder, 0)
    with pytest.raises(TargetRefused, match="not found"):
        world.find()


def test_pools_of_several_arrays_are_refused(world):
    """Sub-interpreters with allocators of their own count their arenas from nought as well."""
    for number in range(0, ARENAS, 2):
        address = world.arenas.address + number * abi.ARENA_BYTES
        for place in range(POOLS):
            world.arenas.words(address + place * POOL, 6)[4] = (place + 3 << 32) + number // 2
    with pytest.raises(TargetRefused, match="more than one array"):
        world.find()
