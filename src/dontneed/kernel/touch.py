"""Touching memory that may not be there, and surviving it.

# How a touch is survived

A page that cannot be touched raises SIGSEGV or SIGBUS, and that ends a process. So another process does it, which
shares our memory without a copy: clone(CLONE_VM | CLONE_VFORK) gives it a stack of its own, and one function of libc to
run, which touches its argument; we sleep until it has exited or was killed. A forked child would not do: its touch
would leave no page behind here, and the fork would write-protect every page that we have.

A fatal signal may dump core, with all the memory that is shared (and before 5.16 it killed everybody who shares it):
during the touch our memory is not dumpable.

Kernel:
    kernel/fork.c; clone(2). fs/coredump.c do_coredump() leaves memory alone that is not dumpable.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_int, c_void_p

from dontneed.kernel import libc
from dontneed.kernel.libc import foreign
from dontneed.units import PAGE_BYTES

_CLONE_VM, _CLONE_VFORK = 0x100, 0x4000
_WAIT_ALL = 0x4000_0000
"""__WALL: a child that sends no SIGCHLD is waited for with this only."""
_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_STACK_BYTES = 64 << 10
_STACK_ALIGNMENT = 16

_clone = foreign("clone", c_int, c_void_p, c_void_p, c_int, c_void_p)
# Two functions of libc with one argument, which read and write a few words there and nothing else.
_read = ctypes.cast(foreign("sigisemptyset", c_int, c_void_p), c_void_p).value
_write = ctypes.cast(foreign("sigemptyset", c_int, c_void_p), c_void_p).value


def touch_surviving(address: int, pages: int, *, write: bool) -> int:
    """Touch the beginning of each of `pages` pages at `address`, until one cannot be.

    Args:
        address: page-aligned.
        pages: how many.
        write: write zeros there (8 to 128 bytes) instead of reading.
    Returns:
        The signal that ended it, or 0. The pages before it have been touched.
    Raises:
        OSError: as clone(2).
    """
    stack = ctypes.create_string_buffer(_STACK_BYTES)
    top = (ctypes.addressof(stack) + _STACK_BYTES) & -_STACK_ALIGNMENT
    dumpable = libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        for page in range(address, address + pages * PAGE_BYTES, PAGE_BYTES):
            if raised := _touch(_write if write else _read, page, top):
                return raised
    finally:
        libc.prctl(_PR_SET_DUMPABLE, dumpable, 0, 0, 0)
    return 0


def _touch(how: int | None, address: int, stack_top: int) -> int:
    """One touch, by a process that shares our memory; the signal that killed it, or 0."""
    pid = libc.check(_clone(how, stack_top, _CLONE_VM | _CLONE_VFORK, address), "clone")
    _, status = os.waitpid(pid, _WAIT_ALL)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
