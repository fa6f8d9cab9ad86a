"""madvise(2), process_madvise(2) and posix_madvise(3): advice on plain addresses, to the kernel.

# What a caller must know

A range over several mappings is walked in address order. A hole is skipped, everything else is done, and the call ends
in ENOMEM: not a failure to act. An error from one mapping stops the walk at once; what came before keeps its effect.

process_madvise takes 1,024 ranges and 0x7ffff000 bytes a call and returns short: it counts the ranges it finished, so
an error behind the first is not reported, only not counted. We call again from where it stopped, and the error that is
first then is the answer. On oneself it takes any advice since 6.13; before that, and where a filter forbids it, we loop
over madvise. On another process it takes WILLNEED, COLD, PAGEOUT and COLLAPSE, with CAP_SYS_NICE and ptrace rights.
One TLB flush a call instead of one a range makes it 2 to 13 times as fast for scattered pages.

Kernel:
    mm/madvise.c; process_madvise since 5.10, PIDFD_SELF 6.14.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import lru_cache

from dontneed.abi.syscalls import PIDFD_SELF, PROCESS_MADVISE
from dontneed.errors import AdviceRefused, KernelLacks, NotPermitted, ProcessGone
from dontneed.kernel import libc
from dontneed.units import round_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.abi.advice import Advice, PosixAdvice
    from dontneed.kernel.pagemap import Words
    from dontneed.spans import Spans

RANGES_A_CALL = 1024
"""UIO_MAXIOV."""
BYTES_A_CALL = round_down((1 << 31) - 1)
"""MAX_RW_COUNT, 0x7ffff000 where a page is 4 KiB: a longer vector is silently cut here."""


def advise_range(start: int, length: int, advice: Advice) -> int:
    """Give `advice` for one range of the calling process; the GIL is free meanwhile.

    Args:
        start: page-aligned address.
        length: bytes; the last page is advised whole.
        advice: what to say of it.
    Returns:
        Bytes advised, which is `length`. Not bytes freed.
    Raises:
        AdviceRefused: with the kernel's errno. ENOMEM: a part of the range is not mapped; the rest was advised.
        NotPermitted: EPERM; the mapping is sealed, or the advice needs a capability.
    Kernel:
        since 2.4; mm/madvise.c; madvise(2).
    """
    if libc.madvise(start, length, int(advice)) == -1:
        raise refusal(libc.last_errno(), advice, start, length)
    return length


def advise_posix(start: int, length: int, advice: PosixAdvice) -> None:
    """Give POSIX advice through libc. POSIX_MADV_DONTNEED does nothing: see `PosixAdvice`.

    Raises:
        AdviceRefused: with the errno that libc returned.
    Kernel:
        posix_madvise(3); glibc 2.6+ and musl make no system call for DONTNEED.
    """
    if number := libc.posix_madvise(start, length, int(advice)):
        raise refusal(number, advice, start, length)


def advise_spans(spans: Spans, advice: Advice, *, pidfd: int | None = None) -> int:
    """Give `advice` for many spans, 1,024 a system call where the kernel can.

    Args:
        spans: of the calling process, or of the process behind `pidfd`.
        advice: what to say of them.
        pidfd: an open pidfd; None is the calling process.
    Returns:
        Bytes advised. Not bytes freed.
    Raises:
        AdviceRefused: `advised` says how many bytes were advised before it.
        NotPermitted, ProcessGone, KernelLacks: another process, without the right, gone, or before 5.10.
    Kernel:
        since 5.10, any advice on oneself since 6.13; mm/madvise.c; process_madvise(2).
    """
    target = pidfd
    if target is None and len(spans) > 1:
        target = own_target(advice)
    if target is None:
        return _advise_one_by_one(spans, advice)
    return _advise_in_vectors(spans, advice, target, remote=pidfd is not None)


def own_target(advice: Advice) -> int | None:
    """The pidfd by which process_madvise takes `advice` on ourselves; None where it does not."""
    return _own_target(advice, os.getpid())


def _advise_one_by_one(spans: Spans, advice: Advice) -> int:
    advised = 0
    number = int(advice)
    madvise = libc.madvise
    for base, length in spans.iovec().tolist():
        if madvise(base, length, number) == -1:
            raise refusal(libc.last_errno(), advice, base, length, advised=advised)
        advised += length
    return advised


def _advise_in_vectors(spans: Spans, advice: Advice, target: int, *, remote: bool) -> int:
    vector = _vector_of(spans)
    first = advised = 0
    while first < len(vector):
        count = _ranges_that_fit(vector[first : first + RANGES_A_CALL])
        done = libc.syscall(PROCESS_MADVISE, target, vector[first:].ctypes.data, count, int(advice), 0)
        if done <= 0:
            # 0 for what is not empty comes from a filter that fakes success, and would have us ask for ever.
            number = libc.last_errno() if done else errno.ENOSYS
            base, length = vector[first].tolist()
            raise refusal(number, advice, base, length, advised=advised, remote=remote)
        advised += done
        first += int(vector[first : first + count, 1].cumsum().searchsorted(done, side="right"))
    return advised


def _vector_of(spans: Spans) -> Words:
    """`spans` as an array of struct iovec, none longer than one call can take."""
    rows = spans.split(BYTES_A_CALL)
    rows[:, 1] -= rows[:, 0]
    return rows


def _ranges_that_fit(vector: Words) -> int:
    """How many of these ranges one call can take, by bytes; at least the first."""
    return max(1, int(vector[:, 1].cumsum().searchsorted(BYTES_A_CALL, side="right")))


@lru_cache(maxsize=64)
def _own_target(advice: Advice, pid: int) -> int | None:
    """The pidfd by which process_madvise takes `advice` on ourselves; None where it does not.

    Found by advising one range of no bytes, which acts on nothing: the advice is looked at all the same, while an empty
    vector would be answered before. Before 6.14 PIDFD_SELF is unknown and a real pidfd is opened, once for each `pid`:
    a pidfd that a child inherits is its parent's.
    """
    if _takes(PIDFD_SELF, advice):
        return PIDFD_SELF
    try:
        target = _own_pidfd(pid)
    except (OSError, AttributeError):
        return None  # before 5.3, behind a filter, or a Python built for such a kernel: madvise does without
    return target if _takes(target, advice) else None


def _takes(target: int, advice: Advice) -> bool:
    nothing = (ctypes.c_uint64 * 2)()
    return libc.syscall(PROCESS_MADVISE, target, ctypes.addressof(nothing), 1, int(advice), 0) == 0


@lru_cache(maxsize=1)
def _own_pidfd(pid: int) -> int:
    return os.pidfd_open(pid)


def refusal(
    number: int,
    advice: Advice | PosixAdvice,
    start: int,
    length: int,
    *,
    advised: int = 0,
    remote: bool = False,
) -> Exception:
    """What an errno from an advice means to a person."""
    what = f"{advice} of {length} bytes at {start:#x}"
    if number == errno.EPERM:
        hint = (
            "another process's memory takes CAP_SYS_NICE and the right to trace it: run as root (sudo)"
            if remote
            else "the mapping is sealed (mseal), or the advice needs CAP_SYS_ADMIN"
        )
        return NotPermitted(f"{what} is not permitted (EPERM)", hint=hint)
    if number == errno.EACCES and remote:
        return NotPermitted(f"{what}: the process belongs to someone else (EACCES)", hint="run as root (sudo)")
    if number == errno.ESRCH:  # not EBADF: that is WILLNEED's, from a kernel without swap
        return ProcessGone(f"{what}: the process has ended, or has no memory of its own")
    if number == errno.ENOSYS:
        return KernelLacks("process_madvise is absent, or a seccomp filter hides it", hint="it came with Linux 5.10")
    name = errno.errorcode.get(number, str(number))
    return AdviceRefused(
        f"{what} was refused: {name}, {os.strerror(number)}",
        errno=number,
        advised=advised,
        hint=_HINTS.get(number, ""),
    )


_HINTS = {
    errno.EINVAL: "this kind of memory does not take this advice (locked, huge, of a device), or the kernel is too old "
    "for it: `dontneed.Advice` lists both",
    errno.ENOMEM: "part of the range is not mapped; the mapped part was advised",
    errno.EAGAIN: "the kernel ran out of memory or of mappings for a moment; vm.max_map_count limits them",
}
