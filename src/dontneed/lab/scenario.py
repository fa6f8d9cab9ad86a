"""Scenarios: experiments of one's own, in a text file of a line a step. What a line says is in docs/reference/scenario.

This module takes the text apart: into a question, and statements that know their line. What they do is in
`scenario_words`.
"""

from __future__ import annotations

import shlex

from dontneed.errors import UsageError
from dontneed.lab.experiment import Experiment
from dontneed.lab.scenario_words import EXPECTABLE, WORDS, Performance
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from dontneed.lab.bench import Bench

ARCHITECTURES = ("x86-64", "x86_64")
"""What the model's page tables are those of."""

_ANSWER = ("->", "→")


class Statement(Record):
    """A line of a scenario that does something.

    Attributes:
        where: file and line, for whoever must mend it.
        process: the process that does it; empty for the first one.
        word: what is done, one of `WORDS`.
        arguments: to what, and how.
        answer: what the call is expected to answer, as words; None: nothing is claimed.
        text: the line.
    """

    where: str
    process: str
    word: str
    arguments: tuple[str, ...]
    answer: tuple[str, ...] | None
    text: str

    def refuse(self, what: str, right: str) -> NoReturn:
        """Say where the line is, what is wrong with it, and what would be right.

        Raises:
            UsageError: always.
        """
        msg = f"{self.where}: {what}: {self.text}"
        raise UsageError(msg, hint=right) from None


def scenario_of(text: str, name: str) -> Experiment:
    """The experiment that a scenario describes.

    Args:
        text: of the file.
        name: of the file, for messages; without its directories and suffix it is the name of the experiment.
    Raises:
        UsageError: a line that cannot be read; the message has the line, the hint what would be right.
    """
    question, statements = _parse(text, name)
    if not statements:
        msg = f"{name}: nothing is done in it"
        raise UsageError(msg, hint="a first scenario: map a 4 / write a Z / advise a DONTNEED / expect a rss 0 KiB")

    def perform(bench: Bench) -> None:
        with Performance(bench) as performance:
            for statement in statements:
                performance.perform(statement)
            performance.finish()

    stem = name.rpartition("/")[2].partition(".")[0]
    return Experiment(stem, question or f"What happens in {name}?", perform)


def _parse(text: str, name: str) -> tuple[str, list[Statement]]:
    question = ""
    statements = []
    for number, line in _lines(text):
        where = f"{name}, line {number}"
        words = _split(line, where)
        if words[0] == "question":
            question = " ".join(words[1:])
        elif words[0] == "architecture":
            _check_architecture(words[1:], where, line)
        else:
            statements.append(_statement(words, where, line))
    return question, statements


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def _split(line: str, where: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        msg = f"{where}: {error}: {line}"
        raise UsageError(msg, hint="a text with spaces stands in quotes that are closed") from None


def _check_architecture(words: list[str], where: str, line: str) -> None:
    if len(words) != 1 or words[0] not in ARCHITECTURES:
        msg = f"{where}: the model has no page tables of that architecture: {line}"
        raise UsageError(msg, hint=f"it has those of {ARCHITECTURES[0]}; without this line it takes these for granted")


def _statement(words: list[str], where: str, line: str) -> Statement:
    process = ""
    if words[0].endswith(":") and len(words) > 1:
        process, words = words[0][:-1], words[1:]
    answer: tuple[str, ...] | None = None
    for arrow in _ANSWER:
        if arrow in words:
            at = words.index(arrow)
            answer, words = tuple(words[at + 1 :]), words[:at]
    statement = Statement(where, process, words[0] if words else "", tuple(words[1:]), answer, line)
    word = WORDS.get(statement.word)
    if word is None:
        statement.refuse(f"there is no word {statement.word!r}", f"one of: {', '.join(sorted(WORDS))}")
    least, most = word.arguments
    if not least <= len(statement.arguments) <= most:
        statement.refuse("too few or too many words", f"it is: {word.usage}")
    if answer is not None and not (word.answers and answer):
        statement.refuse("no answer can be expected here", "`-> ERRNO` follows calls that can be refused")
    if statement.word == "expect" and statement.arguments[1] not in EXPECTABLE:
        statement.refuse(f"nobody counts {statement.arguments[1]!r}", f"one of: {', '.join(EXPECTABLE)}")
    return statement
