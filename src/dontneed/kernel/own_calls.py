"""Functions of libraries in our own process, called by their addresses, as the loader has put them there."""

from __future__ import annotations

from ctypes import CFUNCTYPE, c_char_p, c_int, c_ulong


def call_own(address: int, *arguments: int | bytes) -> int:
    """Call a function that returns an int, with integers and texts that end with a zero; the GIL is free meanwhile."""
    types = (c_char_p if isinstance(each, bytes) else c_ulong for each in arguments)
    return int(CFUNCTYPE(c_int, *types)(address)(*arguments))
