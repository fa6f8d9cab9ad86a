"""`Worker`: a program of `workloads/` or of `native/` whose memory is released, and what it says of itself.

Whoever is released proves that nothing was harmed: `Worker.release` has it compute a checksum over the data that it
holds, right before and right after, and compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import dontneed
from dontneed.records import Record
from programs import BUILD, Program, Running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dontneed.reclaim.receipt import ReleaseReceipt
    from measuring import Samples

    Measured = dict[tuple[str, str], float]

SERVICES_PYTHON = str(BUILD / "services" / "bin" / "python")
"""Of the environment in which the real programs are installed; it knows nothing of dontneed."""

RELEASE = "release"
TIDY = "gc.collect() and malloc_trim(0)"
TRIM = "malloc_trim(0)"

_WORKLOADS = Path(__file__).parent / "workloads"


class Answer(Record):
    """What a worker answered: a result, and the seconds that it took there."""

    result: Any
    seconds: float


class Released(Record):
    """What came of a release.

    Attributes:
        receipt: what dontneed says of it.
        before_bytes, after_bytes: RSS, as the kernel's page tables have it.
        seconds: from the call of `release` to its return, with the helper's start and the evidence.
    """

    receipt: ReleaseReceipt
    before_bytes: int
    after_bytes: int
    seconds: float

    @property
    def is_proven(self) -> bool:
        """Whether every frame was looked up after it had gone."""
        return self.receipt.evidence == "frames"

    @property
    def proven_bytes(self) -> int:
        """What was freed, as far as that was proven by frame."""
        return self.receipt.freed if self.is_proven else 0

    def pause_seconds(self, reason: str) -> float:
        """The longest pause that a reason caused."""
        return max((each.pause_seconds for each in self.receipt.reasons if each.reason == reason), default=0.0)

    def freed_bytes(self, reason: str) -> int:
        """What a reason freed."""
        return sum(each.freed for each in self.receipt.reasons if each.reason == reason)


class Workload:
    """A program that is released. A context manager.

    Args:
        program: it runs, and answers each word by a line.
        read: an answer of such a line.
        pid: the process that holds the memory.
    """

    def __init__(self, program: Running, read: Callable[[str], Answer], pid: int) -> None:
        self._program = program
        self._read = read
        self.pid = pid

    def __enter__(self) -> Workload:
        return self

    def __exit__(self, *error: object) -> None:
        self._program.end()

    def ask(self, word: str) -> Answer:
        """Have it do something."""
        return self._read(self._program.ask(word))

    def tell(self, word: str) -> None:
        """Tell it something that has no answer, while it is busy."""
        self._program.tell(word)

    def during(self, word: str, call: Callable[[], object]) -> Answer:
        """Have it do something until we tell it to stop, and call something meanwhile."""
        self._program.tell(word)
        try:
            call()
        finally:
            self._program.tell("stop")
        return self._read(self._program.answer())

    @property
    def rss_bytes(self) -> int:
        """What it holds, by its page tables: the counters of threads may lag."""
        with open(f"/proc/{self.pid}/smaps_rollup", encoding="ascii") as rollup:
            return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Rss:"))

    def release(self, reasons: Iterable[str] | None = None, max_pause_seconds: float | None = None) -> Released:
        """Release it, and have it prove that its data is as before.

        Raises:
            AssertionError: it is not.
        """
        checksum = self.ask("check").result
        before = self.rss_bytes
        began = perf_counter()
        receipt = dontneed.release(self.pid, reasons=reasons, max_pause_seconds=max_pause_seconds)
        seconds = perf_counter() - began
        after = self.rss_bytes
        for each in receipt.reasons:
            if each.failed:
                print(f"benchmarks: {receipt.command}: {each.reason}: {each.failed}", file=sys.stderr)
        assert self.ask("check").result == checksum, f"{receipt.command} (pid {self.pid}): its data was harmed"
        return Released(receipt, before, after, seconds)


def native(name: str, *arguments: int) -> Workload:
    """A C program of `native/` with a crew of threads."""
    program = Program(name, *arguments)
    return Workload(program, _read_numbers, program.pid)


def python_workload(name: str, *arguments: str | int, python: str = sys.executable) -> Workload:
    """A Python program of `workloads/`."""
    program = Running([python, str(_WORKLOADS / f"{name}.py"), *map(str, arguments)])
    return Workload(program, _read_json, json.loads(program.greeting)["pid"])


def _read_numbers(line: str) -> Answer:
    nanoseconds, total = map(int, line.split())
    return Answer(total, nanoseconds * 1e-9)


def _read_json(line: str) -> Answer:
    answer = json.loads(line)
    return Answer(answer["result"], answer["seconds"])


def repeated(measure: Callable[[], Measured], rounds: int) -> dict[str, Samples]:
    """Measure some times, each time on a process that is started for it.

    Args:
        measure: returns what was measured, and whose value it is: `("RSS", RELEASE): 1e8`.
        rounds: how often.
    Returns:
        For each thing that was measured, the samples by name.
    """
    measured: dict[str, Samples] = {}
    for _ in range(rounds):
        for (what, name), value in measure().items():
            measured.setdefault(what, {}).setdefault(name, []).append(value)
    return measured
