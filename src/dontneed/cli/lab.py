"""Experiments on kernel memory: what is done, what pmap shows after each step, and whether every claim holds.

An experiment runs on the live kernel, in a process of its own, or in the model of a kernel (2.6.32, 6.18, any between),
and leaves nothing behind. One that this machine or this user cannot do is skipped, with the reason, and that is no
failure; a claim that does not hold is, and ends the command with exit code 1.

`compare` runs one on several machines and says what differs, and since which kernel: the model is asked version by
version.
"""

from __future__ import annotations

import sys

from dontneed.lab.catalogue import (
    LIVE,
    NAMES,
    experiment_named,
    experiments,
    machine_named,
    machine_names,
    run_experiment,
)
from dontneed.model.versions import NEWEST, OLDEST
from dontneed.report.json import format_json
from dontneed.report.transcript import format_run, run_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable

    from dontneed.lab.experiment import Experiment

_MARKS = "✓✗→←…·"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed lab`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="which experiments there are, and what they ask")
    listing.add_argument("--json", action="store_true", help="the same, for programs")
    running = actions.add_parser("run", help="run an experiment and check its claims")
    running.add_argument("name", metavar="NAME", help="the experiment, as `dontneed lab list` calls it")
    running.add_argument(
        "--machine",
        default=LIVE,
        metavar="MACHINE",
        help=f"what it runs on: {', '.join(machine_names())}, or another version (default: {LIVE})",
    )
    form = running.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="steps, claims and verdict, for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="run it, and print the Python that does the same")
    running.add_argument(
        "--explain", action="store_true", help="the way of every discard through the kernel, and the entries it meets"
    )
    comparing = actions.add_parser("compare", help="run one on several machines: what differs, and since when")
    comparing.add_argument("name", metavar="NAME", help="the experiment")
    comparing.add_argument(
        "--machines",
        default=f"{OLDEST},{NEWEST},{LIVE}",
        metavar="LIST",
        help=f"which ones (default: {OLDEST},{NEWEST},{LIVE})",
    )
    comparing.add_argument("--json", action="store_true", help="the same, for programs")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed lab`; the exit code."""
    if arguments.action == "list":
        _list(as_json=arguments.json)
        return 0
    experiment = experiment_named(arguments.name)
    if arguments.action == "compare":
        return _compare(experiment, arguments)
    return report(experiment, arguments)


def report(experiment: Experiment, arguments: Namespace) -> int:
    """Run an experiment on the machine that was asked for, and print what came of it; the exit code."""
    done = run_experiment(experiment, machine_named(arguments.machine), explain=arguments.explain)
    if arguments.json:
        print_lines([format_json(run_document(done))])
    elif arguments.show_code and done.skipped is None:
        from dontneed.lab.spelling import program

        print_lines(program(done))
    else:
        print_lines(format_run(done, ascii_only=not _can_print_marks()))
    return 0 if all(claim.holds for claim in done.claims) else 1


def print_lines(lines: Iterable[str]) -> None:
    """Write lines to standard output."""
    sys.stdout.write("\n".join(lines) + "\n")


def _compare(experiment: Experiment, arguments: Namespace) -> int:
    from dontneed.lab.compare import compare
    from dontneed.report.comparison import comparison_document, format_comparison

    comparison = compare(experiment, [name.strip() for name in arguments.machines.split(",")])
    if arguments.json:
        print_lines([format_json(comparison_document(comparison))])
    else:
        print_lines(format_comparison(comparison, ascii_only=not _can_print_marks()))
    return 0 if comparison.passed else 1


def _list(*, as_json: bool) -> None:
    if as_json:
        listed = [{"name": each.name, "question": each.question} for each in experiments()]
        print_lines([format_json({"experiments": listed, "machines": list(machine_names())})])
        return
    width = max(map(len, NAMES))
    print_lines(f"{each.name:{width}}  {each.question}" for each in experiments())


def _can_print_marks() -> bool:
    try:
        _MARKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
