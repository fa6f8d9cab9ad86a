"""Events as the kernel records them of a program that begins, maps and counts; and what the model comes to."""

from __future__ import annotations

from dontneed.abi import mman
from dontneed.abi import trace_kinds as kinds
from dontneed.lab.replay import replay

from .trace_world import PAGE, PID, called, counted, timeline_of, touched

HUGE = 2 << 20
DONTNEED, FREE = 4, 8
CHILD, THREAD = 200, 101
STACK_TOP, PROGRAM = 0x7FFF_FFFF_F000, 0x40_0000
FRESH = 0x3000_0000
PRIVATE_ANONYMOUS = mman.MAP_ANONYMOUS | 2
NAMES = ("", "[stack]", "/bin/program", "[vdso]", "/dev/zero (deleted)")


def counts(pages, **options):
    """A count of anonymous memory."""
    return counted(kinds.ANONYMOUS, pages * PAGE, **options)


def mapped_anonymous(start, length, *, thread=PID, flags=PRIVATE_ANONYMOUS, protection=3, name=0):
    """An mmap of anonymous memory, with the record that the kernel makes of it."""
    record = (thread, kinds.MAPPING, start, length, 0, kinds.mapping_word(name, protection, flags))
    arguments = (0, length, protection, flags, -1, 0)
    return called("mmap", *arguments, thread=thread, result=start, between=[record])


def executed(name=2, pid=PID):
    """A program that begins, as the kernel tells of it: the program's pages, and a stack of two arguments' pages."""
    return [
        (pid, kinds.EXEC, pid, name),
        (pid, kinds.MAPPING, STACK_TOP - 33 * PAGE, 33 * PAGE, 0, kinds.mapping_word(1, 3, 2)),
        (pid, kinds.MAPPING, PROGRAM, 32 * PAGE, 0, kinds.mapping_word(2, 5, 2)),
        touched(STACK_TOP - 3 * PAGE, thread=pid),
        counts(3, thread=pid, space=50 + pid),
        (pid, kinds.RETURN, kinds.CALL_NUMBERS["execve"], 0),
    ]


def predicted(*events, **options):
    """Pages that the model comes to at each moment, with the replay."""
    pid = options.pop("pid", None)
    replayed = replay(timeline_of(*events, names=NAMES, **options), pid=pid)
    return (replayed.predicted.rss_bytes // PAGE).tolist(), replayed
