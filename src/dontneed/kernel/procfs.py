"""Files under /proc/PID: opened through one directory handle, so that a reused pid is never taken for its predecessor.

A `/proc/PID` directory that is held open goes dead with its process: every later open through it fails with ESRCH or
ENOENT, even when another process has got the number meanwhile. That is all we need to know whom we are looking at.

Kernel:
    fs/proc/base.c; proc(5). Reading maps, smaps and pagemap needs PTRACE_MODE_READ (the same user, or CAP_SYS_PTRACE).
"""

from __future__ import annotations

import errno
import os

from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, UsageError, WrongType
from dontneed.kernel.closing import Closing

_READ_BYTES = 1 << 16
"""More than most files of /proc give at once, and little enough for malloc to have it at hand."""
_PID_LIMIT = 1 << 22
"""PID_MAX_LIMIT, include/linux/threads.h."""
_ENDED_OR_ABSENT = (errno.ENOENT, errno.EACCES, errno.EPERM)
_LIST = "`ps -e` lists the processes there are"
_SUDO = "run as root (sudo), or as the user who owns the process; in a container, add CAP_SYS_PTRACE"
_ROOT = "root needs CAP_SYS_PTRACE in the user namespace of the process, and no security module that forbids it"


class ProcessDirectory(Closing):
    """One process, held by its open `/proc/PID` directory. A context manager.

    Args:
        pid: a process id; None is the calling process.
    Raises:
        WrongType, UsageError: `pid` is no positive integer.
        ProcessGone: there is no such process.
        NotPermitted: there is one, and `/proc` hides it (hidepid).
    """

    __slots__ = ("_fd", "pid")

    def __init__(self, pid: int | None = None) -> None:
        self.pid = os.getpid() if pid is None else checked_pid(pid)
        # This /proc may be that of another pid namespace, where our number is someone else's; `self` is always us.
        path = "/proc/self" if pid is None else f"/proc/{self.pid}"
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):  # hidepid=2, hidepid=1
            raise _absent(self.pid) from None

    def close(self) -> None:
        """Let the process go; the object is of no use afterwards."""
        os.close(self._fd)

    def open(self, name: str, *, writing: bool = False) -> int:
        """A file descriptor for `/proc/PID/name`, for reading or else for writing; the caller closes it.

        Raises:
            ProcessGone: the process has ended.
            NotPermitted: EACCES or EPERM.
            KernelLacks: the process is there and this file is not.
        """
        try:
            return os.open(name, (os.O_WRONLY if writing else os.O_RDONLY) | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise self._explained(name, error, "write to" if writing else "read") from None

    def read(self, name: str) -> bytes:
        """The whole of `/proc/PID/name`.

        Raises:
            ProcessGone, NotPermitted, KernelLacks: as `open`.
        """
        fd = self.open(name)
        try:
            data = bytearray()
            while chunk := os.read(fd, _READ_BYTES):
                data += chunk
        except OSError as error:
            raise self._explained(name, error) from None
        finally:
            os.close(fd)
        return bytes(data)

    def write(self, name: str, data: bytes) -> None:
        """Write to `/proc/PID/name`.

        Raises:
            ProcessGone, NotPermitted, KernelLacks: as `open`.
            OSError: the kernel does not take it.
        """
        fd = self.open(name, writing=True)
        try:
            os.write(fd, data)
        except OSError as error:
            raise self._explained(name, error, "write to") from None
        finally:
            os.close(fd)

    def threads(self) -> list[int]:
        """The thread ids of the process, as `/proc/PID/task` lists them."""
        try:
            fd = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise self._explained("task", error) from None
        try:
            return sorted(map(int, os.listdir(fd)))
        except OSError as error:
            raise self._explained("task", error) from None
        finally:
            os.close(fd)

    def links(self, name: str) -> dict[str, str]:
        """What the symbolic links in `/proc/PID/name` lead to: of `fd`, what each open file is.

        Raises:
            ProcessGone, NotPermitted, KernelLacks: as `open`.
        """
        try:
            fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError as error:
            raise self._explained(name, error) from None
        try:
            found = {entry: _target_of(entry, fd) for entry in os.listdir(fd)}
        except OSError as error:
            raise self._explained(name, error) from None
        finally:
            os.close(fd)
        return {entry: target for entry, target in found.items() if target is not None}

    def link(self, name: str) -> str:
        """What the symbolic link `/proc/PID/name` leads to, such as `fd/0`; nothing if it has gone.

        Raises:
            ProcessGone, NotPermitted: as `open`.
        """
        try:
            return os.readlink(name, dir_fd=self._fd)
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise self._explained(name, error) from None

    def _explained(self, name: str, error: OSError, action: str = "read") -> Exception:
        """What an errno from `/proc/PID/name` means to a person."""
        if error.errno == errno.ESRCH or (error.errno in _ENDED_OR_ABSENT and not self._alive()):
            return ProcessGone(f"process {self.pid} ended while it was looked at")
        if error.errno == errno.ENOENT and self._is_of_ended_thread(name):
            return ProcessGone(f"a thread of process {self.pid} ended while it was looked at")
        if error.errno == errno.ENOENT:
            return KernelLacks(f"this kernel has no /proc/PID/{name.split('/', maxsplit=1)[0]}")
        if isinstance(error, PermissionError):
            return NotPermitted(
                f"not permitted to {action} /proc/{self.pid}/{name}{self._owner()}", hint=_how_permitted()
            )
        return error

    def _is_of_ended_thread(self, name: str) -> bool:
        first, _, rest = name.partition("/")
        return first == "task" and not os.access(f"task/{rest.partition('/')[0]}", os.F_OK, dir_fd=self._fd)

    def _alive(self) -> bool:
        """Whether it has memory; what ends loses it first, and its files are then refused as if by want of rights."""
        try:
            with open(os.open("statm", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd), "rb") as file:
                return not file.read().startswith(b"0 ")
        except OSError:  # any failure means that the directory has gone dead
            return False

    def _owner(self) -> str:
        owner = os.fstat(self._fd).st_uid
        return f": it belongs to uid {owner}, you are uid {os.geteuid()}" if owner != os.geteuid() else ""


def checked_pid(pid: object) -> int:
    """`pid` if a process could have it.

    Raises:
        WrongType: not an integer.
        UsageError: zero or negative.
        ProcessGone: larger than any pid can be.
    """
    if isinstance(pid, bool) or not hasattr(pid, "__index__"):
        msg = f"a pid is an integer, not {type(pid).__name__} {pid!r}"
        raise WrongType(msg, hint="convert it: int(pid)")
    pid = int(pid.__index__())
    if pid <= 0:
        msg = f"a pid is positive, and {pid} is not"
        raise UsageError(msg, hint=_LIST)
    if pid >= _PID_LIMIT:
        msg = f"there is no process {pid}: Linux counts pids up to {_PID_LIMIT - 1}"
        raise ProcessGone(msg, hint=_LIST)
    return pid


def _how_permitted() -> str:
    """What to try; whoever is root already is not helped by sudo."""
    return _SUDO if os.geteuid() else _ROOT


def _target_of(link: str, directory: int) -> str | None:
    """What a link leads to; None if it has gone since the directory was listed."""
    try:
        return os.readlink(link, dir_fd=directory)
    except FileNotFoundError:
        return None


def _absent(pid: int) -> Exception:
    """The error for a pid without a directory: none there, or hidden by the hidepid mount option."""
    try:
        os.kill(pid, 0)  # signal 0 is a question, not a signal
    except PermissionError:
        return NotPermitted(f"process {pid} exists, and /proc hides it from you (hidepid)", hint=_how_permitted())
    except ProcessLookupError:
        return ProcessGone(f"there is no process {pid}", hint=_LIST)
    return ProcessGone(f"process {pid} is not in this /proc", hint="is /proc mounted for another pid namespace?")
