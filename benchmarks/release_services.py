"""What do real services hold after a release, and after they have worked on, beside gc.collect() and a restart?

A pandas worker, a scikit-learn worker, a cache of JSON with 16 threads, a Dask worker, and gunicorn with Flask. Each
works until it is warm; then the usual means have their turn, then the release, then work goes on. Beside it stands a
worker that is started anew and has done one unit. Each proves that its data is as before, and that its work comes to
the same.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from comparing import GIVEN_BACK, HELD, Case, all_proven, no_worse
from worker import RELEASE, SERVICES_PYTHON, TIDY, python_workload, repeated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from comparing import Comparison
    from options import Options
    from worker import Measured, Workload

QUESTION = "release of real services"
HOLDS = ()

_SERVICES = {
    "pandas_worker": "pandas worker",
    "sklearn_worker": "scikit-learn worker",
    "json_cache": "JSON cache, 16 threads",
    "dask_worker": "Dask worker",
    "gunicorn_service": "gunicorn with Flask",
}
_BEFORE, _RESTART, _FALL = "before", "a restart", "fall of RSS"
_UNITS_LATER = 3


def run(options: Options) -> list[Comparison]:
    """Each service."""
    return [row for name in _SERVICES for row in _compare(options, name)]


def _compare(options: Options, name: str) -> Iterator[Comparison]:
    measured = repeated(partial(_measure, name, options.warm_units), options.released_rounds)
    service = _SERVICES[name]
    rss = Case(QUESTION, f"{service}: RSS", measured["RSS"], HELD)
    yield rss.compare(RELEASE, _BEFORE)
    yield rss.compare(RELEASE, TIDY, no_worse())
    yield rss.compare(RELEASE, _RESTART)
    later = Case(QUESTION, f"{service}: RSS three units later", measured["RSS later"], HELD)
    yield later.compare(RELEASE, _BEFORE)
    yield later.compare(RELEASE, _RESTART)
    unit = Case(QUESTION, f"{service}: the next unit", measured["unit"])
    yield unit.compare(RELEASE, _BEFORE)
    yield unit.compare(RELEASE, _RESTART)
    cost = Case(QUESTION, f"{service}: until the next unit is done", measured["cost"])
    yield cost.compare(RELEASE, _RESTART)
    pause = Case(QUESTION, f"{service}: longest pause", measured["pause"])
    yield pause.compare(RELEASE, TIDY)
    proof = Case(QUESTION, f"{service}: frames proven free", measured["proof"], GIVEN_BACK)
    yield proof.compare(RELEASE, _FALL, all_proven(measured["proven"][RELEASE]))


def _measure(name: str, warm_units: int) -> Measured:
    """The life of one worker that is released, and of one that is started in its place."""
    with python_workload(name, python=SERVICES_PYTHON) as worker:
        results, seconds = _work(worker, warm_units)
        before = worker.rss_bytes
        tidied = worker.ask("tidy")
        tidied_rss = worker.rss_bytes
        released = worker.release()
        results_after, (next_unit, *_) = _work(worker, _UNITS_LATER)
        assert {*results, *results_after} == {results[0]}, "a worker computes something else after its release"
        later = worker.rss_bytes
    return {
        **_restarted(name),
        ("RSS", _BEFORE): before,
        ("RSS", TIDY): tidied_rss,
        ("RSS", RELEASE): released.after_bytes,
        ("RSS later", _BEFORE): before,
        ("RSS later", RELEASE): later,
        ("unit", _BEFORE): seconds[-1],
        ("unit", RELEASE): next_unit,
        ("cost", RELEASE): released.seconds + next_unit,
        ("pause", TIDY): tidied.seconds,
        ("pause", RELEASE): released.receipt.pause_seconds,
        ("proof", RELEASE): released.proven_bytes,
        ("proof", _FALL): released.before_bytes - released.after_bytes,
        ("proven", RELEASE): released.is_proven,
    }


def _restarted(name: str) -> Measured:
    """A fresh worker: what it takes until it has done a unit, what it holds then, and after as much more work."""
    began = perf_counter()
    with python_workload(name, python=SERVICES_PYTHON) as worker:
        worker.ask("unit")
        cost = perf_counter() - began
        rss = worker.rss_bytes
        _, (next_unit, *_) = _work(worker, _UNITS_LATER)
        return {
            ("RSS", _RESTART): rss,
            ("RSS later", _RESTART): worker.rss_bytes,
            ("unit", _RESTART): next_unit,
            ("cost", _RESTART): cost,
        }


def _work(worker: Workload, units: int) -> tuple[list[object], list[float]]:
    """Do some units of work: what each came to, and the seconds that each took."""
    answers = [worker.ask("unit") for _ in range(units)]
    return [answer.result for answer in answers], [answer.seconds for answer in answers]
