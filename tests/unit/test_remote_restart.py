"""Which interrupted calls are made again, and how their numbers are found when the kernel no longer tells."""

from __future__ import annotations

from errno import EAGAIN, EINTR

import pytest

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.abi.x86_64 import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, ERESTARTSYS
from dontneed.remote.registers import WORD, Registers
from dontneed.remote.restart import Memory, by_hand, guess_restarted_call, make_restartable, number_by_hand

STACK, HEAP = 0x7FFD_0000_1000, 0x5555_5555_6000
SYSCALL = b"\x0f\x05"


def stopped_in(number, result, *arguments, rip=0x40_1000):
    """A thread that a stop found in a system call."""
    registers = Registers([0] * 27)
    registers.orig_rax, registers.rax, registers.rip, registers.rsp = number, result, rip, STACK
    for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), arguments, strict=False):
        setattr(registers, name, value)
    return registers


def code_loading(*numbers):
    """Code that loads these numbers into eax one after the other, and then makes a call."""
    return b"\x90" * 20 + b"".join(b"\xb8" + number.to_bytes(4, "little") + b"\x90\x90" for number in numbers) + SYSCALL


@pytest.mark.parametrize("number", [NR.EPOLL_WAIT, NR.SEMTIMEDOP, NR.RT_SIGTIMEDWAIT, NR.RECVFROM, NR.IO_GETEVENTS])
def test_a_call_that_ends_in_eintr_is_handed_to_the_kernel_to_be_made_again(number):
    """Unless a handler runs: then the program gets its EINTR from the kernel, as without us."""
    registers = stopped_in(number, -EINTR)
    assert make_restartable(registers)
    assert (registers.result, registers.orig_rax, registers.rip) == (-ERESTARTNOHAND, number, 0x40_1000)


@pytest.mark.parametrize(
    ("number", "result"),
    [
        (3, -EINTR),  # close: the descriptor has gone all the same
        (16, -EINTR),  # ioctl: who knows
        (NR.EPOLL_WAIT, 0),
        (NR.EPOLL_WAIT, -EAGAIN),
        (NR.POLL, -ERESTART_RESTARTBLOCK),
        (-1, -EINTR),  # a running thread whose rax happens to be that
    ],
)
def test_others_stay_as_they_are(number, result):
    """To make a call again that has done something would do it twice."""
    registers = stopped_in(number, result)
    before = registers.copy()
    assert not make_restartable(registers)
    assert registers == before


def test_by_hand_a_call_is_made_again_from_its_instruction():
    """Two bytes back, its number in rax: no errno of the kernel's is left for a program to see."""
    again = by_hand(stopped_in(NR.POLL, -ERESTARTSYS, 1, 2, 3), NR.POLL)
    assert (again.rip, again.rax, again.orig_rax, again.rdi) == (0x40_0FFE, NR.POLL, WORD, 1)


def test_by_hand_a_running_thread_goes_on_where_it_is():
    """There is nothing to make again."""
    again = by_hand(stopped_in(-1, 77), None)
    assert (again.rip, again.rax, again.orig_rax) == (0x40_1000, 77, WORD)


def test_the_number_of_an_ordinary_call_is_its_own():
    """If the instruction before the program counter is the one that 64-bit code makes calls by."""
    registers = stopped_in(NR.READ, -ERESTARTSYS)
    assert number_by_hand(1, registers, lambda *_: SYSCALL) == NR.READ
    assert number_by_hand(1, registers, lambda *_: b"\xcd\x80") is None
    assert number_by_hand(1, stopped_in(-1, 5), lambda *_: SYSCALL) is None


CALLS = [
    (NR.NANOSLEEP, (STACK, STACK + 16)),
    (NR.NANOSLEEP, (STACK, 0)),
    (NR.CLOCK_NANOSLEEP, (1, 0, STACK, 0)),
    (NR.CLOCK_NANOSLEEP, (0xFFFF_FFF6, 0, STACK, 0)),  # the clock of a process
    (NR.POLL, (HEAP, 3, 5000)),
    (NR.POLL, (0, 0, 100)),
    (NR.POLL, (HEAP, 1, 0xFFFF_FFFF)),
    (NR.FUTEX, (HEAP, 0x80, 2, STACK)),
    (NR.FUTEX, (HEAP, 0x189, 0, STACK, 0, 0xFFFF_FFFF)),
]


@pytest.mark.parametrize(("number", "arguments"), CALLS)
def test_the_code_tells_what_a_restarted_call_was(number, arguments):
    """The number was loaded just before, as C libraries do."""
    registers = stopped_in(NR.RESTART_SYSCALL, -ERESTART_RESTARTBLOCK, *arguments)
    assert guess_restarted_call(registers, code_loading(NR.FUTEX if number == NR.POLL else 60, number)) == number


@pytest.mark.parametrize(
    ("number", "arguments"),
    [(NR.CLOCK_NANOSLEEP, (1, 0, STACK, 0)), (NR.POLL, (0, 0, 100)), (NR.NANOSLEEP, (STACK, 0))],
)
def test_the_arguments_tell_where_the_code_does_not(number, arguments):
    """As with glibc 2.41, where one function makes all calls: if only one call could have these."""
    registers = stopped_in(NR.RESTART_SYSCALL, -ERESTART_RESTARTBLOCK, *arguments)
    assert guess_restarted_call(registers, b"\x48\x89\xf0" * 10 + SYSCALL) == number


def test_what_could_be_several_calls_is_not_guessed():
    """A wrong guess would have the thread make a call that it never made."""
    registers = stopped_in(NR.RESTART_SYSCALL, -ERESTART_RESTARTBLOCK, HEAP, 0x80, 2, STACK)  # futex, or poll of 128
    assert guess_restarted_call(registers, b"\x90" * 30 + SYSCALL) is None
    assert guess_restarted_call(registers, code_loading(NR.FUTEX, NR.POLL)) is None
    assert guess_restarted_call(registers, b"\x90" * 32) is None


def test_what_an_earlier_stop_saw_is_remembered():
    """As long as the thread is in the same call, at the same place, with the same arguments."""
    memory = Memory()
    first = stopped_in(NR.NANOSLEEP, -ERESTART_RESTARTBLOCK, STACK, 0)
    memory.note(7, first)
    later = stopped_in(NR.RESTART_SYSCALL, -ERESTART_RESTARTBLOCK, STACK, 0)
    memory.note(7, later)
    assert memory.recall(7, later) == NR.NANOSLEEP
    assert memory.recall(8, later) is None
    assert memory.recall(7, stopped_in(NR.RESTART_SYSCALL, -ERESTART_RESTARTBLOCK, STACK + 64, 0)) is None
    assert memory.recall(7, stopped_in(NR.RESTART_SYSCALL, -ERESTART_RESTARTBLOCK, STACK, 0, rip=0x40_2000)) is None
