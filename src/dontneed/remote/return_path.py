"""The way home: what is written below a borrowed thread's stack, so that the thread finds back by itself if we die.

# How it works

A signal handler returns to a piece of code that calls rt_sigreturn, and the kernel then takes every register, the
signal mask and the vector state from a frame on the stack. We lay down such a frame, filled with what the thread was
when we stopped it, and before it a chain of return addresses that leads there:

    stack pointer of the thread ->  what it has there, and its red zone: not touched
                                    vector state (an XSAVE area as in a signal frame)
                                    the result of the function
                                    signal frame: registers, mask
                                    -> restore: rt_sigreturn
                                    -> tail: a second function                     if one was asked for
                                    -> getpid, a place to land                     if a function was asked for
    it runs with the pointer here   -> store the function's result

A thread that walks this way undisturbed ends where it was, in the state in which it was; only that a system call in
which it was blocked is made again "by hand" (see restart). Nothing on the way needs us. All of it is below the thread's
own stack, where nothing is alive, and stays there as garbage.

Kernel:
    arch/x86/kernel/signal_64.c, arch/x86/kernel/fpu/signal.c; since 6.8 (d877550eaf2d) the end mark of the vector state
    is looked for at the size that the kernel knows, not at the one that the frame tells.
"""

from __future__ import annotations

import os
import struct

from dontneed.abi import x86_64 as abi
from dontneed.records import Record
from dontneed.remote.gadgets import parse_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.remote.gadgets import Gadgets
    from dontneed.remote.registers import Registers

LARGEST_BYTES = 12 << 10
"""No way home is longer: 11,008 bytes of vector state, and a kibibyte."""

_KEEP_SIGNAL_STACK = 0x7FFF
"""Flags of an alternate signal stack that the kernel does not take: it leaves the thread's own as it is."""
_ALIGNMENT = 16
_SHORTEST_XSAVE_BYTES = abi.XSTATE_HEADER + 64


class Tail(Record):
    """A second function, which the thread runs on its way home.

    Attributes:
        function: its address.
        argument: the only one it takes.
    """

    function: int
    argument: int


class ReturnPath(Record):
    """A way home, ready to be written.

    Attributes:
        start: where the stack pointer is set for the function to run: its return address is here.
        parked: where it is set for a system call to be injected: what follows leads home.
        restoring: where it is when rt_sigreturn is called.
        result_address: where the function's result is stored.
        no_result: what is there before: no function returns this number, which is drawn by lot.
        end: behind it all; the thread's own stack begins above.
        parts: address and bytes of what is to be written.
    """

    start: int
    parked: int
    restoring: int
    result_address: int
    no_result: int
    end: int
    parts: tuple[tuple[int, bytes], ...]


def lay_out(
    home: Registers, mask: int, vector_state: bytes, gadgets: Gadgets, *, lands: bool = False, tail: Tail | None = None
) -> ReturnPath:
    """Lay out the way home.

    Args:
        home: the registers to end with; the system call, if any, to be made by hand.
        mask: the signal mask to end with.
        vector_state: the vector state to end with, as PTRACE_GETREGSET gives it.
        gadgets: of the target.
        lands: store the result of a function first, and then call getpid, where the thread can be caught.
        tail: a function to run before it goes home.
    """
    vector, gap_bytes = signal_frame_vector(vector_state)
    end = home.rsp - abi.RED_ZONE_BYTES
    vector_start = (end - gap_bytes - len(vector)) & -abi.XSTATE_ALIGNMENT
    frame_start = (vector_start - 16 - abi.UC_BYTES) & -_ALIGNMENT
    chain = _chain(gadgets, lands=lands, tail=tail)
    start = frame_start - 8 * len(chain)
    frame = signal_frame(home, mask, vector_start, extended=len(vector) > abi.XSTATE_LEGACY_BYTES)
    no_result = os.urandom(8)
    gap = no_result.ljust(vector_start - frame_start - len(frame), b"\0")
    parts = [(start, struct.pack(f"<{len(chain)}Q", *chain) + frame + gap + vector)]
    if gap_bytes:
        parts.append((vector_start + len(vector) - len(_END_MARK) + gap_bytes, _END_MARK))
    return ReturnPath(
        start=start,
        parked=frame_start - 8 * len(_last_part(gadgets, tail)),
        restoring=frame_start,
        result_address=frame_start + abi.UC_BYTES,
        no_result=int.from_bytes(no_result, "little"),
        end=end,
        parts=tuple(parts),
    )


def signal_frame(home: Registers, mask: int, vector_start: int, *, extended: bool) -> bytes:
    """A struct ucontext that brings a thread to `home`."""
    frame = bytearray(abi.UC_BYTES)
    flags = abi.UC_SIGCONTEXT_SS | abi.UC_STRICT_RESTORE_SS | (abi.UC_FP_XSTATE if extended else 0)
    struct.pack_into("<Q", frame, abi.UC_FLAGS, flags)
    struct.pack_into("<QiiQ", frame, abi.UC_STACK, 0, _KEEP_SIGNAL_STACK, 0, 0)
    words = [getattr(home, name) for name in abi.SIGCONTEXT_NAMES]
    struct.pack_into("<18Q", frame, abi.UC_MCONTEXT, *words)
    struct.pack_into("<4H", frame, abi.UC_SEGMENTS, home.cs, home.gs, home.fs, home.ss)
    struct.pack_into("<Q", frame, abi.UC_FPSTATE, vector_start)
    struct.pack_into("<Q", frame, abi.UC_SIGMASK, mask)
    return bytes(frame)


def signal_frame_vector(state: bytes) -> tuple[bytes, int]:
    """A vector state as a signal frame holds it, and how many more bytes above it the kernel may look at.

    PTRACE_GETREGSET gives room to every component that the processor has. A frame is shorter for a thread that has
    never used AMX: its tiles, the last component, are left out. Whether it ever has is known to the kernel alone, so
    that the end mark is put at both places, the second one behind a gap that nobody reads.
    """
    if len(state) < _SHORTEST_XSAVE_BYTES:  # a processor without XSAVE: nothing but the legacy part, and no marks
        return state[: abi.XSTATE_SOFTWARE] + bytes(abi.XSTATE_LEGACY_BYTES - abi.XSTATE_SOFTWARE), 0
    supported, present = (
        struct.unpack_from("<Q", state, abi.XSTATE_SOFTWARE)[0],
        struct.unpack_from("<Q", state, abi.XSTATE_HEADER)[0],
    )
    without_tiles = supported & abi.XTILE_DATA and not present & abi.XTILE_DATA
    size = len(state) - (abi.XTILE_DATA_BYTES if without_tiles else 0)
    vector = bytearray(state[:size])
    vector[abi.XSTATE_SOFTWARE : abi.XSTATE_LEGACY_BYTES] = bytes(abi.XSTATE_LEGACY_BYTES - abi.XSTATE_SOFTWARE)
    words = (abi.FP_XSTATE_MAGIC1, size + len(_END_MARK), supported, size)
    struct.pack_into("<IIQI", vector, abi.XSTATE_SOFTWARE, *words)
    gap_bytes = abi.XTILE_DATA_BYTES if without_tiles else 0
    return bytes(vector) + _END_MARK, gap_bytes


_END_MARK = struct.pack("<I", abi.FP_XSTATE_MAGIC2)


def _chain(gadgets: Gadgets, *, lands: bool, tail: Tail | None) -> list[int]:
    """The return addresses, and what the pieces of code at them pop; an odd number of words.

    A function is entered with its return address at 8 modulo 16 (System V ABI, 3.2.2). The frame that follows is
    aligned to 16, so that this is so for the tail, and for the first function if the number is odd.
    """
    chain = _last_part(gadgets, tail)
    if lands:
        store = gadgets.pieces["store"]
        popped = parse_store(store.code).popped
        chain = [store.address, *(0 for _ in range(popped)), gadgets.address("landing"), *chain]
    if len(chain) % 2 == 0:
        chain.insert(0, gadgets.after_system_call)
    return chain


def _last_part(gadgets: Gadgets, tail: Tail | None) -> list[int]:
    """What follows when the thread has been parked."""
    before = [] if tail is None else [gadgets.address("pop_rdi"), tail.argument, tail.function]
    return [*before, gadgets.address("restore")]
