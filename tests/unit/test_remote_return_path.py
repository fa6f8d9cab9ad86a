"""The way home, as bytes: a frame as the kernel reads it, a chain that keeps the stack aligned, nothing overlaps."""

from __future__ import annotations

import struct

import pytest

from dontneed.abi import x86_64 as abi
from dontneed.remote.gadgets import Gadgets, Piece
from dontneed.remote.registers import Registers
from dontneed.remote.return_path import LARGEST_BYTES, Tail, lay_out, signal_frame, signal_frame_vector

XCR0, XCR0_WITH_AMX = 0xE7, 0x6_02E7
STORES = [
    b"\x48\x89\x03\x5b\xc3",  # one pop
    b"\x48\x89\x43\x28\xc3",  # none
    b"\x48\x89\x45\x00\x48\x83\xc4\x18\x5b\x5d\xc3",  # three words and two pops
]


def gadgets_with(store=STORES[0]):
    """Pieces of code at addresses that tell them apart."""
    codes = {
        "system_call": abi.SYSCALL_RETURN,
        "restore": abi.RESTORE_RT,
        "landing": b"\xb8\x27\0\0\0\x0f\x05\xc3",
        "pop_rdi": abi.POP_RDI_RETURN,
        "store": store,
    }
    return Gadgets({name: Piece(0x1000 * n, code) for n, (name, code) in enumerate(codes.items(), 1)}, b"")


def home_at(stack):
    """Registers that differ from each other, with this stack pointer."""
    registers = Registers(range(100, 127))
    registers.rsp, registers.cs, registers.ss = stack, 0x33, 0x2B
    return registers


def vector_state(size, supported, present=0x3):
    """What PTRACE_GETREGSET gives: supported components where a frame has its marks."""
    state = bytearray(bytes(n % 251 for n in range(size)))
    state[abi.XSTATE_SOFTWARE : abi.XSTATE_LEGACY_BYTES] = struct.pack("<Q40x", supported)
    state[abi.XSTATE_HEADER : abi.XSTATE_HEADER + 8] = struct.pack("<Q", present)
    return bytes(state)


def memory_of(path):
    """What is written, as a function that reads words."""
    image = {}
    for address, data in path.parts:
        for offset, byte in enumerate(data):
            assert address + offset not in image
            image[address + offset] = byte

    def word(address):
        return int.from_bytes(bytes(image[address + n] for n in range(8)), "little")

    return word


@pytest.mark.parametrize("stack", range(0x7FFD_0000_8000, 0x7FFD_0000_8040, 8))
@pytest.mark.parametrize("tail", [None, Tail(0xABC0, 7)])
@pytest.mark.parametrize("lands", [False, True])
@pytest.mark.parametrize("store", STORES)
def test_a_chain_leads_home_with_the_stack_aligned(stack, tail, lands, store):
    """Followed word by word as the processor would, from any stack pointer that a thread may have."""
    gadgets = gadgets_with(store)
    path = lay_out(home_at(stack), 0, vector_state(832, 7), gadgets, lands=lands, tail=tail)
    word = memory_of(path)
    assert path.start % 16 == 8 or not lands
    at = path.start
    visited = []
    while at != path.restoring:
        piece = word(at)
        visited.append(piece)
        at += 8
        if piece == gadgets.address("store"):
            at += 8 * {STORES[0]: 1, STORES[1]: 0, STORES[2]: 5}[store]
        elif piece == gadgets.address("pop_rdi"):
            assert word(at) == tail.argument
            at += 8
        elif piece == gadgets.address("landing"):
            assert at == path.parked
        elif tail and piece == tail.function:
            assert at % 16 == 8
    names = {piece.address: name for name, piece in gadgets.pieces.items()}
    route = [names.get(piece, "tail" if tail and piece == tail.function else "return") for piece in visited]
    expected = (["store", "landing"] if lands else []) + (["pop_rdi", "tail"] if tail else []) + ["restore"]
    assert [name for name in route if name != "return"] == expected
    assert path.restoring % 16 == 0


def test_the_threads_own_stack_and_its_red_zone_are_not_touched():
    """All is below them; and above what is promised to be the most."""
    for size, supported in ((832, 7), (2696, 0x2E7), (11008, XCR0_WITH_AMX)):
        path = lay_out(home_at(0x7FFD_0000_8000), 0, vector_state(size, supported), gadgets_with(), lands=True)
        highest = max(address + len(data) for address, data in path.parts)
        assert highest <= path.end == 0x7FFD_0000_8000 - abi.RED_ZONE_BYTES
        assert path.end - path.start <= LARGEST_BYTES


def test_a_result_is_told_from_none_by_lot():
    """What is there before the function stores its result is no number that it could guess."""
    paths = [lay_out(home_at(0x7FFD_0000_8000), 0, vector_state(832, 7), gadgets_with(), lands=True) for _ in range(2)]
    assert paths[0].no_result != paths[1].no_result
    for path in paths:
        assert memory_of(path)(path.result_address) == path.no_result


def test_a_signal_frame_holds_every_register_and_the_mask():
    """Where the kernel looks for them in struct ucontext."""
    home = home_at(0x7FFD_0000_8000)
    frame = signal_frame(home, 0x1234_5678_9ABC_DEF0, 0x7FFD_0000_7000, extended=True)
    assert len(frame) == abi.UC_BYTES == 304
    words = struct.unpack_from("<18Q", frame, 40)
    assert dict(zip(abi.SIGCONTEXT_NAMES, words, strict=True)) == {
        name: getattr(home, name) for name in abi.SIGCONTEXT_NAMES
    }
    assert struct.unpack_from("<4H", frame, 184) == (0x33, home.gs, home.fs, 0x2B)
    assert struct.unpack_from("<Q", frame, 224) == (0x7FFD_0000_7000,)
    assert struct.unpack_from("<Q", frame, 296) == (0x1234_5678_9ABC_DEF0,)
    assert struct.unpack_from("<Q", frame, 0) == (7,)
    assert struct.unpack_from("<Q", signal_frame(home, 0, 0, extended=False), 0) == (6,)


@pytest.mark.parametrize(
    ("size", "supported", "present", "kept", "gap"),
    [
        (832, 0x7, 0x3, 832, 0),
        (2696, 0x2E7, 0x7, 2696, 0),
        (11008, XCR0_WITH_AMX, 0x7, 2816, 8192),  # AMX never used: no room for tiles in the frame
        (11008, XCR0_WITH_AMX, 0x6_0007, 11008, 0),
    ],
)
def test_vector_state_ends_where_the_kernel_looks_for_its_end(size, supported, present, kept, gap):
    """With the marks of a signal frame, and otherwise as it was."""
    state = vector_state(size, supported, present)
    vector, gap_bytes = signal_frame_vector(state)
    assert (len(vector), gap_bytes) == (kept + 4, gap)
    assert struct.unpack_from("<IIQI", vector, 464) == (0x46505853, kept + 4, supported, kept)
    assert vector[-4:] == struct.pack("<I", 0x46505845)
    assert vector[:464] == state[:464]
    assert vector[512:kept] == state[512:kept]
    path = lay_out(home_at(0x7FFD_0000_8000), 0, state, gadgets_with())
    if gap:
        (near, written), (far, mark) = path.parts
        assert mark == vector[-4:]
        assert far == near + len(written) - 4 + gap


def test_a_processor_without_xsave_has_a_short_frame():
    """512 bytes, no marks."""
    vector, gap = signal_frame_vector(bytes(range(256)) * 2)
    assert (len(vector), gap, vector[464:]) == (512, 0, bytes(48))
