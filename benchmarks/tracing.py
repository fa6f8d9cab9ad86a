"""What does a trace cost a program that faults as fast as it can, and what does it cost to decode an event?

Beside the program left alone, and beside `perf record` and `perf script` with the same tracepoints. Its time is that
which a processor spends on it, in the program and in the kernel on its behalf. A run in which a record is lost, or an
event is missing, is no answer. `perf` mounts tracefs where it is not mounted, so it has a mount
namespace of its own here.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import TYPE_CHECKING

import dontneed
from comparing import Case, at_most
from dontneed.abi import trace_kinds
from dontneed.observe.trace.decode import FILTERS, Decoder
from dontneed.observe.trace.summary import summarize
from programs import BUILD

if TYPE_CHECKING:
    from typing import Any

    from comparing import Comparison
    from measuring import Samples
    from options import Options

QUESTION = "tracing"
HOLDS = ()

_TRACED, _ALONE, _RECORDED = "traced", "left alone", "under perf record"
_DECODED, _SCRIPTED = "decode", "perf script"
_SUMMED = "summary"
_PERF_PAGES = "8192"


def run(options: Options) -> list[Comparison]:
    """Some hundred thousand faults in a row, which are four events each, some times."""
    faults, rounds = (100_000, 1) if options.quick else (400_000, 3)
    program = _build()
    samples: Samples = {}
    lost = []
    for _ in range(rounds):
        _note(samples, _ALONE, float(_said(program, faults)))
        _trace(program, faults, samples)
        lost.append(_perf(program, faults, samples))
    case = Case(QUESTION, f"{faults:,} faults in a row", samples)
    each = Case(QUESTION, "an event of them", samples)
    perf = f"{_RECORDED}, which lost {min(lost):,} to {max(lost):,} events"
    samples[perf] = samples.pop(_RECORDED)
    return [
        case.compare(_TRACED, _ALONE),
        case.compare(_TRACED, perf),
        each.compare(_DECODED, _SCRIPTED, at_most(5e-6)),
        each.compare(_SUMMED, _SCRIPTED),
    ]


def _trace(program: Path, faults: int, samples: Samples) -> None:
    """One traced run: how long the program took, and how long each event took us."""
    decoding = _TimedDecoding()
    with tempfile.TemporaryFile() as said, decoding:
        timeline = dontneed.trace_command([str(program), str(faults)], output=said.fileno())
        said.seek(0)
        _note(samples, _TRACED, float(said.read()))
    assert timeline.lost == 0, f"{timeline.lost} records were lost"
    assert int((timeline.events["kind"] == trace_kinds.FAULT).sum()) >= faults
    _note(samples, _DECODED, decoding.seconds / decoding.events)
    began = perf_counter()
    summarize(timeline)
    _note(samples, _SUMMED, (perf_counter() - began) / len(timeline.events))


def _perf(program: Path, faults: int, samples: Samples) -> int:
    """The same under perf; how many events it lost."""
    events = ",".join(name for name in FILTERS if not name.startswith("raw_syscalls:"))
    with tempfile.TemporaryDirectory() as directory:
        data = f"{directory}/perf.data"
        record = ["perf", "record", "-q", "-d", "-m", _PERF_PAGES, "-e", events, "-o", data, "--"]
        _note(samples, _RECORDED, float(_said(*_APART, *record, program, faults)))
        report = _said(*_APART, "perf", "report", "--stats", "-i", data)
        began = perf_counter()
        command = [*_APART, "perf", "script", "-i", data, "--show-lost-events", "-F", "tid,time,event,trace"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as script:
            lines = sum(1 for _ in script.stdout)
        _note(samples, _SCRIPTED, (perf_counter() - began) / lines)
    return sum(int(line.rsplit(":", 1)[1]) for line in report.splitlines() if "LOST_SAMPLES events:" in line)


_APART = ("unshare", "--mount")


class _TimedDecoding:
    """Within it each call of the decoder is timed, by the time that our process computes."""

    seconds = 0.0
    events = 0

    def __enter__(self) -> None:
        self._decode = Decoder.decode

        def decode(decoder: Decoder, data: bytes, cpu: int = 0) -> Any:
            began = process_time()
            events = self._decode(decoder, data, cpu)
            self.seconds += process_time() - began
            self.events += len(events)
            return events

        Decoder.decode = decode  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        Decoder.decode = self._decode  # type: ignore[method-assign]


def _build() -> Path:
    program = BUILD / "faults"
    source = Path(__file__).parent / "native" / "faults.c"
    BUILD.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
    return program


def _said(*words: object) -> str:
    return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True).stdout


def _note(samples: Samples, name: str, value: float) -> None:
    samples.setdefault(name, []).append(value)
