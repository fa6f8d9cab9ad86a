"""The registers of a stopped x86-64 thread, by name; how a system call and a function are entered.

Another architecture would bring its own `Registers` with the same properties and methods, and its own `return_path`.
"""

from __future__ import annotations

import os
import struct

from dontneed.abi.x86_64 import (
    CODE_SEGMENT_64,
    DIRECTION_FLAG,
    FUNCTION_ARGUMENTS,
    REGISTER_NAMES,
    RESTARTS,
    SYSCALL_ARGUMENTS,
)
from dontneed.errors import KernelLacks, TargetRefused
from dontneed.kernel import ptrace
from dontneed.units import signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Self

WORD = (1 << 64) - 1
"""The largest value of a register, which is -1 to those who count with signs."""
_LAYOUT = struct.Struct(f"<{len(REGISTER_NAMES)}Q")


class _Word:
    """One register: an attribute that reads and writes its word, unsigned."""

    __slots__ = ("_index",)

    def __init__(self, name: str) -> None:
        self._index = REGISTER_NAMES.index(name)

    def __get__(self, registers: Registers, owner: type[Registers]) -> int:
        return registers.words[self._index]

    def __set__(self, registers: Registers, value: int) -> None:
        registers.words[self._index] = value & WORD


class Registers:
    """The general registers of a stopped thread. Changing one changes this copy; `write` gives them to a thread.

    Attributes:
        words: all of them, in the order of struct user_regs_struct.
    """

    __slots__ = ("words",)

    r15 = _Word("r15")
    r14 = _Word("r14")
    r13 = _Word("r13")
    r12 = _Word("r12")
    rbp = _Word("rbp")
    rbx = _Word("rbx")
    r11 = _Word("r11")
    r10 = _Word("r10")
    r9 = _Word("r9")
    r8 = _Word("r8")
    rax = _Word("rax")
    rcx = _Word("rcx")
    rdx = _Word("rdx")
    rsi = _Word("rsi")
    rdi = _Word("rdi")
    orig_rax = _Word("orig_rax")
    rip = _Word("rip")
    cs = _Word("cs")
    eflags = _Word("eflags")
    rsp = _Word("rsp")
    ss = _Word("ss")
    fs_base = _Word("fs_base")
    gs_base = _Word("gs_base")
    ds = _Word("ds")
    es = _Word("es")
    fs = _Word("fs")
    gs = _Word("gs")

    def __init__(self, words: Iterable[int]) -> None:
        self.words = list(words)

    @classmethod
    def read(cls, thread: int) -> Self:
        """Those of a stopped thread.

        Raises:
            TargetRefused: it runs 32-bit code.
            ProcessGone: it has ended.
        """
        data = ptrace.get_registers(thread)
        if len(data) != _LAYOUT.size:
            raise _not_64_bit(thread)
        registers = cls(_LAYOUT.unpack(data))
        if registers.cs != CODE_SEGMENT_64:
            raise _not_64_bit(thread)
        return registers

    def write(self, thread: int) -> None:
        """Give them to a stopped thread, all at once."""
        ptrace.set_registers(thread, _LAYOUT.pack(*self.words))

    def copy(self) -> Registers:
        """The same values, to be changed apart."""
        return Registers(self.words)

    def __eq__(self, other: object) -> bool:
        return self.words == other.words if isinstance(other, Registers) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # they change

    def __repr__(self) -> str:
        return f"<Registers: rip={self.rip:#x} rsp={self.rsp:#x} rax={self.result} orig_rax={signed(self.orig_rax)}>"

    @property
    def result(self) -> int:
        """What a system call returned: a value, or a negative errno."""
        return signed(self.rax)

    @property
    def system_call(self) -> int | None:
        """The number of the system call that the stop interrupted, and that will be made again; None: in none."""
        return self.orig_rax if signed(self.orig_rax) >= 0 and -self.result in RESTARTS else None

    @property
    def system_call_arguments(self) -> tuple[int, ...]:
        """What it was called with: the kernel keeps these six as they were."""
        return tuple(getattr(self, name) for name in SYSCALL_ARGUMENTS)

    def entering(self, instruction: int, stack: int, number: int, arguments: Iterable[int]) -> Registers:
        """A copy that is about to make a system call at `instruction`, its stack pointer at `stack`."""
        entering = self._at(instruction, stack, SYSCALL_ARGUMENTS, arguments)
        entering.rax = number
        return entering

    def calling(self, function: int, stack: int, arguments: Iterable[int]) -> Registers:
        """A copy that is about to run `function`, whose return address is at `stack`."""
        calling = self._at(function, stack, FUNCTION_ARGUMENTS, arguments)
        calling.rax = 0  # no vector arguments, should it take a variable number
        calling.eflags &= ~DIRECTION_FLAG
        return calling

    def _at(self, place: int, stack: int, names: tuple[str, ...], arguments: Iterable[int]) -> Registers:
        copy = self.copy()
        copy.rip = place
        copy.rsp = stack
        copy.orig_rax = WORD  # it is in no system call that the kernel could make again
        for name, value in zip(names, arguments, strict=False):
            setattr(copy, name, value)
        return copy


def require_known_architecture() -> None:
    """Raise unless threads of this machine can be handled.

    Raises:
        KernelLacks: it is not x86-64.
    """
    machine = os.uname().machine
    if machine != "x86_64":
        msg = f"acting inside another process is not there for {machine} yet, only for x86-64"
        raise KernelLacks(
            msg,
            hint="plan and look work everywhere; in the process itself, discard() and advise() do too",
        )


def _not_64_bit(thread: int) -> TargetRefused:
    return TargetRefused(
        f"thread {thread} runs 32-bit code, and only 64-bit code can be acted in",
        hint="look and plan work on it all the same",
    )
