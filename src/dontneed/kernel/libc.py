"""The C library, loaded once: every foreign function that dontneed calls, each with its types and one errno check.

Calls go through `CDLL`, which lets go of the GIL for their duration: a large madvise takes tens of milliseconds, and
other Python threads run on meanwhile (`mmap.madvise` holds the GIL). Those that end in `_held` do not: a call of
microseconds that lets go has to wait for its turn again, 5 ms beside a thread that computes, and hundreds of them in a
row take seconds.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_int, c_long, c_size_t, c_ssize_t, c_uint, c_ulong, c_void_p

_libc = ctypes.CDLL(None, use_errno=True)
_libc_held = ctypes.PyDLL(None, use_errno=True)

MAP_FAILED = ctypes.c_void_p(-1).value


def foreign(name: str, result: type, *arguments: type, library=_libc):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """The C function called `name`, with the types of its result and arguments."""
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    return function


madvise = foreign("madvise", c_int, c_void_p, c_size_t, c_int)
posix_madvise = foreign("posix_madvise", c_int, c_void_p, c_size_t, c_int)
mmap = foreign("mmap", c_void_p, c_void_p, c_size_t, c_int, c_int, c_int, c_long)
munmap = foreign("munmap", c_int, c_void_p, c_size_t)
mprotect = foreign("mprotect", c_int, c_void_p, c_size_t, c_int)
mlock = foreign("mlock", c_int, c_void_p, c_size_t)
munlock = foreign("munlock", c_int, c_void_p, c_size_t)
mincore = foreign("mincore", c_int, c_void_p, c_size_t, c_void_p)
pread_held = foreign("pread", c_ssize_t, c_int, c_void_p, c_size_t, c_long, library=_libc_held)
_VECTORS = (c_int, c_void_p, c_ulong, c_void_p, c_ulong, c_size_t)
process_vm_readv = foreign("process_vm_readv", c_ssize_t, *_VECTORS)
process_vm_readv_held = foreign("process_vm_readv", c_ssize_t, *_VECTORS, library=_libc_held)
process_vm_writev = foreign("process_vm_writev", c_ssize_t, *_VECTORS)
bpf_held = foreign("syscall", c_long, c_long, c_int, c_void_p, c_uint, library=_libc_held)
"""bpf(2), which has no wrapper, by its number."""
prctl = foreign("prctl", c_int, c_int, c_long, c_long, c_long, c_long)


def syscall(number: int, *arguments: int) -> int:
    """Make a system call with integer arguments; -1 on failure, and `last_errno()` says which."""
    return int(_libc.syscall(c_long(number), *(c_long(argument) for argument in arguments)))


_libc.syscall.restype = c_long


def last_errno() -> int:
    """The errno of this thread's last foreign call."""
    return ctypes.get_errno()


def check(result: int, call: str) -> int:
    """`result` unless it is -1.

    Raises:
        OSError: with errno and `call` as its file name, so that the message names the system call.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call)
    return result
