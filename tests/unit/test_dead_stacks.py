"""What is dead of a stack that the tests make up, word by word: no thread's memory is given away by mistake."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import pytest

from dontneed import Span
from dontneed.errors import Unreadable
from dontneed.kernel.procmap import MappedPart
from dontneed.observe.stacks import dead_stacks
from dontneed.observe.stacks.dead_stacks import (
    NOT_ITS_OWN,
    POINTS_BELOW,
    RESERVE_BYTES,
    TOO_DEEP,
    find_dead_stack,
    thread_pointers_in,
)
from dontneed.units import KIB, MIB, PAGE_BYTES

PID, THREAD = 40, 41
START, SIZE, GUARD = 0x7F00_0000_0000, 8 * MIB, PAGE_BYTES
END = START + SIZE
BLOCK = END - 0x900
"""Where struct pthread is: with glibc 2.36, 0x900 bytes below the end."""
POINTER = BLOCK - 0x1238
RED_ZONE_BYTES = 128

WHOLE = MappedPart(START + GUARD, END, "rw-p", "", PAGE_BYTES)


class Memory:
    """A mapping that can be read, with words at addresses."""

    def __init__(self, start=START + GUARD, end=END):
        self.start, self.end = start, end
        self.bytes = bytearray(end - start)

    def put(self, address, *words):
        """Write words."""
        struct.pack_into(f"<{len(words)}Q", self.bytes, address - self.start, *words)

    def put_thread_block(self, start=START, size=SIZE, guard=GUARD, at=BLOCK):
        """Write what matters of a struct pthread."""
        self.put(at, at, 0, at)
        self.put(at + 0x690, start, size, guard, guard)

    def read(self, pid, address, length):
        """As `read_memory`."""
        assert pid == PID
        if not (self.start <= address and address + length <= self.end):
            raise Unreadable("not mapped")
        return bytes(self.bytes[address - self.start : address - self.start + length])


@pytest.fixture
def memory(monkeypatch):
    memory = Memory()
    memory.put_thread_block()
    monkeypatch.setattr(dead_stacks, "read_memory", memory.read)
    return memory


def dead(pointer=POINTER, mapping=WHOLE, *, thread=THREAD, registers=(), block=0):
    return find_dead_stack(SimpleNamespace(pid=PID), thread, pointer, mapping, registers, block)


def expected(pointer=POINTER, start=START + GUARD):
    return Span(start, (pointer - RED_ZONE_BYTES - RESERVE_BYTES) // PAGE_BYTES * PAGE_BYTES)


@pytest.mark.parametrize("block", [0, BLOCK])
def test_everything_between_guard_and_reserve_is_dead(memory, block):
    """Stopped, where the thread pointer is known, or running, where struct pthread has to be found."""
    del memory
    assert dead(block=block).span == expected()
    assert dead(block=block).why_not == ""


@pytest.mark.parametrize("depth", [40 * KIB, 600 * KIB, 3 * MIB])
def test_struct_pthread_is_found_far_up(memory, depth):
    """Of a thread that has much of its stack in use."""
    del memory
    assert dead(BLOCK - depth).span == expected(BLOCK - depth)


@pytest.mark.parametrize("block", [0, BLOCK])
def test_a_thread_that_is_deep_is_left_alone(memory, block):
    """To look through what it has in use would keep it waiting."""
    del memory
    assert dead(BLOCK - 5 * MIB, block=block).why_not == TOO_DEEP


def test_a_pointer_in_no_mapping_is_on_no_stack(memory):
    """Or in another mapping than the one that was found."""
    del memory
    assert dead(mapping=None).why_not == NOT_ITS_OWN
    assert dead(END + 8).why_not == NOT_ITS_OWN


@pytest.mark.parametrize("block", [0, BLOCK + 16, END + 0x1000])
def test_a_mapping_without_struct_pthread_is_no_stack(memory, block):
    """A coroutine's stack, or that of a signal handler: whoever made it knows what is dead there."""
    memory.put(BLOCK, 0, 0, 0)
    assert dead(block=block).why_not == NOT_ITS_OWN


@pytest.mark.parametrize(
    "block", [{"guard": 0}, {"start": START + 3}, {"start": START - 64 * MIB}, {"size": SIZE + 64 * MIB}]
)
def test_a_block_that_is_not_of_the_c_librarys_making_is_left_alone(memory, block):
    """Without a guard the program made it; and what is not so shaped is not struct pthread."""
    memory.put_thread_block(**block)
    assert dead(block=BLOCK).why_not == NOT_ITS_OWN


@pytest.mark.parametrize("above", [0, 8, 0x500])
def test_a_word_that_points_below_the_stack_pointer_spares_all(memory, above):
    """The thread runs on a small stack within its stack: its callers' frames lie below."""
    memory.put(POINTER + above, POINTER - 5000)
    assert dead().why_not == POINTS_BELOW


def test_a_register_that_points_below_the_stack_pointer_spares_all(memory):
    """The same, where the address is nowhere else."""
    del memory
    assert dead(registers=(1, POINTER - 5000)).why_not == POINTS_BELOW


@pytest.mark.parametrize(
    "word", [START, START + GUARD, POINTER, POINTER - RED_ZONE_BYTES, POINTER - 8, END, 0, 0xFFFF_FFFF_FFFF_FFFF]
)
def test_limits_and_live_addresses_spare_nothing(memory, word):
    """Where the stack begins, which runtimes keep; the red zone, and all above."""
    memory.put(POINTER, word)
    assert dead(registers=(word,)).span == expected()


def test_what_a_program_sets_apart_at_the_lower_end_is_not_touched(memory):
    """As Java does: pages without access, which are a mapping of their own."""
    memory.start, upper = START + MIB, MappedPart(START + MIB, END, "rw-p", "", PAGE_BYTES)
    del memory.bytes[: MIB - GUARD]
    assert dead(mapping=upper).span == expected(start=START + MIB)


def test_next_to_nothing_is_dead_of_a_stack_that_is_nearly_used_up(memory):
    """The reserve is larger than what is left."""
    memory.put_thread_block(start=BLOCK - 16 * PAGE_BYTES - (BLOCK % PAGE_BYTES), size=17 * PAGE_BYTES)
    pointer = BLOCK - 9 * PAGE_BYTES
    assert not dead(pointer).span


def test_the_main_threads_stack_is_its_mapping(memory):
    """And nobody else's: another thread there is on a stack that is not its own."""
    stack = WHOLE.replace(name="[stack]")
    memory.put(BLOCK, 0, 0, 0)
    assert dead(mapping=stack, thread=PID).span == expected()
    assert dead(mapping=stack, thread=PID, block=0x1234).span == expected()
    assert dead(mapping=stack).why_not == NOT_ITS_OWN


def test_memory_that_is_unmapped_meanwhile_is_nobodys(memory):
    """The thread has ended, and its stack with it."""
    memory.end = POINTER
    assert dead().why_not == NOT_ITS_OWN


def test_candidates_hold_their_own_address_twice():
    """Once is not enough: a list that is empty does so, too."""
    base = 0x1000
    words = np.array([base, 7, 9, base + 24, 0, base + 24, base + 48, 0, 0], np.uint64)
    assert list(thread_pointers_in(words, base)) == [base + 24]
