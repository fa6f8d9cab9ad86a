"""Settings of the whole machine that are changed for a while: each by one of us at a time, and as it was afterwards.

A lock (flock) on the setting's own file keeps two who know of it apart; it goes with its holder, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager

from dontneed.errors import DontneedError, KernelLacks, NotPermitted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PATIENCE_SECONDS = 60.0
_GLANCE_SECONDS = 0.05


@contextmanager
def held_lock(path: str) -> Iterator[None]:
    """Hold the lock on a setting; everyone may who may read its file.

    Raises:
        DontneedError: somebody else holds it for longer than anyone needs it.
        KernelLacks, NotPermitted: there is no such file, or it is closed to us.
    """
    with _explained(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _lock(fd, path)
        yield
    finally:
        os.close(fd)


def read_setting(path: str) -> str:
    """The text of a setting, without the line's end.

    Raises:
        KernelLacks, NotPermitted: there is no such file, or it is closed to us.
    """
    with _explained(path), open(path, encoding="ascii") as file:
        return file.read().strip()


def write_setting(path: str, value: str | int) -> None:
    """Change a setting.

    Raises:
        KernelLacks, NotPermitted: there is no such file, or it is closed to us.
        OSError: the kernel does not take this value.
    """
    with _explained(path), open(path, "w", encoding="ascii") as file:
        file.write(str(value))


@contextmanager
def changed_settings(settings: dict[str, int]) -> Iterator[None]:
    """Have settings at other values for the time of a `with` block.

    Raises:
        KernelLacks, NotPermitted: as `write_setting`; what was changed before is as it was.
    """
    before: dict[str, str] = {}
    try:
        for path, value in settings.items():
            before[path] = read_setting(path)
            write_setting(path, value)
        yield
    finally:
        for path, text in reversed(before.items()):
            if read_setting(path) != text:  # what could not be changed needs no second refusal
                write_setting(path, text)


def _lock(fd: int, path: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not _try_lock(fd):
        if time.monotonic() > deadline:
            msg = f"another lab has had {path} for a minute"
            raise DontneedError(msg, hint="`lsof` says who; is it stopped?")
        time.sleep(_GLANCE_SECONDS)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        msg = f"there is no {path}"
        raise KernelLacks(msg, hint="a kernel built without it, or a container that hides it") from None
    except PermissionError:
        msg = f"not permitted to change {path}"
        raise NotPermitted(msg, hint="run as root (sudo)") from None
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        msg = f"{path} is mounted read-only"
        raise NotPermitted(
            msg, hint="a container that keeps the machine's settings from you; run outside of it"
        ) from None
