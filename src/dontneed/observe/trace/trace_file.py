"""A timeline in a file: a line of JSON that says what it is, then the bytes of its events, little endian.

Written beside its place and renamed when it is whole, so that nobody ever reads half of one.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile

from dontneed.abi.trace_kinds import COUNTERS, EVENT_BYTES, EVENT_FIELDS, KINDS, MAPPING, MOST_BYTES, RSS
from dontneed.errors import DontneedError, NotPermitted, UsageError
from dontneed.kernel.maps import parse_maps
from dontneed.observe.trace.timeline import Timeline
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

    from numpy.typing import NDArray

SCHEMA = 1
_FORMAT = "dontneed trace"
_CLOCK = "CLOCK_MONOTONIC"
_LONGEST_HEADER = 1 << 28
_MOST = 1 << 63
"""Numbers of the first line are below it: more than any clock, size or count of the kernel comes to."""
_MACHINE = "x86_64"
_HUGE_PAGES = ("always", "madvise", "never", None)
_HINT = "dontneed trace --output FILE writes one"
_ROOM = "is there room, and the directory?"
_NUMBERS = ("pid", "page_bytes", "started", "ended", "lost")
_WORDS = ("command", "kernel", "machine", "maps")


def write_trace(path: str, timeline: Timeline) -> None:
    """Keep a timeline; a file that is there already is replaced when the new one is whole.

    Raises:
        NotPermitted, DontneedError: it cannot be written there; nothing is left behind.
        BrokenPipeError: it is a pipe, and whoever read from it has ended.
    """
    header = {
        "format": _FORMAT,
        "schema": SCHEMA,
        "clock": _CLOCK,
        **{field: getattr(timeline, field) for field in Timeline._fields if field != "events"},
        "event_bytes": EVENT_BYTES,
        "events": len(timeline.events),
    }
    line = json.dumps(header, separators=(",", ":")).encode("ascii") + b"\n"
    try:
        if _is_special(path):
            with open(path, "wb") as file:
                file.write(line)
                file.write(timeline.events.tobytes())
        else:
            _write_whole(os.path.realpath(path), line, timeline.events)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _not_written(path, error) from None


def check_place(path: str) -> None:
    """Raise if a trace could not be kept there, as far as that can be known before there is one.

    Raises:
        NotPermitted, DontneedError: as `write_trace`.
    """
    if not path or os.path.isdir(path):
        number = errno.EISDIR if path else errno.ENOENT
        raise _not_written(path, OSError(number, os.strerror(number)))
    try:
        if not _is_special(path):
            fd, beside = _begin_beside(os.path.realpath(path))
            os.close(fd)
            os.unlink(beside)
    except OSError as error:
        raise _not_written(path, error) from None


def _is_special(path: str) -> bool:
    """Whether it is there and takes what is written to it: a pipe, /dev/stdout."""
    return os.path.exists(path) and not os.path.isfile(path)


def _not_written(path: str, error: OSError) -> DontneedError:
    if isinstance(error, PermissionError):
        return NotPermitted(f"not permitted to write {path}: {error.strerror}")
    return DontneedError(f"cannot write {path or 'to a file without a name'}: {error.strerror}", hint=_ROOM)


def _begin_beside(path: str) -> tuple[int, str]:
    """A new file in the directory of another one: its descriptor and its path."""
    return tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))


def _write_whole(path: str, line: bytes, events: NDArray[Any]) -> None:
    fd, beside = _begin_beside(path)
    try:
        with open(fd, "wb") as file:
            file.write(line)
            file.write(events.tobytes())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(beside, 0o666 & ~mask)
        os.replace(beside, path)
    except BaseException:  # whatever it was, Ctrl-C too, no half of a file is left
        os.unlink(beside)
        raise


def read_trace(path: str) -> Timeline:
    """A timeline from a file.

    Raises:
        UsageError: there is none, or it is something else, cut off, newer, or of another architecture.
        NotPermitted: it may not be read.
    """
    try:
        with open(path, "rb") as file:
            header = _read_header(path, file)
            timeline = _checked(path, header)
            events = _read_events(path, file, header["events"])
    except PermissionError as error:
        msg = f"not permitted to read {path}: {error.strerror}"
        raise NotPermitted(msg) from None
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise UsageError(msg, hint=_HINT) from None
    if len(events) and events["time"][0] < timeline.started:
        raise _bad(path, "event 0 comes before the start that line 1 has")
    _check_events(path, events, len(timeline.names))
    return timeline.replace(events=events)


def _read_header(path: str, file: BinaryIO) -> dict[str, Any]:
    line = file.readline(_LONGEST_HEADER)
    if not line:
        raise _bad(path, "it is empty")
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        raise _bad(path, "its first line is no JSON") from None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise _bad(path, f"its first line does not say that it is a {_FORMAT!r}")
    if header.get("schema") != SCHEMA:
        msg = f"{path} is a trace of schema {header.get('schema')}, and schema {SCHEMA} is what I read"
        raise UsageError(msg, hint="trace again with this version, or read it with the one that wrote it")
    return header


def _checked(path: str, header: dict[str, Any]) -> Timeline:
    """The timeline of a header, still without events."""
    for field in (*Timeline._fields, "event_bytes", "clock"):
        if field not in header:
            raise _bad(path, f"line 1 has no {field!r}")
    _check_types(path, header)
    _check_maps(path, header["maps"])
    if header["machine"] != _MACHINE:
        msg = f"{path} was traced on {header['machine']}, where system calls and faults have other numbers"
        raise UsageError(msg, hint=f"traces of {_MACHINE} can be read")
    if header["event_bytes"] != EVENT_BYTES or header["clock"] != _CLOCK:
        raise _bad(path, f"line 1: its events have {header['event_bytes']} bytes, by {header['clock']}")
    if header["page_bytes"] != PAGE_BYTES:
        raise _bad(path, f"line 1: pages of {header['page_bytes']} bytes, which {_MACHINE} does not have")
    if header["huge_pages"] not in _HUGE_PAGES:
        raise _bad(path, f"line 1: 'huge_pages' is {header['huge_pages']!r} and no word for them")
    if header["ended"] < header["started"]:
        raise _bad(path, "line 1: it ended before it started")
    try:
        return _timeline_of(header)
    except (ValueError, TypeError, AttributeError):
        raise _bad(path, "line 1: 'threads', 'rss', 'names', 'notes' or another field holds something else") from None


def _check_types(path: str, header: dict[str, Any]) -> None:
    for field in (*_NUMBERS, "events"):
        value = header[field]
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST:
            raise _bad(path, f"line 1: {field!r} is {value!r} and no count")
    for field in _WORDS:
        if not isinstance(header[field], str):
            raise _bad(path, f"line 1: {field!r} is {header[field]!r} and no text")


def _check_maps(path: str, maps: str) -> None:
    try:
        table = parse_maps(maps.encode("utf-8", "surrogateescape"))
        for row in range(len(table)):
            table.words(row)
    except (ValueError, IndexError):
        raise _bad(path, "line 1: 'maps' is not what /proc/PID/maps says") from None


def _timeline_of(header: dict[str, Any]) -> Timeline:
    fields = {field: header[field] for field in Timeline._fields}
    fields["threads"] = {_count(int(thread)): _count(pid) for thread, pid in header["threads"].items()}
    fields["rss"] = {name: _count(header["rss"].get(name, 0)) for name in COUNTERS}
    fields["names"] = [_text(name) for name in header["names"]]
    fields["notes"] = tuple(_text(note) for note in header["notes"])
    fields["exit_code"] = None if header["exit_code"] is None else int(header["exit_code"])
    return Timeline(**fields)


def _count(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < _MOST:
        raise ValueError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _read_events(path: str, file: BinaryIO, count: int) -> NDArray[Any]:
    import numpy as np

    begin = file.tell()
    data = file.read()
    if len(data) != count * EVENT_BYTES:
        whole = f"{count} events, {count * EVENT_BYTES} bytes, are promised behind byte {begin}"
        raise _bad(path, f"{whole}, and there are {len(data)}: cut off, or added to")
    return np.frombuffer(data, np.dtype(list(EVENT_FIELDS)))


def _check_events(path: str, events: NDArray[Any], names: int) -> None:
    import numpy as np

    if not len(events):
        return
    unknown = np.flatnonzero((events["kind"] < KINDS[0]) | (events["kind"] > KINDS[-1]))
    if len(unknown):
        raise _bad(path, f"event {unknown[0]} is of kind {events['kind'][unknown[0]]}, which there is not")
    back = np.flatnonzero(events["time"][1:] < events["time"][:-1])
    if len(back):
        raise _bad(path, f"event {back[0] + 1} comes before the one in front of it")
    nameless = np.flatnonzero((events["kind"] == MAPPING) & ((events["d"] & np.uint64((1 << 32) - 1)) >= names))
    if len(nameless):
        raise _bad(path, f"event {nameless[0]} has a name that line 1 does not have")
    counted = events["b"].astype(np.int64)
    wild = np.flatnonzero((events["kind"] == RSS) & ((counted >= MOST_BYTES) | (counted <= -MOST_BYTES)))
    if len(wild):
        raise _bad(path, f"event {wild[0]} counts more memory than can be mapped")


def _bad(path: str, why: str) -> UsageError:
    return UsageError(f"{path} is no trace: {why}", hint=_HINT)
