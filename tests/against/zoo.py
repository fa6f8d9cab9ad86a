"""A process that holds one of every kind of memory: run in a quiet child, it prints `name start end` of each.

Written with nothing of dontneed, which is under test. Every animal lives between memory that it cannot merge with, so
that its addresses are those of one line of maps.

Environment:
    ZOO_DIRECTORY: where the files are made that are mapped.
    ZOO_ANIMALS: the names of those to bring in, with spaces between; all by default.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading

PAGE = mmap.PAGESIZE
HUGE = 512 * PAGE
ARENA = 128 << 20

NONE, READ, WRITE = 0, mmap.PROT_READ, mmap.PROT_WRITE
PRIVATE, SHARED, ANONYMOUS, FIXED, NORESERVE, HUGETLB = 0x02, 0x01, 0x20, 0x10, 0x4000, 0x40000
DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, PAGEOUT, COLLAPSE, GUARD_INSTALL = 4, 8, 14, 15, 21, 25, 102
PERF_EVENT_OPEN, MEMFD_SECRET, IO_SETUP = 298, 447, 206  # x86-64
MFD_HUGETLB = 4

DIRECTORY = os.environ["ZOO_DIRECTORY"]
WANTED = os.environ.get("ZOO_ANIMALS", "").split()

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
libc.syscall.restype = ctypes.c_long

held: list[object] = []
"""What must not be collected while the process lives."""


def main() -> None:
    """Bring in every animal that this machine can keep, and say where it is."""
    for animal in ANIMALS:
        if WANTED and animal.__name__ not in WANTED:
            continue
        try:
            start, size = animal()
        except OSError as error:
            print("missing", animal.__name__, error.strerror)
        else:
            print(animal.__name__, start, start + size)


# Plain memory


def anonymous():
    return written(place(64 * PAGE), 48 * PAGE), 64 * PAGE


def scattered():
    """Every third page written: more runs than one call of PAGEMAP_SCAN returns."""
    start = place(6000 * PAGE)
    for page in range(0, 6000, 3):
        written(start + page * PAGE, PAGE)
    return start, 6000 * PAGE


def read_only():
    start = written(place(8 * PAGE), 8 * PAGE)
    check(libc.mprotect(start, 8 * PAGE, READ))
    return start, 8 * PAGE


def reserved():
    """Addresses without memory, more than a window of a walk covers."""
    return mapped(None, 1 << 30, NONE, PRIVATE | ANONYMOUS | NORESERVE, -1), 1 << 30


def zero_pages():
    return touched(place(64 * PAGE), 40 * PAGE), 64 * PAGE


def zero_and_written():
    """Zero pages and written ones in turns, in one mapping."""
    start = touched(place(64 * PAGE), 64 * PAGE)
    for page in range(0, 64, 2):
        written(start + page * PAGE, PAGE)
    return start, 64 * PAGE


def locked():
    start = place(16 * PAGE)
    check(libc.mlock(start, 16 * PAGE))
    return start, 16 * PAGE


def lazily_freed():
    start = written(place(128 * PAGE), 128 * PAGE)
    advise(start, 128 * PAGE, FREE)
    return start, 128 * PAGE


def guarded():
    start = written(place(32 * PAGE), 32 * PAGE)
    advise(start + 8 * PAGE, 8 * PAGE, GUARD_INSTALL)
    return start, 32 * PAGE


def thread_stacks():
    """Two threads, blocked for ever; where their stacks are, the kernel knows."""
    barrier = threading.Barrier(3)
    for _ in range(2):
        threading.Thread(target=lambda: (barrier.wait(), barrier.wait()), daemon=True).start()
    barrier.wait()
    return 0, 0


# Huge memory


def huge():
    start = place(4 * HUGE, align=HUGE)
    advise(start, 4 * HUGE, HUGEPAGE)
    return written(start, 3 * HUGE), 4 * HUGE


def huge_zero():
    start = place(2 * HUGE, align=HUGE)
    advise(start, 2 * HUGE, HUGEPAGE)
    return touched(start, HUGE), 2 * HUGE


def half_released():
    """A huge page of which every second page was given back: small entries now, the frame is whole."""
    start = place(HUGE, align=HUGE)
    advise(start, HUGE, HUGEPAGE)
    written(start, HUGE)
    advise(start, HUGE, NOHUGEPAGE)  # or khugepaged makes it whole again while it is looked at
    for page in range(0, 512, 2):
        advise(start + page * PAGE, PAGE, DONTNEED)
    return start, HUGE


def collapsed_memfd():
    """Shared memory that is mapped by a huge entry."""
    start = place(HUGE, flags=SHARED, fd=memfd("collapsed", HUGE), align=HUGE)
    written(start, HUGE)
    advise(start, HUGE, COLLAPSE)
    return start, HUGE


def hugetlb_private():
    return written(place(2 * HUGE, flags=PRIVATE | ANONYMOUS | HUGETLB, align=HUGE), HUGE), 2 * HUGE


def hugetlb_shared():
    return written(place(HUGE, flags=SHARED | ANONYMOUS | HUGETLB, align=HUGE), HUGE), HUGE


def hugetlb_memfd():
    """Huge pages in a file that is called like any memfd."""
    fd = os.memfd_create("hugetlb", MFD_HUGETLB)
    os.ftruncate(fd, HUGE)
    return written(place(HUGE, flags=SHARED, fd=fd, align=HUGE), HUGE), HUGE


# Shared memory and files


def shared_anonymous():
    return written(place(32 * PAGE, flags=SHARED | ANONYMOUS), 24 * PAGE), 32 * PAGE


def memfd_shared():
    return written(place(32 * PAGE, flags=SHARED, fd=memfd("named by us", 32 * PAGE)), 24 * PAGE), 32 * PAGE


def memfd_private():
    """Read all, write some: pages of the memfd, and private copies of others."""
    start = touched(place(32 * PAGE, flags=PRIVATE, fd=memfd("privately", 32 * PAGE)), 32 * PAGE)
    return written(start, 8 * PAGE), 32 * PAGE


def dev_zero():
    with open("/dev/zero", "r+b", buffering=0) as file:
        return written(place(16 * PAGE, flags=PRIVATE, fd=file.fileno()), 8 * PAGE), 16 * PAGE


def dev_shm():
    fd = file("dontneed-zoo", "/dev/shm", keep=False)
    return written(place(16 * PAGE, flags=SHARED, fd=fd), 16 * PAGE), 16 * PAGE


def file_shared():
    return written(place(32 * PAGE, flags=SHARED, fd=file("shared")), 16 * PAGE), 32 * PAGE


def file_private():
    """A file that was read, some of its pages written and so copied."""
    start = touched(place(32 * PAGE, flags=PRIVATE, fd=file("private")), 32 * PAGE)
    return written(start, 8 * PAGE), 32 * PAGE


def file_deleted():
    fd = file("unlinked", keep=False)
    return touched(place(32 * PAGE, READ, flags=PRIVATE, fd=fd), 32 * PAGE), 32 * PAGE


def odd_names():
    """Files with names that no parser likes; the last one's place is told, all are in maps."""
    start = 0
    for name in ODD_NAMES:
        start = touched(place(PAGE, READ, flags=PRIVATE, fd=file(name, pages=1)), PAGE)
    return start, PAGE


def split_heap():
    """A heap of three mappings, all of them called [heap]."""
    libc.sbrk.restype = ctypes.c_void_p
    start = -(-libc.sbrk(ctypes.c_long(0)) // PAGE) * PAGE
    libc.sbrk(ctypes.c_long(64 * PAGE))
    written(start + PAGE, 16 * PAGE)
    check(libc.mprotect(start + 4 * PAGE, 4 * PAGE, READ))
    return start + 4 * PAGE, 4 * PAGE


# Memory of drivers


def perf_ring():
    """A ring of the perf subsystem: frames that are no part of RSS."""
    attributes = (ctypes.c_uint32 * 32)(1, 128)  # PERF_TYPE_SOFTWARE, size; PERF_COUNT_SW_CPU_CLOCK
    attributes[10] = 1  # disabled
    fd = check(libc.syscall(PERF_EVENT_OPEN, attributes, 0, -1, -1, 0))
    held.append(fd)
    return touched(place(9 * PAGE, flags=SHARED, fd=fd), PAGE), 9 * PAGE


def aio_ring():
    """The ring of aio, which the kernel maps where it likes."""
    context = ctypes.c_ulong(0)
    check(libc.syscall(IO_SETUP, 16, ctypes.byref(context)))
    touched(context.value, PAGE)
    return context.value, 0


def secret():
    """Memory that the kernel itself has no mapping of."""
    fd = check(libc.syscall(MEMFD_SECRET, 0))
    held.append(fd)
    os.ftruncate(fd, 4 * PAGE)
    return written(place(4 * PAGE, flags=SHARED, fd=fd), 4 * PAGE), 4 * PAGE


# Memory that is out, where there is swap


def swapped():
    start = place(64 * PAGE)
    for page in range(64):  # a page of zeros would not be written out
        ctypes.memmove(start + page * PAGE, os.urandom(PAGE), PAGE)
    advise(start, 48 * PAGE, PAGEOUT)
    return start, 64 * PAGE


def swapped_shared():
    start = place(32 * PAGE, flags=SHARED, fd=memfd("swapped", 32 * PAGE))
    for page in range(32):
        ctypes.memmove(start + page * PAGE, os.urandom(PAGE), PAGE)
    advise(start, 24 * PAGE, PAGEOUT)
    return start, 32 * PAGE


# How to place and touch memory


def place(size, protection=READ | WRITE, *, flags=PRIVATE | ANONYMOUS, fd=-1, align=PAGE):
    """Map memory in the arena, at least a page behind what was placed before it."""
    start = -(-(arena.pop() + PAGE) // align) * align
    arena.append(start + size)
    return mapped(start, size, protection, flags | FIXED, fd)


def mapped(address, size, protection, flags, fd):
    start = libc.mmap(address, size, protection, flags, fd, 0)
    return check(-1 if start == ctypes.c_void_p(-1).value else start)


def written(start, size):
    """Write to every page of the range."""
    for address in range(start, start + size, PAGE):
        ctypes.memset(address, 0x5A, 1)
    return start


def touched(start, size):
    """Read from every page of the range."""
    for address in range(start, start + size, PAGE):
        ctypes.string_at(address, 1)
    return start


def advise(start, size, advice):
    check(libc.madvise(start, size, advice))


def memfd(name, size):
    fd = os.memfd_create(name)
    os.ftruncate(fd, size)
    return fd


def file(name, directory=DIRECTORY, *, pages=32, keep=True):
    """The descriptor of a new file full of letters."""
    path = os.path.join(os.fsencode(directory), os.fsencode(name))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(fd, b"\x46" * pages * PAGE)
    if not keep:
        os.unlink(path)
    return fd


def check(result):
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


ODD_NAMES = (
    b"two words",
    b" leading and trailing ",
    b"new\nline",
    b"really (deleted)",
    b"not utf-8 \xff\xfe",
    b"tab\there",
    b"back\\slash",
    b"a:b-c",
    b"%s{0}",
    b"\x1b[31mred",
    b"[heap]",
    "größer €".encode(),
)

arena = [mapped(None, ARENA, NONE, PRIVATE | ANONYMOUS, -1)]
"""Where the next animal goes; the memory between two of them may not be touched."""

ANIMALS = (
    anonymous,
    scattered,
    read_only,
    reserved,
    zero_pages,
    zero_and_written,
    locked,
    lazily_freed,
    guarded,
    thread_stacks,
    huge,
    huge_zero,
    half_released,
    collapsed_memfd,
    hugetlb_private,
    hugetlb_shared,
    hugetlb_memfd,
    shared_anonymous,
    memfd_shared,
    memfd_private,
    dev_zero,
    dev_shm,
    file_shared,
    file_private,
    file_deleted,
    odd_names,
    split_heap,
    perf_ring,
    aio_ring,
    secret,
    swapped,
    swapped_shared,
)

main()
