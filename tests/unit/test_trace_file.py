"""A trace in a file: the same when it is read; and for each way in which a file is bad, what is wrong with it."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from dontneed.abi import trace_kinds as kinds
from dontneed.errors import DontneedError, UsageError
from dontneed.observe.trace.trace_file import check_place, read_trace, write_trace

from .trace_world import HELD, PAGE, PID, called, timeline_of, touched


@pytest.fixture
def kept(tmp_path):
    """A file that is good."""
    path = tmp_path / "trace"
    mapping = (PID, kinds.MAPPING, HELD, PAGE, 0, kinds.mapping_word(1, 3, 2))
    timeline = timeline_of(*called("munmap", HELD, PAGE), touched(HELD), mapping, names=("", "a\udcffb"), exit_code=0)
    write_trace(str(path), timeline)
    return path, timeline


def changed(path, **fields):
    """The file with some fields of its first line changed; None takes one away."""
    line, _, rest = path.read_bytes().partition(b"\n")
    header = {**json.loads(line), **fields}
    header = {name: value for name, value in header.items() if value is not ...}
    path.write_bytes(json.dumps(header).encode() + b"\n" + rest)
    return str(path)


def test_what_was_written_is_read(kept):
    """Every field, names that are no UTF-8 among them."""
    path, timeline = kept
    read = read_trace(str(path))
    assert {**read.as_dict(), "events": None} == {**timeline.as_dict(), "events": None}
    assert read.events.tobytes() == timeline.events.tobytes()


def test_a_file_is_replaced_when_the_new_one_is_whole_and_nothing_else_remains(kept, monkeypatch):
    """A disk that is full leaves the old file, and no rest of the new one."""
    path, timeline = kept
    before = path.read_bytes()

    def refuse(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DontneedError, match="No space left"):
        write_trace(str(path), timeline)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["trace"]
    with pytest.raises(DontneedError, match="No such file"):
        write_trace(str(path.parent / "none" / "trace"), timeline)


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(kept):
    """`latest` may point to another disk, where there is room."""
    path, timeline = kept
    latest = path.parent / "latest"
    latest.symlink_to(path)
    write_trace(str(latest), timeline.replace(lost=7))
    assert latest.is_symlink()
    assert read_trace(str(path)).lost == 7


def test_a_reader_of_a_pipe_that_has_seen_enough_is_no_trouble_of_the_disk(kept):
    """The command ends without a word then, as with `| head`."""
    reads, writes = os.pipe()
    os.close(reads)
    with pytest.raises(BrokenPipeError):
        write_trace(f"/dev/fd/{writes}", kept[1])
    os.close(writes)


def test_a_place_that_takes_no_trace_is_known_before_there_is_one(tmp_path):
    """And to ask changes nothing: a file that is there stays, and none is made."""
    there = tmp_path / "there"
    there.write_bytes(b"old")
    for good in (there, tmp_path / "new", "/dev/null"):
        check_place(str(good))
    for bad, words in ((tmp_path, "Is a directory"), (tmp_path / "none" / "x", "No such file"), ("", "without a name")):
        with pytest.raises(DontneedError, match=words):
            check_place(str(bad))
    assert [each.name for each in tmp_path.iterdir()] == ["there"]
    assert there.read_bytes() == b"old"


def test_a_file_of_something_else_is_refused_with_what_is_wrong(tmp_path):
    """None there, empty, a directory, text, other JSON."""
    with pytest.raises(UsageError, match="No such file"):
        read_trace(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="Is a directory"):
        read_trace(str(tmp_path))
    path = tmp_path / "other"
    for data, words in (
        (b"", "empty"),
        (b"\x7fELF\0\0", "no JSON"),
        (b"[1]\n", "does not say"),
        (b"{}\n", "does not say"),
        (b"[" * 100_000, "no JSON"),
    ):
        path.write_bytes(data)
        with pytest.raises(UsageError, match=words) as refused:
            read_trace(str(path))
        assert "--output" in refused.value.hint


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema": 2}, "schema 2, and schema 1 is what I read"),
        ({"machine": "aarch64"}, "traced on aarch64"),
        ({"event_bytes": 56}, "56 bytes"),
        ({"clock": "CLOCK_REALTIME"}, "CLOCK_REALTIME"),
        ({"lost": ...}, "no 'lost'"),
        ({"pid": "x"}, "'pid' is 'x' and no count"),
        ({"pid": True}, "no count"),
        ({"started": -1}, "no count"),
        ({"maps": 5}, "no text"),
        ({"maps": "what?"}, "'maps' is not what"),
        ({"maps": "10000-20000 rw-p zero"}, "'maps' is not what"),
        ({"ended": 1}, "ended before it started"),
        ({"started": 1 << 70, "ended": 1 << 70}, "no count"),
        ({"started": 1_001_500}, "event 0 comes before the start"),
        ({"page_bytes": 65536}, "pages of 65536 bytes"),
        ({"huge_pages": "perhaps"}, "'huge_pages' is 'perhaps'"),
        ({"huge_pages": []}, "'huge_pages'"),
        ({"rss": {"file": 1 << 70}}, "line 1"),
        ({"rss": {"file": -5}}, "line 1"),
        ({"threads": {"1": 1 << 70}}, "line 1"),
        ({"threads": [1]}, "line 1"),
        ({"rss": 7}, "line 1"),
        ({"names": [1]}, "line 1"),
        ({"names": [""]}, "event 3 has a name that line 1 does not have"),
        ({"events": 3}, "144 bytes, are promised"),
    ],
)
def test_a_first_line_that_is_wrong_is_refused_with_what_is_wrong(kept, fields, words):
    """Field by field, and never by a traceback."""
    with pytest.raises(UsageError, match=words):
        read_trace(changed(kept[0], **fields))


def test_events_that_are_wrong_are_refused_with_their_number(kept):
    """Cut off, of a kind that there is not, out of order."""
    path, timeline = kept
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(UsageError, match="cut off"):
        read_trace(str(path))
    for column, value, words in (("kind", 77, "event 2 is of kind 77"), ("time", 5, "event 2 comes before")):
        events = timeline.events.copy()
        events[column][2] = value
        write_trace(str(path), timeline.replace(events=events))
        with pytest.raises(UsageError, match=words):
            read_trace(str(path))


def test_a_count_of_more_memory_than_there_can_be_is_refused(kept):
    """A little below nothing is what the kernel may say while several CPUs count; what overflows is no count."""
    path, timeline = kept
    for value, is_wild in ((-4096, False), (1 << 62, True), (-1 << 63, True)):
        events = timeline.events.copy()
        events["kind"][2] = kinds.RSS
        events["b"][2] = np.int64(value).view(np.uint64)
        write_trace(str(path), timeline.replace(events=events))
        if not is_wild:
            read_trace(str(path))
            continue
        with pytest.raises(UsageError, match="event 2 counts more memory"):
            read_trace(str(path))
