"""One experiment on several machines: what differs between them, and since which kernel.

Since when is not looked up but found out: the model runs the experiment as every version at which something changed.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.catalogue import machine_named, run_experiment
from dontneed.model.steps import STEPS
from dontneed.model.versions import modelled_version, numbers_of
from dontneed.report.comparison import NO_CLAIM, SKIPPED, Change, Comparison, Row

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.experiment import Experiment
    from dontneed.report.transcript import Run


def compare(experiment: Experiment, machines: list[str]) -> Comparison:
    """Run an experiment on several machines, and on the model of every version if they disagree.

    Args:
        experiment: which.
        machines: names, as `machine_named` takes them.
    Raises:
        UsageError: there is no such machine.
    """
    runs = [run_experiment(experiment, machine) for machine in [machine_named(name) for name in machines]]
    rows = [_row(text, runs) for text in _texts(runs)]
    if any(row.differs for row in rows):
        ladder = _ladder(experiment, [modelled_version(run.kernel) for run in runs if run.skipped is None])
        rows = [row.replace(changes=_changes(row.text, ladder)) if row.differs else row for row in rows]
    return Comparison(
        experiment.name,
        experiment.question,
        tuple(machines),
        tuple(run.where for run in runs),
        tuple(run.skipped for run in runs),
        tuple(rows),
    )


def _texts(runs: list[Run]) -> list[str]:
    """The claims of all runs; one that only some make stands behind the one that they make before it."""
    texts: list[str] = []
    for run in runs:
        place = 0
        for claim in run.claims:
            if claim.text not in texts:
                texts.insert(place, claim.text)
            place = texts.index(claim.text) + 1
    return texts


def _row(text: str, runs: list[Run]) -> Row:
    claims = [next((claim for claim in run.claims if claim.text == text), None) for run in runs]
    return Row(
        text,
        tuple(
            claim.observed if claim else NO_CLAIM if run.skipped is None else SKIPPED
            for claim, run in zip(claims, runs, strict=True)
        ),
        tuple(claim.holds if claim else None for claim in claims),
        (),
    )


def _ladder(experiment: Experiment, models: list[str]) -> list[tuple[str, Run]]:
    """The experiment on every version from the oldest to the newest of `models` at which something changed.

    Those that skip it are left out.
    """
    oldest, newest = min(models, key=numbers_of), max(models, key=numbers_of)
    steps = {step.since for step in STEPS} | {advice.since for advice in Advice.all()}
    between = {version for version in steps if numbers_of(oldest) < numbers_of(version) < numbers_of(newest)}
    versions = sorted({oldest, newest, *between}, key=numbers_of)
    runs = [(version, run_experiment(experiment, machine_named(version))) for version in versions]
    return [(version, run) for version, run in runs if run.skipped is None]


def _changes(text: str, ladder: list[tuple[str, Run]]) -> tuple[Change, ...]:
    changes = []
    before: str | None = None
    for version, run in ladder:
        (observed,) = _row(text, [run]).observed
        if before is not None and observed != before:
            changes.append(Change(version, observed, _news_of(version)))
        before = observed
    return tuple(changes)


def _news_of(version: str) -> tuple[str, ...]:
    """What a version brought: advices, and steps of the table of versions."""
    advices = [str(advice) for advice in Advice.all() if advice.since == version]
    return (*advices, *(step.what for step in STEPS if step.since == version))
