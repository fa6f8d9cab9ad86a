"""struct pthread is found by shape, wherever a version of glibc has its words, and nothing else is taken for it."""

from __future__ import annotations

import struct

import pytest

from dontneed.observe.stacks.thread_block import THREAD_BLOCK_BYTES, ThreadBlock, parse_thread_block

START, SIZE, GUARD = 0x7F00_0000_0000, 8 << 20, 4096
POINTER = START + SIZE - 0x900


def struct_pthread(*words, offset=0x690):
    """A struct with these words somewhere in it, and others around them that could be anything."""
    data = bytearray(struct.pack(f"<{THREAD_BLOCK_BYTES // 8}Q", *range(THREAD_BLOCK_BYTES // 8)))
    struct.pack_into(f"<{len(words)}Q", data, offset, *words)
    return bytes(data)


@pytest.mark.parametrize("offset", [0x688, 0x690, 0x698, 0x6A8, 0x720])
def test_the_block_is_found_at_any_offset(offset):
    """They differ between 2.23 and 2.43."""
    data = struct_pthread(START, SIZE, GUARD, GUARD, offset=offset)
    assert parse_thread_block(data, POINTER) == ThreadBlock(START, SIZE, GUARD)


def test_a_stack_that_the_program_brought_has_no_guard():
    """pthread_attr_setstack: the guard that was asked for is kept, and none is made."""
    assert parse_thread_block(struct_pthread(START, SIZE, 0, GUARD), POINTER) == ThreadBlock(START, SIZE, 0)


def test_a_short_struct_will_do():
    """It may be the last thing in its mapping: what cannot be read is not there."""
    data = struct_pthread(START, SIZE, GUARD, GUARD)[: 0x690 + 32]
    assert parse_thread_block(data, POINTER) == ThreadBlock(START, SIZE, GUARD)
    assert parse_thread_block(data[:-8], POINTER) is None
    assert parse_thread_block(b"", POINTER) is None


@pytest.mark.parametrize(
    "words",
    [
        (0, 0, GUARD, GUARD),  # the main thread has none
        (START + 8, SIZE, GUARD, GUARD),
        (START, SIZE + 8, GUARD, GUARD),
        (START, SIZE, GUARD + 1, GUARD),
        (START, GUARD, SIZE, GUARD),
        (START, SIZE, GUARD, 1 << 40),
        (START + SIZE, SIZE, GUARD, GUARD),  # does not hold the struct itself
        (START - SIZE, SIZE, GUARD, GUARD),
        (START, 1 << 41, GUARD, GUARD),
        (START, 64 << 20, GUARD, GUARD),  # holds it far below its top
    ],
)
def test_words_of_another_shape_are_not_taken(words):
    """To take them would mean to write into memory that is somebody's."""
    assert parse_thread_block(struct_pthread(*words), POINTER) is None


def test_a_stack_pointer_is_within_above_the_guard():
    """One in the guard would be about to fault."""
    block = ThreadBlock(START, SIZE, GUARD)
    assert block.holds(START + GUARD)
    assert block.holds(START + SIZE - 8)
    assert not block.holds(START + GUARD - 8)
    assert not block.holds(START + SIZE)
    assert (block.stack_start, block.end) == (START + GUARD, START + SIZE)
