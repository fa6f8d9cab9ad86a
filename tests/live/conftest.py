"""Memory to give up, of many kinds; and eyes for its frames that owe nothing to dontneed."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
import time
import warnings
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from dontneed import Advice, Span, advise, discard
from dontneed.kernel import mappings

PAGE = mmap.PAGESIZE
HUGE = PAGE * PAGE // 8
MIB = 1 << 20

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS

COLLAPSE = 25
"""MADV_COLLAPSE, which the mmap module has no name for."""


# Memory, and what is in it


def small_pages(length):
    """A private mapping whose pages are not huge."""
    memory = mmap.mmap(-1, length, flags=PRIVATE)
    with suppress(OSError):  # a kernel without huge pages does not know the advice either
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def huge_page():
    """One huge page that khugepaged leaves alone, full of a pattern."""
    memory = mmap.mmap(-1, 2 * HUGE, flags=PRIVATE)
    start = -address_of(memory) % HUGE
    fill(memory)
    try:
        memory.madvise(COLLAPSE, start, HUGE)
    except OSError as error:
        pytest.skip(f"needs a free huge page: {error}")
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memoryview(memory)[start : start + HUGE]


def map_path(path, **options):
    """A mapping of a file; shared unless `options` say otherwise."""
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0, **options)


def buffer_at(address, length):
    """A buffer of memory that Python does not know of; it claims to be writable, whatever lies there."""
    return (ctypes.c_char * length).from_address(address)


@contextmanager
def neighbours(size, file):
    """Five mappings side by side, as one buffer that begins and ends 100 bytes inside.

    Two private anonymous ones, the `file` privately, shared anonymous memory, and the same file shared.
    """
    start = mappings.map_memory(5 * size)
    with tempfile.TemporaryFile() as behind:
        behind.write(file)
        behind.flush()
        for nth, flags in enumerate((PRIVATE, PRIVATE, mmap.MAP_PRIVATE, SHARED, mmap.MAP_SHARED)):
            fd = -1 if flags & mmap.MAP_ANONYMOUS else behind.fileno()
            mappings.map_memory(size, address=start + nth * size, flags=flags | mappings.MAP_FIXED, fd=fd)
        advise(Span(start, start + size), Advice.DONTDUMP)  # or the first two would be one mapping
        yield buffer_at(start + 100, 5 * size - 200)
        mappings.unmap_memory(start, 5 * size)


def raw(buffer):
    """All bytes of a buffer, in the order in which they lie in memory."""
    if isinstance(buffer, np.ndarray):
        return buffer.reshape(-1, order="A").view(np.uint8)
    return np.frombuffer(buffer, np.uint8)


def address_of(buffer):
    """Where its first byte lies."""
    return raw(buffer).ctypes.data


def fill(buffer):
    """Write a pattern without zeros, another one on each page; returns a copy."""
    pattern = np.resize(np.arange(1, 252, dtype=np.uint8), raw(buffer).size)
    raw(buffer)[:] = pattern
    return pattern


def whole_pages(buffer):
    """Which of its bytes are those of whole pages."""
    first = -address_of(buffer) % PAGE
    return slice(first, max(first, first + (raw(buffer).size - first) // PAGE * PAGE))


def without_whole_pages(buffer, contents):
    """What a buffer of private memory that held `contents` holds after it was given up."""
    expected = contents.copy()
    expected[whole_pages(buffer)] = 0
    return expected


# Discarding


def discarded(buffer, **options):
    """The receipt of `discard`; its sums hold for whatever is discarded."""
    receipt = discard(buffer, **options)
    words = ("asked", "advised", "freed", "deferred", "shared", "lazy", "cached", "refaulted")
    amounts = {word: getattr(receipt, word) for word in words}
    assert {word: amount for word, amount in amounts.items() if type(amount) is not int or amount < 0} == {}
    gone = receipt.freed + receipt.deferred + receipt.shared + receipt.cached
    assert gone + receipt.lazy <= receipt.advised <= receipt.asked == raw(buffer).size
    return receipt


def assert_became(receipt, **expected):
    """This became of the memory, in bytes, and nothing else.

    Frames are exact. Counters bound `freed` by RSS, in which the interpreter takes some pages for itself meanwhile.
    """
    words = ("freed", "deferred", "shared", "lazy", "cached")
    found = {word: getattr(receipt, word) for word in words}
    taken = expected.get("freed", 0) - found["freed"]
    assert 0 <= taken <= (16 * PAGE if receipt.evidence == "counters" else 0)
    assert found == {**dict.fromkeys(words, 0), **expected, "freed": found["freed"]}


@pytest.fixture
def one_processor():
    """Pages on their way to the LRU lists wait in a queue of each processor; the witness empties that of its own."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield allowed
    os.sched_setaffinity(0, allowed)


@contextmanager
def forked(afterwards=lambda: True):
    """A child that shares all memory with us as long as the block runs; what it finds `afterwards` must be true."""
    waits, ends = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads: this child needs none
        child = os.fork()
    if not child:
        agrees = False
        try:
            os.close(ends)
            os.read(waits, 1)
            agrees = afterwards()
        finally:
            os._exit(not agrees)  # and never back into pytest
    os.close(waits)
    try:
        yield
    finally:
        os.close(ends)
        _, status = os.waitpid(child, 0)
    assert status == 0


# The tests' own eyes


def frames_behind(buffer):
    """The numbers of the frames of a buffer's whole pages; 0 where there is none, or where they are hidden."""
    pages = whole_pages(buffer)
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek((address_of(buffer) + pages.start) // PAGE * 8)
        entries = np.frombuffer(file.read((pages.stop - pages.start) // PAGE * 8), np.uint64)
    return np.where(entries >> np.uint64(63), entries & np.uint64((1 << 55) - 1), np.uint64(0))


def words_of(name, frames):
    """What /proc/kpageflags or /proc/kpagecount says of each frame."""
    with open(f"/proc/{name}", "rb", buffering=0) as file:
        words = [os.pread(file.fileno(), 8, frame * 8) for frame in frames.tolist()]
    return np.frombuffer(b"".join(words), np.uint64)


ANON, LRU, MMAP, THP = 1 << 12, 1 << 5, 1 << 11, 1 << 22
"""Bits of /proc/kpageflags."""


def has(words, bits):
    """Which of the words have any of these bits."""
    return words & np.uint64(bits) != 0


def kept_from_everyone(frames):
    """Which frames nobody maps, though they hold somebody's anonymous memory: gone, and not free.

    Looked for a few times: a frame that another process is just taking, or giving back, looks the same for an instant.
    """
    kept = np.ones(frames.shape, bool)
    for _ in range(4):
        kept &= has(words_of("kpageflags", frames), ANON) & (words_of("kpagecount", frames) == 0)
        if not kept.any():
            break
        time.sleep(0.01)
    return kept
