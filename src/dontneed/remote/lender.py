"""Which stopped thread can be borrowed: one with a stack of its own, proven and roomy, and in no critical section.

Proven means that the stack pointer lies in the main thread's stack, or in the block that struct pthread tells of. The
stack of a signal handler (sigaltstack), of a coroutine or of a goroutine is neither: what lies below the stack pointer
there may be somebody's, and is not touched.

A thread that is blocked in a system call is the best: it cannot be inside a restartable sequence (rseq(2)), which any
detour would break. Of one that runs, the kernel tells whether it is.
"""

from __future__ import annotations

from dontneed.abi.x86_64 import RED_ZONE_BYTES
from dontneed.errors import KernelLacks, TargetRefused, Unreadable
from dontneed.kernel import ptrace
from dontneed.kernel.maps import read_maps
from dontneed.kernel.process_memory import read_memory, read_ranges
from dontneed.observe.stacks.dead_stacks import points_between
from dontneed.observe.stacks.thread_block import THREAD_BLOCK_BYTES, parse_thread_block
from dontneed.remote import filters, refusals
from dontneed.remote.restart import number_by_hand
from dontneed.remote.return_path import LARGEST_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.remote.registers import Registers
    from dontneed.remote.stop import Stop

ROOM_BYTES = 16 << 10
"""What must be free below the way home for system calls: a vector of ranges."""
FUNCTION_ROOM_BYTES = 32 << 10
"""The same for functions: resolving a symbol, when one is called for the first time, alone can take half of it."""

_MOST_TRIED = 32
"""While we look, all threads stand still."""
_WORD_BYTES = 8
_MOST_LIVE_BYTES = 4 << 20
_RSEQ_CS = 8
"""Where struct rseq says which critical section the thread is in; include/uapi/linux/rseq.h."""


def choose_lender(stop: Stop, *, runs_function: bool = False) -> int:
    """The stopped thread that is best borrowed, by preference the main one, blocked in a system call.

    Args:
        stop: holds the threads.
        runs_function: it is to run functions, and not only system calls.
    Raises:
        TargetRefused: there is none; the message says why not the one that came nearest.
    """
    reasons: list[str] = []
    order = sorted(stop.registers.items(), key=lambda item: (item[1].system_call is None, item[0]))
    for thread, registers in order[:_MOST_TRIED]:
        why = why_not(stop, thread, registers, runs_function=runs_function)
        if not why:
            return thread
        reasons.append(why)
    msg = f"process {stop.pid} has no thread that could run a system call for us: {reasons[0]}"
    raise TargetRefused(
        msg,
        hint="try again: a thread that waits in a system call is needed",
    )


def require_lender(stop: Stop, thread: int, *, runs_function: bool) -> None:
    """Raise unless this stopped thread can be borrowed.

    Args:
        stop: holds it.
        thread: its id.
        runs_function: as for `choose_lender`.
    Raises:
        TargetRefused: why not.
    """
    if why := why_not(stop, thread, stop.registers[thread], runs_function=runs_function):
        msg = f"thread {thread} cannot be borrowed: {why}"
        raise TargetRefused(msg, hint="try again, or with another thread")


def room_for(*, runs_function: bool) -> int:
    """How many bytes below the way home a borrowed thread has for itself."""
    return FUNCTION_ROOM_BYTES if runs_function else ROOM_BYTES


def why_not(stop: Stop, thread: int, registers: Registers, *, runs_function: bool = True) -> str:
    """Why this thread cannot be borrowed; nothing if it can. Looked at once, as long as it stands still."""
    question = thread, runs_function
    if stop.fit.get(question) == registers:
        return ""
    try:
        why = _look(stop, thread, registers, runs_function=runs_function)
    except Unreadable as moved:  # a thread that replaces the program ends the others, even those that we hold
        return str(moved)
    if not why:
        stop.fit[question] = registers.copy()
    return why


def _look(stop: Stop, thread: int, registers: Registers, *, runs_function: bool) -> str:
    if not has_proven_stack(stop, thread, room_for(runs_function=runs_function) + LARGEST_BYTES):
        return "its stack is not one that a thread of the C library has, or is nearly full"
    if points_below(stop, registers):
        return "it holds addresses below its stack pointer: perhaps it is on a small stack within its own"
    status = stop.status_of(thread)
    if why := refusals.of_injection_by_one_that_says(status):
        return why
    needed = [filters.Call(number) for number in stop.gadgets.numbers_called]
    if registers.system_call is not None:
        number = number_by_hand(thread, registers, lambda *at: read_memory(stop.pid, *at))
        if number is None:
            return "the system call that it waits in was interrupted before, and which one it is cannot be told"
        needed.append(filters.Call(number, registers.system_call_arguments))
    elif _in_critical_section(stop, thread):
        return "it is within a restartable sequence"
    return filters.why_not(refusals.seccomp_mode(status), thread, needed, runs_function=runs_function)


def has_proven_stack(stop: Stop, thread: int, room_bytes: int = ROOM_BYTES) -> bool:
    """Whether the stack pointer lies in a stack that is the thread's own, with so much of it free below."""
    registers = stop.registers[thread]
    stack = stack_of(stop, registers)
    if stack is None:
        return False
    start, _ = stack
    return start <= registers.rsp - RED_ZONE_BYTES - room_bytes


def points_below(stop: Stop, registers: Registers) -> bool:
    """Whether anything alive of a proven stack leads below its stack pointer, or its use is too deep to be looked at.

    A signal handler's stack, or a coroutine's, may be an array within the thread's own stack. What is below it is then
    alive: the frames that were interrupted, to which what was saved of them leads.
    """
    import numpy as np

    stack = stack_of(stop, registers)
    base = registers.rsp & -_WORD_BYTES
    if stack is None or stack[1] - base > _MOST_LIVE_BYTES:
        return True
    start, end = stack
    top = registers.rsp - RED_ZONE_BYTES
    words = np.frombuffer(read_memory(stop.pid, base, (end - base) & -_WORD_BYTES), np.uint64)
    kept = (registers.rbx, registers.rbp, registers.r12, registers.r13, registers.r14, registers.r15)
    return points_between(words, start, top) or any(start < word < top for word in kept)


def stack_of(stop: Stop, registers: Registers) -> tuple[int, int] | None:
    """The stack that a stopped thread runs on, `(lowest usable address, end)`; None if that is not proven."""
    start, end = stop.gadgets.stack
    if start <= registers.rsp < end:
        return start, end
    block = parse_thread_block(_read_thread_block(stop.pid, registers.fs_base), registers.fs_base)
    if block is not None:
        return (block.stack_start, block.end) if block.holds(registers.rsp) else None
    return _grown_main_stack(stop, registers)


def _read_thread_block(pid: int, thread_pointer: int) -> bytes:
    """What can be read of it: struct pthread, whose size differs by version, is the last thing in its mapping."""
    import numpy as np

    buffer = np.empty(THREAD_BLOCK_BYTES, np.uint8)
    around = np.array([[thread_pointer, thread_pointer + THREAD_BLOCK_BYTES]], np.uint64)
    return buffer[: read_ranges(pid, around, buffer)].tobytes()


def _grown_main_stack(stop: Stop, registers: Registers) -> tuple[int, int] | None:
    """The main thread's stack, if it has grown since the maps were read, and the stack pointer is in it now."""
    _, end = stop.gadgets.stack
    if not end - _LARGEST_MAIN_STACK_BYTES <= registers.rsp < end:
        return None
    table = read_maps(stop.process)
    for row in range(len(table)):
        if table.ends[row] == end and table.starts[row] <= registers.rsp:
            return table.starts[row], end
    return None


_LARGEST_MAIN_STACK_BYTES = 1 << 30


def _in_critical_section(stop: Stop, thread: int) -> bool:
    """Whether a running thread is within a restartable sequence, or might be."""
    try:
        address = ptrace.get_rseq_address(thread)
    except KernelLacks:
        return True
    return bool(address) and read_memory(stop.pid, address + _RSEQ_CS, 8) != bytes(8)
