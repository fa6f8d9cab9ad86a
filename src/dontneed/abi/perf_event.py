"""perf_event_open(2): how an event is asked for, and how the records in its ring look.

An event is asked for with a `perf_event_attr`; what it sees comes as records in a ring of memory shared with us. The
first page of the ring's memory tells how far the kernel has written and we have read.

A record has a head of eight bytes (kind, two bytes of flags, size) and a body. The body of a sample holds what
`sample_type` asked for, in the order of its bits; other records end with the same, if `SAMPLE_ID_ALL` was asked for.

Kernel:
    include/uapi/linux/perf_event.h; perf_event_open(2).
"""

from __future__ import annotations

import struct

SYSCALL_NUMBER = {"x86_64": 298, "aarch64": 241}
"""Of perf_event_open(2), by the machine's name."""

CLOSE_ON_EXEC = 1 << 3
"""A flag of the call; since 3.14."""

# The kinds of events that we ask for

SOFTWARE, TRACEPOINT = 1, 2
NOTHING = (SOFTWARE, 9)
"""A software event that never happens, and brings the records about mappings and processes; since 3.12."""

# struct perf_event_attr

ATTRIBUTE = struct.Struct("<IIQQQQQIIQQQQIi40x")
"""Kind, size, number of the event, period, sample bits, read bits, option bits, watermark; then, after breakpoints,
branches, registers and the size of a stack, the clock."""

SAMPLE_THREAD, SAMPLE_TIME, SAMPLE_CPU, SAMPLE_RAW = 1 << 1, 1 << 2, 1 << 7, 1 << 10
READ_LOST = 1 << 4
"""Reading an event tells how many of its records found no room; since 6.0."""

DISABLED = 1 << 0
INHERIT = 1 << 1
"""Threads and processes that the traced one starts are traced too."""
EXCLUDE_KERNEL = 1 << 5
MAPPINGS = 1 << 8
COMMANDS = 1 << 9
ENABLE_ON_EXEC = 1 << 12
TASKS = 1 << 13
"""Records of forks and exits."""
WATERMARK = 1 << 14
"""The watermark is in bytes."""
DATA_MAPPINGS = 1 << 17
"""Records of mappings that are not executable, too."""
SAMPLE_ID_ALL = 1 << 18
MAPPINGS_2 = 1 << 23
"""Records of mappings have protection and flags; since 3.12."""
COMMAND_EXEC = 1 << 24
"""A record of a command says whether it comes of an exec; since 3.16."""
USE_CLOCK = 1 << 25
"""The times are those of a clock of ours; since 4.1."""

# What is told to an event by ioctl

ENABLE, DISABLE, SET_OUTPUT = 0x2400, 0x2401, 0x2405
SET_FILTER = 0x4008_2406

# The first page of the ring

HEAD, TAIL = 1024, 1032
"""Where it says how many bytes were ever written, and how many we have read."""

# Records

RECORD_HEAD = struct.Struct("<IHH")
LOST, COMMAND, EXITED, FORKED, SAMPLE, MAPPED_2, LOST_SAMPLES = 2, 3, 4, 7, 9, 10, 13
IS_EXEC = 1 << 13
"""In the flags of a COMMAND record."""

SAMPLE_TAIL = struct.Struct("<IIQII")
"""Process, thread, time, CPU: what a record that is no sample ends with."""
RAW_AT = 36
"""Where in a sample with thread, time, CPU and raw data the latter begin, behind their size."""
TASK_BODY = struct.Struct("<IIII")
"""FORKED, EXITED: process, its parent, thread, its parent."""
MAPPED_BODY = struct.Struct("<IIQQQ24xII")
"""Process, thread, address, bytes, offset in the file, device and inode, protection, flags; the name follows."""
LOST_BODY = struct.Struct("<QQ")
"""The event, and how many."""
