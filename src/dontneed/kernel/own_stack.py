"""The calling thread's own stack: its bounds, and an address that its stack pointer is not below.

Where the stack pointer is, getcontext(3) saves among the other registers, at a place that differs by architecture. The
lowest of the saved words that point into the stack at all is the stack pointer or lies below it, which is safe.

Kernel:
    pthread_getattr_np(3), getcontext(3); glibc. musl has no getcontext.
"""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import POINTER, byref, c_int, c_size_t, c_ulong, c_void_p

from dontneed.errors import KernelLacks, TargetRefused
from dontneed.kernel.libc import foreign

_ATTRIBUTES_BYTES = 256
"""At least sizeof(pthread_attr_t), which is 36 to 64."""
_CONTEXT_BYTES = 16384
"""At least sizeof(ucontext_t), which is below 1 KiB on x86-64 and 5 KiB on aarch64."""
_WORD_BYTES = 8


def own_stack_bounds() -> tuple[int, int]:
    """Where the stack of the calling thread begins and ends; the main thread's, as far as it may ever grow.

    Raises:
        KernelLacks: the C library does not tell.
        OSError: as pthread_getattr_np(3).
    """
    self_ = _function("pthread_self", c_ulong)
    getattr_ = _function("pthread_getattr_np", c_int, c_ulong, c_void_p)
    getstack = _function("pthread_attr_getstack", c_int, c_void_p, POINTER(c_void_p), POINTER(c_size_t))
    destroy = _function("pthread_attr_destroy", c_int, c_void_p)
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    _check(getattr_(self_(), attributes), "pthread_getattr_np")
    try:
        start, size = c_void_p(), c_size_t()
        _check(getstack(attributes, byref(start), byref(size)), "pthread_attr_getstack")
    finally:
        destroy(attributes)
    first = int(start.value or 0)
    return first, first + int(size.value)


def lowest_own_address(start: int, end: int) -> int:
    """The lowest address in `[start, end)` that the calling thread has in a register: its stack pointer, or below it.

    Raises:
        KernelLacks: the C library has no getcontext.
        TargetRefused: no register points there: the thread is on another stack.
    """
    getcontext = _function("getcontext", c_int, c_void_p)
    context = ctypes.create_string_buffer(_CONTEXT_BYTES)
    _check(getcontext(context), "getcontext")
    words = struct.unpack(f"={_CONTEXT_BYTES // _WORD_BYTES}Q", context.raw)
    found = [word for word in words if start <= word < end]
    if not found:
        msg = "the calling thread runs on a stack that is not its own: a coroutine's, perhaps"
        raise TargetRefused(msg, hint="call it from a thread's own stack")
    return int(min(found))


def _function(name: str, result: type, *arguments: type):  # type: ignore[no-untyped-def]  # noqa: ANN202
    try:
        return foreign(name, result, *arguments)
    except AttributeError:
        msg = f"the C library has no {name}()"
        raise KernelLacks(msg, hint="glibc has; musl does without") from None


def _check(number: int, call: str) -> None:
    """Raise the error number that a pthread function returns."""
    if number:
        raise OSError(number, os.strerror(number), call)
