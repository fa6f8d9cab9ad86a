"""`dontneed model`, and `dontneed lab compare` and `--explain`, as people and programs meet them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dontneed.cli.main import build_parser, main
from dontneed.lab.catalogue import NAMES
from dontneed.model.versions import NEWEST, OLDEST

GOLDEN = Path(__file__).parent / "golden"
LONGEST_LINE = 120

SEED = """\
question What the seed does: fill memory, give it up, look again
map p 1024
write p Z
look before
advise p DONTNEED -> 0
expect p rss 0
read p -> 0
"""


@pytest.fixture
def scenario(tmp_path):
    """Writes a scenario; its path."""

    def write(text=SEED):
        path = tmp_path / "seed.scenario"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def _command(*arguments, typed=b"", **environment):
    return subprocess.run(
        [sys.executable, "-m", "dontneed", *arguments],
        input=typed,
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


def assert_golden(name, printed):
    """Compare with what was printed when someone last looked at it; DONTNEED_RENEW_GOLDEN=1 writes it anew."""
    path = GOLDEN / name
    if os.environ.get("DONTNEED_RENEW_GOLDEN") == "1":
        path.write_text(printed, encoding="utf-8")
    assert printed == path.read_text(encoding="utf-8")


# The model


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_the_seed_explained_is_as_it_was(scenario, capsys, version):
    """To the letter: addresses, entries, flushes and counters are the model's, and the same each time."""
    assert main(["model", scenario(), "--machine", version, "--explain"]) == 0
    assert_golden(f"model-explain-{version}.txt", capsys.readouterr().out)


def test_a_scenario_is_reported_as_an_experiment(scenario, capsys):
    """Question, steps, claims, verdict."""
    assert main(["model", scenario()]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "seed: What the seed does: fill memory, give it up, look again"
    assert printed[1] == f"On Linux {NEWEST} (a model)."
    assert [line for line in printed if line.startswith("✓ ")] == [
        "✓ line 5, advise p DONTNEED: 0",
        "✓ line 6, rss of p: 0 KiB",
        "✓ line 7, read p: 0",
    ]
    assert printed[-1] == f"All 3 claims hold on Linux {NEWEST} (a model)."


def test_the_same_on_this_kernel_claims_the_same(scenario, capsys):
    """--machine live."""
    assert main(["model", scenario(), "--machine", "live", "--json"]) == 0
    live = json.loads(capsys.readouterr().out)
    assert main(["model", scenario(), "--json"]) == 0
    modelled = json.loads(capsys.readouterr().out)
    assert live["claims"] == modelled["claims"]
    assert live["kernel"] == os.uname().release


def test_for_programs_steps_claims_and_the_way(scenario, capsys):
    """With --explain each discard has its path, entry by entry."""
    assert main(["model", scenario(), "--kernel", OLDEST, "--json", "--explain"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["machine"], document["passed"]) == (1, OLDEST, True)
    assert document["note"] == "a model, read and never run"
    path = next(step["path"] for step in document["steps"] if "path" in step)
    assert path[0] == {
        "depth": 0,
        "function": "sys_madvise",
        "what": path[0]["what"],
        "entries": [],
        "outcome": None,
    }
    entries = [entry for stage in path for entry in stage["entries"]]
    assert [entry["table"] for entry in entries[:4]] == ["PGD", "PUD", "PMD", "PTE"]
    assert all(isinstance(entry["raw"], int) and entry["flags"] for entry in entries)
    assert "swap" in document["outcomes"]


def test_an_expectation_that_does_not_hold_is_exit_code_1(scenario, capsys):
    """With what was found instead."""
    assert main(["model", scenario("map a 4\nexpect a rss 4\n")]) == 1
    assert "✗ line 2, rss of a: expected 4 KiB, observed 0 KiB" in capsys.readouterr().out


def test_a_scenario_without_expectations_is_exit_code_0(scenario, capsys):
    """It just shows."""
    assert main(["model", scenario("map a 4\n")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Nothing was claimed")


def test_what_a_machine_lacks_is_skipped_with_the_reason(scenario, capsys):
    """Exit code 0."""
    assert main(["model", scenario("map a 4\nseal a\n"), "--machine", OLDEST, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert "line 2: Linux 2.6.32 does not seal memory" in document["skipped"]
    assert document["passed"] is False


def test_the_code_that_is_shown_runs_and_finds_zeros(scenario, capsys, tmp_path):
    """The scenario as a Python program."""
    assert main(["model", scenario(), "--show-code"]) == 0
    program = tmp_path / "seed.py"
    program.write_text(capsys.readouterr().out)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bytes read: {0}" in done.stdout.splitlines()


def test_a_scenario_can_be_typed():
    """FILE `-`."""
    done = _command("model", "-", typed=SEED.encode())
    assert done.returncode == 0
    assert done.stdout.startswith(b"standard input: What the seed does")


def test_what_a_windows_editor_writes_is_read(tmp_path, capsys):
    """A byte order mark, and lines that end with two characters."""
    path = tmp_path / "seed.txt"
    path.write_bytes(b"\xef\xbb\xbf" + SEED.replace("\n", "\r\n").encode())
    assert main(["model", str(path)]) == 0
    assert "seed: What the seed does" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "line"),
    [("map a 4\nadvise b DONTNEED\n", "line 2: there is no region 'b'"), ("architecture aarch64\n", "line 1: ")],
)
def test_a_bad_line_is_exit_code_2_and_nothing_is_printed(scenario, capsys, text, line):
    """The message has the line, the hint what would be right."""
    assert main(["model", scenario(text)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert line in printed.err
    assert "\n  try: " in printed.err


def test_a_file_that_is_no_text_is_exit_code_2(tmp_path, capsys):
    """Nor one that is not there, nor a directory; nor standard input."""
    binary = tmp_path / "binary"
    binary.write_bytes(bytes(range(256)))
    for path, trouble in ((binary, "is no text"), (tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        assert main(["model", str(path)]) == 2
        assert trouble in capsys.readouterr().err
    done = _command("model", "-", typed=bytes(range(256)))
    assert done.returncode == 2
    assert b"standard input is no text" in done.stderr


@pytest.mark.parametrize("machine", ["2.6.31", "9.9", "x", ""])
def test_an_unknown_machine_is_exit_code_2(scenario, capsys, machine):
    """With those that there are."""
    assert main(["model", scenario(), "--machine", machine]) == 2
    assert f"live, {OLDEST}, {NEWEST}" in capsys.readouterr().err


def test_a_terminal_cannot_be_written_to_by_a_file(scenario, capsys):
    """What it might obey is a question mark."""
    assert main(["model", scenario("map \x1b[2J 4\n")]) == 2
    assert "\x1b" not in capsys.readouterr().err


# Explained, and compared


@pytest.mark.parametrize("machine", [OLDEST, "4.14", NEWEST])
def test_no_line_of_a_way_is_too_long_for_a_wide_terminal(capsys, machine):
    """Of any experiment."""
    for name in NAMES:
        assert main(["lab", "run", name, "--machine", machine, "--explain", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        told = [step for step in document["steps"] if "path" in step]
        assert main(["lab", "run", name, "--machine", machine, "--explain"]) == 0
        printed = capsys.readouterr().out.splitlines()[2:]
        assert [line for line in printed if len(line) > LONGEST_LINE and not line.startswith(("✓", "✗"))] == []
        assert bool(told) == any(re.match(r" +(PGD|sys_|do_|__vm)", line) for line in printed)


def test_live_is_explained_by_the_model_of_its_version(capsys):
    """And says so."""
    assert main(["lab", "run", "anonymous", "--explain"]) == 0
    printed = capsys.readouterr().out
    assert "the way through the kernel as the model of 6." in printed.splitlines()[1]
    assert "MADV_DONTNEED" in printed


def test_compare_says_what_differs_and_since_when(capsys):
    """2.6.32, 6.18 and this kernel, unless others are asked for."""
    assert main(["lab", "compare", "page-tables-stay-or-go"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in printed[1:4]] == [OLDEST, NEWEST, "live"]
    assert any(line.startswith("≠ ") for line in printed)
    assert any(line.startswith("    since 6.14: ") for line in printed)
    assert printed[-1].endswith("every claim holds.")


def test_compare_for_programs(capsys):
    """By machine."""
    assert main(["lab", "compare", "anonymous", "--machines", f"{OLDEST}, {NEWEST}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [machine["name"] for machine in document["machines"]] == [OLDEST, NEWEST]
    assert any(claim["differs"] and claim["changes"] for claim in document["claims"])


def test_compare_refuses_what_it_does_not_know(capsys):
    """Exit code 2."""
    assert main(["lab", "compare", "anonymuos"]) == 2
    assert main(["lab", "compare", "anonymous", "--machines", "2.6.32,9.9"]) == 2
    assert "'9.9'" in capsys.readouterr().err


def test_compare_on_a_terminal_without_unicode_is_ascii():
    """And no escapes."""
    done = _command("lab", "compare", "anonymous", "--machines", f"{OLDEST},{NEWEST}", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"\n! " in done.stdout
    assert b"\\u" not in done.stdout


@pytest.mark.parametrize("command", ["lab", "model"])
def test_every_option_is_on_the_page_of_the_command(command):
    """In its section of the reference."""
    page = (Path(__file__).parents[2] / "docs/reference/command.md").read_text(encoding="utf-8")
    section = re.search(rf"(?ms)^## {command}\n(.*?)(?=^## |\Z)", page)[1]
    described = set(re.findall(r"`(-[-\w]+)", section))
    for parser in _parsers(build_parser(only=command), command):
        options = {option for action in parser._actions for option in action.option_strings}
        assert options <= described


def _parsers(parser, command):
    """The parser of a command, and those of its actions."""
    (commands,) = parser._subparsers._group_actions
    chosen = commands.choices[command]
    yield chosen
    if chosen._subparsers:
        yield from chosen._subparsers._group_actions[0].choices.values()
