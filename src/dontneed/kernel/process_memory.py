"""The memory of another process, read and written by address: process_vm_readv and process_vm_writev.

The target runs on meanwhile: what is read is of one moment only within a page, and may be torn across words. Neither
call stops it, sends it anything or faults in what is swapped out for longer than a touch of its own would.

Reading is not without traces: what is read counts as used, and since 5.19 an anonymous page that is shared since a fork
is copied to be read (gup_must_unshare(), since these calls pin): read in bulk what the process maps alone, and no more.
/proc/PID/mem does not pin, and copies nothing.

Kernel:
    since 3.2; mm/process_vm_access.c; process_vm_readv(2). Needs PTRACE_MODE_ATTACH: the same user and Yama's consent,
    or CAP_SYS_PTRACE. At most 1,024 ranges a call on either side; a call ends short at the first range that fails.
"""

from __future__ import annotations

import errno
import os

from dontneed.errors import DontneedError, KernelLacks, NotPermitted, ProcessGone, Unreadable
from dontneed.kernel import libc
from dontneed.units import KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words

    Bytes = np.ndarray[Any, np.dtype[np.uint8]]
    Truths = np.ndarray[Any, np.dtype[np.bool_]]

_FILTERED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
"""What a seccomp filter says; of our own memory the kernel says none of them."""

RANGES_A_CALL = 1024
"""UIO_MAXIOV, include/uapi/linux/uio.h."""

_LONG_BYTES = 32 * KIB
"""So much is worth another way to read it, which takes two system calls more and copies nothing of the target's."""
_SHORT_BYTES = 256 * KIB
"""Of our own memory, so much is read with the GIL held: whoever lets go of it has to wait for its turn again."""


def read_memory(pid: int, address: int, length: int) -> bytes:
    """A copy of `length` bytes at `address`.

    Raises:
        Unreadable: a part of it is not mapped, or not readable.
        NotPermitted, ProcessGone, KernelLacks: as every call here.
    """
    import numpy as np

    if length >= _LONG_BYTES and (data := read_gently(pid, address, length)) is not None:
        return data
    buffer = np.empty(length, np.uint8)
    if read_ranges(pid, np.array([[address, address + length]], np.uint64), buffer) != length:
        raise _unreadable(pid, address, length)
    return buffer.tobytes()


def read_gently(pid: int, address: int, length: int) -> bytes | None:
    """A copy of memory, through /proc/PID/mem: no page is copied that is shared since a fork. None if it cannot be."""
    try:
        fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # the reason is found, and told, by the other way
        return None
    try:
        data = os.pread(fd, length, address)
    except OSError:  # nothing mapped at the start of it
        return None
    finally:
        os.close(fd)
    return data if len(data) == length else None


def read_each(pid: int, addresses: Words, length: int) -> tuple[Bytes, Truths]:
    """The same number of bytes at each of many addresses.

    Args:
        pid: whose.
        addresses: in bytes, in any order.
        length: bytes at each.
    Returns:
        A row of `length` bytes for each address, zeros where it could not be read; and which could.
    Raises:
        NotPermitted, ProcessGone, KernelLacks.
    """
    import numpy as np

    rows = np.zeros((len(addresses), length), np.uint8)
    read = np.ones(len(addresses), np.bool_)
    remote = _vector(addresses, length)
    first = 0
    while first < len(addresses):
        count = min(RANGES_A_CALL, len(addresses) - first)
        part = rows[first : first + count]
        whole = _transfer(pid, part, remote[first : first + count]) // max(length, 1)
        if whole < count:  # the call ended at an address that cannot be read: go on behind it
            read[first + whole] = False
            rows[first + whole] = 0
            whole += 1
        first += whole
    return rows, read


def read_ranges(pid: int, ranges: Words, buffer: Bytes) -> int:
    """Many ranges into one buffer, packed one behind the other.

    Args:
        pid: whose.
        ranges: rows `[start, end)`; together no longer than `buffer`.
        buffer: receives the bytes.
    Returns:
        Bytes read: fewer than asked for if a range cannot be read; what lies behind it was not tried.
    Raises:
        NotPermitted, ProcessGone, KernelLacks.
    """
    lengths = ranges[:, 1] - ranges[:, 0]
    remote = ranges.copy()
    remote[:, 1] = lengths
    done = 0
    for first in range(0, len(remote), RANGES_A_CALL):
        part = remote[first : first + RANGES_A_CALL]
        wanted = int(part[:, 1].sum())
        got = _transfer(pid, buffer[done : done + wanted], part)
        done += got
        if got < wanted:
            break
    return done


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Put `data` at `address`.

    Raises:
        Unreadable: not all of it could be written; an earlier part may have been.
        NotPermitted, ProcessGone, KernelLacks.
    """
    import numpy as np

    local = np.frombuffer(data, np.uint8)
    remote = np.array([[address, len(data)]], np.uint64)
    if _transfer(pid, local, remote, write=True) != len(data):
        raise _unreadable(pid, address, len(data))


def write_each(pid: int, addresses: Words, values: np.ndarray[Any, Any]) -> None:
    """Put one value at each address, in their order.

    Args:
        pid: whose.
        addresses: in bytes, one for each value.
        values: of one type, whose size is that of what is written.
    Raises:
        Unreadable: not all were written; those before it were.
        NotPermitted, ProcessGone, KernelLacks.
    """
    import numpy as np

    values = np.ascontiguousarray(values)
    remote = _vector(addresses, values.itemsize)
    for first in range(0, len(addresses), RANGES_A_CALL):
        part = values[first : first + RANGES_A_CALL]
        written = _transfer(pid, part, remote[first : first + RANGES_A_CALL], write=True)
        if written != part.nbytes:
            raise _unreadable(pid, int(addresses[first + written // values.itemsize]), values.itemsize)


def _vector(addresses: Words, length: int) -> Words:
    """An array of struct iovec."""
    import numpy as np

    vector = np.empty((len(addresses), 2), np.uint64)
    vector[:, 0] = addresses
    vector[:, 1] = length
    return vector


def _transfer(pid: int, local: np.ndarray[Any, Any], remote: Words, *, write: bool = False) -> int:
    """One system call; how many bytes it moved: 0 if the first range cannot be reached."""
    import numpy as np

    if not local.nbytes:
        return 0
    here = np.array([local.ctypes.data, local.nbytes], np.uint64)
    there = np.ascontiguousarray(remote)
    is_own_read = not write and pid == os.getpid()
    call = libc.process_vm_writev if write else libc.process_vm_readv
    if is_own_read and local.nbytes <= _SHORT_BYTES:
        call = libc.process_vm_readv_held
    moved = call(pid, here.ctypes.data, 1, there.ctypes.data, len(there), 0)
    if moved >= 0:
        return int(moved)
    number = libc.last_errno()
    if number == errno.EFAULT:
        return 0
    if is_own_read and number in _FILTERED:
        return _read_own(local, there)
    raise _refusal(number, pid)


def _read_own(local: np.ndarray[Any, Any], remote: Words) -> int:
    """The same by a file, where a seccomp filter takes the call for one on somebody else's memory.

    Raises:
        NotPermitted: the process is not dumpable, so that its file is root's.
    """
    buffer, done = memoryview(local.reshape(-1).view("u1").data), 0
    try:
        fd = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        raise _refusal(errno.EPERM, os.getpid()) from None
    try:
        for address, length in remote.tolist():
            got = os.preadv(fd, [buffer[done : done + length]], address)
            done += got
            if got < length:
                break
    except OSError:  # EIO: nothing is mapped there
        return done
    finally:
        os.close(fd)
    return done


def _refusal(number: int, pid: int) -> DontneedError:
    if number == errno.EPERM:
        return NotPermitted(
            f"the memory of process {pid} may not be read (EPERM)",
            hint="run as root (sudo); in a container, add CAP_SYS_PTRACE; as its own user, "
            "sysctl kernel.yama.ptrace_scope=0 allows it until the next boot",
        )
    if number == errno.ESRCH:
        return ProcessGone(f"process {pid} has ended")
    if number == errno.ENOSYS:
        return KernelLacks(
            "process_vm_readv is absent", hint="CONFIG_CROSS_MEMORY_ATTACH, or a seccomp filter hides it"
        )
    return Unreadable(f"the memory of process {pid} could not be reached: {os.strerror(number)}")


def _unreadable(pid: int, address: int, length: int) -> Unreadable:
    return Unreadable(f"{length} bytes at {address:#x} of process {pid} cannot be reached: unmapped meanwhile?")
