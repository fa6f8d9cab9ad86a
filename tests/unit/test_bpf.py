"""The assembler: programs by name become the instructions that the kernel's documentation gives."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from dontneed.kernel.bpf import R0, R1, R2, R6, R7, R9, STACK, Assembler


def lines(code):
    """(operation, target, source, offset, number) of each instruction."""
    found = struct.iter_unpack("<BBhi", code.assemble())
    return [
        (operation, registers & 15, registers >> 4, offset, number) for operation, registers, offset, number in found
    ]


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda code: code.move(R6, R1), (0xBF, 6, 1, 0, 0)),
        (lambda code: code.move(R7, -3), (0xB7, 7, 0, 0, -3)),
        (lambda code: code.add(R9, R6), (0x0F, 9, 6, 0, 0)),
        (lambda code: code.add(STACK, -8), (0x07, 10, 0, 0, -8)),
        (lambda code: code.shift_left(R1, 12), (0x67, 1, 0, 0, 12)),
        (lambda code: code.load(R1, R6, 16), (0x79, 1, 6, 16, 0)),
        (lambda code: code.load(R1, R6, 4, size=4), (0x61, 1, 6, 4, 0)),
        (lambda code: code.store(R6, 8, R0), (0x7B, 6, 0, 8, 0)),
        (lambda code: code.store(R6, 8, R0, size=4), (0x63, 6, 0, 8, 0)),
        (lambda code: code.call(113), (0x85, 0, 0, 0, 113)),
        (lambda code: code.call_kernel(65891), (0x85, 0, 2, 0, 65891)),
    ],
)
def test_an_instruction_is_what_the_instruction_set_says(write, expected):
    """Documentation/bpf/standardization/instruction-set.rst; by hand."""
    code = Assembler()
    write(code)
    assert lines(code) == [expected]


def test_jumps_count_from_the_instruction_behind_them():
    """Forward and back, also over an instruction that is two words long."""
    code = Assembler()
    code.label("again")
    code.jump_if_equal(R0, 0, "end")
    code.map_value(R6, SimpleNamespace(fd=7))
    code.jump_if_at_least(R7, R1, "again")
    code.jump("end")
    code.label("end")
    code.exit(5)
    assert lines(code) == [
        (0x15, 0, 0, 4, 0),
        (0x18, 6, 2, 0, 7),
        (0, 0, 0, 0, 0),
        (0x3D, 7, 1, -4, 0),
        (0x05, 0, 0, 0, 0),
        (0xB7, 0, 0, 0, 5),
        (0x95, 0, 0, 0, 0),
    ]


def test_a_label_that_is_nowhere_is_an_error_of_the_programmer():
    """Better here than in the verifier's words."""
    code = Assembler()
    code.jump_if_equal(R2, 0, "nowhere")
    with pytest.raises(KeyError, match="nowhere"):
        code.assemble()
