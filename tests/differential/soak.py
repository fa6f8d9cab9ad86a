"""Hold the model against the running kernel for as long as one likes.

    python -m differential.soak                                every kind, 20,000 sequences of 60 operations each
    python -m differential.soak --kind base --kind thp         some kinds
    python -m differential.soak --seed 7 --first 4242 --count 1    one sequence again

Needs root, and tests/ on PYTHONPATH; `make soak` sees to that. Each disagreement is shrunk and explained on standard
output, progress goes to standard error; the exit code is 1 if there was one.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING

from differential.engine import Comparison, Disagreement, Tally
from differential.environment import Missing, environment
from differential.executor import Executor, build
from differential.generate import KINDS
from differential.modelled import predict

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue
    from pathlib import Path

    from differential.generate import Kind


_CPUS = sorted(os.sched_getaffinity(0))


class Soak:
    """One soak of many kinds.

    Args:
        seed: of all sequences.
        first: number of the first one.
        count: how many of each kind.
        length: operations in each.
        jobs: worker processes, each with an executor and a CPU of its own.
        itself: hold a second executor, not the model, against the first: shows how repeatable the kernel is.
    """

    def __init__(self, seed: int, first: int, count: int, length: int, jobs: int, *, itself: bool) -> None:
        self._seed = seed
        self._numbers = range(first, first + count)
        self._length = length
        self._jobs = jobs
        self._itself = itself
        self._program = build()

    def run(self, kind: Kind) -> Tally:
        """All sequences of one kind."""
        started = time.monotonic()
        tally = Tally(0, (), (), 0)
        share = max(1, min(500, len(self._numbers) // self._jobs))
        starts = range(self._numbers.start, self._numbers.stop, share)
        context = get_context("spawn")
        cpus = context.SimpleQueue()
        for number in range(self._jobs):
            cpus.put(_CPUS[number % len(_CPUS)])
        with ProcessPoolExecutor(self._jobs, context, _prepare, (self._program, self._itself, cpus)) as pool:
            under_way = [
                pool.submit(
                    _work, kind.name, self._seed, range(start, min(start + share, self._numbers.stop)), self._length
                )
                for start in starts
            ]
            for done in as_completed(under_way):
                tally += done.result()
                seconds = time.monotonic() - started
                _progress(f"{kind.name:16} {_summary(tally, seconds)}")
        _progress("", end="\n")
        return tally.replace(seconds=time.monotonic() - started)

    def smallest(self, found: Disagreement) -> Disagreement:
        """The same disagreement in as few operations as show it."""
        _prepare(self._program, self._itself, None)
        return _comparison().smallest(found)


# In a worker: an executor, kept from task to task.

_kept: list[Comparison] = []


def _prepare(program: Path, itself: bool, cpus: SimpleQueue[int] | None) -> None:  # noqa: FBT001 - called by position
    if not _kept:
        cpu = None if cpus is None else cpus.get()
        other = Executor(program, cpu).run if itself else predict
        _kept.append(Comparison(Executor(program, cpu), other))


def _comparison() -> Comparison:
    return _kept[0]


def _work(name: str, seed: int, numbers: range, length: int) -> Tally:
    return _comparison().run(KINDS[name], seed, numbers, length)


# What is told


def _summary(tally: Tally, seconds: float) -> str:
    return (
        f"{tally.sequences:6} sequences, {len(tally.disagreements)} disagreements, {len(tally.flaky)} flaky, "
        f"{tally.sequences / seconds:.0f} a second"
    )


def _progress(text: str, end: str = "") -> None:
    print(f"\r{text}" if text else "", end=end, file=sys.stderr, flush=True)


def _explain(soak: Soak, kind: Kind, seed: int, tally: Tally, shown: int) -> None:
    for number, found in tally.disagreements[:shown]:
        smallest = soak.smallest(found)
        print(
            f"\n{kind.name}, --seed {seed} --first {number} --count 1, shrunk to {len(smallest.sequence.operations)}:"
        )
        print(smallest)
    for number, found in tally.flaky[:shown]:
        print(f"\n{kind.name}, --seed {seed} --first {number} --count 1, did not happen again:")
        print(str(found).partition("\nafter ")[2])


def main() -> int:
    """Soak; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m differential.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this kind; may be given again")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="by default a fresh one"
    )
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first sequence")
    parser.add_argument("--count", type=int, default=20_000, metavar="N", help="sequences of each kind")
    parser.add_argument("--length", type=int, default=60, metavar="N", help="operations in a sequence")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="worker processes")
    parser.add_argument(
        "--show", type=int, default=3, metavar="N", help="disagreements that are shrunk and explained, of a kind"
    )
    parser.add_argument("--itself", action="store_true", help="hold the kernel against itself: is it repeatable?")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that swap and pools are put back
    soak = Soak(
        arguments.seed, arguments.first, arguments.count, arguments.length, arguments.jobs, itself=arguments.itself
    )
    print(f"seed {arguments.seed}")
    failed = False
    for name in arguments.kind or KINDS:
        kind = KINDS[name]
        try:
            with environment(kind):
                tally = soak.run(kind)
                print(f"{kind.name:16} {_summary(tally, tally.seconds)}", flush=True)
                _explain(soak, kind, arguments.seed, tally, arguments.show)
        except Missing as missing:
            print(f"{kind.name:16} skipped: {missing}")
            continue
        failed |= bool(tally.disagreements)
    return failed


if __name__ == "__main__":
    sys.exit(main())
