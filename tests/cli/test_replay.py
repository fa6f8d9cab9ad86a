"""`dontneed replay` as it is called: what it prints of a trace that was kept, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from dontneed.abi import mman
from dontneed.abi import trace_kinds as kinds
from dontneed.cli.main import main
from dontneed.observe.trace.trace_file import write_trace

from ..unit.trace_world import (  # noqa: TID252 - tests are no package that is on the path
    HELD,
    PAGE,
    PID,
    called,
    counted,
    timeline_of,
    touched,
)

GOLDEN = Path(__file__).parent / "golden"
LONGEST_LINE = 120
HUGE = 2 << 20
START = 0x4000_0000
CHILD = 200


def timeline():
    """A program that fills 2 MiB, gives half of it up, and wants some of that again."""
    how = mman.MAP_ANONYMOUS | 2
    record = (PID, kinds.MAPPING, START, HUGE, 0, kinds.mapping_word(0, 3, how))
    events = [(PID, kinds.EXEC, PID, 1)]
    events += called("mmap", 0, HUGE, 3, how, -1, 0, result=START, between=[record])
    for page in range(512):
        events += [touched(START + page * PAGE), counted(kinds.ANONYMOUS, (page + 1) * PAGE)]
    dropped = counted(kinds.ANONYMOUS, 256 * PAGE)
    events += called("madvise", START, HUGE // 2, 4, between=[dropped])
    for page in range(20):
        events += [touched(START + page * PAGE), counted(kinds.ANONYMOUS, (257 + page) * PAGE)]
    events += called("madvise", START, HUGE, 8)
    events += [(PID, kinds.FORK, CHILD, CHILD, PID, PID), touched(HELD)]
    return timeline_of(*events, maps="", names=("", "job"), command="job")


@pytest.fixture
def kept(tmp_path):
    """The file of that program's trace."""
    path = tmp_path / "job.trace"
    write_trace(str(path), timeline())
    return str(path)


def assert_golden(name, printed):
    """Compare with what was printed when someone last looked at it; DONTNEED_RENEW_GOLDEN=1 writes it anew."""
    path = GOLDEN / name
    if os.environ.get("DONTNEED_RENEW_GOLDEN") == "1":
        path.write_text(printed, encoding="utf-8")
    assert printed == path.read_text(encoding="utf-8")


def test_the_text_has_the_error_rss_over_time_and_what_madvise_did(kept, capsys):
    """As someone looked at it."""
    assert main(["replay", kept]) == 0
    printed = capsys.readouterr().out
    assert_golden("replay.txt", printed)
    assert max(map(len, printed.splitlines())) <= LONGEST_LINE


def test_a_what_if_stands_beside_what_was_and_what_is_predicted(kept, capsys):
    """With what it cannot know."""
    assert main(["replay", kept, "--thp", "on", "--kernel", "2.6.38"]) == 0
    printed = capsys.readouterr().out
    assert_golden("replay-what-if.txt", printed)
    assert max(map(len, printed.splitlines())) <= LONGEST_LINE


def test_json_has_sizes_in_bytes_and_the_same_numbers(kept, capsys):
    """Of the prediction, of the what-if, and of what the trace says."""
    assert main(["replay", kept, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["pid"], document["faults"]) == (1, PID, 533)
    assert document["what_if"] is None
    assert document["mean_error"] == 0
    assert document["peak_rss_bytes"] == document["predicted"]["peak_rss_bytes"] == HUGE
    assert len(document["rss_bytes"]) == len(document["predicted"]["rss_bytes"]) == 64
    drop, free = document["predicted"]["advices"]
    assert (drop["name"], drop["zapped_bytes"], drop["refaults"]) == ("DONTNEED", HUGE // 2, 20)
    assert drop["traced"]["zapped_bytes"] == HUGE // 2
    assert (free["name"], free["lazy_bytes"]) == ("FREE", 276 * PAGE)

    assert main(["replay", kept, "--json", "--thp", "on"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["predicted"]["huge_pages"] == "never"
    what_if = document["what_if"]
    assert (what_if["huge_pages"], what_if["huge_faults"], what_if["peak_rss_bytes"]) == ("always", 1, HUGE)


def test_of_many_calls_those_that_did_most_are_listed(tmp_path, capsys):
    """--top says how many; the sums by advice are of all."""
    events = [touched(HELD), counted(kinds.ANONYMOUS, PAGE)]
    for nth in range(5):
        events += [touched(HELD + page * PAGE) for page in range(nth + 1)]
        events += [counted(kinds.ANONYMOUS, (nth + 1) * PAGE)]
        events += called("madvise", HELD, 16 * PAGE, 4, between=[counted(kinds.ANONYMOUS, 0)])
    path = str(tmp_path / "trace")
    write_trace(path, timeline_of(*events))
    assert main(["replay", path, "--top", "2"]) == 0
    printed = capsys.readouterr().out
    assert "and 3 more that did less: --top 0 shows all" in printed
    assert printed.count("DONTNEED") == 3
    assert main(["replay", path, "--top", "0"]) == 0
    assert capsys.readouterr().out.count("DONTNEED") == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kernel", "2.4.0"), "no model of Linux 2.4.0"),
        (("--kernel", "six"), "no model of Linux six"),
        (("--pid", "77"), "no process 77"),
        (("--pid", "x"), "a pid is a number"),
        (("--top", "-1"), "no number of calls"),
    ],
)
def test_a_call_that_is_wrong_is_refused(kept, capsys, words, said):
    """Exit code 2, a sentence, and what to try."""
    assert main(["replay", kept, *words]) == 2
    refused = capsys.readouterr().err
    assert said in refused
    assert "try: " in refused


def test_a_file_that_is_no_trace_or_of_another_machine_is_refused(kept, tmp_path, capsys):
    """It is said what is wrong with it."""
    other = tmp_path / "other"
    for data, said in (
        (b"", "it is empty"),
        (b"#!/bin/sh\n", "no JSON"),
        (Path(kept).read_bytes()[:-1], "cut off"),
        (Path(kept).read_bytes().replace(b'"x86_64"', b'"aarch64"'), "traced on aarch64"),
    ):
        other.write_bytes(data)
        assert main(["replay", str(other)]) == 2
        assert said in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_trace_that_counts_nothing_is_refused(tmp_path, capsys):
    """There is nothing to compare with."""
    path = str(tmp_path / "trace")
    write_trace(path, timeline_of(touched(HELD)))
    assert main(["replay", path]) == 2
    assert "nothing to compare with" in capsys.readouterr().err


def test_nobody_may_replay(kept, as_nobody):
    """It takes no rights: a file that may be read."""
    Path(kept).chmod(0o644)
    for directory in Path(kept).parents[:3]:
        if directory.stat().st_uid == os.getuid() and directory.name.startswith(("pytest-", "test_")):
            directory.chmod(0o755)
    done = as_nobody.command("replay", kept)
    assert done.returncode == 0, done.stderr
    assert "RSS is predicted" in done.stdout


def test_show_code_prints_what_does_the_same(kept, capsys):
    """It runs."""
    assert main(["replay", kept, "--show-code", "--thp", "off", "--kernel", "6.1", "--pid", str(PID)]) == 0
    code = capsys.readouterr().out
    assert "kernel='6.1', huge_pages='never', pid=100" in code
    exec(compile(code, "shown", "exec"), {})  # noqa: S102 - it is ours
    assert str(HUGE) in capsys.readouterr().out


def test_events_that_make_no_sense_are_no_traceback(tmp_path, capsys):
    """Numbers of a file that someone has scribbled in: refused, or replayed as far as they go."""
    chance = np.random.default_rng(7)
    path = str(tmp_path / "trace")
    for _ in range(40):
        events = timeline().events.copy()
        for row in chance.integers(0, len(events), 30):
            column = ("a", "b", "c", "d", "kind")[chance.integers(5)]
            value = chance.integers(1, 14) if column == "kind" else chance.integers(0, 1 << 63, dtype=np.uint64)
            events[column][row] = value
        write_trace(path, timeline().replace(events=events))
        assert main(["replay", path, "--thp", "on"]) in (0, 2)
        capsys.readouterr()


def test_of_many_processes_those_with_most_faults_are_named_and_the_rest_counted(tmp_path, capsys):
    """So that nobody takes ten for all."""
    path = str(tmp_path / "trace")
    write_trace(
        path,
        timeline_of(
            *(touched(HELD, thread=PID + nth) for nth in range(12)), threads={PID + nth: PID + nth for nth in range(12)}
        ),
    )
    assert main(["replay", path, "--pid", "7"]) == 2
    assert "and 2 more" in capsys.readouterr().err
