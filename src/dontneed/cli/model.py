"""A scenario of one's own, in the model of a kernel: processes, maps, touches, advice, and what is expected of them.

FILE has a line a step (docs/reference/scenario.md); `-` reads from standard input. It is performed in the executable
kernel, which needs no rights and changes nothing, and reported like an experiment of the lab. With --machine live the
same is done by a process on this kernel. An expectation that does not hold ends the command with exit code 1.
"""

from __future__ import annotations

from dontneed.errors import UsageError
from dontneed.lab.catalogue import machine_names
from dontneed.model.versions import NEWEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed model`."""
    parser.add_argument("file", metavar="FILE", help="the scenario; -: standard input")
    parser.add_argument(
        *("--machine", "--kernel"),
        default=NEWEST,
        metavar="MACHINE",
        help=f"what performs it: {', '.join(machine_names())}, or another version (default: {NEWEST})",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="steps, claims and verdict, for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="perform it, and print the Python that does the same")
    parser.add_argument(
        "--explain", action="store_true", help="the way of every discard through the kernel, and the entries it meets"
    )


def run(arguments: Namespace) -> int:
    """Carry out `dontneed model`; the exit code."""
    from dontneed.cli.lab import report
    from dontneed.lab.scenario import scenario_of

    scenario = scenario_of(_read(arguments.file), _name(arguments.file))
    return report(scenario, arguments)


def _name(path: str) -> str:
    return "standard input" if path == "-" else path


def _read(path: str) -> str:
    descriptor = 0 if path == "-" else path
    try:
        with open(descriptor, encoding="utf-8-sig", closefd=path != "-") as file:
            return file.read()
    except OSError as error:
        msg = f"{_name(path)} cannot be read: {error.strerror}"
        raise UsageError(msg, hint="a scenario is a text file: see docs/reference/scenario.md") from None
    except UnicodeDecodeError:
        msg = f"{_name(path)} is no text"
        raise UsageError(msg, hint="a scenario is a text file in UTF-8: see docs/reference/scenario.md") from None
