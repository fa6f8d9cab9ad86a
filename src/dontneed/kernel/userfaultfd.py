"""userfaultfd(2) as a watch over writes: which pages of a process were written to, by the kernel's own account.

# What it does

A descriptor belongs to the address space of the process that made it. Mappings are registered with it; pages in them
are write-protected; the first write to each finds the protection, and the kernel takes it away by itself
(WRITE_PROTECT_ASYNC). Nobody is asked and nobody waits: a write costs its thread one short fault, as after a fork.
PAGEMAP_SCAN finds the pages that are not protected any more.

# What it leaves

Nothing, by the kernel's doing: when the last copy of the descriptor is closed, whoever closes it and however its holder
ended, every mapping is taken off and every page that is still protected becomes writable again, before close returns.
A fork meanwhile gives the child none of it; exec and exit end it. So a `WriteWatch` wants to hold the only copy.

# What it disturbs

A mapping belongs to one userfaultfd at a time: another one is refused (EBUSY), ours or theirs. khugepaged leaves
registered mappings alone. Writing to a protected huge page takes its PMD entry apart, for good.

Kernel:
    fs/userfaultfd.c userfaultfd_release(); fs/proc/task_mmu.c pagemap_scan_pmd_entry(). Asynchronous since 6.7. What is
    protected still when the descriptor closes is written to like any page since 6.10 and in stable kernels before;
    in others the bit stays in the entry, and means nothing there.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress
from fcntl import ioctl

from dontneed.abi import userfaultfd as abi
from dontneed.abi.syscalls import PIDFD_GETFD
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.kernel import libc
from dontneed.kernel.closing import Closing

OPEN_FLAGS = abi.CLOSED_ON_EXEC | abi.NOT_BLOCKING | abi.USER_MODE_ONLY
"""What userfaultfd(2) is called with."""

_API = struct.Struct("=3Q")
_REGISTER = struct.Struct("=4Q")
_RANGE = struct.Struct("=2Q")
_CANNOT_BE_WATCHED = (errno.EINVAL, errno.EPERM, errno.ENOMEM)
"""The range is not mapped any more, or of a sort that cannot be registered; the kernel's own words for both vary."""


class WriteWatch(Closing):
    """Watches mappings for writes; a context manager, at whose end nothing of it is left.

    Args:
        descriptor: a userfaultfd, which is closed at the end.
    Raises:
        OSError: EINVAL: this kernel has no asynchronous write-protection.
    """

    __slots__ = ("_descriptor", "_registered")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._registered: list[tuple[int, int]] = []
        try:
            ioctl(descriptor, abi.API, bytearray(_API.pack(abi.API_VERSION, abi.WRITE_PROTECT_ASYNC, 0)))
        except BaseException:  # whatever it was, the descriptor does not outlive it, and nor does what it watches
            os.close(descriptor)
            raise

    def register(self, start: int, end: int) -> str:
        """Watch a mapping from now on; its pages are protected by `scan_written(…, protect=True)`.

        Returns:
            Nothing; or why it cannot be watched.
        Raises:
            OSError: ESRCH: the process has given this address space up.
        """
        request = bytearray(_REGISTER.pack(start, end - start, abi.REGISTER_WRITE_PROTECT, 0))
        try:
            ioctl(self._descriptor, abi.REGISTER, request)
        except OSError as refusal:
            if refusal.errno == errno.EBUSY:
                return "another userfaultfd watches it"
            if refusal.errno in _CANNOT_BE_WATCHED:
                return "the kernel does not watch memory of this sort, or it was unmapped meanwhile"
            raise
        self._registered.append((start, end))
        return ""

    def close(self) -> None:
        """Take every mapping off, and the protection with it."""
        try:
            for start, end in self._registered:
                # What was unmapped is refused, and closing does the same for all that is left.
                with suppress(OSError):
                    ioctl(self._descriptor, abi.UNREGISTER, bytearray(_RANGE.pack(start, end - start)))
        finally:
            os.close(self._descriptor)


def open_own_userfaultfd() -> int:
    """A userfaultfd for this process.

    Raises:
        OSError: as userfaultfd(2).
    """
    return libc.check(libc.syscall(NR.USERFAULTFD, OPEN_FLAGS), "userfaultfd")


def fetch_descriptor(pid: int, number: int) -> int:
    """A copy of a file descriptor of another process, closed on exec; the caller closes it.

    Raises:
        OSError: as pidfd_open(2), since 5.3, and pidfd_getfd(2), since 5.6, which takes the right to trace it.
    """
    pidfd = os.pidfd_open(pid)
    try:
        return libc.check(libc.syscall(PIDFD_GETFD, pidfd, number, 0), "pidfd_getfd")
    finally:
        os.close(pidfd)
