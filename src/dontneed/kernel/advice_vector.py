"""process_madvise(2) on oneself, as it is: one call, whatever it answers; `kernel.madvise` goes on until all is done.

Kernel:
    since 5.10, on oneself any advice since 6.13; mm/madvise.c; process_madvise(2).
"""

from __future__ import annotations

import ctypes
import errno
import os

from dontneed.abi.syscalls import PROCESS_MADVISE
from dontneed.errors import KernelLacks
from dontneed.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.abi.advice import Advice


def advise_vector(ranges: Sequence[tuple[int, int]], advice: Advice | int) -> int:
    """Give `advice` for ranges of the calling process, in one call.

    Args:
        ranges: address and length, in bytes, of each.
        advice: the same for all.
    Returns:
        Bytes of the ranges that were finished; or the errno with which the first was refused, as a negative number.
    Raises:
        KernelLacks: no such call.
        OSError: no descriptor of the own process (pidfd_open) can be had.
    """
    vector = (ctypes.c_uint64 * (2 * len(ranges)))(*(number for each in ranges for number in each))
    try:
        pidfd = os.pidfd_open(os.getpid())
    except AttributeError:
        msg = "this Python was built for a kernel without pidfd_open"
        raise KernelLacks(msg, hint="it came with Linux 5.3") from None
    try:
        done = libc.syscall(PROCESS_MADVISE, pidfd, ctypes.addressof(vector), len(ranges), int(advice), 0)
    finally:
        os.close(pidfd)
    if done >= 0:
        return done
    if libc.last_errno() == errno.ENOSYS:
        msg = "process_madvise is absent, or a seccomp filter hides it"
        raise KernelLacks(msg, hint="it came with Linux 5.10")
    return -libc.last_errno()
