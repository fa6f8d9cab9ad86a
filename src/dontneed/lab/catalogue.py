"""The experiments and the machines that there are, by name. A new experiment is a file of its own and a line here."""

from __future__ import annotations

from importlib import import_module

from dontneed.errors import KernelLacks, NotPermitted, UsageError
from dontneed.lab.bench import Bench
from dontneed.model.versions import LAST, NEWEST, OLDEST, is_modelled, modelled_version
from dontneed.model.views.outcomes import outcomes
from dontneed.report.transcript import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.experiment import Experiment
    from dontneed.lab.machine import Machine

NAMES = (
    "anonymous",
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
    "hugetlb",
    "transparent-huge",
    "khugepaged-takes-back",
    "swap-is-freed",
    "free-vs-dontneed",
    "cold-and-pageout",
    "guard-regions",
    "thread-exit",
    "thread-stack-grows-and-never-shrinks",
    "thread-stack-versions",
    "posix-madvise-does-nothing",
)
"""Every experiment, in the order in which one learns from them; the module of each has its name with underscores."""

LIVE = "live"


def machine_names() -> tuple[str, ...]:
    """The machines that are offered; the model takes every version between its oldest and its last."""
    return LIVE, OLDEST, NEWEST


def experiments() -> tuple[Experiment, ...]:
    """All of them."""
    return tuple(map(experiment_named, NAMES))


def experiment_named(name: str) -> Experiment:
    """The experiment called `name`.

    Raises:
        UsageError: there is none; the hint says which there are.
    """
    if name not in NAMES:
        msg = f"there is no experiment {name!r}"
        raise UsageError(msg, hint=f"one of: {', '.join(NAMES)}")
    experiment: Experiment = import_module(f"dontneed.lab.experiments.{name.replace('-', '_')}").EXPERIMENT
    return experiment


def machine_named(name: str) -> Machine:
    """The machine called `name`: live, or a version of Linux, which the model performs.

    Raises:
        UsageError: there is none; the hint says which there are.
    """
    if name == LIVE:
        from dontneed.lab.live import LiveMachine

        return LiveMachine()
    if not is_modelled(name):
        msg = f"there is no machine {name!r}"
        others = f"or a version of Linux from {OLDEST} to {LAST}"
        raise UsageError(msg, hint=f"one of: {', '.join(machine_names())}, {others}")
    from dontneed.lab.modelled import ModelMachine

    return ModelMachine(name)


def run_experiment(experiment: Experiment, machine: Machine | None = None, *, explain: bool = False) -> Run:
    """Run an experiment in a fresh process of `machine`, by default of the live one.

    Args:
        experiment: which.
        machine: where.
        explain: keep the way of every discard through the kernel in the steps.
    Returns:
        What was done, seen and claimed; `skipped` says why it was not done where the machine or this user cannot.
    Raises:
        DontneedError: it broke down in the middle: the process ended, or was refused memory.
    """
    machine = machine or machine_named(LIVE)
    kernel = machine.kernel
    run = Run(experiment.name, experiment.question, machine.name, kernel.release, kernel.note)
    try:
        with machine.start() as process:
            predicted = explain and not machine.keep_way()
            bench = Bench(process, kernel)
            experiment.perform(bench)
    except (KernelLacks, NotPermitted) as error:
        return run.replace(skipped=str(error))
    run = run.replace(steps=tuple(bench.steps), claims=tuple(bench.claims))
    if explain:
        run = run.replace(outcomes=outcomes(kernel.behaviour))
    return _with_predicted_ways(run, experiment) if predicted else run


def _with_predicted_ways(run: Run, experiment: Experiment) -> Run:
    """A run with the ways that the model of its kernel takes, step by step, if it takes the same steps."""
    from dontneed.lab.modelled import ModelMachine

    version = modelled_version(run.kernel)
    predicted = run_experiment(experiment, ModelMachine(version), explain=True)
    if [step.title for step in predicted.steps] != [step.title for step in run.steps]:
        return run.replace(note="live; the model takes other steps, so there is no way to show")
    steps = zip(run.steps, predicted.steps, strict=True)
    return run.replace(
        note=f"live; the way through the kernel as the model of {version} predicts it",
        steps=tuple(step.replace(path=model.path) for step, model in steps),
    )
