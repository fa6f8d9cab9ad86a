"""The part of a thread's stack that is dead: pages it once used, below its stack pointer, to which nothing leads.

# Which memory is a thread's stack

The main thread's is the mapping `[stack]`. Any other thread's is the block that its C library made for it, of which
struct pthread, at the top of the block, tells where it begins and how large its guard is. The thread pointer leads
there; it is a register, to be had of a stopped thread only. Of one that runs on, the struct is looked for upwards from
the stack pointer: it holds its own address twice.

A stack pointer outside of all this belongs to a signal handler (sigaltstack), to a coroutine, or to a stack that the
program made: nobody but the program knows what is dead there, and it is left alone. So is a block without a guard:
the program made it (pthread_attr_setstack).

# What is dead

All below the stack pointer, less the red zone that a function may use without moving the pointer, less a reserve. With
one exception: a thread may run on a small stack that is an array in one of its own frames, and then the frames of its
callers lie below. It has to find back to them: so a word in its registers, or above the stack pointer, points there.
No ordinary thread has such a word (none of some hundred that we looked at, in Python, node and C), and one that has is
left alone. Java's threads do have them, beside the limits of their stacks, which do not count.

Without being stopped, a thread moves on meanwhile: what is found then is a hint, and worth a look, no more.

Kernel:
    /proc/PID/task/TID/syscall; System V ABI for AMD64, 3.2.2 (red zone); glibc nptl/allocatestack.c.
"""

from __future__ import annotations

from dontneed.abi.x86_64 import RED_ZONE_BYTES
from dontneed.errors import Unreadable
from dontneed.kernel.process_memory import read_memory
from dontneed.observe.stacks.thread_block import THREAD_BLOCK_BYTES, parse_thread_block
from dontneed.records import Record
from dontneed.spans import Span
from dontneed.units import KIB, MIB, round_down

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.kernel.procmap import MappedPart

RESERVE_BYTES = 32 * KIB
"""Kept below the stack pointer: the next calls need it at once, and a borrowed thread has its way home in it."""

NOT_ITS_OWN = "on a stack that glibc did not make for them: a signal handler's, a coroutine's, the program's own"
TOO_DEEP = "with more than 4 MiB of stack in use"
POINTS_BELOW = "holding addresses below their stack pointer: perhaps on a stack within their stack"

_MOST_LIVE_BYTES = 4 * MIB
_READ_BYTES = (32 * KIB, 512 * KIB, _MOST_LIVE_BYTES)
"""How far struct pthread is looked for: most threads that wait have used a few KiB."""
_WORD_BYTES = 8
_SELF_WORDS = (0, 2)
"""Where struct pthread holds its own address: tcb and self of tcbhead_t, which the ABI fixes."""


_NOTHING = Span(0, 0)


class DeadStack(Record):
    """What is dead of one thread's stack.

    Attributes:
        thread: its id.
        span: from the lowest address that it may use; present or not, and empty if nothing is known to be dead.
        why_not: why nothing is: what the thread is doing, as in "3 threads are …"; nothing otherwise.
    """

    thread: int
    span: Span = _NOTHING
    why_not: str = ""


class _Stack(Record):
    """A stack, and what is alive of it.

    Attributes:
        start: the lowest address that it may be used down to.
        live: the words from the stack pointer up.
    """

    start: int
    live: Words


def find_dead_stack(
    process: ProcessDirectory,
    thread: int,
    stack_pointer: int,
    mapping: MappedPart | None,
    registers: Iterable[int] = (),
    thread_pointer: int = 0,
) -> DeadStack:
    """Find what is dead of a thread's stack.

    Args:
        process: whose thread it is.
        thread: its id.
        stack_pointer: where it is now.
        mapping: the one that the stack pointer lies in, or None.
        registers: of a stopped thread: what it holds in them.
        thread_pointer: of a stopped thread.
    Raises:
        NotPermitted, ProcessGone, KernelLacks: its memory cannot be read.
    """
    if mapping is None or not mapping.start <= stack_pointer < mapping.end:
        return DeadStack(thread, why_not=NOT_ITS_OWN)
    try:
        stack = _find_stack(process, thread, stack_pointer, mapping, thread_pointer)
    except Unreadable:  # it is being unmapped
        stack = NOT_ITS_OWN
    if isinstance(stack, str):
        return DeadStack(thread, why_not=stack)
    top = stack_pointer - RED_ZONE_BYTES
    if points_between(stack.live, stack.start, top) or any(stack.start < word < top for word in registers):
        return DeadStack(thread, why_not=POINTS_BELOW)
    end = round_down(top - RESERVE_BYTES)
    return DeadStack(thread, Span(stack.start, end) if end > stack.start else _NOTHING)


def points_between(words: Words, start: int, end: int) -> bool:
    """Whether any word is an address in `(start, end)`. The start itself is a limit of the stack, and none in use."""
    return bool(((words > start) & (words < end)).any())


def thread_pointers_in(words: Words, base: int) -> Iterator[int]:
    """Where a struct pthread may be: addresses that hold themselves, as its shape has it. Pure.

    Args:
        words: a stack from `base` up.
        base: an address, aligned to words.
    """
    import numpy as np

    first, second = _SELF_WORDS
    addresses = np.uint64(base) + np.arange(len(words)).astype(np.uint64) * np.uint64(_WORD_BYTES)
    own = addresses[: len(words) - second]
    for index in np.flatnonzero((words[first : first + len(own)] == own) & (words[second:] == own)).tolist():
        yield base + index * _WORD_BYTES


def _find_stack(
    process: ProcessDirectory, thread: int, stack_pointer: int, mapping: MappedPart, thread_pointer: int
) -> _Stack | str:
    """The thread's stack, or why it is left alone."""
    base = round_down(stack_pointer, _WORD_BYTES)
    if mapping.name == "[stack]":
        return _main(process.pid, base, mapping) if thread == process.pid else NOT_ITS_OWN
    if thread_pointer:
        return _proven(process.pid, base, mapping, thread_pointer)
    return _searched(process.pid, base, mapping)


def _main(pid: int, base: int, mapping: MappedPart) -> _Stack | str:
    """The main thread's stack."""
    if mapping.end - base > _MOST_LIVE_BYTES:
        return TOO_DEEP
    return _Stack(mapping.start, _read_words(pid, base, mapping.end))


def _proven(pid: int, base: int, mapping: MappedPart, thread_pointer: int) -> _Stack | str:
    """The stack whose struct pthread the thread points to."""
    if not base < thread_pointer < mapping.end:
        return NOT_ITS_OWN
    if thread_pointer - base > _MOST_LIVE_BYTES:
        return TOO_DEEP
    words = _read_words(pid, base, min(mapping.end, thread_pointer + THREAD_BLOCK_BYTES))
    start = _start_of_block(words, base, thread_pointer, mapping)
    return _Stack(start, words) if start else NOT_ITS_OWN


def _searched(pid: int, base: int, mapping: MappedPart) -> _Stack | str:
    """The stack whose struct pthread is the first one above the stack pointer."""
    for length in _READ_BYTES:
        words = _read_words(pid, base, min(mapping.end, base + length))
        for candidate in thread_pointers_in(words, base):
            if start := _start_of_block(words, base, candidate, mapping):
                return _Stack(start, words[: (candidate - base + THREAD_BLOCK_BYTES) // _WORD_BYTES])
        if base + length >= mapping.end:
            return NOT_ITS_OWN
    return TOO_DEEP


def _start_of_block(words: Words, base: int, thread_pointer: int, mapping: MappedPart) -> int:
    """The lowest usable address of the block that struct pthread tells of, if the stack at `base` is it; else 0."""
    first = (thread_pointer - base) // _WORD_BYTES
    if [int(words[first + word]) for word in _SELF_WORDS if first + word < len(words)] != [thread_pointer] * 2:
        return 0
    block = parse_thread_block(words[first : first + THREAD_BLOCK_BYTES // _WORD_BYTES].tobytes(), thread_pointer)
    if block is None or not block.guard_bytes or not block.holds(base):
        return 0
    # Java sets pages apart at the lower end of its stacks: what is dead lies in one mapping with the rest.
    return max(block.stack_start, mapping.start)


def _read_words(pid: int, start: int, end: int) -> Words:
    import numpy as np

    return np.frombuffer(read_memory(pid, start, end - start), np.uint64)
