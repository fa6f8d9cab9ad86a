"""Measuring side by side: every round asks all runners, in alternating order, so that a disturbance hits all alike."""

from __future__ import annotations

import os
from time import perf_counter
from typing import TYPE_CHECKING

from programs import BUILD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Samples = dict[str, list[float]]
    Runner = Callable[[], dict[str, float]]


def alternate(runners: Sequence[Runner], rounds: int) -> Samples:
    """Run all once to warm up, then `rounds` times: A B C, C B A, A B C, and so on.

    Args:
        runners: each makes one measurement and returns its samples by name.
        rounds: how many samples of each name there will be.
    Returns:
        All samples by name, in the order in which they were taken.
    """
    for runner in runners:
        runner()
    samples: Samples = {}
    for nth in range(rounds):
        for runner in runners if nth % 2 == 0 else reversed(runners):
            for name, value in runner().items():
                samples.setdefault(name, []).append(value)
    return samples


def timed(name: str, call: Callable[[], object]) -> Runner:
    """A runner for the seconds that `call` takes; its result is let go after the clock has stopped."""

    def run() -> dict[str, float]:
        began = perf_counter()
        result = call()
        elapsed = perf_counter() - began
        del result
        return {name: elapsed}

    return run


def command(name: str, *arguments: str) -> Runner:
    """A runner for the seconds from the start of a command to its end; what it prints goes to a file.

    Args:
        name: of the samples.
        arguments: the program, by its path, and its arguments.
    """
    return timed(name, lambda: spawn(*arguments))


def spawn(*arguments: str) -> None:
    """Run a command to its end, without a shell and without copying this process.

    Raises:
        RuntimeError: it failed; a failure is no measurement.
    """
    output = (os.POSIX_SPAWN_OPEN, 1, str(BUILD / "output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    pid = os.posix_spawn(arguments[0], arguments, os.environ, file_actions=[output])
    _, status, _ = os.wait4(pid, 0)
    if code := os.waitstatus_to_exitcode(status):
        msg = f"{' '.join(arguments)} ended with {code}"
        raise RuntimeError(msg)
