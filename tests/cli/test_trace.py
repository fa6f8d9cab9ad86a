"""`dontneed trace` as it is called: what it prints, keeps, and refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from dontneed import trace_command
from dontneed.cli.main import main
from dontneed.errors import UsageError
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.trace.trace_file import read_trace

PATIENCE_SECONDS = 60
traced = pytest.mark.needs_feature("tracepoints")


def command(*words, **options):
    """Run `dontneed` in a process of its own."""
    argv = [sys.executable, "-m", "dontneed", *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, **options)


@traced
def test_a_command_is_traced_and_summed_up():
    """Its own output first, then ours; its exit code is told, and ours is 0."""
    done = command("trace", "--", "sh", "-c", "echo said; exit 3")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "said"
    assert "faults" in lines[1]
    assert lines[2:4] == ["nothing was lost", "it ended with exit code 3"]
    assert "RSS  at most" in done.stdout
    assert "MAPPING" in done.stdout
    assert done.stderr == ""


@traced
def test_json_is_all_that_is_on_standard_output_and_a_kept_file_has_the_same(tmp_path):
    """What the command prints goes to standard error; sizes in bytes, addresses as integers."""
    path = tmp_path / "kept"
    done = command("trace", "--json", "--events", "--output", path, "--", "sh", "-c", "echo said")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert "said" in done.stderr
    assert document["schema"] == 1
    assert document["lost"] == 0
    assert document["peak_rss_bytes"] > 0
    assert sum(use["faults"] for use in document["mappings"]) == document["counts"]["fault"]
    kept = read_trace(str(path))
    assert len(kept.events) - document["counts"]["more"] == len(document["events"])


@traced
def test_a_process_is_traced_for_some_time_or_until_ctrl_c(child):
    """Both end in a summary, and leave the process as it was."""
    pid = child().pid
    done = command("trace", "--seconds", "0.2", pid)
    assert done.returncode == 0, done.stderr
    assert f"process {pid} (" in done.stdout
    argv = [sys.executable, "-m", "dontneed", "trace", str(pid)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "anon_inode:[perf_event]" not in _open_files(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert "nothing was lost" in said


@traced
def test_sigterm_ends_a_command_and_its_trace_is_shown():
    """As perf does: nothing that we started runs on when we are told to end."""
    argv = [sys.executable, "-m", "dontneed", "trace", "--", "sleep", "1000"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "anon_inode:[perf_event]" not in _open_files(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert "signal 15" in said


def _open_files(pid):
    with ProcessDirectory(pid) as process:
        return set(process.links("fd").values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "a PID or of a COMMAND"),
        (("--seconds", "1", "--", "true"), "--seconds goes with a PID"),
        (("--buffer", "64Q", "1"), "'64Q' is no size"),
        (("--top", "-1", "1"), "no number of mappings"),
        (("--seconds", "0", "1"), "cannot be traced for 0.0 seconds"),
        (("--seconds", "1e300", "1"), "cannot be traced for 1e+300 seconds"),
        (("--most", "0", "1"), "none at all"),
        (("--buffer", "3", "1"), "none that the kernel can fill"),
        (("--", ""), "begins with the name of its program"),
    ],
)
def test_a_call_that_is_wrong_is_refused_before_anything_is_traced(capsys, words, said):
    """Exit code 2, a sentence, and what to try."""
    assert main(["trace", *words]) == 2
    refused = capsys.readouterr().err
    assert said in refused
    assert "try: " in refused


def test_an_output_that_cannot_be_written_is_refused_before_the_command_begins(tmp_path, capsys):
    """An hour of tracing is not lost to a directory that is not there."""
    begun = tmp_path / "begun"
    for bad in (tmp_path / "none" / "trace", tmp_path, ""):
        assert main(["trace", "--output", str(bad), "--", "touch", str(begun)]) == 1
        assert "cannot write" in capsys.readouterr().err
    assert not begun.exists()


def test_a_command_is_a_list_of_words():
    """Of a text the first letter would be taken for the program."""
    for words, kind in (("true", TypeError), (b"true", TypeError), ([], ValueError), ([""], ValueError)):
        with pytest.raises(UsageError) as refused:
            trace_command(words)
        assert isinstance(refused.value, kind)


def test_show_code_prints_what_does_the_same_and_does_nothing(capsys):
    """It compiles."""
    for words in (("7", "--seconds", "2"), ("--", "no-such-program", "-x")):
        assert main(["trace", "--show-code", *words]) == 0
        code = capsys.readouterr().out
        compile(code, "shown", "exec")
        assert "dontneed.trace" in code


def test_a_process_that_is_gone_is_exit_code_five(capsys):
    """As for every command."""
    assert main(["trace", str((1 << 22) - 1), "--seconds", "1"]) == 5
    assert "no process" in capsys.readouterr().err
