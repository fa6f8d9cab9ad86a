"""Formats of tracepoints as tracefs prints them, and records as the kernel writes them: decoded in bulk."""

from __future__ import annotations

import pytest

from dontneed.abi import perf_event as perf
from dontneed.abi import trace_kinds as kinds
from dontneed.errors import DontneedError
from dontneed.kernel.perf import default_ring_bytes, parse_cpus, ring_bytes_for
from dontneed.kernel.perf_records import Records
from dontneed.kernel.tracefs import Field, parse_format
from dontneed.observe.trace.decode import ENTER, FLUSH, LEAVE, RSS_STAT, USER_FAULT, Decoder
from dontneed.units import MIB

from .trace_world import PID, record, sample, side, tracepoint

FORMAT = """name: rss_stat
ID: 646
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned int mm_id;\toffset:8;\tsize:4;\tsigned:0;
\tfield:int member;\toffset:16;\tsize:4;\tsigned:1;
\tfield:long size;\toffset:24;\tsize:8;\tsigned:1;
\tfield:unsigned long args[6];\toffset:32;\tsize:48;\tsigned:0;

print fmt: "mm_id=%u field:x; offset:1", REC->mm_id
"""

POINTS = {
    point.name: point
    for point in (
        tracepoint(ENTER, 1, id=8, args=48),
        tracepoint(LEAVE, 2, id=8, ret=8),
        tracepoint(USER_FAULT, 3, address=8, ip=8, error_code=8),
        tracepoint(RSS_STAT, 4, mm_id=4, curr=4, member=4, size=8),
        tracepoint(FLUSH, 5, reason=4, pages=8),
    )
}
MMAP = kinds.CALL_NUMBERS["mmap"]


def rows(events):
    """Kind, a, b, c, d of each event."""
    return [(int(row["kind"]), *(int(row[column]) for column in "abcd")) for row in events]


def test_a_format_tells_where_each_field_lies():
    """Arrays by their name and whole size; the line with the text to print holds words alike, and is none."""
    point = parse_format("kmem:rss_stat", FORMAT)
    assert point.number == 646
    assert point.fields["mm_id"] == Field(8, 4, signed=False)
    assert point.fields["member"] == Field(16, 4, signed=True)
    assert point.fields["args"] == Field(32, 48, signed=False)
    assert set(point.fields) == {"common_type", "common_pid", "mm_id", "member", "size", "args"}
    with pytest.raises(ValueError, match="no number"):
        parse_format("kmem:rss_stat", "")


def test_samples_of_all_kinds_become_events_in_their_order():
    """Fields of four and of eight bytes, signed ones, and a call with six arguments, the latter three behind it."""
    data = b"".join(
        [
            sample(POINTS[ENTER], 10, MMAP, (1, 2, 3, 4, 5, 6), thread=7),
            sample(POINTS[RSS_STAT], 11, 99, 1, 1, 8192, thread=7),
            sample(POINTS[LEAVE], 12, MMAP, -12, thread=7),
            sample(POINTS[ENTER], 13, kinds.CALL_NUMBERS["munmap"], (8, 9, 0, 0, 0, 0), thread=7),
            sample(POINTS[USER_FAULT], 14, 0x7FFF_0000_0000, 5, 6, thread=8),
            sample(POINTS[FLUSH], 15, 3, (1 << 64) - 1, thread=8),
        ]
    )
    events = Decoder(POINTS).decode(data, cpu=3)
    assert rows(events) == [
        (kinds.CALL, MMAP, 1, 2, 3),
        (kinds.MORE, 4, 5, 6, 0),
        (kinds.RSS, 1, 8192, 99, 1),
        (kinds.RETURN, MMAP, (1 << 64) - 12, 0, 0),
        (kinds.CALL, kinds.CALL_NUMBERS["munmap"], 8, 9, 0),
        (kinds.FAULT, 0x7FFF_0000_0000, 5, 6, 0),
        (kinds.TLB_FLUSH, 3, (1 << 64) - 1, 0, 0),
    ]
    assert events["time"].tolist() == [10, 10, 11, 12, 13, 14, 15]
    assert events["thread"].tolist() == [7] * 5 + [8] * 2
    assert set(events["cpu"].tolist()) == {3}


def test_mappings_forks_execs_exits_and_losses_become_events_too():
    """With their names; a new name of a program that is no exec, and a record of a kind unknown, are left out."""
    body = perf.MAPPED_BODY.pack(PID, PID, 0x1000, 0x2000, 0x3000, 5, 2)
    data = b"".join(
        [
            side(perf.MAPPED_2, body + b"/lib/a.so\0", 1),
            side(perf.MAPPED_2, body + b"//anon\0", 2),
            side(perf.FORKED, perf.TASK_BODY.pack(200, PID, 201, PID) + bytes(8), 3),
            side(perf.COMMAND, b"\x64\0\0\0\x64\0\0\0program\0", 4, flags=perf.IS_EXEC),
            side(perf.COMMAND, b"\x64\0\0\0\x64\0\0\0renamed\0", 5),
            record(77, bytes(40)),
            side(perf.EXITED, perf.TASK_BODY.pack(200, PID, 201, PID) + bytes(8), 6, thread=201),
            side(perf.LOST, perf.LOST_BODY.pack(1, 12), 7),
            side(perf.LOST_SAMPLES, (30).to_bytes(8, "little"), 8),
        ]
    )
    decoder = Decoder(POINTS)
    events = decoder.decode(data)
    assert decoder.names == ["/lib/a.so", "", "program"]
    assert decoder.lost == 42
    assert rows(events) == [
        (kinds.MAPPING, 0x1000, 0x2000, 0x3000, kinds.mapping_word(0, 5, 2)),
        (kinds.MAPPING, 0x1000, 0x2000, 0x3000, kinds.mapping_word(1, 5, 2)),
        (kinds.FORK, 201, 200, PID, PID),
        (kinds.EXEC, PID, 2, 0, 0),
        (kinds.EXIT, 200, 0, 0, 0),
        (kinds.LOST, 12, 0, 0, 0),
        (kinds.LOST, 30, 0, 0, 0),
    ]
    assert kinds.mapping_parts(kinds.mapping_word(1 << 20, 7, 0x20022)) == (1 << 20, 7, 0x20022)


def test_no_records_are_no_events():
    """As an idle CPU has them."""
    assert len(Decoder(POINTS).decode(b"")) == 0


def test_a_record_without_a_size_is_no_endless_loop():
    """A ring that holds nonsense is told, not read for ever."""
    with pytest.raises(DontneedError, match="record of 0 bytes"):
        Records(bytes(16))


def test_rings_are_powers_of_two_and_share_what_is_allowed():
    """The kernel takes no other sizes; a machine of many CPUs has small ones."""
    assert ring_bytes_for(1) == 4096
    assert ring_bytes_for(5 * MIB) == 8 * MIB
    assert default_ring_bytes(2) == 32 * MIB
    assert default_ring_bytes(64) == 4 * MIB
    assert default_ring_bytes(4096) == MIB
    assert parse_cpus("0-3,8,10-11\n") == [0, 1, 2, 3, 8, 10, 11]
