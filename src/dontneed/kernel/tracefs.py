"""tracefs: what tracepoints the kernel has, their numbers, and where in their records each field lies.

Found where it is mounted; where it is not, whoever may mount it opens one that is mounted nowhere: the file descriptor
is all there is of it, and goes with us.

Kernel:
    since 4.1, before it was a part of debugfs; Documentation/trace/ftrace.rst, events.rst. Opened without a mount by
    fsopen(2), since 5.2. Under lockdown=confidentiality nobody reads it.
"""

from __future__ import annotations

import errno
import os

from dontneed.kernel import libc
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PLACES = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOSE_ON_EXEC = 1
_CREATE = 6
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NOT_HERE = (errno.ENOENT, errno.ENOTDIR)


class Field(Record):
    """Where in a record of a tracepoint something lies: in bytes from its start."""

    offset: int
    size: int
    signed: bool


class Tracepoint(Record):
    """A place in the kernel that can be watched.

    Attributes:
        name: as `kmem:rss_stat`.
        number: by which perf_event_open(2) knows it.
        fields: by name; of an array only where it begins, with the size of the whole.
    """

    name: str
    number: int
    fields: dict[str, Field]


def read_tracepoints(names: Iterable[str]) -> dict[str, Tracepoint]:
    """Tracepoints by name; one that this kernel does not have is left out.

    Raises:
        OSError: there is no tracefs to be had; the name of the file is what was tried.
    """
    events = open_events()
    try:
        found = [_read_tracepoint(events, name) for name in names]
    finally:
        os.close(events)
    return {tracepoint.name: tracepoint for tracepoint in found if tracepoint is not None}


def parse_format(name: str, text: str) -> Tracepoint:
    """A tracepoint from the text of its `format` file.

    Raises:
        ValueError: the text is something else.
    """
    number, fields = None, {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(":")
        if key == "ID":
            number = int(value)
        elif key == "field":
            declaration, *rest = value.split(";")
            place = dict(part.strip().split(":") for part in rest if ":" in part)
            word = declaration.split()[-1].partition("[")[0]
            fields[word] = Field(int(place["offset"]), int(place["size"]), place["signed"] == "1")
    if number is None:
        msg = f"no number in the format of {name}"
        raise ValueError(msg)
    return Tracepoint(name, number, fields)


def open_events() -> int:
    """The directory of all tracepoints, as a file descriptor that the caller closes.

    Raises:
        OSError: as `read_tracepoints`.
    """
    refusal: OSError | None = None
    for place in _places():
        try:
            return os.open(f"{place}/events", _DIRECTORY)
        except OSError as error:  # noqa: PERF203 - of a handful of places
            if error.errno not in _NOT_HERE:
                refusal = refusal or error
    if refusal is not None:
        raise refusal
    return _open_unmounted()


def _places() -> list[str]:
    """Where tracefs may be mounted."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
        words = [line.split() for line in file]
    return list(dict.fromkeys([*_PLACES, *(mount[1] for mount in words if mount[2] == "tracefs")]))


def _open_unmounted() -> int:
    """The same in a tracefs that is mounted nowhere."""
    import ctypes

    call = "fsopen(tracefs), which is not mounted"
    name = ctypes.create_string_buffer(b"tracefs")
    context = libc.check(libc.syscall(_FSOPEN, ctypes.addressof(name), _CLOSE_ON_EXEC), call)
    try:
        libc.check(libc.syscall(_FSCONFIG, context, _CREATE, 0, 0, 0), call)
        root = libc.check(libc.syscall(_FSMOUNT, context, _CLOSE_ON_EXEC, 0), call)
    finally:
        os.close(context)
    try:
        return os.open("events", _DIRECTORY, dir_fd=root)
    finally:
        os.close(root)


def _read_tracepoint(events: int, name: str) -> Tracepoint | None:
    path = f"{name.replace(':', '/')}/format"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=events)
    except FileNotFoundError:
        return None
    except OSError as error:
        error.filename = f"events/{path} in tracefs"
        raise
    with open(fd, encoding="ascii", errors="replace") as file:
        return parse_format(name, file.read())
