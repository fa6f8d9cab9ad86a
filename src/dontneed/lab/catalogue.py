"""The experiments and the machines that there are, by name. A new experiment is a file of its own and a line here."""

from __future__ import annotations

from dontneed.errors import KernelLacks, NotPermitted, UsageError
from dontneed.lab import anonymous
from dontneed.lab.bench import Bench
from dontneed.lab.live import LiveMachine
from dontneed.report.transcript import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.lab.experiment import Experiment
    from dontneed.lab.machine import Machine

EXPERIMENTS: tuple[Experiment, ...] = (anonymous.EXPERIMENT,)

LIVE = "live"
MACHINES: dict[str, Callable[[], Machine]] = {LIVE: LiveMachine}
"""Name to what makes one."""


def experiment_named(name: str) -> Experiment:
    """The experiment called `name`.

    Raises:
        UsageError: there is none; the hint says which there are.
    """
    for experiment in EXPERIMENTS:
        if experiment.name == name:
            return experiment
    msg = f"there is no experiment {name!r}"
    raise UsageError(msg, hint=f"one of: {', '.join(experiment.name for experiment in EXPERIMENTS)}")


def machine_named(name: str) -> Machine:
    """The machine called `name`.

    Raises:
        UsageError: there is none; the hint says which there are.
    """
    if name not in MACHINES:
        msg = f"there is no machine {name!r}"
        raise UsageError(msg, hint=f"one of: {', '.join(MACHINES)}")
    return MACHINES[name]()


def run_experiment(experiment: Experiment, machine: Machine | None = None) -> Run:
    """Run an experiment in a fresh process of `machine`, by default of the live one.

    Returns:
        What was done, seen and claimed; `skipped` says why it was not done where the machine or this user cannot.
    Raises:
        DontneedError: it broke down in the middle: the process ended, or was refused memory.
    """
    machine = machine or machine_named(LIVE)
    kernel = machine.kernel
    run = Run(experiment.name, experiment.question, machine.name, kernel.release)
    try:
        with machine.start() as process:
            bench = Bench(process, kernel)
            experiment.perform(bench)
    except (KernelLacks, NotPermitted) as error:
        return run.replace(skipped=str(error))
    return run.replace(steps=tuple(bench.steps), claims=tuple(bench.claims))
