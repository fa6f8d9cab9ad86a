"""Threads of the C library and nothing above it: no Python runs on them, so their stacks hold what pthreads put there.

A thread's start routine is sem_wait: it sleeps until it is told to end, and then returns as any thread does.

glibc keeps the stacks of ended threads in a cache of 40 MiB and gives most of their memory back (MADV_DONTNEED, from
2.11 on); musl unmaps them. What a stack is there for, it keeps until then.

Kernel:
    pthread_create(3), pthread_getattr_np(3); glibc nptl/allocatestack.c, nptl/pthread_create.c.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, byref, c_int, c_size_t, c_ulong, c_void_p

from dontneed.kernel.libc import foreign
from dontneed.kernel.memory import rewrite_pages
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.procmap import read_parts
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ATTRIBUTES_BYTES = 256
"""At least sizeof(pthread_attr_t), which is 36 to 64."""
_SEMAPHORE_BYTES = 64
"""At least sizeof(sem_t), which is 16 to 32."""

_attr_init = foreign("pthread_attr_init", c_int, c_void_p)
_attr_destroy = foreign("pthread_attr_destroy", c_int, c_void_p)
_attr_setstacksize = foreign("pthread_attr_setstacksize", c_int, c_void_p, c_size_t)
_attr_getstack = foreign("pthread_attr_getstack", c_int, c_void_p, POINTER(c_size_t), POINTER(c_size_t))
_attr_getguardsize = foreign("pthread_attr_getguardsize", c_int, c_void_p, POINTER(c_size_t))
_create = foreign("pthread_create", c_int, POINTER(c_ulong), c_void_p, c_void_p, c_void_p)
_getattr = foreign("pthread_getattr_np", c_int, c_ulong, c_void_p)
_join = foreign("pthread_join", c_int, c_ulong, c_void_p)
_sem_init = foreign("sem_init", c_int, c_void_p, c_int, c_int)
_sem_post = foreign("sem_post", c_int, c_void_p)
_sem_destroy = foreign("sem_destroy", c_int, c_void_p)
_sem_wait = ctypes.cast(foreign("sem_wait", c_int, c_void_p), c_void_p)


class SleepingThread(Record):
    """A thread that waits to be ended.

    Attributes:
        handle: its pthread_t.
        semaphore: what it waits for.
        stack_start, stack_bytes: what it may use of its stack; the guard adjoins it below.
        guard_bytes: the guard's length.
    """

    handle: int
    semaphore: Any
    stack_start: int
    stack_bytes: int
    guard_bytes: int


def start_thread(stack_bytes: int) -> SleepingThread:
    """Start a thread that waits to be ended.

    Args:
        stack_bytes: the size of its stack, at least 16 KiB; glibc before 2.27 takes the guard out of it.
    Raises:
        OSError: as pthread_create(3) and its kin.
    """
    semaphore = ctypes.create_string_buffer(_SEMAPHORE_BYTES)
    _sem_init(semaphore, 0, 0)
    handle = c_ulong()
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    _check(_attr_init(attributes), "pthread_attr_init")
    try:
        _check(_attr_setstacksize(attributes, stack_bytes), "pthread_attr_setstacksize")
        _check(_create(byref(handle), attributes, _sem_wait, ctypes.addressof(semaphore)), "pthread_create")
    finally:
        _attr_destroy(attributes)
    return SleepingThread(handle.value, semaphore, *_stack_of(handle.value))


def use_stack(thread: SleepingThread, depth_bytes: int) -> None:
    """Have the uppermost `depth_bytes` of a thread's stack written to, as a deep call does; it sleeps meanwhile.

    What lies above its stack pointer is in use: every page is written with what is there.
    """
    top = thread.stack_start + thread.stack_bytes
    rewrite_pages(top - depth_bytes, depth_bytes // PAGE_BYTES)


def end_thread(thread: SleepingThread) -> None:
    """Let a thread return, and join it. The C library does with its stack what it does.

    Raises:
        OSError: as pthread_join(3).
    """
    _sem_post(thread.semaphore)
    _check(_join(thread.handle, None), "pthread_join")
    _sem_destroy(thread.semaphore)


def _stack_of(handle: int) -> tuple[int, int, int]:
    """Start, length, and guard length of a thread's stack."""
    start, length, guard = c_size_t(), c_size_t(), c_size_t()
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    _check(_getattr(handle, attributes), "pthread_getattr_np")
    try:
        _check(_attr_getstack(attributes, byref(start), byref(length)), "pthread_attr_getstack")
        _check(_attr_getguardsize(attributes, byref(guard)), "pthread_attr_getguardsize")
    finally:
        _attr_destroy(attributes)
    top = start.value + length.value
    with ProcessDirectory() as ourselves:  # glibc before 2.27 counts the guard, a mapping of its own there, as stack
        usable = read_parts(ourselves, start.value, top)[-1].start
    return usable, top - usable, guard.value


def _check(number: int, call: str) -> None:
    """Raise the error number that a pthread function returns; it sets no errno."""
    if number:
        raise OSError(number, os.strerror(number), call)
