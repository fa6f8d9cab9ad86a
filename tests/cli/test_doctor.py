"""`dontneed doctor`: what it says of a machine that we make up, and that it says something true of this one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dontneed.cli import doctor
from dontneed.cli.main import main
from dontneed.kernel.capabilities import Privileges
from dontneed.kernel.environment import Environment, MemoryCgroup
from dontneed.kernel.features import Feature, features

ENVIRONMENT = Environment(
    kernel="6.1.0",
    machine="x86_64",
    page_bytes=4096,
    huge_pages="madvise",
    huge_pages_disabled=False,
    khugepaged_max_ptes_none=511,
    swap_bytes=2 << 30,
    swap_used_bytes=1 << 20,
    cgroup=MemoryCgroup(2, "/sys/fs/cgroup/user", 512 << 20),
    yama_ptrace_scope=1,
    lockdown=None,
)
USER = Privileges(uid=65533, effective=0, bounding=1)


def _feature(name: str, step: str, state: str = "present", remedy: str = "") -> Feature:
    return Feature(name, state, step, "5.1", f"for {name}", "EPERM" if remedy else "worked", remedy)


FOUND = (
    _feature("/proc/PID/maps", "look"),
    _feature("PAGEMAP_SCAN", "look", "absent", "Linux 6.7 or newer"),
    _feature("/proc/PID/smaps", "look"),
    _feature("own processes", "look"),
    _feature("frame numbers", "prove", "unprivileged", "run it as root"),
    _feature("/proc/kpageflags", "prove", "unprivileged", "run it as root"),
    _feature("process_madvise(self)", "release", "forbidden", "allow the call"),
    _feature("madvise(DONTNEED)", "release"),
    _feature("madvise(FREE)", "release"),
    _feature("madvise(GUARD_INSTALL)", "release", "absent", "Linux 6.13 or newer"),
    _feature("transparent huge pages", "environment"),
)

DIAGNOSIS = """\
Linux 6.1.0, x86_64, as uid 65533 (no capabilities)

look                       who holds which frames
  /proc/PID/maps           present       for /proc/PID/maps
  PAGEMAP_SCAN             absent        for PAGEMAP_SCAN (EPERM)
  /proc/PID/smaps          present       for /proc/PID/smaps
  own processes            present       for own processes

prove                      which frames really came back
  frame numbers            unprivileged  for frame numbers (EPERM)
  /proc/kpageflags         unprivileged  for /proc/kpageflags (EPERM)

release                    give pages back
  process_madvise(self)    forbidden     for process_madvise(self) (EPERM)
  madvise(GUARD_INSTALL)   absent        for madvise(GUARD_INSTALL) (EPERM)
  madvise                  present       2 advices: DONTNEED FREE

environment                what else decides
  transparent huge pages   present       worked
  own pools and malloc     native        given back by dontneed.release() itself, without ptrace
  swap                     2.0 GiB       1.0 MiB used
  max_ptes_none            511           khugepaged may refill up to 511 released pages of a huge
                                         page, within seconds
  memory limit             512 MiB       of the memory cgroup
  yama ptrace_scope        1             attaching (not looking) is for parents and root: sysctl
                                         kernel.yama.ptrace_scope=0 lifts it

what to do
  for PAGEMAP_SCAN:
    Linux 6.7 or newer
  for frame numbers, /proc/kpageflags:
    run it as root
  for process_madvise(self):
    allow the call
  for madvise(GUARD_INSTALL):
    Linux 6.13 or newer

look: exact and slow, your own processes; proof: by counters; release: your own memory, range by
range, not that of other processes.
"""


def _lines(found: tuple[Feature, ...] = FOUND, **sheet: object) -> list[str]:
    return list(doctor.diagnosis(found, USER, ENVIRONMENT, doctor.Sheet(100, **sheet)))


def test_a_diagnosis_reads_from_the_features_to_what_to_do_to_the_verdict():
    """The whole page, as it is printed for a machine that lacks something of each kind."""
    assert "\n".join(_lines()) + "\n" == DIAGNOSIS


def test_every_line_stays_within_the_width_and_the_width_within_reason():
    """A narrow terminal breaks lines; a page-wide one does not make them unreadable."""
    for columns, widest in ((100, 100), (20, 80), (400, 120)):
        lines = doctor.diagnosis(FOUND, USER, ENVIRONMENT, doctor.Sheet(columns))
        assert max(map(len, lines)) <= widest


def test_colours_are_on_states_and_headings_and_change_no_text():
    """Without its escapes the coloured page is the plain one."""
    import re

    coloured = _lines(in_colour=True)
    assert [re.sub("\x1b\\[[0-9]*m", "", line) for line in coloured] == _lines()
    assert any("\x1b[32mpresent" in line for line in coloured)
    assert any("\x1b[33munprivileged" in line for line in coloured)
    assert any("\x1b[31mforbidden" in line for line in coloured)


@pytest.mark.parametrize(
    ("terminal", "environment", "in_colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_for_terminals_without_no_color(monkeypatch, terminal, environment, in_colour):
    """As no-color.org asks: an empty NO_COLOR is none."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    assert ("\x1b" in doctor.Sheet.for_stdout().coloured("word", "1")) is in_colour


def test_nothing_to_do_is_not_announced():
    """Where everything is present there is no such section."""
    present = tuple(feature.replace(state="present", remedy="") for feature in FOUND)
    assert "what to do" not in _lines(present)


def test_a_name_with_control_characters_cannot_write_to_the_terminal():
    """A cgroup is named by whoever made it."""
    hostile = _feature("memory cgroup", "environment").replace(detail="v2 at /\x1b[2J")
    assert not any("\x1b" in line for line in _lines((hostile,)))


LOOK = ("/proc/PID/maps", "/proc/PID/smaps", "PAGEMAP_SCAN", "own processes", "all processes")
PROVE = ("frame numbers", "/proc/kpageflags", "/proc/kpagecount")
RELEASE = ("madvise(DONTNEED)", "madvise(PAGEOUT)", "process_madvise(self)", "process_madvise(other)")
ACT = ("ptrace", "process_vm_readv")
UNSEEN = ("PAGEMAP_SCAN", "/proc/PID/smaps", "all processes", "own processes")


@pytest.mark.parametrize(
    ("lacking", "swap_bytes", "look", "proof", "release"),
    [
        (
            *((), 1, "exact and fast, every process", "by frames"),
            "your own memory, 1,024 ranges a call, and by reason that of other processes",
        ),
        (
            *((ACT[0],), 1, "exact and fast, every process", "by frames"),
            "your own memory, 1,024 ranges a call, and other processes' memory by page-out",
        ),
        (
            *(("all processes", "PAGEMAP_SCAN", *PROVE, *ACT), 0, "exact and slow, your own processes", "by counters"),
            "your own memory, 1,024 ranges a call, and other processes' file pages by page-out",
        ),
        (
            *((*LOOK, "process_madvise(self)", "process_madvise(other)", *ACT), 1, "impossible", "by frames"),
            "your own memory, range by range, not that of other processes",
        ),
        ((*UNSEEN, *RELEASE), 1, "mappings without their pages, this process only", "by frames", "impossible"),
    ],
)
def test_the_verdict_is_one_sentence_on_each_step(lacking, swap_bytes, look, proof, release):
    """What the features come to, without reading the table."""
    found = [_feature(name, "look") for name in (*LOOK, *PROVE, *RELEASE, *ACT) if name not in lacking]
    sentence = doctor.verdict(found, ENVIRONMENT.replace(swap_bytes=swap_bytes))
    assert sentence == f"look: {look}; proof: {proof}; release: {release}."


def _lines_of(environment: Environment) -> str:
    return "\n".join(doctor.diagnosis(FOUND, USER, environment, doctor.Sheet(100)))


def test_facts_that_restrict_are_shown_only_where_they_hold():
    """A user namespace, a filter, no_new_privs, lockdown, huge pages switched off: each has a line of its own."""
    sandboxed = USER.replace(user_namespace=True, seccomp_filter=True, no_new_privileges=True)
    locked = ENVIRONMENT.replace(lockdown="integrity", huge_pages_disabled=True, khugepaged_max_ptes_none=0)
    text = "\n".join(doctor.diagnosis(FOUND, sandboxed, locked, doctor.Sheet(100)))
    for words in ("user namespace", "seccomp", "no_new_privs", "lockdown", "huge pages here", "leaves released pages"):
        assert words in text
        assert words not in DIAGNOSIS


def test_without_its_native_part_doctor_says_why():
    """It can be had by installing once more, with a compiler."""
    lines = _lines_of(ENVIRONMENT.replace(why_not_native="it was not built"))
    assert "own pools and malloc     helper        given back by a helper process, with ptrace" in lines
    assert "it was not built" in lines


def test_without_swap_doctor_says_what_cannot_be_paged_out():
    """Otherwise PAGEOUT of anonymous memory succeeds and does nothing, to everybody's surprise."""
    text = "\n".join(doctor.diagnosis(FOUND, USER, ENVIRONMENT.replace(swap_bytes=0), doctor.Sheet(100)))
    assert "swap                     none" in text


# This machine


def test_doctor_succeeds_whatever_is_missing(capsys):
    """It diagnoses; it does not judge. Every feature is on the page, each advice by its name."""
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for feature in features():
        assert feature.name.removeprefix("madvise(").rstrip(")") in text


def test_json_holds_every_feature_and_the_environment(capsys):
    """Schema 1; the features as the library returns them."""
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["schema"] == 1
    assert told["features"] == [feature.as_dict() for feature in features()]
    assert set(told) == {"schema", "kernel", "user", "verdict", "features", "environment"}
    assert isinstance(told["environment"]["swap_bytes"], int)
    assert isinstance(told["user"]["capabilities"], list)


def test_json_and_text_say_the_same_of_nobody(as_nobody):
    """The command as an unprivileged user runs it."""
    told = json.loads(as_nobody.command("doctor", "--json").stdout)
    text = as_nobody.command("doctor")
    assert (text.returncode, text.stderr) == (0, "")
    for feature in told["features"]:
        if feature["state"] != "present":
            assert any(line.split()[:1] == feature["name"].split()[:1] for line in text.stdout.splitlines())
    assert told["verdict"] in " ".join(text.stdout.split())


def test_the_code_that_is_shown_runs_and_names_every_feature(capsys):
    """--show-code prints a program, not a sketch."""
    assert main(["doctor", "--show-code"]) == 0
    code = capsys.readouterr().out
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    for feature in features():
        assert feature.name in done.stdout


def test_json_and_show_code_exclude_each_other(capsys):
    """One output at a time; a usage error is exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--json", "--show-code"])
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
