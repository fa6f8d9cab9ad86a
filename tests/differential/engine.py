"""Holds a prediction of the kernel against the kernel: sequence by sequence, byte by byte."""

from __future__ import annotations

import time
import traceback
from collections import deque
from typing import TYPE_CHECKING

from differential.generate import generate
from differential.records import first_difference, first_differing
from differential.shrink import shrink
from dontneed.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from differential.executor import Executor
    from differential.generate import Kind
    from differential.sequences import Sequence

    Predict = Callable[[Sequence], bytes | None]
    """What the kernel will answer to a sequence, in the executor's words."""

AHEAD = 3
"""Sequences submitted before the answer to the first is taken: the executor works while the prediction is made."""

RETRIES = 3


class Disagreement(Record):
    """A sequence of which kernel and prediction say different things.

    Attributes:
        sequence: what was done.
        live: what the kernel answered; None if its process came to grief.
        predicted: what was expected; None if that could not be told.
        failure: why it could not.
    """

    sequence: Sequence
    live: bytes | None
    predicted: bytes | None
    failure: str = ""

    @property
    def needed(self) -> Sequence:
        """The sequence up to the operation after which the two differ first: what follows has nothing to do with it."""
        if self.live is None or self.predicted is None:
            return self.sequence
        last = first_differing(self.sequence, self.live, self.predicted)
        return self.sequence.replace(operations=self.sequence.operations[: last + 1])

    def __str__(self) -> str:
        if self.live is None or self.predicted is None:
            return f"{self.sequence}\n{self.failure or 'the live process came to grief'}"
        return f"{self.sequence}\n{first_difference(self.sequence, self.live, self.predicted)}"


class Tally(Record):
    """What came of many sequences.

    Attributes:
        sequences: how many.
        flaky: answered as predicted only when asked again, by number of the sequence: something else meddled.
        disagreements: by number of the sequence.
        seconds: of the clock.
    """

    sequences: int
    flaky: tuple[tuple[int, Disagreement], ...]
    disagreements: tuple[tuple[int, Disagreement], ...]
    seconds: float

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.sequences + other.sequences,
            self.flaky + other.flaky,
            self.disagreements + other.disagreements,
            max(self.seconds, other.seconds),
        )


class Comparison:
    """One executor and one prediction, held against each other."""

    def __init__(self, executor: Executor, predict: Predict) -> None:
        self._executor = executor
        self._predict = predict

    def check(self, sequence: Sequence) -> Disagreement | None:
        """Compare one sequence, by itself; asked again where the answers differ."""
        found = self.check_once(sequence)
        return None if found is None or self._agrees_when_asked_again(found) else found

    def check_once(self, sequence: Sequence) -> Disagreement | None:
        """The same without asking again."""
        self._executor.submit(sequence)
        return self._held_against_the_answer(sequence)

    def smallest(self, found: Disagreement) -> Disagreement:
        """The same disagreement in as few operations as show it."""
        whole = found.needed if self.check(found.needed) else found.sequence
        return self.check(shrink(whole, lambda sequence: self.check(sequence) is not None)) or found

    def run(self, kind: Kind, seed: int, numbers: Iterable[int], length: int = 60) -> Tally:
        """Compare many, the executor at work on the next ones while a prediction is made."""
        started = time.monotonic()
        count, doubtful = 0, []
        for number, found in self._answered(kind, seed, numbers, length):
            count += 1
            if found is not None:
                doubtful.append((number, found))
        flaky = [each for each in doubtful if self._agrees_when_asked_again(each[1])]
        lasting = [each for each in doubtful if each not in flaky]
        return Tally(count, tuple(flaky), tuple(lasting), time.monotonic() - started)

    def _answered(
        self, kind: Kind, seed: int, numbers: Iterable[int], length: int
    ) -> Iterator[tuple[int, Disagreement | None]]:
        under_way: deque[tuple[int, Sequence]] = deque()
        for number in numbers:
            sequence = generate(kind, seed, number, length)
            self._executor.submit(sequence)
            under_way.append((number, sequence))
            if len(under_way) > AHEAD:
                yield self._first_of(under_way)
        while under_way:
            yield self._first_of(under_way)

    def _first_of(self, under_way: deque[tuple[int, Sequence]]) -> tuple[int, Disagreement | None]:
        number, sequence = under_way.popleft()
        return number, self._held_against_the_answer(sequence)

    def _held_against_the_answer(self, sequence: Sequence) -> Disagreement | None:
        """Predict what the executor, at work on this sequence, answers next. A prediction that fails is wrong."""
        predicted, failure = None, "the predicted process came to grief"
        try:
            predicted = self._predict(sequence)
        except Exception:  # noqa: BLE001 - whatever a faulty model raises, the sequence is to be shrunk and shown
            failure = traceback.format_exc()
        live = self._executor.answer()
        if live is not None and live == predicted:
            return None
        return Disagreement(sequence, live, predicted, failure if predicted is None else "")

    def _agrees_when_asked_again(self, found: Disagreement) -> bool:
        """Whether another run answers as predicted: then reclaim or compaction meddled with this one."""
        answers = (self._executor.run(found.sequence) for _ in range(RETRIES))
        return found.predicted is not None and found.predicted in answers
