"""A line of a scenario that does something, and how it is refused."""

from __future__ import annotations

from dontneed.errors import UsageError
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

MOST_PAGES = 1 << 20
"""Of a region: a report goes page by page."""


class Statement(Record):
    """A line of a scenario that does something.

    Attributes:
        where: file and line, for whoever must mend it.
        text: the line.
        process: the process that does it; empty for the first one.
        word: what is done.
        arguments: to what, and how.
        answer: what the call is expected to answer, as words; None: nothing is claimed.
    """

    where: str
    text: str
    process: str = ""
    word: str = ""
    arguments: tuple[str, ...] = ()
    answer: tuple[str, ...] | None = None

    @property
    def line(self) -> str:
        """Which line of its file, in words."""
        return self.where.rpartition(", ")[2]

    @property
    def command(self) -> str:
        """What is done, as it is written, without the answer that is expected."""
        done = " ".join((self.word, *self.arguments))
        return f"{self.process}: {done}" if self.process else done

    def refuse(self, what: str, right: str) -> NoReturn:
        """Say where the line is, what is wrong with it, and what would be right.

        Raises:
            UsageError: always.
        """
        raise UsageError(self.locate(what), hint=right) from None

    def locate(self, trouble: str) -> str:
        """A trouble with the line that made it, once."""
        return trouble if trouble.startswith(self.where) else f"{self.where}: {trouble}: {self.text}"

    def number(self, text: str, *, least: int = 0) -> int:
        """A number that a word of the line is."""
        try:
            number = int(text, 0)
        except ValueError:
            self.refuse(f"{text!r} is no number", "as in 1024 or 0x400")
        if number < least:
            self.refuse(f"{text} is too small", f"{least} or more")
        return number

    def pages(self, text: str) -> int:
        """A number of pages."""
        pages = self.number(text, least=1)
        if pages > MOST_PAGES:
            self.refuse(f"{text} pages are too many", f"{MOST_PAGES} at most, which are 4 GiB")
        return pages

    def letter(self, text: str) -> str:
        """A letter that memory is filled with."""
        if len(text) != 1 or not text.isascii() or not text.isalpha():
            self.refuse(f"{text!r} is no letter", "one of A to Z or a to z: memory is filled with it")
        return text
