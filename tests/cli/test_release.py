"""`dontneed plan` and `dontneed release`: what they print, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dontneed.cli.arguments import parse_duration
from dontneed.cli.main import main
from dontneed.errors import UsageError

pytestmark = pytest.mark.needs_root

FRAGMENTED = """
import hashlib
held = [(number, str(number)) for number in range(200_000)]
held = {number: held[number] for number in range(0, 200_000, 2_000)}
print(hashlib.sha256(repr(held).encode()).hexdigest())
pause()
print(hashlib.sha256(repr(held).encode()).hexdigest())
"""


def run(capsys, *arguments):
    """The exit code, and what was printed."""
    code = main(arguments)
    return code, capsys.readouterr().out


def test_a_plan_has_what_was_promised_to_programs(child, capsys):
    """The fields, and amounts that fit the process."""
    target = child(FRAGMENTED)
    code, printed = run(capsys, "plan", str(target.pid), "--json")
    document = json.loads(printed)
    assert code == 0
    assert document["pid"] == target.pid
    assert 0 < document["releasable_bytes"] < document["rss_bytes"]
    words = {"name", "bytes", "cost_seconds", "pause_seconds", "why_safe", "refused"}
    assert all(set(each) == words for each in document["reasons"])


def test_a_plan_changes_nothing(child, capsys):
    """Not a page, not a state, not a mapping: a survey looks."""
    target = child(FRAGMENTED)

    def seen():
        """What a survey could change; file pages aside, which the kernel takes when it likes."""
        status = Path(f"/proc/{target.pid}/status").read_text()
        kept = [
            line for line in status.splitlines() if line.startswith(("State", "RssAnon", "VmData", "VmSwap", "Threads"))
        ]
        return Path(f"/proc/{target.pid}/maps").read_text(), kept

    before = seen()
    run(capsys, "plan", str(target.pid))
    assert seen() == before


def test_a_release_gives_back_and_harms_nothing(child, capsys):
    """The receipt says what went, by frame; the target finds its data as it was."""
    target = child(FRAGMENTED)
    code, printed = run(capsys, "release", str(target.pid), "--json")
    receipt = json.loads(printed)
    assert (code, receipt["evidence"]) == (0, "frames")
    assert receipt["freed"] > 8 << 20
    assert receipt["after"]["rss_bytes"] < receipt["before"]["rss_bytes"]
    words = {"name", "asked", "advised", "freed", "deferred", "shared", "lazy", "cached", "pause_seconds"}
    assert all(words <= set(each) for each in receipt["reasons"])
    assert target.proceed() == target.said


def test_what_has_gone_is_not_planned_again(child, capsys):
    """A second plan is about what is left."""
    target = child(FRAGMENTED)
    _, first = run(capsys, "release", str(target.pid), "--reason", "free-pools", "--json")
    _, second = run(capsys, "plan", str(target.pid), "--reason", "free-pools", "--json")
    assert json.loads(second)["releasable_bytes"] < json.loads(first)["freed"] / 10


def test_a_dry_run_is_a_plan(child, capsys):
    """And nothing goes."""
    target = child(FRAGMENTED)
    code, printed = run(capsys, "release", str(target.pid), "--dry-run", "--reason", "dead-stack")
    assert code == 0
    assert "nothing was stopped, and nothing changed" in printed


def test_nobody_may_not_act_on_others(child, as_nobody):
    """Exit code 3, a sentence and a hint."""
    pid = str(child().pid)
    for command in ("plan", "release"):
        refused = as_nobody.command(command, pid)
        assert refused.returncode == 3
        assert "not permitted" in refused.stderr
        assert "sudo" in refused.stderr


def test_a_process_that_is_traced_is_left_alone(child, capsys):
    """By a debugger, say: exit code 1, and whose it is."""
    target = child()
    code = (
        "import sys; from dontneed.kernel import ptrace; ptrace.seize(int(sys.argv[1])); print('held', flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(target.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as debugger:
        try:
            assert debugger.stdout.readline() == "held\n"
            code, printed = run(capsys, "release", str(target.pid), "--reason", "zero-pages", "--json")
        finally:
            debugger.communicate("")
    receipt = json.loads(printed)
    assert (code, receipt["freed"]) == (1, 0)
    assert f"traced by process {debugger.pid}" in receipt["reasons"][0]["refused"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("plan", "4194303"), 5),
        (("release", "4194303"), 5),
        (("plan", "2"), 1),
        (("release", "2"), 1),
        (("plan", "self"), 2),
        (("release", "1", "--max-pause", "20"), 2),
        (("release", "1", "--max-pause", "0ms"), 2),
        (("release", "1", "--watch", "soon"), 2),
    ],
)
def test_what_cannot_be_is_an_exit_code_and_a_sentence(arguments, code, capsys):
    """No traceback for a vanished process, a kernel thread or a wrong word."""
    assert main(arguments) == code
    assert capsys.readouterr().err.startswith("dontneed: ")


@pytest.mark.parametrize(
    ("text", "seconds"), [("20ms", 0.02), ("1.5s", 1.5), ("2m", 120), ("250us", 250e-6), ("1h", 3600)]
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    """As people write them."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["20", "ms", "-1s", "1e400s", "nans", "", "1 day"])
def test_anything_else_is_no_duration(text):
    """Above all no bare number: seconds, or milliseconds?"""
    with pytest.raises(UsageError, match="no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (("plan", "7"), "dontneed.plan(7)"),
        (("plan", "7", "--reason", "cold"), "dontneed.plan(7, reasons=['cold'])"),
        (("release", "7", "--max-pause", "20ms"), "dontneed.release(7, max_pause_seconds=0.02)"),
        (
            ("release", "7", "--watch", "30s", "--evidence", "none"),
            "dontneed.release(7, watch_seconds=30.0, evidence='none')",
        ),
    ],
)
def test_the_python_that_does_the_same_is_shown(arguments, call, capsys):
    """And nothing is done: process 7 is not even looked for."""
    code, printed = run(capsys, *arguments, "--show-code")
    assert code == 0
    assert call in printed


def test_a_process_releases_its_own_memory():
    """Through a helper that acts on its parent, which goes on as if nothing had happened."""
    code = (
        "import dontneed, hashlib; "
        "held = [(number, str(number)) for number in range(200_000)]; "
        "held = {number: held[number] for number in range(0, 200_000, 2_000)}; "
        "receipt = dontneed.release(); "
        "assert held == {number: (number, str(number)) for number in range(0, 200_000, 2_000)}; "
        "print(receipt.exit_code, receipt.freed)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert ran.stderr == ""
    exit_code, freed = ran.stdout.split()
    assert (exit_code, int(freed) > 8 << 20) == ("0", True)


def test_the_demo_keeps_its_promises(capsys):
    """Little by the usual cures, most of it by a release, and not a bit of the data lost."""
    code, printed = run(capsys, "demo", "--json")
    document = json.loads(printed)
    assert (code, document["intact"]) == (0, True)
    before, cured = document["look"]["counters"]["rss_bytes"], document["rss_after_usual_cures_bytes"]
    assert cured > 0.9 * before
    assert document["release"]["after"]["rss_bytes"] < 0.5 * cured
    assert document["requests_meanwhile"] > 0


def test_a_process_that_the_caller_does_not_own_is_never_signalled(child, capsys):
    """Stops are ptrace's: no signal is sent, so that no handler of the target's ever runs."""
    handlers = "import signal; got = []; [signal.signal(n, lambda *a: got.append(a)) for n in (2, 15, 10, 18)]"
    target = child(f"{handlers}\npause()\nprint(got)")
    run(capsys, "release", str(target.pid))
    assert target.proceed() == ["[]"]
    assert os.path.exists(f"/proc/{target.pid}")
