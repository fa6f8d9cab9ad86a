"""Durations as people write them on the command line: `20ms`, `30s`, `2m`."""

from __future__ import annotations

from dontneed.errors import UsageError

_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


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
