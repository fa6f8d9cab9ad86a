"""The native part: whether it is there, and functions called by their addresses."""

from __future__ import annotations

import ctypes
import types

import pytest

from dontneed import KernelLacks
from dontneed.abi.glibc_malloc import LAYOUTS
from dontneed.kernel import native
from dontneed.kernel.own_calls import call_own


def test_a_function_is_called_by_its_address():
    """With integers, and with text that ends with a zero."""
    library = ctypes.CDLL(None)
    addresses = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in ("abs", "strncmp")}
    assert call_own(addresses["abs"], 41) == 41
    assert call_own(addresses["strncmp"], b"arena.1", b"arena.2", 6) == 0


def test_a_part_that_was_built_of_another_version_is_not_called(monkeypatch):
    """In a checkout the binary may be older than what calls it."""
    monkeypatch.setattr(native, "import_module", lambda _name: types.SimpleNamespace(CONTRACT=native.CONTRACT + 1))
    assert native._load.__wrapped__() == "it was built of another version: install dontneed again"


@pytest.mark.parametrize(
    ("error", "said"),
    [(ModuleNotFoundError("no"), "it was not built"), (ImportError("undefined symbol: x"), "undefined symbol: x")],
)
def test_without_the_part_there_is_a_reason_and_a_hint(monkeypatch, error, said):
    """And no traceback of an import."""

    def fails(_name):
        raise error

    monkeypatch.setattr(native, "import_module", fails)
    reason = native._load.__wrapped__()
    assert said in reason
    monkeypatch.setattr(native, "_load", lambda: reason)
    assert native.why_not() == reason
    assert not native.is_native()
    with pytest.raises(KernelLacks, match="no native part"):
        native.release_arena(0, LAYOUTS[1], 0, 0.0)
