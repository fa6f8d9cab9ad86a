"""The experiments with huge pages, swap, lazy frees, guards and threads: with rights and without, on every model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dontneed.abi.advice import Advice
from dontneed.lab.catalogue import LIVE, experiment_named, machine_named, run_experiment
from dontneed.lab.libraries import LIBRARIES
from dontneed.lab.modelled import ModelMachine
from dontneed.lab.spelling import program
from dontneed.model.calls import advice
from dontneed.model.paging import collapse, zap
from dontneed.model.program import libc, nptl
from dontneed.model.steps import STEPS
from dontneed.model.versions import NEWEST, OLDEST, numbers_of

from .undisturbed import all_claims_hold, all_claims_of_a_command_hold, undisturbed

THREADS = (
    "thread-exit",
    "thread-stack-grows-and-never-shrinks",
    "thread-stack-versions",
    "posix-madvise-does-nothing",
)
UNPRIVILEGED = ("transparent-huge", "free-vs-dontneed", "guard-regions", *THREADS)
PRIVILEGED = ("hugetlb", "khugepaged-takes-back", "swap-is-freed", "cold-and-pageout")
NAMES = (*UNPRIVILEGED, *PRIVILEGED)

VERSIONS = sorted(
    {OLDEST, NEWEST, *(step.since for step in STEPS), *(each.since for each in Advice.all())}, key=numbers_of
)

MODELLED = [version for version in VERSIONS if numbers_of(OLDEST) <= numbers_of(version) <= numbers_of(NEWEST)]

SINCE = {
    "transparent-huge": "2.6.38",
    "khugepaged-takes-back": "2.6.38",
    "swap-is-freed": "5.4",
    "cold-and-pageout": "5.4",
}
"""Of those that older kernels cannot do, since when it can be done."""

TAUGHT = {
    "hugetlb": {
        "answer for one huge page and a part of the next",
        "found after one and a part",
        "answer for all three",
        "hugetlb memory by giving up all",
        "found after all three",
    },
    "free-vs-dontneed": {
        "answer to FREE",
        "LazyFree after DONTNEED, after FREE",
        "pages left of the half that was not written, by reclaim",
        "found then, in the half that was written, in the other",
    },
    "guard-regions": {
        "answer to GUARD_INSTALL",
        "bytes that GUARD_INSTALL frees",
        "pages with a guard",
        "touch of the guard",
        "pages after DONTNEED",
        "touch of the guard after DONTNEED",
        "answer to GUARD_REMOVE",
    },
    "thread-exit": set(),
    "thread-stack-grows-and-never-shrinks": set(),
    "thread-stack-versions": {"guard of a stack (glibc 2.42)"},
    "posix-madvise-does-nothing": set(),
}
"""What the oldest kernel of the model and the newest differ in, of experiments that both can do."""


def _run(name, machine):
    return run_experiment(experiment_named(name), machine_named(machine) if isinstance(machine, str) else machine)


def _failed(run):
    return [f"{run.kernel}: {claim}" for claim in run.claims if not claim.holds]


def _observed(run):
    return {claim.text: claim.observed for claim in run.claims}


# The live kernel


@pytest.mark.needs_root
@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds_on_the_live_kernel(name):
    """What the kernel cannot do is skipped; being root is enough for all the rest."""
    run = undisturbed(lambda: _run(name, LIVE), all_claims_hold)
    if run.skipped:
        pytest.skip(run.skipped)
    assert (run.passed, _failed(run)) == (True, [])


@pytest.mark.parametrize("name", NAMES)
def test_without_rights_an_experiment_holds_or_says_what_it_lacks(name, as_nobody):
    """Swap, the pools and khugepaged are root's, unless they are as needed already; the others take nobody's leave."""
    done = undisturbed(lambda: as_nobody.command("lab", "run", name, "--json"), all_claims_of_a_command_hold)
    told = json.loads(done.stdout)
    assert [claim for claim in told["claims"] if not claim["holds"]] == []
    assert done.returncode == 0, done.stderr
    assert told["passed"] or (told["skipped"] and (name in PRIVILEGED or "Linux" in told["skipped"]))


@pytest.mark.needs_kernel("6.18")
@pytest.mark.parametrize("name", NAMES)
def test_the_model_observes_what_this_kernel_does(name):
    """Every number and word, for the version that both are; the model has all C libraries, and this machine has one."""
    live, told = undisturbed(lambda: _run(name, LIVE), all_claims_hold), _observed(_run(name, NEWEST))
    if live.skipped:
        pytest.skip(live.skipped)
    assert {text: told.get(text) for text in _observed(live)} == _observed(live)


@pytest.mark.parametrize("name", UNPRIVILEGED)
def test_the_code_that_is_shown_runs(name, tmp_path):
    """In an interpreter of its own, to the end, without a word on standard error."""
    run = _run(name, LIVE)
    if run.skipped:
        pytest.skip(run.skipped)
    script = tmp_path / "program.py"
    script.write_text("\n".join(program(run)), encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert " mapped " in done.stdout


# The model


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds_on_the_model_as_every_version(name):
    """And it is skipped by those versions, and no others, that lack what it is about."""
    runs = {version: _run(name, version) for version in MODELLED}
    assert [failure for run in runs.values() for failure in _failed(run)] == []
    done = [version for version, run in runs.items() if run.passed]
    assert done == [version for version in MODELLED if numbers_of(version) >= numbers_of(SINCE.get(name, OLDEST))]


@pytest.mark.parametrize("name", TAUGHT)
def test_old_and_new_kernels_differ_where_they_are_known_to(name):
    """And agree in all the rest."""
    old, new = _observed(_run(name, OLDEST)), _observed(_run(name, NEWEST))
    assert {text for text in {**old, **new} if old.get(text) != new.get(text)} == TAUGHT[name]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", THREADS)
def test_every_claim_holds_with_every_c_library(name, library):
    """On an old kernel and on a new one: a machine's C library and its kernel need not be of one time."""
    runs = [_run(name, ModelMachine(version, libc=library)) for version in (OLDEST, NEWEST)]
    assert [(run.passed, _failed(run)) for run in runs] == [(True, [])] * len(runs)


def test_a_machine_whose_c_library_nobody_knows_is_skipped(monkeypatch):
    """Nothing can be claimed of it; that is no failure."""
    monkeypatch.setattr(os, "confstr", lambda _: None)
    run = _run("thread-exit", LIVE)
    assert "another C library" in run.skipped
    assert run.claims == ()


# Claims that a kernel or a library with a fault does not keep: each fault is planted into the model


def _lose_guards(monkeypatch):
    original = zap.zap

    def lose(mm, vma, first, last, *, free_tables=False, **_):
        original(mm, vma, first, last, free_tables=free_tables)

    monkeypatch.setattr(advice, "zap", lose)


def _free_at_once(monkeypatch):
    monkeypatch.setitem(advice._ACTIONS, int(Advice.FREE), advice._discard)


def _push_nothing_out(monkeypatch):
    monkeypatch.setitem(advice._ACTIONS, int(Advice.PAGEOUT), lambda *_: 0)


def _keep_swap(monkeypatch):
    monkeypatch.setattr(zap, "release_slots", lambda *_: None)


def _never_collapse(monkeypatch):
    monkeypatch.setattr(collapse, "khugepaged", lambda *_: 0)


def _keep_stacks(monkeypatch):
    monkeypatch.setattr(nptl.Stacks, "_discard", lambda *_: None)


def _hand_all_on(monkeypatch):
    monkeypatch.setattr(libc, "posix_madvise", lambda mm, _, *arguments: advice.madvise(mm, *arguments))


@pytest.mark.parametrize(
    ("plant", "found_by"),
    [
        (_lose_guards, {"guard-regions"}),
        (_free_at_once, {"free-vs-dontneed"}),
        (_push_nothing_out, {"free-vs-dontneed", "swap-is-freed", "cold-and-pageout"}),
        (_keep_swap, {"swap-is-freed"}),
        (_never_collapse, {"khugepaged-takes-back"}),
        (_keep_stacks, {"thread-exit", "thread-stack-versions"}),
        (_hand_all_on, {"posix-madvise-does-nothing"}),
    ],
)
def test_a_fault_fails_the_claims_about_that(monkeypatch, plant, found_by):
    """And all the other experiments pass on it."""
    plant(monkeypatch)
    assert {name for name in NAMES if _failed(_run(name, NEWEST))} == found_by
