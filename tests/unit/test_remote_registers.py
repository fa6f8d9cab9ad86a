"""Registers by name, and what they are set to for a system call and for a function."""

from __future__ import annotations

import pytest

from dontneed.abi import x86_64 as abi
from dontneed.errors import KernelLacks
from dontneed.remote import registers as module
from dontneed.remote.registers import WORD, Registers, require_known_architecture
from dontneed.units import signed


def registers_of(**values):
    """Each register is its own index, but for those given."""
    made = Registers(range(len(abi.REGISTER_NAMES)))
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_every_register_has_its_place():
    """The order is that of struct user_regs_struct, in which a wrong one would go unnoticed."""
    made = registers_of()
    assert [getattr(made, name) for name in abi.REGISTER_NAMES] == list(range(27))
    assert abi.REGISTER_NAMES.index("orig_rax") == 15
    assert abi.REGISTER_NAMES.index("rsp") == 19
    assert abi.REGISTER_NAMES.index("fs_base") == 21


def test_a_register_is_64_bits_wide():
    """Negative numbers are what a system call takes and returns."""
    made = registers_of(rax=-4, rbx=1 << 64 | 5)
    assert (made.rax, made.result, made.rbx) == (WORD - 3, -4, 5)
    assert [signed(word) for word in (0, 5, WORD, 1 << 63)] == [0, 5, -1, -(1 << 63)]


def test_a_copy_is_changed_apart():
    """What a thread goes home with must not change with what it is sent out with."""
    made = registers_of()
    copy = made.copy()
    assert copy == made
    copy.rip = 1
    assert copy != made
    assert made.rip == 16


@pytest.mark.parametrize("restart", sorted(abi.RESTARTS))
def test_a_system_call_that_will_be_made_again_is_one(restart):
    """Its number is in orig_rax, and the errno is one that no program sees."""
    assert registers_of(orig_rax=232, rax=-restart).system_call == 232


@pytest.mark.parametrize(("orig_rax", "rax"), [(-1, -512), (0, 5), (0, 0), (232, -4), (-1, 7)])
def test_what_runs_or_has_returned_is_in_no_system_call(orig_rax, rax):
    """A call that returned leaves its number behind, and so does one whose handler is about to run."""
    assert registers_of(orig_rax=orig_rax, rax=rax).system_call is None


def test_a_system_call_is_entered_with_its_arguments_in_their_registers():
    """The fourth is in r10: rcx is where the processor keeps the program counter."""
    entering = registers_of().entering(0x1000, 0x2000, 9, [0, 4096, 3, 0x22, -1, 0])
    assert (entering.rip, entering.rsp, entering.rax, entering.orig_rax) == (0x1000, 0x2000, 9, WORD)
    assert entering.system_call_arguments == (0, 4096, 3, 0x22, WORD, 0)
    assert entering.rbx == registers_of().rbx


def test_a_function_is_called_with_its_arguments_in_their_registers():
    """And with the direction flag clear, as every function expects."""
    calling = registers_of(eflags=0x646).calling(0x1000, 0x2000, [1, 2, 3, 4, 5, 6])
    assert (calling.rdi, calling.rsi, calling.rdx, calling.rcx, calling.r8, calling.r9) == (1, 2, 3, 4, 5, 6)
    assert (calling.rip, calling.rsp, calling.rax, calling.orig_rax) == (0x1000, 0x2000, 0, WORD)
    assert calling.eflags == 0x246


def test_other_architectures_are_told_so(monkeypatch):
    """Before anything is tried."""
    monkeypatch.setattr(module.os, "uname", lambda: type("Names", (), {"machine": "aarch64"}))
    with pytest.raises(KernelLacks, match="aarch64"):
        require_known_architecture()
