"""bpf(2): its commands, kinds of programs and maps, the helpers that we call, and how an instruction is written.

An instruction is eight bytes: the operation, the two registers that it works on, an offset and an immediate number. The
operation is a class with, according to the class, what to do and where the second operand comes from, or how wide and
by which mode memory is accessed.

Kernel:
    include/uapi/linux/bpf.h; Documentation/bpf/standardization/instruction-set.rst; bpf(2).
"""

from __future__ import annotations

SYSCALL_NUMBER = {"x86_64": 321, "aarch64": 280}
"""Of bpf(2), by the machine's name."""

# Commands

MAP_CREATE = 0
PROG_LOAD = 5
PROG_TEST_RUN = 10
PROG_GET_NEXT_ID = 11
MAP_GET_NEXT_ID = 12

ATTRIBUTE_BYTES = 144
"""union bpf_attr as far as any command here uses it; a kernel that knows less of it takes zeros for what it lacks."""

PROG_TYPE_SYSCALL = 31
"""A program that runs when it is told to, in the context of the caller; since 5.14. It must be sleepable."""
SLEEPABLE = 1 << 4

MAP_TYPE_ARRAY = 2
MMAPABLE = 1 << 10
"""The values of the array can be mapped into memory; since 5.5."""

# Helpers: functions of the kernel that have a number

GET_CURRENT_TASK = 35
"""The task_struct of the caller, as a number."""
PROBE_READ_KERNEL = 113
"""Copy kernel memory, or answer with -EFAULT where there is none; since 5.5. Lockdown takes it away."""

PSEUDO_MAP_VALUE = 2
"""In a wide load: the address of a map's value instead of a number."""
PSEUDO_KERNEL_CALL = 2
"""In a call: a function of the kernel by its BTF id (a kfunc) instead of a helper."""

# Classes of instructions, and what they are made up of

LOAD_WIDE = 0x18
"""The one instruction of sixteen bytes: a 64-bit number into a register."""
LOAD = 0x61
STORE = 0x63
"""Of a register to memory."""
ARITHMETIC = 0x07
JUMP = 0x05
FROM_REGISTER = 0x08

SIZES = {4: 0x00, 8: 0x18}
"""How many bytes a load or a store moves."""

ADD, SHIFT_LEFT, MOVE = 0x00, 0x60, 0xB0
"""Arithmetic on 64 bits."""
ALWAYS, IF_EQUAL, IF_AT_LEAST = 0x00, 0x10, 0x30
"""Jumps; the comparison is unsigned."""
CALL = 0x85
EXIT = 0x95

FRAME_POINTER = 10
"""The register that points behind the last of the 512 bytes of stack."""
