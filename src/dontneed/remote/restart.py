"""Interrupted system calls: what a stop does to them, and how each goes on as if there had been none.

# Facts, and what they mean for us

A stop interrupts the call that a thread is blocked in. Nearly all calls then return one of four errnos that no program
ever sees (ERESTARTSYS and its kin): on its way to user mode the thread makes the call again, or, if a handler runs
first, gives the program what it would have got without us. For that the kernel needs `orig_rax` and `rax` as they were,
and we leave them so. Relative timeouts of nanosleep, poll and futex go on with what is left of them (restart_syscall);
those of select, ppoll and recvmmsg too, since the call itself has written what is left.

A few calls return EINTR after any interruption: epoll_wait, semtimedop, sigtimedwait, io_getevents, and whatever waits
at a socket with SO_RCVTIMEO or SO_SNDTIMEO. Programs are rarely ready for it. We replace it by ERESTARTNOHAND, the
kernel's own word for "again, unless a handler runs: then EINTR": no signal can be missed, whenever it comes. A relative
timeout of such a call starts anew, which is all that the program could do itself; the stop lasts milliseconds.

When a call is to be made again *by hand*, from a signal frame (see return_path) or because the kernel's note of it is
lost, its program counter goes back to the system call instruction and its number into rax. The rest of a timeout is
then lost as well, and it starts anew. And the number is unknown if the call was interrupted before: a thread that was
stopped in nanosleep is in restart_syscall from then on. The arguments are still those of the first call, and the code
before the instruction, or what we saw in an earlier stop, tells its number; if neither does, the thread is not
borrowed.

Kernel:
    arch/x86/kernel/signal.c arch_do_signal_or_restart(), kernel/signal.c, signal(7).
"""

from __future__ import annotations

from errno import EINTR

from dontneed.abi.syscalls import FUTEX_COMMAND, FUTEX_WAIT, FUTEX_WAIT_BITSET
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.abi.x86_64 import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, LOAD_EAX, SYSCALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.remote.registers import Registers

RETURNS_EINTR = frozenset(
    {
        *(NR.EPOLL_WAIT, NR.EPOLL_PWAIT, NR.EPOLL_PWAIT2, NR.SEMOP, NR.SEMTIMEDOP, NR.RT_SIGTIMEDWAIT),
        *(NR.IO_GETEVENTS, NR.IO_URING_ENTER, NR.MQ_TIMEDSEND, NR.MQ_TIMEDRECEIVE, NR.MSGSND, NR.MSGRCV),
        *(NR.READ, NR.READV, NR.RECVFROM, NR.RECVMSG, NR.RECVMMSG, NR.ACCEPT, NR.ACCEPT4),
        *(NR.WRITE, NR.WRITEV, NR.SENDTO, NR.SENDMSG, NR.SENDMMSG, NR.CONNECT),
    }
)
"""Calls that may be made again after EINTR: it says that they have done nothing. (Of close and ioctl it does not.)"""

USE_RESTART_BLOCK = frozenset({NR.NANOSLEEP, NR.CLOCK_NANOSLEEP, NR.POLL, NR.FUTEX})
"""Calls that go on as restart_syscall; each thread has one note of them, and another of these calls overwrites it."""

_CODE_BEFORE_BYTES = 64
_LOAD_BYTES = 5
_PAGE = 4096
_CLOCKS = 16
_MOST_POLLED = 1 << 20


def make_restartable(registers: Registers) -> bool:
    """Have a call that was interrupted with EINTR made again; whether there was one, and `registers` changed."""
    if registers.result == -EINTR and registers.orig_rax in RETURNS_EINTR:
        registers.rax = -ERESTARTNOHAND
        return True
    return False


class Memory:
    """What earlier stops of this process of ours have seen threads blocked in, for when the kernel does not tell."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, tuple[int, ...]]] = {}

    def note(self, thread: int, registers: Registers) -> None:
        """Remember the number of a call that may be in restart_syscall at the next stop."""
        if registers.result == -ERESTART_RESTARTBLOCK and registers.orig_rax != NR.RESTART_SYSCALL:
            self._seen[thread] = registers.orig_rax, _fingerprint(registers)

    def recall(self, thread: int, registers: Registers) -> int | None:
        """The number, if the thread is still in the same call."""
        number, fingerprint = self._seen.get(thread, (None, ()))
        return number if fingerprint == _fingerprint(registers) else None


seen = Memory()


def number_by_hand(thread: int, registers: Registers, read: Callable[[int, int], bytes]) -> int | None:
    """The number with which the interrupted call can be made again from the start.

    Args:
        thread: whose registers these are.
        registers: as the stop found them; in a system call.
        read: reads the thread's memory: address and length.
    Returns:
        None if the kernel alone knows (restart_syscall), and neither memory nor code tells; or if the call was made by
        another instruction than that of 64-bit code.
    """
    number = registers.system_call
    if number is None:
        return None
    if number != NR.RESTART_SYSCALL:
        return number if read(registers.rip - len(SYSCALL), len(SYSCALL)) == SYSCALL else None
    remembered = seen.recall(thread, registers)
    if remembered is not None:
        return remembered
    return guess_restarted_call(registers, read(registers.rip - _CODE_BEFORE_BYTES, _CODE_BEFORE_BYTES))


def guess_restarted_call(registers: Registers, code: bytes) -> int | None:
    """Which call a thread in restart_syscall once made: by the code before the instruction, and by its arguments.

    Args:
        registers: of the thread.
        code: the bytes that end with the system call instruction.
    Returns:
        The number if exactly one call fits; None otherwise.
    """
    if not code.endswith(SYSCALL):
        return None
    fitting = [number for number in sorted(USE_RESTART_BLOCK) if _fits(number, registers.system_call_arguments)]
    loaded = [number for number in fitting if code.rfind(bytes((LOAD_EAX, *number.to_bytes(4, "little")))) >= 0]
    if len(loaded) == 1:
        return loaded[0]
    return fitting[0] if len(fitting) == 1 else None


def by_hand(registers: Registers, number: int | None) -> Registers:
    """A copy that makes its interrupted call again itself, with `number`; no different if there is none."""
    again = registers.copy()
    if number is not None and registers.system_call is not None:
        again.rip -= len(SYSCALL)
        again.rax = number
    again.orig_rax = -1
    return again


def _fingerprint(registers: Registers) -> tuple[int, ...]:
    return registers.rip, registers.rsp, *registers.system_call_arguments


def _fits(number: int, arguments: tuple[int, ...]) -> bool:
    """Whether a call with this number could have been blocked with these arguments."""
    first, second, third, fourth, _, _ = arguments
    if number == NR.FUTEX:
        waits = second & FUTEX_COMMAND in (FUTEX_WAIT, FUTEX_WAIT_BITSET) and second <= 0x1FF  # noqa: PLR2004
        return waits and _is_pointer(first) and first % 4 == 0 and _is_pointer(fourth)
    if number == NR.NANOSLEEP:
        return _is_pointer(first) and (second == 0 or _is_pointer(second))
    if number == NR.CLOCK_NANOSLEEP:
        clock = first & 0xFFFF_FFFF
        is_clock = clock < _CLOCKS or clock >> 31  # that of a process or a thread is negative
        return bool(is_clock) and second == 0 and _is_pointer(third)
    polls = second < _MOST_POLLED and third != 0 and third >> 32 in (0, 0xFFFF_FFFF)  # without a timeout of 0
    return polls and (_is_pointer(first) or (first == 0 and second == 0))


def _is_pointer(word: int) -> bool:
    return _PAGE <= word < 1 << 47
