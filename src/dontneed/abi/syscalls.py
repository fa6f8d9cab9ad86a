"""System call numbers that libc has no wrapper for; asm-generic/unistd.h gives new calls one number everywhere."""

from __future__ import annotations

PROCESS_MADVISE = 440
"""since 5.10; process_madvise(2)."""

MSEAL = 462
"""since 6.10; mseal(2)."""

PIDFD_SELF = -10001
"""PIDFD_SELF_THREAD_GROUP, since 6.14; include/uapi/linux/pidfd.h: the calling process without opening a pidfd."""
