"""Quiet threads: those that cannot be inside malloc, nor hold any of its locks, because of where they wait.

A thread that is stopped just anywhere may be in the middle of malloc; a function that it is then made to call, and that
allocates or frees, waits for a lock that its own thread holds, for ever (43 times of 60 with malloc_trim). A thread
that waits in one of the calls below cannot be: malloc makes none of them.

- futex: malloc's own lock waits with plain FUTEX_WAIT, and so is that refused; condition variables, semaphores and
  joins wait with FUTEX_WAIT_BITSET.
- read: malloc reads /proc/sys/vm/overcommit_memory when it shrinks a heap.
- A signal handler may have interrupted malloc and wait then: a thread with a signal frame on its stack is not quiet.
- And a program may wait in a callback of its allocator's hooks. We have seen none that does.
"""

from __future__ import annotations

from dontneed.abi.syscalls import FUTEX_COMMAND, FUTEX_LOCK_PI, FUTEX_LOCK_PI2, FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.abi.x86_64 import FP_XSTATE_MAGIC1
from dontneed.errors import ProcessGone, Unreadable
from dontneed.kernel.process_memory import read_memory
from dontneed.records import Record
from dontneed.remote import lender, restart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.remote.stop import Stop

_WAITS = {
    NR.POLL: "poll",
    NR.PPOLL: "ppoll",
    NR.SELECT: "select",
    NR.PSELECT6: "pselect6",
    NR.EPOLL_WAIT: "epoll_wait",
    NR.EPOLL_PWAIT: "epoll_pwait",
    NR.EPOLL_PWAIT2: "epoll_pwait2",
    NR.NANOSLEEP: "nanosleep",
    NR.CLOCK_NANOSLEEP: "clock_nanosleep",
    NR.ACCEPT: "accept",
    NR.ACCEPT4: "accept4",
    NR.RECVFROM: "recvfrom",
    NR.RECVMSG: "recvmsg",
    NR.RECVMMSG: "recvmmsg",
    NR.WAIT4: "wait4",
    NR.WAITID: "waitid",
    NR.PAUSE: "pause",
    NR.RT_SIGTIMEDWAIT: "rt_sigtimedwait",
    NR.RT_SIGSUSPEND: "rt_sigsuspend",
}
_FUTEX_WAITS = frozenset({FUTEX_WAIT_BITSET, FUTEX_WAIT_REQUEUE_PI, FUTEX_LOCK_PI, FUTEX_LOCK_PI2})
_MOST_STACK_BYTES = 16 << 20
_WORDS = 7
"""What /proc/PID/task/TID/syscall has of a blocked thread before its pointers: the number and six arguments."""


class QuietThread(Record):
    """A thread that waits where no lock of malloc can be held.

    Attributes:
        thread: its id.
        call_name: the system call that it waits in.
        number, arguments: the same, as the kernel has it.
    """

    thread: int
    call_name: str
    number: int
    arguments: tuple[int, ...]


def quiet_threads(process: ProcessDirectory) -> list[QuietThread]:
    """The threads that are quiet now, those first that will probably stay so; nothing is stopped.

    Raises:
        ProcessGone, NotPermitted: as `ProcessDirectory.read`.
    """
    found = []
    for thread in process.threads():
        try:
            words = process.read(f"task/{thread}/syscall").split()
        except ProcessGone:  # the thread; if it is the process, the next read says so
            continue
        if len(words) < _WORDS:
            continue
        number, *arguments = (int(word, 0) for word in words[:_WORDS])
        name = waits_in(process, number, tuple(arguments))
        if name:
            found.append(QuietThread(thread, name, number, tuple(arguments)))
    return sorted(found, key=_preference)


def still_quiet(stop: Stop, thread: int) -> bool:
    """Whether a stopped thread is quiet, and was not brought there by a signal handler.

    Args:
        stop: holds the thread.
        thread: its id.
    """
    registers = stop.registers[thread]
    number = registers.system_call
    if number == NR.RESTART_SYSCALL:
        number = restart.number_by_hand(thread, registers, lambda *at: read_memory(stop.pid, *at))
    if number is None or not waits_in(stop.process, number, registers.system_call_arguments):
        return False
    stack = lender.stack_of(stop, registers)
    if stack is None:
        return False
    start, (_, end) = registers.rsp & -8, stack
    if end - start > _MOST_STACK_BYTES:
        return False
    try:
        return not has_signal_frame(read_memory(stop.pid, start, end - start), _restorer(stop))
    except Unreadable:
        return False


def waits_in(process: ProcessDirectory, number: int, arguments: tuple[int, ...]) -> str:
    """The name of the quiet call that these words are of; nothing if it is not quiet."""
    if number == NR.FUTEX:
        return "futex" if arguments[1] & FUTEX_COMMAND in _FUTEX_WAITS else ""
    if number == NR.READ:
        return "" if "overcommit" in _file_of(process, arguments[0]) else "read"
    return _WAITS.get(number, "")


def has_signal_frame(stack: bytes, restorer: int) -> bool:
    """Whether a signal frame may lie in these bytes of a stack: its return address, or the mark of its vector state.

    The mark is in every frame, whatever the program returns to. Remains of an old frame look the same, and count.
    """
    if restorer and _holds_aligned(stack, restorer.to_bytes(8, "little"), 8):
        return True
    return _holds_aligned(stack, FP_XSTATE_MAGIC1.to_bytes(4, "little"), 4)


def _restorer(stop: Stop) -> int:
    piece = stop.gadgets.pieces.get("restore")
    return piece.address if piece else 0


def _holds_aligned(data: bytes, pattern: bytes, alignment: int) -> bool:
    at = data.find(pattern)
    while at >= 0:
        if at % alignment == 0:
            return True
        at = data.find(pattern, at + 1)
    return False


def _file_of(process: ProcessDirectory, descriptor: int) -> str:
    """What a descriptor leads to; nothing if it is closed, as that of a read that goes on may be."""
    return process.link(f"fd/{descriptor & 0xFFFF_FFFF}")


def _preference(found: QuietThread) -> tuple[int, int]:
    """Sleepers without a timeout of their own to be late for come first; those that wait for a lock last."""
    order = (NR.ACCEPT, NR.ACCEPT4, NR.READ, NR.EPOLL_WAIT, NR.EPOLL_PWAIT, NR.POLL, NR.SELECT, NR.PAUSE, NR.WAIT4)
    rank = order.index(found.number) if found.number in order else len(order)
    return rank + (found.number == NR.FUTEX), found.thread
