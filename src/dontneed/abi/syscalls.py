"""System call numbers that libc has no wrapper for; asm-generic/unistd.h gives new calls one number everywhere.

The older ones, in `X86_64`, are those of arch/x86/entry/syscalls/syscall_64.tbl: what threads block in, and what is
injected into them.
"""

from __future__ import annotations

PIDFD_GETFD = 438
"""since 5.6; pidfd_getfd(2)."""

PROCESS_MADVISE = 440
"""since 5.10; process_madvise(2)."""

CACHESTAT = 451
"""since 6.5; cachestat(2)."""

MSEAL = 462
"""since 6.10; mseal(2)."""

PIDFD_SELF = -10001
"""PIDFD_SELF_THREAD_GROUP, since 6.14; include/uapi/linux/pidfd.h: the calling process without opening a pidfd."""


class X86_64:  # noqa: N801 - the architecture's own name
    """Numbers on x86-64."""

    READ = 0
    WRITE = 1
    OPEN = 2
    CLOSE = 3
    POLL = 7
    MMAP = 9
    MPROTECT = 10
    MUNMAP = 11
    BRK = 12
    RT_SIGRETURN = 15
    PREAD64 = 17
    PWRITE64 = 18
    READV = 19
    WRITEV = 20
    SELECT = 23
    SCHED_YIELD = 24
    MADVISE = 28
    PAUSE = 34
    NANOSLEEP = 35
    GETPID = 39
    CONNECT = 42
    ACCEPT = 43
    SENDTO = 44
    RECVFROM = 45
    SENDMSG = 46
    RECVMSG = 47
    CLONE = 56
    VFORK = 58
    WAIT4 = 61
    SEMOP = 65
    MSGSND = 69
    MSGRCV = 70
    FLOCK = 73
    RT_SIGTIMEDWAIT = 128
    RT_SIGSUSPEND = 130
    GETTID = 186
    FUTEX = 202
    IO_GETEVENTS = 208
    RESTART_SYSCALL = 219
    SEMTIMEDOP = 220
    CLOCK_GETTIME = 228
    CLOCK_NANOSLEEP = 230
    EPOLL_WAIT = 232
    MQ_TIMEDSEND = 242
    MQ_TIMEDRECEIVE = 243
    WAITID = 247
    OPENAT = 257
    PSELECT6 = 270
    PPOLL = 271
    EPOLL_PWAIT = 281
    ACCEPT4 = 288
    PREADV = 295
    PWRITEV = 296
    RECVMMSG = 299
    SENDMMSG = 307
    GETCPU = 309
    USERFAULTFD = 323
    MEMBARRIER = 324
    IO_PGETEVENTS = 333
    IO_URING_ENTER = 426
    CLONE3 = 435
    EPOLL_PWAIT2 = 441
    FUTEX_WAITV = 449


FUTEX_COMMAND = 0x7F
"""The bits of a futex operation that are no flag; include/uapi/linux/futex.h."""
FUTEX_WAIT = 0
FUTEX_WAKE = 1
FUTEX_WAKE_OP = 5
FUTEX_LOCK_PI = 6
FUTEX_WAIT_BITSET = 9
FUTEX_WAIT_REQUEUE_PI = 11
FUTEX_LOCK_PI2 = 13
FUTEX_PRIVATE = 0x80
FUTEX_CLOCK_REALTIME = 0x100
