"""What seccomp filters are made of: their answers, the instructions that the kernel takes, what they look at.

A filter is a classic BPF program. It gets one system call as 64 bytes (struct seccomp_data) and returns a word: an
action in the upper half, data in the lower one.

Sources, all of Linux 6.18: include/uapi/linux/seccomp.h (actions, seccomp_data), include/uapi/linux/bpf_common.h and
filter.h (instructions), kernel/seccomp.c seccomp_check_filter() (which of them), include/uapi/linux/audit.h.
"""

from __future__ import annotations

# Modes, as the Seccomp line of status has them.
MODE_NONE = 0
MODE_STRICT = 1
MODE_FILTER = 2

# Actions.
KILL_PROCESS = 0x8000_0000
"""since 4.14."""
KILL_THREAD = 0x0000_0000
TRAP = 0x0003_0000
"""SIGSYS."""
ERRNO = 0x0005_0000
"""The data is the errno; 0 pretends that the call was made."""
USER_NOTIF = 0x7FC0_0000
"""Another process decides; since 5.0."""
TRACE = 0x7FF0_0000
"""A tracer decides; ENOSYS without one that asked for it."""
LOG = 0x7FFC_0000
"""Allowed, and logged; since 4.14. Before, it kills, as does every word that is none of these."""
ALLOW = 0x7FFF_0000

ACTION_MASK = 0xFFFF_0000
"""SECCOMP_RET_ACTION_FULL. Before 4.14 without the highest bit: KILL_PROCESS was KILL_THREAD."""
ACTION_NAMES = {
    KILL_PROCESS: "KILL_PROCESS",
    KILL_THREAD: "KILL_THREAD",
    TRAP: "TRAP",
    ERRNO: "ERRNO",
    USER_NOTIF: "USER_NOTIF",
    TRACE: "TRACE",
    LOG: "LOG",
    ALLOW: "ALLOW",
}


def precedence(action: int) -> int:
    """Of the actions of several filters the one with the lowest precedence counts: the action as a signed number."""
    return action - (1 << 32) if action >> 31 else action


# struct seccomp_data: nr (32 bit), arch (32), instruction_pointer (64), args (six of 64); little-endian on x86-64.
DATA_BYTES = 64
DATA_NUMBER = 0
DATA_ARCHITECTURE = 4
DATA_INSTRUCTION_POINTER = 8
DATA_ARGUMENTS = 16
AUDIT_ARCH_X86_64 = 0xC000_003E

# struct sock_filter: code (16 bit), jump if true (8), jump if false (8), k (32).
INSTRUCTION = "<HBBI"
INSTRUCTION_BYTES = 8
MOST_INSTRUCTIONS = 4096
"""BPF_MAXINSNS."""
SCRATCH_WORDS = 16
"""BPF_MEMWORDS."""

# Codes. K is the constant of an instruction, X the index register, A the accumulator.
LD_ABS = 0x20
"""A = the word of seccomp_data at k."""
LD_LEN = 0x80
LDX_LEN = 0x81
LD_IMM = 0x00
LDX_IMM = 0x01
LD_MEM = 0x60
LDX_MEM = 0x61
ST = 0x02
STX = 0x03
TAX = 0x07
TXA = 0x87
RET_K = 0x06
RET_A = 0x16
NEG = 0x84
JA = 0x05

SOURCE_X = 0x08
"""In a code of the two classes below: the operand is X and not K."""

# Arithmetic, with K.
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, XOR = 0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0xA4
ARITHMETIC = frozenset({ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, XOR})

# Jumps, with K.
JEQ, JGT, JGE, JSET = 0x15, 0x25, 0x35, 0x45
JUMPS = frozenset({JEQ, JGT, JGE, JSET})
