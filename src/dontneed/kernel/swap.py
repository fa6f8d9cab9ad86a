"""Swap space: how much is in use, and some of our own, on a compressed disk in memory (zram), while it is needed.

Making it takes root. What was there before is used as it is, whoever made it; what we make is undone.

Kernel:
    mm/swapfile.c, drivers/block/zram; swapon(2), Documentation/admin-guide/blockdev/zram.rst. zram since 3.14, hot_add
    4.2. The signature is that of mkswap(8): union swap_header in include/linux/swap.h.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from ctypes import c_char_p, c_int

from dontneed.errors import KernelLacks, NotPermitted
from dontneed.kernel.environment import parse_swaps
from dontneed.kernel.libc import check, foreign
from dontneed.kernel.settings import held_lock, read_setting, write_setting
from dontneed.units import MIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SWAPS = "/proc/swaps"
_HOT_ADD, _HOT_REMOVE = "/sys/class/zram-control/hot_add", "/sys/class/zram-control/hot_remove"
_SIZE_BYTES = 128 * MIB
_BY_HAND = "`swapon` a partition or a file yourself"

_swapon = foreign("swapon", c_int, c_char_p, c_int)
_swapoff = foreign("swapoff", c_int, c_char_p)


def read_swap_used_bytes() -> int:
    """How much of all swap areas is in use: slots that hold a page, in memory as well or not."""
    return _read_swaps()[1]


@contextmanager
def swap_space() -> Iterator[None]:
    """Have swap space for the time of a `with` block: what there is, or else a zram disk of 128 MiB of our own.

    Raises:
        NotPermitted: there is none, and this user may not make any.
        KernelLacks: there is none, and this kernel has no zram.
    """
    with held_lock(_SWAPS):
        if _read_swaps()[0]:
            yield
            return
        with _zram_disk() as path:
            _write_signature(path)
            _call(_swapon(os.fsencode(path), 0), "swapon")
            try:
                yield
            finally:
                check(_swapoff(os.fsencode(path)), "swapoff")


@contextmanager
def _zram_disk() -> Iterator[str]:
    """A zram disk that nobody else has; its device file."""
    try:
        number = read_setting(_HOT_ADD)  # reading it makes one
    except KernelLacks:
        msg = "there is no swap space, and no zram to make some on"
        raise KernelLacks(msg, hint=f"`modprobe zram`, or {_BY_HAND}") from None
    except NotPermitted:
        msg = "there is no swap space, and this user may not make any"
        raise NotPermitted(msg, hint=f"run as root (sudo), or {_BY_HAND}") from None
    try:
        path = f"/dev/zram{number}"
        if not os.path.exists(path):
            msg = f"a zram disk was made, and {path} did not appear"
            raise KernelLacks(msg, hint=f"a container has its own /dev; run outside of it, or {_BY_HAND}")
        write_setting(f"/sys/block/zram{number}/disksize", _SIZE_BYTES)
        yield path
    finally:
        write_setting(_HOT_REMOVE, number)


def _write_signature(path: str) -> None:
    """What mkswap(8) writes: a version, the last page, no bad pages, and a word at the end of the first page."""
    header = bytearray(PAGE_BYTES)
    struct.pack_into("=III", header, 1024, 1, _SIZE_BYTES // PAGE_BYTES - 1, 0)
    header[-10:] = b"SWAPSPACE2"
    with open(path, "wb") as disk:
        disk.write(header)


def _call(result: int, call: str) -> None:
    try:
        check(result, call)
    except PermissionError:
        msg = f"{call} is not permitted"
        raise NotPermitted(msg, hint=f"it takes CAP_SYS_ADMIN: run as root (sudo), or {_BY_HAND}") from None


def _read_swaps() -> tuple[int, int]:
    """Size and use of all swap areas, in bytes; none where the kernel was built without."""
    try:
        return parse_swaps(read_setting(_SWAPS))
    except KernelLacks:
        return 0, 0
