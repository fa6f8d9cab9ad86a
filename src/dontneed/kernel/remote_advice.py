"""Advice to another process's memory that harms none of it, without stopping it: what it takes to be allowed to.

process_madvise on another process takes COLD, PAGEOUT, WILLNEED and COLLAPSE, from those who may read its memory
(PTRACE_MODE_READ) and hold CAP_SYS_NICE, since paging a program out slows it down. `madvise.advise_spans` gives it.

Kernel:
    since 5.10; mm/madvise.c process_madvise_remote_valid(); process_madvise(2). pidfd_open since 5.3.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager

from dontneed.abi.syscalls import PROCESS_MADVISE
from dontneed.errors import KernelLacks
from dontneed.kernel import libc
from dontneed.kernel.madvise import refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.abi.advice import Advice
    from dontneed.kernel.procfs import ProcessDirectory


@contextmanager
def advisable(process: ProcessDirectory, advice: Advice) -> Iterator[int | None]:
    """A pidfd by which `process` takes `advice`; None for the calling process, which needs none.

    Raises:
        NotPermitted, KernelLacks, ProcessGone: it does not.
    """
    if process.pid == os.getpid():
        yield None
        return
    pidfd = _open(process)
    try:
        _try(pidfd, advice)
        yield pidfd
    finally:
        os.close(pidfd)


def _open(process: ProcessDirectory) -> int:
    try:
        pidfd = os.pidfd_open(process.pid)
    except (OSError, AttributeError):
        process.read("stat")  # raises ProcessGone if that is why
        msg = "this process cannot be held by a pidfd"
        raise KernelLacks(msg, hint="pidfd_open came with Linux 5.3, and a seccomp filter may hide it") from None
    try:
        process.read("stat")  # it was there after its number was looked up: the number was not anyone else's
    except BaseException:  # whatever it was, nobody else closes the descriptor
        os.close(pidfd)
        raise
    return pidfd


def _try(pidfd: int, advice: Advice) -> None:
    """Advise one range of no bytes: all rights are looked at, and nothing is done."""
    nothing = (ctypes.c_uint64 * 2)()
    if libc.syscall(PROCESS_MADVISE, pidfd, ctypes.addressof(nothing), 1, int(advice), 0) == -1:
        raise refusal(libc.last_errno(), advice, 0, 0, remote=True)
