"""What a timeline is made of: the fields of an event, the kinds of events, and the system calls among them.

An event is one row of 48 bytes, little endian. What `a` to `d` hold is up to its kind:

| kind | a | b | c | d |
|---|---|---|---|---|
| call | number of the system call | its first argument | second | third |
| more (right behind a call with more than three arguments) | fourth argument | fifth | sixth | |
| return | number of the system call | result, signed | | |
| fault | address | instruction | bits of the error code | |
| rss | counter: 0 file, 1 anonymous, 2 swap, 3 shmem | bytes | address space, by number | 1: its own |
| allocated | frame | order | flags (gfp) | |
| freed | frame | order | | |
| tlb flush | reason | pages; all bits set: everything | | |
| mapping | start | bytes | offset in the file | name, protection, flags: see `mapping_word` |
| fork | new thread | its process | process of the old one | old thread |
| exec | process | name | | |
| exit | process | | | |
| lost | how many records found no room before this moment | | | |

Kernel:
    include/trace/events/kmem.h, tlb.h, syscalls.h; arch/x86/include/asm/trace/exceptions.h.
"""

from __future__ import annotations

EVENT_FIELDS = (
    ("time", "<u8"),
    ("thread", "<u4"),
    ("cpu", "<u2"),
    ("kind", "u1"),
    ("pad", "u1"),
    ("a", "<u8"),
    ("b", "<u8"),
    ("c", "<u8"),
    ("d", "<u8"),
)
"""The fields of an event as numpy writes them; the time is in nanoseconds of CLOCK_MONOTONIC."""
EVENT_BYTES = 48

CALL, MORE, RETURN, FAULT, RSS, ALLOCATED, FREED, TLB_FLUSH, MAPPING, FORK, EXEC, EXIT, LOST = KINDS = tuple(
    range(1, 14)
)
KIND_NAMES = (
    "",
    "call",
    "more",
    "return",
    "fault",
    "rss",
    "allocated",
    "freed",
    "tlb flush",
    "mapping",
    "fork",
    "exec",
    "exit",
    "lost",
)
"""By number."""

MOST_BYTES = 1 << 57
"""What an address space has room for, with five levels of page tables: no counter is larger."""
COUNTERS = ("file", "anonymous", "swap", "shmem")
"""What an rss event counts, by number; the second is never in RSS."""
FILE, ANONYMOUS, SWAP, SHMEM = range(4)

PRESENT, WRITE, USER, INSTRUCTION = 1 << 0, 1 << 1, 1 << 2, 1 << 4
"""Bits of a fault's error code on x86: the page was there and protected; a write; from user space; a fetch."""

FLUSH_REASONS = (
    "task switch",
    "remote shootdown",
    "local shootdown",
    "local mm shootdown",
    "remote send",
    "remote wrong cpu",
)
"""Why a TLB was flushed, by number; enum tlb_flush_reason."""
TASK_SWITCH = 0

ALL_CALLS = {
    9: ("mmap", 6),
    10: ("mprotect", 3),
    11: ("munmap", 2),
    12: ("brk", 1),
    25: ("mremap", 5),
    28: ("madvise", 3),
    30: ("shmat", 3),
    56: ("clone", 5),
    57: ("fork", 0),
    58: ("vfork", 0),
    59: ("execve", 3),
    60: ("exit", 1),
    67: ("shmdt", 1),
    149: ("mlock", 2),
    150: ("munlock", 2),
    151: ("mlockall", 1),
    152: ("munlockall", 0),
    216: ("remap_file_pages", 5),
    231: ("exit_group", 1),
    237: ("mbind", 6),
    256: ("migrate_pages", 4),
    279: ("move_pages", 6),
    322: ("execveat", 5),
    325: ("mlock2", 3),
    329: ("pkey_mprotect", 4),
    435: ("clone3", 2),
    440: ("process_madvise", 5),
    462: ("mseal", 3),
}
"""The system calls that change what memory a process has: number on x86-64, name, and how many arguments."""
CALL_NUMBERS = {name: number for number, (name, _) in ALL_CALLS.items()}
ARGUMENTS_OF_AN_EVENT = 3

_PROTECTION_SHIFT, _FLAGS_SHIFT = 32, 40
_NAME_MASK, _PROTECTION_MASK, _FLAGS_MASK = (1 << 32) - 1, (1 << 8) - 1, (1 << 24) - 1
MAP_SHARED = 1


def mapping_word(name: int, protection: int, flags: int) -> int:
    """The `d` of a mapping: the index of its name, its PROT_* and its MAP_* bits, in one number."""
    return (
        name & _NAME_MASK | (protection & _PROTECTION_MASK) << _PROTECTION_SHIFT | (flags & _FLAGS_MASK) << _FLAGS_SHIFT
    )


def mapping_parts(word: int) -> tuple[int, int, int]:
    """The index of the name, the PROT_* and the MAP_* bits in the `d` of a mapping."""
    return word & _NAME_MASK, word >> _PROTECTION_SHIFT & _PROTECTION_MASK, word >> _FLAGS_SHIFT & _FLAGS_MASK
