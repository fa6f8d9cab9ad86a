"""The experiments with ordinary pages: without rights, on the model as every version, and as the code they show."""

from __future__ import annotations

import json
import subprocess
import sys
from errno import ENOMEM

import pytest

from dontneed.abi.advice import Advice
from dontneed.lab.catalogue import LIVE, experiment_named, machine_named, run_experiment
from dontneed.lab.spelling import program
from dontneed.model.calls import advice
from dontneed.model.paging import zap
from dontneed.model.versions import NEWEST, OLDEST, STEPS, numbers_of

from .undisturbed import all_claims_of_a_command_hold, undisturbed

NAMES = (
    "zero-page",
    "page-tables-stay-or-go",
    "munmap-is-the-same-zap",
    "hole",
    "error-order",
    "private-file",
    "shared-file",
    "shared-anonymous",
    "dirty-is-dropped-not-written",
    "fork-and-cow",
    "locked",
    "pfn-mapped",
)
VERSIONS = sorted(
    {OLDEST, NEWEST, *(step.since for step in STEPS), *(each.since for each in Advice.all())}, key=numbers_of
)

MODELLED = [version for version in VERSIONS if numbers_of(version) >= numbers_of(OLDEST)]

TAUGHT = {
    "zero-page": {"RSS of the region as smaps counts it"},
    "page-tables-stay-or-go": {
        "VmPTE by giving up all that a table maps",
        "VmPTE by giving up all again, where nothing is left",
        "VmPTE by giving up zero pages",
        "VmPTE by giving up shared memory",
        "VmPTE by giving up all around a guard",
    },
    "munmap-is-the-same-zap": {"VmPTE changes by DONTNEED"},
    "hole": {"answer to POPULATE_WRITE", "pages after it"},
    "error-order": {"answer to DONTNEED_LOCKED", "pages after it", "answer (a seal)", "pages (a seal)"},
    "private-file": {"faults to read it all", "faults to read it all again"},
    "shared-file": {"faults to read it again"},
    "shared-anonymous": {"faults to read that"},
    "dirty-is-dropped-not-written": set(),
    "fork-and-cow": {"pages of p that only the parent maps"},
    "locked": {"answer to DONTNEED_LOCKED", "RSS after DONTNEED_LOCKED", "pages after a touch of one"},
    "pfn-mapped": {
        "answer on [vvar]",
        "answer on [vvar] to DONTNEED_LOCKED",
        "faults to read [vvar] again",
        "RSS of [vvar]",
    },
}
"""What the oldest kernel of the model and the newest differ in."""


def _observed(name: str, machine: str) -> dict[str, str]:
    run = run_experiment(experiment_named(name), machine_named(machine))
    if run.skipped:
        pytest.skip(run.skipped)
    return {claim.text: claim.observed for claim in run.claims}


def _failed(name: str, machine: str) -> list[str]:
    run = run_experiment(experiment_named(name), machine_named(machine))
    return [f"{machine}: {claim}" for claim in run.claims if not claim.holds] or ([] if run.passed else [str(run)])


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds_without_rights(name, as_nobody):
    """None of these experiments needs root; what only root may see is not claimed."""
    done = undisturbed(lambda: as_nobody.command("lab", "run", name, "--json"), all_claims_of_a_command_hold)
    told = json.loads(done.stdout)
    assert [claim for claim in told["claims"] if not claim["holds"]] == []
    assert told["passed"], (told["skipped"], done.stderr)


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_holds_on_the_model_as_every_version(name):
    """Where kernels differ, the claim says so; none of these experiments is skipped anywhere."""
    assert [failure for version in MODELLED for failure in _failed(name, version)] == []


@pytest.mark.needs_kernel("6.18")
@pytest.mark.parametrize("name", NAMES)
def test_the_model_observes_what_this_kernel_does(name):
    """Every number and word, for the version that both are; the model has no user from whom frames are hidden."""
    modelled = _observed(name, NEWEST)
    live = undisturbed(lambda: _observed(name, LIVE), lambda found: found.items() <= modelled.items())
    assert {text: modelled.get(text) for text in live} == live


@pytest.mark.parametrize("name", NAMES)
def test_old_and_new_kernels_differ_where_they_are_known_to(name):
    """And agree in all the rest."""
    old, new = _observed(name, OLDEST), _observed(name, NEWEST)
    assert {text for text in {**old, **new} if old.get(text) != new.get(text)} == TAUGHT[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_code_that_is_shown_runs(name, tmp_path):
    """In an interpreter of its own, to the end, without a word on standard error."""
    run = run_experiment(experiment_named(name))
    if run.skipped:
        pytest.skip(run.skipped)
    script = tmp_path / "program.py"
    script.write_text("\n".join(program(run)), encoding="utf-8")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert " mapped " in done.stdout


# Claims that a kernel with a fault does not keep: each fault is planted into the model


def _discard_despite_lock(monkeypatch):
    monkeypatch.setitem(advice._ACTIONS, int(Advice.DONTNEED), advice._discard_locked)


def _stop_at_hole(monkeypatch):
    walk = advice._walk

    def stop(mm, first, last, what):
        vma = mm.vmas.find(first)
        return ENOMEM if vma is None or vma.last < last else walk(mm, first, last, what)

    monkeypatch.setattr(advice, "_walk", stop)


def _keep_tables(monkeypatch):
    original = zap.zap

    def keep(mm, vma, first, last, *, keep=zap.NOTHING, **_):
        original(mm, vma, first, last, keep=keep)

    monkeypatch.setattr(advice, "zap", keep)


def _forget_what_was_written(monkeypatch):
    def forget(mm, *entry):
        frame, pages = entry[-2:]
        mm.system.frames.store(frame, pages, ord("f"))

    monkeypatch.setattr(zap, "note_use", forget)


@pytest.mark.parametrize(
    ("plant", "found_by"),
    [
        (_discard_despite_lock, {"locked", "error-order"}),
        (_stop_at_hole, {"hole", "error-order"}),
        (_keep_tables, {"page-tables-stay-or-go", "munmap-is-the-same-zap"}),
        (_forget_what_was_written, {"shared-file", "shared-anonymous", "dirty-is-dropped-not-written"}),
    ],
)
def test_a_kernel_with_a_fault_fails_the_claims_about_that(monkeypatch, plant, found_by):
    """And all the other experiments pass on it."""
    plant(monkeypatch)
    assert {name for name in NAMES if _failed(name, NEWEST)} == found_by
