"""Private anonymous memory of this process that C fills and drops, and that Python sees as a buffer."""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING

import numpy as np

import dontneed
from dontneed.units import PAGE_BYTES
from programs import shared_object

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self


class Memory:
    """A private anonymous mapping, as the C programs map theirs. A context manager.

    Attributes:
        buffer: the mapping, an `mmap.mmap`.
    """

    def __init__(self, length: int, *, huge: bool) -> None:
        self._length = length
        self._c = _c_functions()
        self.buffer = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.buffer.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))

    @classmethod
    def of_pages(cls, count: int) -> Self:
        """Memory of this many 4 KiB pages."""
        return cls(count * PAGE_BYTES, huge=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.buffer.close()

    @property
    def page_addresses(self) -> NDArray[np.uint64]:
        """The address of every page."""
        return np.arange(self._address, self._address + self._length, PAGE_BYTES, dtype=np.uint64)

    @property
    def huge_bytes(self) -> int:
        """How much of it is in huge pages now."""
        mapping = next(each for each in dontneed.look().mappings if each.start <= self._address < each.end)
        return mapping.huge_bytes or 0

    def fill(self) -> None:
        """Put a frame behind every page that has none."""
        self._c.fill(self._address, self._length)

    def drop(self) -> float:
        """Drop all by one call, from C; the seconds that the call took."""
        return _seconds(self._c.drop_range(self._address, self._length))

    def drop_each_second(self) -> float:
        """Drop each second page by a call of its own, from C; the seconds that the loop took."""
        return _seconds(self._c.drop_each_second(self._address, self._length // PAGE_BYTES // 2))

    def drop_by_mmap(self) -> None:
        """Drop all as the standard library does."""
        self.buffer.madvise(mmap.MADV_DONTNEED)


def _c_functions() -> ctypes.CDLL:
    functions = shared_object("advise")
    for name, result in (("fill", None), ("drop_range", ctypes.c_longlong), ("drop_each_second", ctypes.c_longlong)):
        function = getattr(functions, name)
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        function.restype = result
    return functions


def _seconds(nanoseconds: int) -> float:
    if nanoseconds < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "madvise")
    return nanoseconds * 1e-9
