"""Numbers of ptrace(2) and of what waitpid(2) reports of a traced thread: include/uapi/linux/ptrace.h, linux/elf.h."""

from __future__ import annotations

# Requests. Those that hold since 3.4 unless said otherwise.
CONT = 7
DETACH = 17
SYSCALL = 24
GETSIGINFO = 0x4202
GETREGSET = 0x4204
SETREGSET = 0x4205
SEIZE = 0x4206
INTERRUPT = 0x4207
GETSIGMASK = 0x420A
"""since 3.11."""
SETSIGMASK = 0x420B
"""since 3.11."""
SECCOMP_GET_FILTER = 0x420C
"""since 4.4."""
GET_RSEQ_CONFIGURATION = 0x420F
"""since 5.13."""
GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4211
"""since 6.4."""

# Options of SEIZE.
O_TRACESYSGOOD = 0x01
"""A stop at a system call is reported as SIGTRAP | 0x80, and no real SIGTRAP is mistaken for it."""
O_TRACEEXEC = 0x10

# Register sets of GETREGSET.
NT_PRSTATUS = 1
NT_PRFPREG = 2
NT_X86_XSTATE = 0x202

# What a wait status says: `status >> 8` is the signal, with an event above it.
SYSCALL_STOP = 5 | 0x80
"""SIGTRAP | 0x80."""
EVENT_EXEC = 4
EVENT_STOP = 128
"""PTRACE_EVENT_STOP: by INTERRUPT (with SIGTRAP), or by a group-stop (with the signal that stopped the group)."""

WALL = 0x4000_0000
"""__WALL of waitpid(2): threads that were cloned without SIGCHLD too."""
