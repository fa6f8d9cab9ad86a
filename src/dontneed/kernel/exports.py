"""Where the memory of a Python buffer lies: the buffer protocol, asked in C's words.

`memoryview` knows a buffer's length and not its address; `ctypes.from_buffer` knows the address and refuses Fortran
order. `PyObject_GetBuffer` gives both, and holds the buffer meanwhile: a bytearray cannot be resized, nor an mmap
closed. The layout of `Py_buffer` is part of the stable ABI (3.11) and has not changed since 3.0.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager

from dontneed.errors import BufferRefused, WrongType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_WRITABLE = 0x0001
_ANY_CONTIGUOUS = 0x0080 | 0x0010 | 0x0008


class _PyBuffer(ctypes.Structure):
    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int)
_get_buffer.restype = ctypes.c_int
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_PyBuffer),)
_release_buffer.restype = None


@contextmanager
def exported(buffer: Any, *, writable: bool = True) -> Iterator[tuple[int, int]]:
    """Hold the memory of a contiguous buffer.

    Args:
        buffer: anything with the buffer protocol.
        writable: refuse a read-only one.
    Yields:
        Its address and its length in bytes.
    Raises:
        WrongType: no buffer protocol.
        BufferRefused: read-only where it must be writable, not contiguous, released, or an array of objects.
    """
    view = _PyBuffer()
    try:
        _get_buffer(buffer, view, _ANY_CONTIGUOUS | (_WRITABLE if writable else 0))
    except (TypeError, BufferError, ValueError) as error:
        raise _refusal(buffer, error) from None
    try:
        if writable:
            _refuse_objects(buffer)
        yield view.buf or 0, view.len
    finally:
        _release_buffer(view)


def _refuse_objects(buffer: Any) -> None:
    """Refuse a numpy array of objects, or a view of one: a reference that zeros overwrite is never counted down."""
    owner = buffer.obj if isinstance(buffer, memoryview) else buffer
    if getattr(getattr(owner, "dtype", None), "hasobject", False):
        msg = f"the elements of this {type(buffer).__name__} are Python objects, which zeros would leak"
        raise BufferRefused(msg, hint="let go of the objects, array[:] = None, or of the whole array")


def _refusal(buffer: Any, error: Exception) -> Exception:
    """Why this object cannot give up its contents, and what would."""
    kind = type(buffer).__name__
    try:
        view = memoryview(buffer)
    except TypeError:
        return WrongType(
            f"{kind} has no buffer protocol: there is no memory of its own to discard",
            hint="give the array, bytearray, mmap or memoryview that holds the data",
        )
    except (ValueError, BufferError):  # also a numpy type that memoryview has no word for, which is no reason itself
        return BufferRefused(f"this {kind} does not give its memory away: {error}")
    if isinstance(buffer, bytes):
        return BufferRefused(
            "bytes are immutable: Python shares them and relies on their contents",
            hint="keep such data in a bytearray, an mmap or a numpy array; or delete the last reference",
        )
    if not view.contiguous:
        return BufferRefused(
            f"this {kind} is not contiguous: other data lies between its elements",
            hint="discard the array that it is a view of (array.base), or a contiguous part of it",
        )
    if view.readonly:
        return BufferRefused(
            f"this {kind} is read-only: someone relies on its contents",
            hint="numpy: array.flags.writeable = True; mmap: ACCESS_WRITE or ACCESS_COPY; arrow: a mutable buffer",
        )
    return BufferRefused(f"this {kind} does not give its memory away: {error}")
