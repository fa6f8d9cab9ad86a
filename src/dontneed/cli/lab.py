"""Experiments on kernel memory: what is done, what pmap shows after each step, and whether every claim holds.

An experiment runs in a process of its own and leaves nothing behind. One that this kernel or this user cannot do is
skipped, with the reason, and that is no failure; a claim that does not hold is, and ends the command with exit code 1.
"""

from __future__ import annotations

import sys

from dontneed.lab.catalogue import EXPERIMENTS, LIVE, MACHINES, experiment_named, machine_named, run_experiment
from dontneed.report.json import format_json
from dontneed.report.transcript import format_run, run_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable

_MARKS = "✓✗→←…"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed lab`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="which experiments there are, and what they ask")
    listing.add_argument("--json", action="store_true", help="the same, for programs")
    running = actions.add_parser("run", help="run an experiment and check its claims")
    running.add_argument("name", metavar="NAME", help="the experiment, as `dontneed lab list` calls it")
    running.add_argument(
        "--machine", default=LIVE, metavar="MACHINE", help=f"what it runs on: {', '.join(MACHINES)} (default: {LIVE})"
    )
    form = running.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="steps, claims and verdict, for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="run it, and print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed lab`; the exit code."""
    if arguments.action == "list":
        _list(as_json=arguments.json)
        return 0
    experiment, machine = experiment_named(arguments.name), machine_named(arguments.machine)
    done = run_experiment(experiment, machine)
    if arguments.json:
        _print_lines([format_json(run_document(done))])
    elif arguments.show_code and done.skipped is None:
        from dontneed.lab.spelling import program

        _print_lines(program(done))
    else:
        _print_lines(format_run(done, ascii_only=not _can_print_marks()))
    return 0 if done.passed or done.skipped is not None else 1


def _list(*, as_json: bool) -> None:
    if as_json:
        experiments = [{"name": each.name, "question": each.question} for each in EXPERIMENTS]
        _print_lines([format_json({"experiments": experiments, "machines": list(MACHINES)})])
        return
    width = max(len(each.name) for each in EXPERIMENTS)
    _print_lines(f"{each.name:{width}}  {each.question}" for each in EXPERIMENTS)


def _can_print_marks() -> bool:
    try:
        _MARKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
