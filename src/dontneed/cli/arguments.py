"""Arguments that several commands take: pids, durations as `20ms`, reasons; and the way they are printed."""

from __future__ import annotations

import sys

from dontneed.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterable, Sequence

_LONGEST_PID = 20
"""Digits; Python turns a number of more than 4,300 away."""
_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def checked_pid(text: str) -> int:
    """A pid from the command line.

    Raises:
        UsageError: it is no number.
    """
    if not text.isdecimal() or len(text) > _LONGEST_PID:
        msg = f"a pid is a number, and {text[:_LONGEST_PID]!r} is none"
        raise UsageError(msg, hint="`pgrep NAME` finds the pid of a program")
    return int(text)


def parse_duration(text: str) -> float:
    """Seconds.

    Raises:
        UsageError: no number with a unit behind it.
    """
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzµ")
    unit = text[len(digits) :]
    try:
        number = float(digits)
    except ValueError:
        number = -1.0
    if unit not in _UNITS or not 0 <= number < float("inf"):
        msg = f"{text!r} is no duration"
        raise UsageError(msg, hint="a number and a unit, as in 20ms, 1.5s, 2m")
    return number * _UNITS[unit]


def add_reason_argument(parser: ArgumentParser) -> None:
    """Declare `--reason`."""
    from dontneed.reasons.catalogue import REASONS

    parser.add_argument(
        "--reason",
        action="append",
        choices=REASONS,
        metavar="NAME",
        help=f"only this reason; may be given again. One of {', '.join(REASONS)} (the last one only when named)",
    )


def code_arguments(pid: int, reasons: Sequence[str] | None) -> str:
    """A pid and reasons, as one writes them in a call."""
    return f"{pid}, reasons={list(reasons)}" if reasons else str(pid)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines, at once."""
    sys.stdout.write("\n".join(lines) + "\n")
