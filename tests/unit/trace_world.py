"""Timelines and perf records that nobody recorded: events in a row, and the bytes that a kernel would have written."""

from __future__ import annotations

import struct

import numpy as np

from dontneed.abi import perf_event as perf
from dontneed.abi import trace_kinds as kinds
from dontneed.kernel.tracefs import Field, Tracepoint
from dontneed.observe.trace.timeline import Timeline

PAGE = 4096
PID = 100
MAPS = "10000000-10010000 rw-p 00000000 00:00 0 \n20000000-20002000 r--p 00000000 fe:00 7 /lib/a.so\n"
HELD, LIBRARY = 0x1000_0000, 0x2000_0000


def timeline_of(*events, maps=MAPS, rss=None, names=("", "[heap]"), threads=None, **changed):
    """A timeline of `(thread, kind, a, b, c, d)`, a microsecond apart; what is left out is 0."""
    rows = np.zeros(len(events), np.dtype(list(kinds.EVENT_FIELDS)))
    for nth, (thread, kind, *values) in enumerate(events):
        rows[nth]["time"], rows[nth]["thread"], rows[nth]["kind"] = 1_000_000 + 1000 * (nth + 1), thread, kind
        for column, value in zip("abcd", values, strict=False):
            rows[nth][column] = value % (1 << 64)
    fields = {
        "pid": PID,
        "command": "made up",
        "kernel": "6.18.0",
        "machine": "x86_64",
        "page_bytes": PAGE,
        "huge_pages": "never",
        "started": 1_000_000,
        "ended": 1_000_000 + 1000 * (len(events) + 1),
        "threads": threads or {PID: PID},
        "maps": maps,
        "rss": {"file": 0, "anonymous": 0, "swap": 0, "shmem": 0, **(rss or {})},
        "names": list(names),
        "lost": 0,
        "notes": (),
        "exit_code": None,
        "events": rows,
    }
    return Timeline(**{**fields, **changed})


def called(name, *arguments, thread=PID, result=0, between=()):
    """A call, what happens within it, and its return."""
    number = kinds.CALL_NUMBERS[name]
    more = [(thread, kinds.MORE, *arguments[3:6])] if kinds.ALL_CALLS[number][1] > 3 else []
    call = (thread, kinds.CALL, number, *arguments[:3])
    return [call, *more, *between, (thread, kinds.RETURN, number, result)]


def touched(address, *, write=True, thread=PID):
    """A fault of user space."""
    return (thread, kinds.FAULT, address, 0x40_0000, kinds.USER | (kinds.WRITE if write else 0))


def counted(counter, size, *, thread=PID, space=1, own=1):
    """A counter of RSS that has changed."""
    return (thread, kinds.RSS, counter, size, space, own)


# What the kernel writes


def tracepoint(name, number, **fields):
    """A tracepoint whose fields are 8 bytes each, or as many as said; they begin behind the common ones."""
    found, offset = {}, 8
    for field, size in fields.items():
        offset += -offset % min(size, 8)
        found[field] = Field(offset, size, signed=field in ("ret", "member"))
        offset += size
    return Tracepoint(name, number, found)


def sample(point, time, *values, thread=PID, cpu=0):
    """A record of a tracepoint."""
    size = max((field.offset + field.size for field in point.fields.values()), default=8)
    raw = bytearray(size + -(size + 4) % 8)
    struct.pack_into("<H", raw, 0, point.number)
    for field, value in zip(point.fields.values(), values, strict=False):
        if isinstance(value, tuple):
            struct.pack_into(f"<{len(value)}Q", raw, field.offset, *value)
        else:
            raw[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little", signed=value < 0)
    body = struct.pack("<IIQIII", PID, thread, time, cpu, 0, len(raw)) + raw
    return record(perf.SAMPLE, body)


def side(kind, body, time, *, flags=0, thread=PID, cpu=0):
    """A record that is no sample."""
    padded = body + b"\0" * (-len(body) % 8)
    return record(kind, padded + perf.SAMPLE_TAIL.pack(PID, thread, time, cpu, 0), flags)


def record(kind, body, flags=0):
    """A record with its head."""
    return perf.RECORD_HEAD.pack(kind, flags, perf.RECORD_HEAD.size + len(body)) + body
