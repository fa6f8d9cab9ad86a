"""`dontneed lab`, as people and programs meet it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from dontneed.cli import lab
from dontneed.cli.main import main
from dontneed.errors import KernelLacks
from dontneed.lab.catalogue import NAMES, experiments, machine_names
from dontneed.lab.experiment import Experiment
from dontneed.units import KIB, PAGE_BYTES

SIZE = 1024 * PAGE_BYTES


def _claim_too_much(bench):
    bench.claim("the earth is", "flat", "round")


def _ask_too_much(_bench):
    raise KernelLacks("no such thing")


FAILING = Experiment("failing", "Is the earth flat?", _claim_too_much)
SKIPPED = Experiment("skipped", "Can it be done?", _ask_too_much)


@pytest.fixture
def more_experiments(monkeypatch):
    """Two experiments beside the real ones: one whose claim fails, and one that cannot be done."""
    monkeypatch.setattr("dontneed.lab.catalogue.NAMES", (*NAMES, FAILING.name, SKIPPED.name))
    for each in (FAILING, SKIPPED):
        monkeypatch.setitem(sys.modules, f"dontneed.lab.experiments.{each.name}", SimpleNamespace(EXPERIMENT=each))


def _command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "dontneed.cli.main", *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_list_says_what_each_experiment_asks(capsys):
    """A line each."""
    assert main(["lab", "list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(NAMES)
    assert all(each.name in line and each.question in line for each, line in zip(experiments(), printed, strict=True))


def test_list_for_programs(capsys):
    """Names, questions, and the machines to run on."""
    assert main(["lab", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert {"name", "question"} == set(document["experiments"][0])
    assert document["experiments"][0]["name"] == "anonymous"
    assert document["machines"] == list(machine_names())


def test_run_prints_a_transcript_with_its_claims(capsys):
    """The calls, pmap with the region before and after, the claims, and a verdict at the end."""
    assert main(["lab", "run", "anonymous"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert any("madvise(p, " in line and "MADV_DONTNEED" in line for line in printed)
    rows = [line.split() for line in printed if line.endswith("← p")]
    assert [int(row[2]) * KIB for row in rows] == [0, SIZE, 0, 0, SIZE]
    assert sum(line.startswith("✓ ") for line in printed) >= 9
    assert not any(line.startswith("✗ ") for line in printed)
    assert printed[-1].startswith("All ")


def test_run_for_programs(capsys):
    """One object, with everything that the transcript says."""
    assert main(["lab", "run", "anonymous", "--machine", "live", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document)[:5] == ["schema", "experiment", "question", "machine", "kernel"]
    assert (document["schema"], document["experiment"], document["machine"]) == (1, "anonymous", "live")
    assert document["kernel"] == os.uname().release
    assert (document["passed"], document["skipped"]) == (True, None)
    assert all(claim["holds"] for claim in document["claims"])
    regions = [row for step in document["steps"] for row in step["pmap"] if row["region"] == "p"]
    assert [row["rss_bytes"] for row in regions] == [0, SIZE, 0, 0, SIZE]
    assert all(row["region"] is None or row["size_bytes"] == SIZE for step in document["steps"] for row in step["pmap"])


@pytest.mark.usefixtures("more_experiments")
def test_a_claim_that_does_not_hold_is_exit_code_1(capsys):
    """With what was expected and what was observed."""
    assert main(["lab", "run", "failing"]) == 1
    assert "✗ the earth is: expected flat, observed round" in capsys.readouterr().out
    assert main(["lab", "run", "failing", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


@pytest.mark.usefixtures("more_experiments")
def test_a_skipped_experiment_is_no_failure_and_says_why(capsys):
    """In text, in JSON, and instead of code."""
    assert main(["lab", "run", "skipped"]) == 0
    assert "no such thing" in capsys.readouterr().out.splitlines()[-1]
    assert main(["lab", "run", "skipped", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["skipped"], document["passed"], document["claims"]) == ("no such thing", False, [])
    assert main(["lab", "run", "skipped", "--show-code"]) == 0
    assert "no such thing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named", "there_is"),
    [(["anonymuos"], "anonymuos", "anonymous"), (["anonymous", "--machine", "2.4"], "2.4", "live")],
)
def test_an_unknown_name_is_exit_code_2_and_says_what_there_is(capsys, arguments, named, there_is):
    """Nothing runs, and nothing is on stdout."""
    assert main(["lab", "run", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert repr(named) in printed.err
    assert there_is in printed.err


@pytest.mark.parametrize("arguments", [[], ["walk"], ["run"], ["run", "anonymous", "--json", "--show-code"]])
def test_a_call_that_is_wrong_is_exit_code_2(capsys, arguments):
    """The usage says what would be right."""
    with pytest.raises(SystemExit) as end:
        main(["lab", *arguments])
    assert end.value.code == 2
    assert "usage: dontneed lab" in capsys.readouterr().err


def test_the_code_that_is_shown_runs_and_does_the_same(capsys, tmp_path):
    """It maps, writes, advises and reads, and finds zeros."""
    assert main(["lab", "run", "anonymous", "--show-code"]) == 0
    program = tmp_path / "anonymous.py"
    program.write_text(capsys.readouterr().out)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "bytes read: {0}" in done.stdout.splitlines()
    assert sum(line.startswith("p mapped ") for line in done.stdout.splitlines()) == 5


def test_a_terminal_without_unicode_gets_ascii():
    """And no escapes in place of what it cannot print."""
    done = _command("lab", "run", "anonymous", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"\n+ RSS of the region: " in done.stdout
    assert b"\\u" not in done.stdout


def test_a_pipe_that_is_closed_early_is_no_failure():
    """`dontneed lab run anonymous | head -1`."""
    command = [sys.executable, "-m", "dontneed.cli.main", "lab", "run", "anonymous"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        complaint = process.stderr.read()
    assert (process.returncode, complaint) == (0, b"")


def test_the_help_says_what_happens():
    """The module's docstring is the help."""
    done = _command("lab", "--help")
    assert done.returncode == 0
    assert lab.__doc__.splitlines()[0] in done.stdout.decode()
