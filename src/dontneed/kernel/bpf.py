"""bpf(2) itself: small programs written in Python by name, loaded, run, and maps that both sides see.

A program is put together instruction by instruction, as one would write assembler:

    program = Assembler()
    program.move(R7, 0)
    program.label("next")
    program.jump_if_at_least(R7, 10, "done")
    program.add(R7, 1)
    program.jump("next")
    program.label("done")
    program.exit(0)

and is then loaded: `Program("count", program)`. The kernel proves before it loads a program that it ends and touches
no memory but its own; what it says against one is in the error.

Nothing here outlives us. Programs and maps are file descriptors, closed when we exec or exit, whatever ended us, and
nothing is attached or pinned anywhere.

Kernel:
    kernel/bpf/syscall.c; bpf(2). CAP_BPF since 5.8, before CAP_SYS_ADMIN; who reads kernel memory needs CAP_PERFMON.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from ctypes import addressof, c_char, create_string_buffer

from dontneed.abi import bpf as abi
from dontneed.kernel import libc
from dontneed.kernel.closing import Closing
from dontneed.units import PAGE_BYTES, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Register: TypeAlias = "R"

_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_ATTRIBUTE = struct.Struct("<IIQQIIQII16s")
"""Kind, number of instructions, where they are, where the licence is, log: level, size, place; version, flags, name."""
_RUN_ATTRIBUTE = struct.Struct("<IIIIQQIIIIQQ")
"""Program, result, data: sizes and places; repetitions, duration; context: size in and out, places in and out."""
_MAP_ATTRIBUTE = struct.Struct("<IIIII")
"""Kind, size of a key, size of a value, number of entries, flags."""
_LOG_BYTES = 1 << 16
_LAST_WORDS = 600
_LICENCE = b"GPL"
"""Helpers that look into the kernel are for programs under its licence."""
_LOW_WORD = (1 << 32) - 1


class R(int):
    """A register, so that it is not taken for a number."""


R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, STACK = (R(number) for number in range(11))
"""R0 is what calls return, R1 to R5 are what they take and overwrite, R6 to R9 stay; the stack is below `STACK`."""


class Assembler:
    """A program while it is written: one method for each instruction, and labels to jump to."""

    __slots__ = ("_code", "_jumps", "_labels")

    def __init__(self) -> None:
        self._code: list[tuple[int, int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}

    def move(self, target: Register, value: Register | int) -> None:
        """Let target be value."""
        self._arithmetic(abi.MOVE, target, value)

    def add(self, target: Register, value: Register | int) -> None:
        """Add value to target."""
        self._arithmetic(abi.ADD, target, value)

    def shift_left(self, target: Register, bits: int) -> None:
        """Shift target to the left."""
        self._arithmetic(abi.SHIFT_LEFT, target, bits)

    def load(self, target: Register, base: Register, offset: int, *, size: int = 8) -> None:
        """Let target be the `size` bytes at base + offset."""
        self._emit(abi.LOAD | abi.SIZES[size], target, base, offset)

    def store(self, base: Register, offset: int, source: Register, *, size: int = 8) -> None:
        """Write source to the `size` bytes at base + offset."""
        self._emit(abi.STORE | abi.SIZES[size], base, source, offset)

    def map_value(self, target: Register, shared: SharedArray) -> None:
        """Let target be where the contents of an array begin."""
        self._emit(abi.LOAD_WIDE, target, R(abi.PSEUDO_MAP_VALUE), 0, shared.fd)
        self._emit(0, R(0), R(0))

    def call(self, helper: int) -> None:
        """Call the helper of this number with R1 to R5; R0 is what it returns."""
        self._emit(abi.CALL, R(0), R(0), 0, helper)

    def call_kernel(self, function: int) -> None:
        """Call the function of the kernel that has this BTF id, as `call`."""
        self._emit(abi.CALL, R(0), R(abi.PSEUDO_KERNEL_CALL), 0, function)

    def label(self, name: str) -> None:
        """A place to jump to."""
        self._labels[name] = len(self._code)

    def jump(self, label: str) -> None:
        """Go on at a label."""
        self._jump(abi.JUMP | abi.ALWAYS, R(0), 0, label)

    def jump_if_equal(self, left: Register, right: Register | int, label: str) -> None:
        """Go on at a label if the two are equal."""
        self._jump(abi.JUMP | abi.IF_EQUAL, left, right, label)

    def jump_if_at_least(self, left: Register, right: Register | int, label: str) -> None:
        """Go on at a label if left >= right."""
        self._jump(abi.JUMP | abi.IF_AT_LEAST, left, right, label)

    def exit(self, value: int) -> None:
        """End, with this result."""
        self.move(R0, value)
        self._emit(abi.EXIT, R(0), R(0))

    def assemble(self) -> bytes:
        """The instructions as the kernel takes them; jumps count from the instruction behind them."""
        lines = []
        for at, (operation, target, source, offset, immediate) in enumerate(self._code):
            distance = self._labels[self._jumps[at]] - at - 1 if at in self._jumps else offset
            lines.append(_INSTRUCTION.pack(operation, target | source << 4, distance, immediate))
        return b"".join(lines)

    def _arithmetic(self, what: int, target: Register, value: Register | int) -> None:
        if isinstance(value, R):
            self._emit(abi.ARITHMETIC | what | abi.FROM_REGISTER, target, value)
        else:
            self._emit(abi.ARITHMETIC | what, target, R(0), 0, value)

    def _jump(self, how: int, left: Register, right: Register | int, label: str) -> None:
        self._jumps[len(self._code)] = label
        if isinstance(right, R):
            self._emit(how | abi.FROM_REGISTER, left, right)
        else:
            self._emit(how, left, R(0), 0, right)

    def _emit(self, operation: int, target: Register, source: Register, offset: int = 0, immediate: int = 0) -> None:
        self._code.append((operation, target, source, offset, immediate))


class SharedArray(Closing):
    """Memory that programs and we have in common: an array map with one entry, mapped here.

    Attributes:
        fd: the map.
        memory: its bytes; writing is seen by the program, and the reverse.
    Raises:
        OSError: as bpf(2) and mmap(2).
    """

    __slots__ = ("fd", "memory")

    def __init__(self, size_bytes: int) -> None:
        attribute = _MAP_ATTRIBUTE.pack(abi.MAP_TYPE_ARRAY, 4, size_bytes, 1, abi.MMAPABLE)
        self.fd = _bpf(abi.MAP_CREATE, bytearray(attribute))
        try:
            self.memory = mmap.mmap(self.fd, round_up(size_bytes, PAGE_BYTES), mmap.MAP_SHARED)
        except BaseException:  # whatever it was, the map does not outlive it
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Close and unmap it; the memory stays mapped while somebody has a view of it."""
        os.close(self.fd)
        try:
            self.memory.close()
        except BufferError:  # an array of numpy's lies over it, and it goes with the array
            return


class Program(Closing):
    """A program that runs when it is told to, in the context of the caller.

    Args:
        name: what `bpftool prog` would show; fifteen letters.
        code: what it does.
        context_bytes: of the memory that it is given in R1 each time.

    Attributes:
        context: that memory, to be filled before it runs and read afterwards.
    Raises:
        OSError: as bpf(2); the text has what the kernel's verifier had to say.
    """

    __slots__ = ("_attribute", "_call", "context", "fd")

    def __init__(self, name: str, code: Assembler, *, context_bytes: int = 0) -> None:
        self.fd = _load(name, code.assemble())
        self.context = bytearray(context_bytes)
        place = addressof((c_char * context_bytes).from_buffer(self.context)) if context_bytes else 0
        run = _RUN_ATTRIBUTE.pack(self.fd, 0, 0, 0, 0, 0, 0, 0, context_bytes, 0, place, 0)
        self._attribute = bytearray(run.ljust(abi.ATTRIBUTE_BYTES, b"\0"))
        attribute = addressof((c_char * len(self._attribute)).from_buffer(self._attribute))
        self._call = (_number(), abi.PROG_TEST_RUN, attribute, _RUN_ATTRIBUTE.size)

    def run(self) -> None:
        """Run it once, here and now.

        Raises:
            OSError: as bpf(2).
        """
        libc.check(libc.syscall(*self._call), "bpf")

    def run_held(self) -> None:
        """Run it once, and keep the GIL meanwhile: for what takes microseconds.

        Raises:
            OSError: as bpf(2).
        """
        libc.check(libc.bpf_held(*self._call), "bpf")

    def close(self) -> None:
        """Let it go; it is unloaded with its last descriptor."""
        os.close(self.fd)


def next_id(command: int, after: int) -> int | None:
    """The next number of a program or map that is loaded anywhere on this machine; None behind the last.

    Args:
        command: `abi.bpf.PROG_GET_NEXT_ID` or `MAP_GET_NEXT_ID`.
        after: the number before; 0 to begin with.
    Raises:
        OSError: as bpf(2).
    """
    attribute = bytearray(struct.pack("<III", after, 0, 0))
    try:
        _bpf(command, attribute)
    except FileNotFoundError:
        return None
    found: int = struct.unpack_from("<I", attribute, 4)[0]
    return found


def _load(name: str, code: bytes) -> int:
    """Load a program; what the verifier says is asked for only when it refuses, since it says much."""
    try:
        return _try_to_load(name, code, None)
    except OSError as refusal:
        if refusal.errno in (errno.EPERM, errno.ENOSYS):
            raise
    log = create_string_buffer(_LOG_BYTES)
    try:
        return _try_to_load(name, code, log)
    except OSError as refusal:
        number = refusal.errno or 0
        words = log.value.decode("utf-8", "replace").strip()[-_LAST_WORDS:]
        raise OSError(number, f"{os.strerror(number)}: {words}" if words else os.strerror(number), "bpf") from None


def _try_to_load(name: str, code: bytes, log: object) -> int:
    instructions = create_string_buffer(code, len(code))
    licence = create_string_buffer(_LICENCE)
    place = addressof(log) if log is not None else 0  # type: ignore[arg-type]
    attribute = _LOAD_ATTRIBUTE.pack(
        abi.PROG_TYPE_SYSCALL,
        len(code) // _INSTRUCTION.size,
        addressof(instructions),
        addressof(licence),
        1 if place else 0,
        _LOG_BYTES if place else 0,
        place,
        0,
        abi.SLEEPABLE,
        name.encode("ascii"),
    )
    return _bpf(abi.PROG_LOAD, bytearray(attribute))


def _bpf(command: int, attribute: bytearray) -> int:
    place = (c_char * len(attribute)).from_buffer(attribute)
    return libc.check(libc.syscall(_number(), command, addressof(place), len(attribute)), "bpf")


def _number() -> int:
    machine = os.uname().machine
    if machine not in abi.SYSCALL_NUMBER:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), "bpf")
    return abi.SYSCALL_NUMBER[machine]
