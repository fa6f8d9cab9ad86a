"""What `discard` refuses, with the reason and what to try; and that a refusal leaves every byte as it was."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow
import pytest

from dontneed import BufferRefused, UsageError, WrongType, discard
from dontneed.abi.syscalls import MSEAL
from dontneed.kernel import libc, mappings

from .conftest import HUGE, MIB, PAGE, PRIVATE, SHARED, address_of, buffer_at, fill, map_path, raw, small_pages

MAP_HUGETLB = 0x40000
PERF_EVENT_OPEN, MEMFD_SECRET = 298, 447
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")


def refused(buffer, kind=BufferRefused, **options):
    """The refusal of a discard, which has changed nothing that can be read."""
    before = contents_of(buffer)
    with pytest.raises(kind) as refusal:
        discard(buffer, **options)
    assert contents_of(buffer) == before
    return refusal.value


def contents_of(buffer):
    """All that is in a buffer, as far as it lets itself be read."""
    try:
        return memoryview(buffer).tobytes(order="A")
    except (TypeError, ValueError):
        return buffer.tobytes() if isinstance(buffer, np.ndarray) else None


@contextmanager
def mapped(length, **options):
    """Anonymous memory that Python does not know of, filled, as a buffer that claims to be writable."""
    address = mappings.map_memory(length, **options)
    buffer = buffer_at(address, length)
    fill(buffer)
    yield buffer
    mappings.unmap_memory(address, length)


# By the object


def read_only(values):
    values.flags.writeable = False
    return values


def released():
    view = memoryview(bytearray(MIB))
    view.release()
    return view


def closed():
    memory = small_pages(MIB)
    memory.close()
    return memory


OBJECTS = {
    "bytes": (lambda: b"x" * MIB, "immutable", "bytearray"),
    "memoryview of bytes": (lambda: memoryview(b"x" * MIB), "read-only", "writeable"),
    "read-only memoryview": (lambda: memoryview(bytearray(b"x" * MIB)).toreadonly(), "read-only", "writeable"),
    "read-only numpy": (lambda: read_only(np.ones(MIB)), "read-only", "writeable"),
    "read-only numpy of dates": (lambda: read_only(np.ones(MIB, "M8[s]")), "read-only", ""),
    "numpy over bytes": (lambda: np.frombuffer(b"x" * MIB), "read-only", "writeable"),
    "broadcast numpy": (lambda: np.broadcast_to(np.ones(PAGE), (9, PAGE)), "not contiguous", "base"),
    "immutable arrow": (lambda: pyarrow.py_buffer(b"x" * MIB), "read-only", "mutable"),
    "read-only mmap": (lambda: mmap.mmap(-1, MIB, prot=mmap.PROT_READ), "read-only", "ACCESS_COPY"),
    "every second element": (lambda: np.ones(MIB)[::2], "not contiguous", "base"),
    "backwards": (lambda: np.ones(MIB)[::-1], "not contiguous", "base"),
    "some columns": (lambda: np.ones((1024, 1024))[:, :1000], "not contiguous", "base"),
    "strided memoryview": (lambda: memoryview(bytearray(b"x" * MIB))[::3], "not contiguous", "contiguous part"),
    "closed mmap": (closed, "closed", ""),
    "released memoryview": (released, "released", ""),
}


@pytest.mark.parametrize(("make", "why", "try_this"), OBJECTS.values(), ids=OBJECTS)
def test_an_object_that_relies_on_its_contents_is_refused(make, why, try_this):
    """Immutable, read-only, with others' data in between, or without memory any more."""
    refusal = refused(make())
    assert why in refusal.message
    assert try_this in refusal.hint


def test_an_array_of_objects_is_refused_and_keeps_them():
    """Zeros would overwrite references that were never counted down; also through a memoryview."""
    kept = object()
    objects = np.full(PAGE, kept)
    for buffer in (objects, memoryview(objects), np.zeros(PAGE, [("number", "d"), ("object", "O")])):
        with pytest.raises(BufferRefused, match="Python objects") as refusal:
            discard(buffer)
        assert "None" in refusal.value.hint
    assert all(each is kept for each in objects)


def test_a_read_only_map_of_a_file_is_refused(tmp_path):
    """np.memmap mode r: the file is somebody's, and the array says so."""
    path = tmp_path / "file"
    path.write_bytes(b"F" * MIB)
    assert "read-only" in refused(np.memmap(path, mode="r")).message


@pytest.mark.parametrize("thing", [None, 5, "text", [1, 2], iter(()), object(), type], ids=repr)
def test_a_thing_without_a_buffer_is_the_wrong_type(thing):
    """A TypeError, as from anything that wants a buffer."""
    with pytest.raises(WrongType) as refusal:
        discard(thing)
    assert "no buffer protocol" in refusal.value.message
    assert "bytearray" in refusal.value.hint
    assert isinstance(refusal.value, TypeError)


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, math.inf, 1e300])
def test_a_watch_that_cannot_be_is_refused_before_anything_is_given_up(seconds):
    """`time.sleep` would refuse most of these too, only later."""
    buffer = bytearray(b"x" * MIB)
    assert "watch" in refused(buffer, UsageError, watch_seconds=seconds).message


def test_an_evidence_that_there_is_not_is_refused():
    """The hint lists those there are."""
    refusal = refused(bytearray(b"x" * MIB), UsageError, evidence="rumour")
    assert "'rumour'" in refusal.message
    assert "auto, frames, counters, none" in refusal.hint


# By its memory


def test_locked_memory_is_refused():
    """Someone wants it to stay; the kernel would have refused too, but half-way."""
    with mapped(4 * PAGE) as buffer:
        mappings.lock_memory(address_of(buffer), 4 * PAGE)
        refusal = refused(buffer)
        assert "locked" in refusal.message
        assert "munlock" in refusal.hint
        assert "DONTNEED_LOCKED" in refusal.hint
        mappings.unlock_memory(address_of(buffer), 4 * PAGE)
        assert discard(buffer).advised == 4 * PAGE


@pytest.mark.parametrize("flags", [PRIVATE, SHARED], ids=["private", "shared"])
@pytest.mark.parametrize("page", [0, 2, 3])
def test_memory_of_which_one_page_is_locked_is_refused_whole(flags, page):
    """What lies before the locked page is given up by the kernel before it refuses; so we never ask it."""
    with mapped(4 * PAGE, flags=flags) as buffer:
        mappings.lock_memory(address_of(buffer) + page * PAGE, PAGE)
        start = address_of(buffer) + page * PAGE
        assert f"{start:x}-{start + PAGE:x}" in refused(buffer).message


def test_memory_locked_elsewhere_does_not_matter():
    """Only what lies behind the buffer."""
    with mapped(PAGE) as locked, mapped(4 * PAGE) as buffer:
        mappings.lock_memory(address_of(locked), PAGE)
        assert discard(buffer).advised == 4 * PAGE
        assert raw(locked).all()


def test_secret_memory_is_refused():
    """memfd_secret: locked by its nature."""
    fd = libc.syscall(MEMFD_SECRET, 0)
    if fd < 0:
        pytest.skip("needs memfd_secret: a kernel without it, or started without secretmem.enable")
    os.ftruncate(fd, PAGE)
    with mapped(PAGE, flags=mmap.MAP_SHARED, fd=fd) as buffer:
        os.close(fd)
        assert "locked" in refused(buffer).message


@pytest.mark.parametrize("page", [0, 3])
def test_memory_that_is_sealed_and_read_only_is_refused_whole(page):
    """The kernel would not even give it back to its owner; sealed memory stays mapped until the process ends."""
    address = mappings.map_memory(4 * PAGE)
    buffer = buffer_at(address, 4 * PAGE)
    fill(buffer)
    mappings.protect_memory(address + page * PAGE, PAGE, mappings.PROT_READ)
    if libc.syscall(MSEAL, address + page * PAGE, PAGE, 0) < 0:
        pytest.skip("needs mseal: Linux 6.10 or newer, 64-bit")
    refusal = refused(buffer)
    assert "sealed" in refusal.message
    assert "end of the process" in refusal.hint


def test_memory_that_is_sealed_and_writable_is_given_up():
    """Who may overwrite it may as well drop it."""
    address = mappings.map_memory(PAGE)
    if libc.syscall(MSEAL, address, PAGE, 0) < 0:
        pytest.skip("needs mseal: Linux 6.10 or newer, 64-bit")
    assert discard(buffer_at(address, PAGE)).advised == PAGE


@pytest.fixture
def huge_page_pool():
    """Two huge pages in the pool, while a test needs them."""
    before = NR_HUGEPAGES.read_text()
    NR_HUGEPAGES.write_text(str(int(before) + 2))
    yield
    NR_HUGEPAGES.write_text(before)


@pytest.mark.needs_root
@pytest.mark.usefixtures("huge_page_pool")
@pytest.mark.parametrize("flags", [PRIVATE | MAP_HUGETLB, SHARED | MAP_HUGETLB, mmap.MAP_SHARED])
def test_hugetlb_is_refused(flags):
    """It goes by whole huge pages, to a pool; also where only the size of its pages tells it from a memfd."""
    fd = -1 if flags & MAP_HUGETLB else os.memfd_create("huge", os.MFD_HUGETLB)
    if fd >= 0:
        os.ftruncate(fd, HUGE)
    with mapped(HUGE, flags=flags, fd=fd) as buffer:
        refusal = refused(memoryview(buffer).cast("B")[PAGE : 9 * PAGE])
        assert "hugetlb" in refusal.message
        assert "whole huge pages" in refusal.hint
    if fd >= 0:
        os.close(fd)


def test_memory_of_the_kernel_is_refused():
    """The vdso lies in every process; DONTNEED there succeeds, and would do no one any good."""
    (line,) = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[vdso]")]
    start = int(line.split("-")[0], 16)
    refusal = refused(buffer_at(start, PAGE))
    assert "[vdso]" in refusal.message
    assert "kernel or a driver" in refusal.message
    assert refusal.hint


@pytest.mark.needs_root
def test_memory_of_a_device_is_refused():
    """The ring of a perf event: frames that a driver owns."""
    software, cpu_clock, size = 1, 0, 112
    attributes = (ctypes.c_uint32 * (size // 4))(software, size, cpu_clock)
    fd = libc.syscall(PERF_EVENT_OPEN, ctypes.addressof(attributes), 0, -1, -1, 0)
    if fd < 0:
        pytest.skip(f"needs perf_event_open: {os.strerror(ctypes.get_errno())}")
    address = mappings.map_memory(2 * PAGE, flags=mmap.MAP_SHARED, fd=fd)
    with pytest.raises(BufferRefused, match="perf_event") as refusal:
        discard(buffer_at(address, 2 * PAGE))
    assert "close" in refusal.value.hint
    mappings.unmap_memory(address, 2 * PAGE)
    os.close(fd)


@pytest.mark.parametrize("hole", [0, 1, 3])
def test_memory_unmapped_behind_the_buffers_back_is_refused_whole(hole):
    """The object still points there, and somebody else may be about to map something."""
    with mapped(4 * PAGE) as buffer:
        start = address_of(buffer)
        mappings.unmap_memory(start + hole * PAGE, PAGE)
        with pytest.raises(BufferRefused, match="not mapped"):
            discard(buffer)
        assert all(ctypes.string_at(start + page * PAGE, 1) != b"\0" for page in range(4) if page != hole)


# Lazily


def test_shared_memory_cannot_be_freed_lazily(tmp_path):
    """MADV_FREE takes private anonymous memory only, and a buffer that is partly other memory is refused whole."""
    path = tmp_path / "file"
    path.write_bytes(b"F" * MIB)
    for memory in (mmap.mmap(-1, MIB), map_path(path), map_path(path, access=mmap.ACCESS_COPY)):
        fill(memory)
        refusal = refused(memory, UsageError, lazy=True)
        assert "MADV_FREE takes private anonymous memory only" in refusal.message
        assert "without lazy" in refusal.hint
