"""Pieces of code in the target: the patterns find what they are meant to, and what was found is understood."""

from __future__ import annotations

import re

import pytest

from dontneed.abi import x86_64 as abi
from dontneed.errors import TargetRefused
from dontneed.remote.gadgets import Gadgets, Piece, Store, parse_store, require

STORE = re.compile(abi.STORE_RAX_RETURN, re.DOTALL)


@pytest.mark.parametrize(
    ("code", "store"),
    [
        ("488903c3", Store("rbx", 0, 0)),
        ("488943285bc3", Store("rbx", 0x28, 1)),
        ("488943f85bc3", Store("rbx", -8, 1)),
        ("488983900000004883c4185b5dc3", Store("rbx", 0x90, 5)),
        ("488945005dc3", Store("rbp", 0, 1)),
        ("488945004883c4085b5d415c415d415e415fc3", Store("rbp", 0, 7)),
        ("488985f8ffffffc3", Store("rbp", -8, 0)),
        ("49890424415cc3", Store("r12", 0, 1)),
        ("49894424485b5d415c415d415ec3", Store("r12", 0x48, 5)),
        ("49894500415dc3", Store("r13", 0, 1)),
        ("498906415ec3", Store("r14", 0, 1)),
        ("49894610c3", Store("r14", 0x10, 0)),
        ("4989074883c4285b5d415c415d415e415fc3", Store("r15", 0, 11)),
        ("48894318585a5bc3", Store("rbx", 0x18, 3)),
    ],
)
def test_a_store_is_found_and_understood(code, store):
    """Which register holds the address, where from there, and how many words are popped behind it."""
    data = bytes.fromhex(code)
    assert STORE.fullmatch(data)
    assert STORE.search(b"\xcc" * 5 + data + b"\x90").group() == data
    assert parse_store(data) == store


@pytest.mark.parametrize(
    "code",
    [
        "488907c3",  # through rdi, which a function does not keep
        "48890424c3",  # onto the stack itself
        "4889035cc3",  # pops rsp
        "488905000000ffc3",  # relative to the program counter
        "8903c3",  # 32 bits
        "4c8903c3",  # r8
        "48890390c3",
    ],
)
def test_what_only_looks_like_a_store_is_none(code):
    """To take it would write somewhere else, or lose the way."""
    assert not STORE.fullmatch(bytes.fromhex(code))


def test_a_harmless_call_is_a_whole_function():
    """Of the likes of getpid, which take nothing and change nothing."""
    pattern = re.compile(abi.HARMLESS_CALL_RETURN, re.DOTALL)
    assert pattern.fullmatch(bytes.fromhex("b8270000000f05c3"))
    assert not pattern.fullmatch(bytes.fromhex("b83c0000000f05c3"))  # exit


def test_what_is_missing_is_said():
    """A program without a way back from signal handlers is another matter than one without a store."""
    gadgets = Gadgets({"system_call": Piece(1, abi.SYSCALL_RETURN)}, b"")
    require(gadgets, "system_call")
    with pytest.raises(TargetRefused, match="no way back"):
        require(gadgets, "system_call", "restore")
    with pytest.raises(TargetRefused, match=r"code to go by \(store\)"):
        require(gadgets, "store")
