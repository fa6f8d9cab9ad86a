"""`dontneed wss` as it is called: what it prints, how it ends, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from dontneed.cli.main import main

PATIENCE_SECONDS = 60
HELD = """if True:
    import mmap
    held = mmap.mmap(-1, 8 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held[:] = b"x" * len(held)
"""
writes_can_be_watched = (
    pytest.mark.needs_feature("userfaultfd write watch"),
    pytest.mark.needs_feature("pidfd_getfd"),
    pytest.mark.needs_feature("ptrace"),
)


def command(*words):
    """Run `dontneed wss` in a process of its own."""
    argv = [sys.executable, "-m", "dontneed", "wss", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)


def test_the_text_has_bounds_rows_method_and_known_error(child):
    """In this order, whatever the user may."""
    done = command(child(HELD).pid, "--seconds", "0.1", "--top", "3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert " used at least, " in lines[0]
    assert lines[2].split()[:3] == ["USED", "AT", "MOST"]
    assert lines[6].startswith("… ")
    assert lines[8].startswith(("method tables: page tables, ", "method smaps: smaps; "))
    assert lines[9].startswith("known error: at least: ")
    assert "nothing of it was changed" in lines[8]
    assert done.stderr == ""


@pytest.mark.parametrize("method", ["auto", "smaps", "accessed", pytest.param("written", marks=writes_can_be_watched)])
def test_json_has_every_mapping(child, method):
    """Sizes in bytes, addresses as integers; whether anything was disturbed."""
    done = command(child(HELD).pid, "--seconds", "0.1", "--method", method, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    assert document["method"] == method or method == "auto"
    assert document["disturbed"] is (method in ("accessed", "written"))
    assert document["seconds"] >= 0.1
    assert document["known_error"]
    rows = document["mappings"]
    assert document["total"]["rss_bytes"] == sum(row["rss_bytes"] for row in rows) >= 8 << 20
    assert [row["start"] for row in rows] == sorted(row["start"] for row in rows)
    for row in rows:
        assert row["at_most_bytes"] is None or row["touched_bytes"] <= row["at_most_bytes"]


@pytest.mark.parametrize("method", ["auto", "smaps", pytest.param("written", marks=writes_can_be_watched)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_early_with_what_is_known(child, method, number):
    """Exit code 0, and the seconds that it really was."""
    target = child(HELD)
    argv = [sys.executable, "-m", "dontneed", "wss", str(target.pid), "--seconds", "1000", "--method", method, "--json"]
    with started(argv) as process:
        _await_watching(process.pid, target.pid, method)
        process.send_signal(number)
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert json.loads(said)["seconds"] < 900
    assert " uw" not in Path(f"/proc/{target.pid}/smaps").read_text()


@pytest.mark.parametrize("method", ["auto", "smaps", pytest.param("written", marks=writes_can_be_watched)])
def test_nobody_is_watched_who_has_ended(child, method):
    """It is said at once: exit code 5, and a sentence."""
    target = child(HELD)
    argv = [sys.executable, "-m", "dontneed", "wss", str(target.pid), "--seconds", "1000", "--method", method]
    with started(argv) as process:
        _await_watching(process.pid, target.pid, method)
        target.kill()
        said, complaint = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, said) == (5, "")
    assert f"process {target.pid} " in complaint
    assert " ended" in complaint


@contextmanager
def started(argv):
    """A command that runs; it is ended with the block, whatever becomes of the test."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _await_watching(pid, target, method):
    """Until a signal is the command's to handle; or the target's memory is registered."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _is_watching(pid, target, method):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _is_watching(pid, target, method):
    if method == "written":
        return " uw" in Path(f"/proc/{target}/smaps").read_text()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("SigCgt:")[1].split()[0], 16) >> signal.SIGTERM - 1 & 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("bash",), "'bash' is none"),
        (("1", "--seconds", "0"), "for 0.0 seconds"),
        (("1", "--seconds", "nan"), "for nan seconds"),
        (("1", "--top", "-1"), "no number of mappings"),
        (("1", "--split-huge-pages"), "by the method `written` alone"),
    ],
)
def test_a_call_that_is_wrong_is_refused(capsys, words, said):
    """Exit code 2, a sentence, and what to try."""
    assert main(["wss", *words]) == 2
    refused = capsys.readouterr().err
    assert said in refused
    assert "try: " in refused


def test_a_method_that_is_none_is_shown_the_usage(capsys):
    """As with every choice."""
    with pytest.raises(SystemExit) as ended:
        main(["wss", "1", "--method", "magic"])
    assert ended.value.code == 2
    assert "invalid choice: 'magic'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["auto", "tables", "smaps", "accessed", "written"])
def test_a_process_that_has_gone_is_gone(child, method):
    """Exit code 5, whichever way; without the rights for that way, 3 or 4 before it."""
    ended = child()
    ended.kill()
    done = command(ended.pid, "--seconds", "0.1", "--method", method)
    assert done.returncode == 5 or (method in ("tables", "written") and done.returncode in (3, 4))
    assert "Traceback" not in done.stderr


def test_show_code_prints_what_does_the_same_and_does_nothing(capsys):
    """It compiles."""
    for words in ((), ("--method", "written", "--split-huge-pages", "--seconds", "2.5")):
        assert main(["wss", "7", "--show-code", *words]) == 0
        code = capsys.readouterr().out
        compile(code, "shown", "exec")
        assert "dontneed.working_set(7, seconds=" in code
    assert "split_huge_pages=True" in code


@pytest.mark.needs_root
@pytest.mark.needs_feature("kernel memory")
def test_the_tables_alone_are_refused_to_nobody(as_nobody):
    """Exit code 3, and what would do."""
    code = "import os; from dontneed.cli.main import main; raise SystemExit(main(['wss', str(os.getpid()), {}]))"
    done = as_nobody(code.format("'--method', 'tables'"))
    assert done.returncode == 3
    assert "page tables cannot be read" in done.stderr
    done = as_nobody(code.format("'--seconds', '0.1'"))
    assert done.returncode == 0, done.stderr
    assert "method smaps" in done.stdout
