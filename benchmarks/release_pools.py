"""What does a Python process give back that freed most of its small objects, beside gc.collect() and malloc_trim(0)?

CPython returns an arena when its last object is freed, and some survive everywhere: 5 % in clusters, or 0.2 % anywhere.
The peer has its turn first, in the same process. What survives is checksummed there before and after the release.
"""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from comparing import GIVEN_BACK, HELD, Case, all_proven, at_most, gives_back
from worker import RELEASE, TIDY, python_workload, repeated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from comparing import Comparison
    from options import Options
    from worker import Measured

QUESTION = "release after many small objects were freed"
HOLDS = ()

_SURVIVORS = {"clustered": "5 % survive in clusters", "random": "0.2 % survive anywhere"}
_BEFORE, _FALL, _UNITS = "before", "fall of RSS", "the unit before"
_LONGEST_HOLD = 0.0207
"""Seconds that the prototype of this mechanism held the GIL at a stretch, at most."""


def run(options: Options) -> list[Comparison]:
    """On each Python that is here, with survivors of both kinds."""
    return [
        row
        for version, python in _interpreters()
        for survivors in _SURVIVORS
        for row in _compare(options, version, python, survivors)
    ]


def _compare(options: Options, version: str, python: str, survivors: str) -> Iterator[Comparison]:
    count = options.released_objects
    measured = repeated(partial(_measure, python, count, survivors), options.released_rounds)
    about = f"{count:,} objects, {_SURVIVORS[survivors]}, Python {version}"
    rss = Case(QUESTION, f"RSS: {about}", measured["RSS"], HELD)
    yield rss.compare(RELEASE, TIDY, gives_back(measured["RSS"][_BEFORE], 0.5, 0.1))
    pause = Case(QUESTION, f"longest pause: {about}", measured["pause"])
    yield pause.compare(RELEASE, TIDY, at_most(_LONGEST_HOLD))
    yield Case(QUESTION, f"all of it: {about}", measured["all"]).compare(RELEASE, TIDY)
    proof = Case(QUESTION, f"frames proven free: {about}", measured["proof"], GIVEN_BACK)
    yield proof.compare(RELEASE, _FALL, all_proven(measured["proven"][RELEASE]))
    yield Case(QUESTION, f"next work: {about}", measured["unit"]).compare(RELEASE, _UNITS)


def _measure(python: str, count: int, survivors: str) -> Measured:
    """One process: as it is, after what people do, after a release."""
    with python_workload("objects", count, survivors, python=python) as worker:
        used = worker.ask("unit").result
        before = worker.rss_bytes
        unit = worker.ask("unit")
        tidied = worker.ask("tidy")
        tidy_rss = worker.rss_bytes
        released = worker.release()
        unit_after = worker.ask("unit")
        assert unit.result == unit_after.result == used, "a process computes something else after its release"
        return {
            ("RSS", _BEFORE): before,
            ("RSS", TIDY): tidy_rss,
            ("RSS", RELEASE): released.after_bytes,
            ("pause", TIDY): tidied.seconds,
            ("pause", RELEASE): released.receipt.pause_seconds,
            ("all", TIDY): tidied.seconds,
            ("all", RELEASE): released.seconds,
            ("proof", RELEASE): released.proven_bytes,
            ("proof", _FALL): released.before_bytes - released.after_bytes,
            ("proven", RELEASE): released.is_proven,
            ("unit", _UNITS): unit.seconds,
            ("unit", RELEASE): unit_after.seconds,
        }


def _interpreters() -> list[tuple[str, str]]:
    """The Pythons on this machine that dontneed supports: version and path of each."""
    script = Path(__file__).parents[1] / "tools" / "interpreters.sh"
    paths = _said(str(script)).split()
    ask = "import sys; print('.'.join(map(str, sys.version_info[:3])))"
    return [(_said(path, "-c", ask).strip(), path) for path in paths]


def _said(*command: str) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
