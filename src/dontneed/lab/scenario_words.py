"""The words of a scenario, and what each does at the bench."""

from __future__ import annotations

import errno
import signal

from dontneed.abi.advice import Advice, PosixAdvice
from dontneed.errors import UsageError
from dontneed.lab.machine import HUGETLB, PRIVATE_ANONYMOUS, PRIVATE_FILE, SHARED_ANONYMOUS, SHARED_FILE
from dontneed.records import Record
from dontneed.units import GIB, KIB, MIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from typing_extensions import Self

    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import File, Region, Thread
    from dontneed.lab.scenario import Statement
    from dontneed.lab.snapshot import Snapshot

_UNITS = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "pages": PAGE_BYTES}
_COUNTED_IN_BYTES = ("size", "rss", "dirty", "referenced", "anonymous", "lazyfree", "huge", "hugetlb", "swap", "locked")
_COUNTED_IN_PAGES = ("present", "swapped", "guarded", "exclusive", "file", "frames")
EXPECTABLE = (*_COUNTED_IN_BYTES, *_COUNTED_IN_PAGES)
"""What `expect` can ask of a region."""

_NONE = "none"
_MANY = 99


class Word(Record):
    """A word of a scenario.

    Attributes:
        usage: how a line with it is written.
        arguments: how few and how many words may follow.
        answers: the kernel may refuse, so `-> ERRNO` may follow.
        perform: does it; what the kernel answered, in the words that `->` compares with.
    """

    usage: str
    arguments: tuple[int, int]
    answers: bool
    perform: Callable[[Performance, Bench, Statement], str | None]


class Performance:
    """A scenario while it is performed: who is who by name."""

    def __init__(self, bench: Bench) -> None:
        self.main = bench
        self.benches: dict[str, Bench] = {}
        self.regions: dict[str, Region] = {}
        self.files: dict[str, File] = {}
        self.threads: dict[str, Thread] = {}
        self.held: list[AbstractContextManager[None]] = []
        self._seen: dict[str, Snapshot] = {}
        self._unseen = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(list(self.benches.values())):
            child.end()
        while self.held:
            self.held.pop().__exit__(None, None, None)

    def perform(self, statement: Statement) -> None:
        """Do what a line says, and claim what it expects to be answered."""
        bench = self.main if not statement.process else self.benches.get(statement.process)
        if bench is None:
            statement.refuse(f"there is no process {statement.process!r} now", "`fork NAME` makes one")
        if statement.word not in ("look", "expect"):
            self._unseen = True
        answered = WORDS[statement.word].perform(self, bench, statement)
        if statement.answer is not None:
            line = statement.where.rpartition(", ")[2]
            bench.claim(f"{line}, the answer", " ".join(statement.answer), answered or "")

    def finish(self) -> None:
        """Look once more, if something was done since the last time."""
        if self._unseen:
            self.look(self.main, "", "At the end")

    def look(self, bench: Bench, process: str, title: str) -> Snapshot:
        """Look at a process."""
        self._seen[process] = bench.look(title)
        self._unseen = False
        return self._seen[process]

    def seen(self, bench: Bench, statement: Statement) -> Snapshot:
        """What the process was like after all that was done before this line."""
        if self._unseen or statement.process not in self._seen:
            return self.look(bench, statement.process, f"As {statement.where.rpartition(', ')[2]} finds it")
        return self._seen[statement.process]

    def region(self, statement: Statement) -> Region:
        """The region that the first argument names, or a part: `a`, `a[first:last]` in pages."""
        text = statement.arguments[0]
        name, bracket, slice_ = text.partition("[")
        region = self.regions.get(name)
        if region is None:
            known = ", ".join(self.regions) or "there is none yet: `map NAME PAGES`"
            statement.refuse(f"there is no region {name!r}", f"one of: {known}")
        if not bracket:
            return region
        first_text, colon, last_text = slice_.rstrip("]").partition(":")
        first = _number(statement, first_text or "0")
        last = _number(statement, last_text) if last_text else (region.pages if colon else first + 1)
        if not (slice_.endswith("]") and 0 <= first < last <= region.pages):
            statement.refuse(f"{text!r} is no part of it", f"{name}[FIRST:LAST], pages 0 to {region.pages}")
        return region.part(f"{name}_{first}", first, last - first)


def _number(statement: Statement, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        statement.refuse(f"{text!r} is no number", "as in 1024 or 0x400")


def _letter(statement: Statement, text: str) -> str:
    if len(text) != 1 or not text.isascii():
        statement.refuse(f"{text!r} is no letter", "one ASCII character: memory is filled with it")
    return text


def _advice(statement: Statement, family: type[Advice | PosixAdvice], text: str) -> Advice | PosixAdvice:
    try:
        return family.named(text)
    except UsageError as error:
        statement.refuse(error.message, error.hint)


def _errno(refused: int) -> str:
    return errno.errorcode.get(refused, str(refused)) if refused else "0"


# What each word does


def _map(performance: Performance, bench: Bench, statement: Statement) -> None:
    name, pages, *options = statement.arguments
    if name in performance.regions:
        statement.refuse(f"there is a region {name!r} already", "each has a name of its own")
    kind, file, protection, huge = PRIVATE_ANONYMOUS, None, "rw", False
    while options:
        option = options.pop(0)
        if option in ("anonymous", "private"):
            continue
        if option == "shared":
            kind = SHARED_FILE if file else SHARED_ANONYMOUS
        elif option == "hugetlb":
            kind = HUGETLB
        elif option == "huge":
            huge = True
        elif option == "file" and options:
            file = _file(performance, statement, options.pop(0))
            kind = SHARED_FILE if kind == SHARED_ANONYMOUS else PRIVATE_FILE
        elif option == "protection" and options:
            protection = _protection(statement, options.pop(0))
        else:
            statement.refuse(f"{option!r} is no kind of memory", f"it is: {WORDS['map'].usage}")
    performance.regions[name] = bench.map(
        name, _number(statement, pages), kind=kind, file=file, protection=protection, huge=huge
    )


def _file(performance: Performance, statement: Statement, name: str) -> File:
    file = performance.files.get(name)
    if file is None:
        statement.refuse(f"there is no file {name!r}", "`file NAME PAGES LETTER` makes one")
    return file


def _protection(statement: Statement, text: str) -> str:
    if text not in ("r", "w", "rw", _NONE):
        statement.refuse(f"{text!r} is no protection", "r, w, rw or none")
    return "" if text == _NONE else text


def _create_file(performance: Performance, bench: Bench, statement: Statement) -> None:
    name, pages, letter, *rest = statement.arguments
    if rest not in ([], ["in", "memory"]):
        statement.refuse(f"{' '.join(rest)!r} says nothing of a file", f"it is: {WORDS['file'].usage}")
    performance.files[name] = bench.create_file(
        name, _number(statement, pages), _letter(statement, letter), in_memory=bool(rest)
    )


def _read(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _letters(bench.read(performance.region(statement)).values)


def _read_file(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _letters(bench.file_bytes(_file(performance, statement, statement.arguments[0])))


def _letters(values: tuple[int, ...]) -> str:
    """The bytes found, as a scenario writes them: letters, and 0 for zeros."""
    return " ".join(chr(value) if chr(value).isprintable() and value > ord(" ") else str(value) for value in values)


def _write(performance: Performance, bench: Bench, statement: Statement) -> None:
    bench.write(performance.region(statement), _letter(statement, statement.arguments[1]))


def _touch(performance: Performance, bench: Bench, statement: Statement) -> str:
    if statement.arguments[1:] not in ((), ("write",)):
        statement.refuse("a touch reads or writes", f"it is: {WORDS['touch'].usage}")
    raised = bench.touch(performance.region(statement), write=len(statement.arguments) > 1)
    return signal.Signals(raised).name if raised else "0"


def _advise(performance: Performance, bench: Bench, statement: Statement) -> str:
    advice = _advice(statement, Advice, statement.arguments[1])
    assert isinstance(advice, Advice)  # noqa: S101 - of the family that was asked for
    return _errno(bench.advise(performance.region(statement), advice))


def _posix_advise(performance: Performance, bench: Bench, statement: Statement) -> str:
    advice = _advice(statement, PosixAdvice, statement.arguments[1])
    assert isinstance(advice, PosixAdvice)  # noqa: S101 - of the family that was asked for
    return _errno(bench.posix_advise(performance.region(statement), advice))


def _protect(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _errno(bench.protect(performance.region(statement), _protection(statement, statement.arguments[1])))


def _unmap(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _errno(bench.unmap(performance.region(statement)))


def _lock(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _errno(bench.lock(performance.region(statement)))


def _unlock(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _errno(bench.unlock(performance.region(statement)))


def _seal(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _errno(bench.seal(performance.region(statement)))


def _remap(performance: Performance, bench: Bench, statement: Statement) -> None:
    region = performance.region(statement)
    performance.regions[region.name] = bench.remap(region, _number(statement, statement.arguments[1]))


def _fork(performance: Performance, bench: Bench, statement: Statement) -> None:
    name = statement.arguments[0]
    if name in performance.benches or name in performance.threads:
        statement.refuse(f"there is a {name!r} already", "each has a name of its own")
    performance.benches[name] = bench.fork(name)


def _start_thread(performance: Performance, bench: Bench, statement: Statement) -> None:
    name, pages = statement.arguments
    thread = bench.start_thread(name, _number(statement, pages))
    performance.threads[name] = thread
    performance.regions[name] = thread.stack


def _use_stack(performance: Performance, bench: Bench, statement: Statement) -> None:
    bench.use_stack(_thread(performance, statement), _number(statement, statement.arguments[1]))


def _thread(performance: Performance, statement: Statement) -> Thread:
    thread = performance.threads.get(statement.arguments[0])
    if thread is None:
        statement.refuse(f"there is no thread {statement.arguments[0]!r}", "`thread NAME PAGES` starts one")
    return thread


def _end(performance: Performance, bench: Bench, statement: Statement) -> None:
    name = statement.arguments[0]
    if name in performance.benches:
        performance.benches.pop(name).end()
    else:
        bench.end_thread(_thread(performance, statement))
        del performance.threads[name]


def _swap(performance: Performance, bench: Bench, statement: Statement) -> None:
    if statement.arguments != ("on",):
        statement.refuse("swap is there or not", "swap on")
    _hold(performance, bench.swap())


def _hugetlb(performance: Performance, bench: Bench, statement: Statement) -> None:
    _hold(performance, bench.hugetlb_pool(_number(statement, statement.arguments[0])))


def _hold(performance: Performance, thing: AbstractContextManager[None]) -> None:
    thing.__enter__()
    performance.held.append(thing)


def _wait(performance: Performance, bench: Bench, statement: Statement) -> None:
    bench.wait_for_khugepaged(performance.region(statement))


def _look(performance: Performance, bench: Bench, statement: Statement) -> None:
    performance.look(bench, statement.process, " ".join(statement.arguments))


def _expect(performance: Performance, bench: Bench, statement: Statement) -> None:
    name, quantity, number, *unit = statement.arguments
    held = performance.seen(bench, statement).held(performance.region(statement))
    expected = _number(statement, number)
    if quantity in _COUNTED_IN_PAGES:
        found, word = getattr(held, quantity if quantity == "frames" else f"{quantity}_pages"), "pages"
        if unit not in ([], ["pages"]):
            statement.refuse(f"{quantity} is counted in pages", f"expect {name} {quantity} {number} pages")
    else:
        word = unit[0] if unit else "KiB"
        if word not in _UNITS:
            statement.refuse(f"{word!r} is no unit", f"one of: {', '.join(_UNITS)}")
        found = getattr(held, f"{quantity}_bytes") // _UNITS[word]
    who = f"{quantity} of {statement.process}'s {name}" if statement.process else f"{quantity} of {name}"
    bench.claim(who, f"{expected} {word}", f"{found} {word}")


WORDS: dict[str, Word] = {
    "map": Word(
        "map NAME PAGES [anonymous | shared | hugetlb | file FILE [shared]] [huge] [protection r|w|rw|none]",
        (2, 8),
        answers=False,
        perform=_map,
    ),
    "unmap": Word("unmap REGION [-> ERRNO]", (1, 1), answers=True, perform=_unmap),
    "file": Word("file NAME PAGES LETTER [in memory]", (3, 5), answers=False, perform=_create_file),
    "write": Word("write REGION LETTER", (2, 2), answers=False, perform=_write),
    "read": Word("read REGION [-> LETTERS]", (1, 1), answers=True, perform=_read),
    "read-file": Word("read-file FILE [-> LETTERS]", (1, 1), answers=True, perform=_read_file),
    "touch": Word("touch REGION [write] [-> SIGNAL]", (1, 2), answers=True, perform=_touch),
    "advise": Word("advise REGION ADVICE [-> ERRNO]", (2, 2), answers=True, perform=_advise),
    "posix-advise": Word("posix-advise REGION ADVICE [-> ERRNO]", (2, 2), answers=True, perform=_posix_advise),
    "protect": Word("protect REGION r|w|rw|none [-> ERRNO]", (2, 2), answers=True, perform=_protect),
    "lock": Word("lock REGION [-> ERRNO]", (1, 1), answers=True, perform=_lock),
    "unlock": Word("unlock REGION [-> ERRNO]", (1, 1), answers=True, perform=_unlock),
    "seal": Word("seal REGION [-> ERRNO]", (1, 1), answers=True, perform=_seal),
    "remap": Word("remap REGION PAGES", (2, 2), answers=False, perform=_remap),
    "fork": Word("fork PROCESS, then: PROCESS: any other word", (1, 1), answers=False, perform=_fork),
    "thread": Word("thread NAME STACK-PAGES", (2, 2), answers=False, perform=_start_thread),
    "use-stack": Word("use-stack THREAD PAGES", (2, 2), answers=False, perform=_use_stack),
    "end": Word("end PROCESS | THREAD", (1, 1), answers=False, perform=_end),
    "swap": Word("swap on", (1, 1), answers=False, perform=_swap),
    "hugetlb": Word("hugetlb HUGE-PAGES", (1, 1), answers=False, perform=_hugetlb),
    "khugepaged": Word("khugepaged REGION", (1, 1), answers=False, perform=_wait),
    "look": Word("look TITLE", (1, _MANY), answers=False, perform=_look),
    "expect": Word("expect REGION QUANTITY NUMBER [UNIT]", (3, 4), answers=False, perform=_expect),
}
"""Every word that a line may begin with."""
