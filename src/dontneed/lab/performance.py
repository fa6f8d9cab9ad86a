"""A scenario while it is performed: who is who by name, and what was seen last."""

from __future__ import annotations

from contextlib import ExitStack
from keyword import iskeyword

from dontneed.errors import DontneedError
from dontneed.lab.prelude import TAKEN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from typing_extensions import Self

    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import File, Region, Thread
    from dontneed.lab.snapshot import Snapshot
    from dontneed.lab.statement import Statement

_LOOKS = ("look", "expect")


class Performance:
    """A scenario while it is performed.

    Args:
        bench: of the first process.

    Attributes:
        benches, regions, files, threads: by name; the benches are those of children.
    """

    def __init__(self, bench: Bench) -> None:
        self.benches: dict[str, Bench] = {}
        self.regions: dict[str, Region] = {}
        self.files: dict[str, File] = {}
        self.threads: dict[str, Thread] = {}
        self._first = bench
        self._until_the_end = ExitStack()
        self._seen: dict[str, Snapshot] = {}
        self._unseen = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._until_the_end:
            for child in reversed(list(self.benches.values())):
                child.end()

    def keep(self, thing: AbstractContextManager[None]) -> None:
        """Have something until the scenario and all of its processes have ended."""
        self._until_the_end.enter_context(thing)

    def perform(self, statement: Statement, act: Callable[[Performance, Bench, Statement], str | None]) -> None:
        """Do what a line says, and claim what it expects to be answered.

        Raises:
            DontneedError: with the line, whatever the trouble was.
        """
        bench = self._first if not statement.process else self.benches.get(statement.process)
        if bench is None:
            statement.refuse(f"there is no process {statement.process!r} now", "`fork NAME` makes one")
        if statement.word not in _LOOKS:
            self._unseen = True
        try:
            answered = act(self, bench, statement)
        except DontneedError as error:
            error.message = statement.locate(error.message)
            raise
        if statement.answer is not None:
            bench.claim(f"{statement.line}, {statement.command}", " ".join(statement.answer), answered or "")

    def finish(self) -> None:
        """Look once more, if something was done since the last time."""
        if self._unseen:
            self.look(self._first, "", "At the end")

    def look(self, bench: Bench, process: str, title: str) -> Snapshot:
        """Look at a process."""
        if self._unseen:
            self._seen.clear()
        self._seen[process] = bench.look(title)
        self._unseen = False
        return self._seen[process]

    def seen(self, bench: Bench, statement: Statement) -> Snapshot:
        """What the process was like after all that was done before this line."""
        if self._unseen or statement.process not in self._seen:
            return self.look(bench, statement.process, f"As {statement.line} finds it")
        return self._seen[statement.process]

    # Names

    def fresh(self, statement: Statement) -> str:
        """The name that the first argument gives to something."""
        name = statement.arguments[0]
        if any(name in named for named in (self.benches, self.regions, self.files, self.threads)):
            statement.refuse(f"there is a {name!r} already", "each has a name of its own")
        if not name.isidentifier() or iskeyword(name) or name in TAKEN:
            statement.refuse(f"{name!r} cannot be a name", "letters, digits and _, and no word of Python")
        return name

    def region(self, statement: Statement) -> Region:
        """The region that the first argument names, or a part: `a[3]`, `a[first:last]` in pages."""
        text = statement.arguments[0]
        name, bracket, slice_ = text.partition("[")
        region = self.regions.get(name)
        if region is None:
            known = ", ".join(self.regions)
            statement.refuse(f"there is no region {name!r}", f"one of: {known}" if known else "`map NAME PAGES` first")
        if not bracket:
            return region
        first_text, colon, last_text = slice_.rstrip("]").partition(":")
        first = statement.number(first_text or "0")
        last = statement.number(last_text) if last_text else (region.pages if colon else first + 1)
        if not (slice_.endswith("]") and first < last <= region.pages):
            statement.refuse(f"{text!r} is no part of it", f"{name}[FIRST:LAST], pages 0 to {region.pages}")
        return region.part(f"{name}_{first}", first, last - first)

    def whole_region(self, statement: Statement) -> Region:
        """The region that the first argument names, and no part of one."""
        if "[" in statement.arguments[0]:
            statement.refuse("a part cannot have another length", "a whole region: its name without [")
        return self.region(statement)

    def file(self, statement: Statement, name: str) -> File:
        """The file of that name."""
        file = self.files.get(name)
        if file is None:
            statement.refuse(f"there is no file {name!r}", "`file NAME PAGES LETTER` makes one")
        return file

    def thread(self, statement: Statement) -> Thread:
        """The thread that the first argument names."""
        thread = self.threads.get(statement.arguments[0])
        if thread is None:
            statement.refuse(f"there is no thread {statement.arguments[0]!r} now", "`thread NAME PAGES` starts one")
        return thread
