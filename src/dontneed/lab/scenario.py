"""Scenarios: experiments of one's own, in a text file of a line a step. What a line says is in docs/reference/scenario.

This module takes the text apart: into a question, and statements that know their line. What they do is in
`scenario_words`, and who is who meanwhile in `performance`.
"""

from __future__ import annotations

import shlex

from dontneed.errors import UsageError
from dontneed.lab.experiment import Experiment
from dontneed.lab.performance import Performance
from dontneed.lab.scenario_words import WORDS
from dontneed.lab.statement import Statement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.lab.bench import Bench

ARCHITECTURES = ("x86-64", "x86_64")
"""What the model's page tables are those of."""

_ANSWER = ("->", "→")
_QUESTION = "What becomes of this memory?"
_EXAMPLE = "a first scenario, four lines of it: map a 4 / write a Z / advise a DONTNEED / expect a rss 0 KiB"


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
        raise UsageError(msg, hint=_EXAMPLE)

    def perform(bench: Bench) -> None:
        with Performance(bench) as performance:
            for statement in statements:
                performance.perform(statement, WORDS[statement.word].perform)
            performance.finish()

    stem = name.rpartition("/")[2].partition(".")[0]
    return Experiment(stem or name, question, perform)


def _parse(text: str, name: str) -> tuple[str, list[Statement]]:
    question = _QUESTION
    statements = []
    for number, line in _lines(text):
        where = f"{name}, line {number}"
        word, _, rest = line.partition(" ")
        if word == "question" and rest:
            question = rest.strip()
        elif word == "architecture":
            _check_architecture(rest.partition("#")[0].strip(), where, line)
        else:
            statements.append(_statement(where, line))
    return question, statements


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that say something, with their numbers as an editor counts them."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line.strip()


def _check_architecture(architecture: str, where: str, line: str) -> None:
    if architecture not in ARCHITECTURES:
        msg = f"{where}: the model has no page tables of that architecture: {line}"
        raise UsageError(msg, hint=f"it has those of {ARCHITECTURES[0]}; without this line it takes these for granted")


def _statement(where: str, line: str) -> Statement:
    process, rest = "", line
    before, colon, after = line.partition(":")
    if colon and before.isidentifier():
        process, rest = before, after.strip()
    statement = _with_words(Statement(where, line, process), rest)
    word = WORDS.get(statement.word)
    if word is None:
        statement.refuse(f"there is no word {statement.word!r}", f"one of: {', '.join(sorted(WORDS))}")
    least, most = word.arguments
    if not least <= len(statement.arguments) <= most:
        statement.refuse("too few or too many words", f"it is: {word.usage}")
    if statement.answer is None:
        return statement
    if word.answers is None:
        statement.refuse("no answer can be expected here", "`-> ANSWER` follows calls that can be refused, and reads")
    return statement.replace(answer=word.answers(statement, statement.answer))


def _with_words(statement: Statement, text: str) -> Statement:
    """A statement with the words of its line, apart from its process."""
    word, _, rest = text.partition(" ")
    if word == "look":
        return statement.replace(word=word, arguments=(rest.strip(),) if rest else ())
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        statement.refuse(str(error), "quotes come in pairs; what stands in them is one word")
    answer: tuple[str, ...] | None = None
    for arrow in _ANSWER:
        if arrow in words:
            at = words.index(arrow)
            answer, words = tuple(words[at + 1 :]), words[:at]
    return statement.replace(word=words[0] if words else "", arguments=tuple(words[1:]), answer=answer)
