"""How near does the executable kernel come to the RSS of real programs, and how fast is a trace replayed in it?

Each program is traced, and its trace replayed. The error is what the model is off by on average over all moments at
which the kernel counted, as a share of RSS, times the mean RSS; beside it stands that RSS. A fault is replayed with
everything that belongs to it: the calls, and the comparison with what the kernel counted. Beside it stands what the
program took for a fault, traced, with all that it did besides. A trace that has lost a record is no answer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import TYPE_CHECKING

import dontneed
from comparing import HELD, Case, Target, at_most
from dontneed.lab.replayed.events import events_of
from dontneed.lab.replayed.run import Run
from dontneed.model.system import System
from programs import BUILD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from comparing import Comparison
    from dontneed import Timeline
    from measuring import Samples
    from options import Options

QUESTION = "a trace replayed in the model"
HOLDS = ()

_ERROR, _RSS = "mean error", "RSS"
_REPLAYED, _WHOLE, _TRACED = "replayed", "replay()", "the program itself, traced"
_WORKLOADS = Path(__file__).parent / "workloads"
_PROMISED_SHARE = 0.005
_FAULTS_A_SECOND = 200_000


def run(options: Options) -> list[Comparison]:
    """Four programs, each traced some times."""
    rows: list[Comparison] = []
    for name, trace in _programs(quick=options.quick).items():
        errors: Samples = {_ERROR: [], _RSS: []}
        times: Samples = {_REPLAYED: [], _WHOLE: [], _TRACED: []}
        for _ in range(1 if options.quick else 5):
            timeline = trace()
            assert timeline.lost == 0, f"{timeline.lost} records were lost"
            assert timeline.exit_code == 0, f"{name} ended with {timeline.exit_code}"
            _measure(timeline, errors, times)
        within = Target("≤ 0.5 % of RSS", lambda error, rss, _ratio: error <= _PROMISED_SHARE * rss)
        rows.append(Case(QUESTION, name, errors, HELD).compare(_ERROR, _RSS, within))
        each = Case(QUESTION, f"{name}, a fault", times)
        rows.append(each.compare(_REPLAYED, _TRACED, at_most(1 / _FAULTS_A_SECOND)))
        rows.append(each.compare(_WHOLE, _TRACED))
    return rows


def _measure(timeline: Timeline, errors: Samples, times: Samples) -> None:
    began = process_time()
    events = events_of(timeline)
    system = System(timeline.kernel)
    system.huge_enabled = timeline.huge_pages or "never"
    Run(timeline, events, system).replay()
    taken = process_time() - began
    began = process_time()
    replayed = dontneed.replay(timeline)
    whole = process_time() - began
    mean = float(replayed.rss_bytes.mean())
    errors[_ERROR].append(replayed.mean_error * mean)
    errors[_RSS].append(mean)
    times[_REPLAYED].append(taken / replayed.faults)
    times[_WHOLE].append(whole / replayed.faults)
    times[_TRACED].append(timeline.seconds / replayed.faults)


def _programs(*, quick: bool) -> dict[str, Callable[[], Timeline]]:
    """How each is traced, by what it is; those that are not installed are left out, which is told."""
    rounds = 20 if quick else 200
    found: dict[str, Callable[[], Timeline]] = {
        "Python with numpy": lambda: _traced([sys.executable, _WORKLOADS / "arrays.py", rounds]),
        "C, 8 threads": lambda: _traced([_build(), 8, 300 if quick else 3000]),
    }
    for command, name, trace in (
        ("node", "node", lambda: _traced(["node", _WORKLOADS / "records.js", rounds // 2])),
        ("redis-server", "redis, jemalloc", lambda: _traced_redis(5_000 if quick else 100_000)),
    ):
        if shutil.which(command):
            found[name] = trace
        else:
            print(f"benchmarks: {command} is not installed, and left out", file=sys.stderr)
    return found


def _traced(words: Sequence[object]) -> Timeline:
    with tempfile.TemporaryFile() as said:
        return dontneed.trace_command([str(word) for word in words], output=said.fileno())


def _traced_redis(requests: int) -> Timeline:
    """A server of its own, on a socket of its own, which its driver ends."""
    with tempfile.TemporaryDirectory() as directory:
        socket = f"{directory}/socket"
        with _driven([_WORKLOADS / "drive_redis.sh", socket, requests]):
            return _traced(["redis-server", "--port", 0, "--unixsocket", socket, "--save", "", "--dir", directory])


@contextmanager
def _driven(words: Sequence[object]) -> Iterator[None]:
    driver = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
    try:
        yield
        assert driver.wait() == 0
    finally:
        driver.kill()
        driver.wait()


def _build() -> Path:
    program = BUILD / "churn"
    BUILD.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).parent / "native" / "churn.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", program, source], check=True)
    return program
