"""Flags of mmap(2), mremap(2), mlockall(2) and clone(2), by their numbers on x86-64.

Kernel:
    include/uapi/asm-generic/mman-common.h, mman.h; include/uapi/linux/mman.h, sched.h.
"""

from __future__ import annotations

MAP_SHARED = 0x01
MAP_ANONYMOUS = 0x20
MAP_GROWSDOWN = 0x100
MAP_LOCKED = 0x2000
MAP_NORESERVE = 0x4000
MAP_POPULATE = 0x8000
MAP_NONBLOCK = 0x1_0000
MAP_STACK = 0x2_0000
MAP_HUGETLB = 0x4_0000

PROTECTIONS = 0x7
"""PROT_READ, PROT_WRITE and PROT_EXEC."""

MLOCK_ONFAULT = 1
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4

CLONE_VM = 0x100
"""The new process shares the memory of the old one."""
