"""The words of a scenario, and what each does at the bench."""

from __future__ import annotations

import errno
import signal

from dontneed.abi.advice import Advice, PosixAdvice
from dontneed.lab.machine import HUGETLB, PRIVATE_ANONYMOUS, PRIVATE_FILE, SHARED_ANONYMOUS, SHARED_FILE
from dontneed.records import Record
from dontneed.units import GIB, KIB, MIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dontneed.lab.bench import Bench
    from dontneed.lab.performance import Performance
    from dontneed.lab.snapshot import Held
    from dontneed.lab.statement import Statement

_UNITS = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "pages": PAGE_BYTES}
_COUNTED_IN_BYTES = ("size", "rss", "dirty", "referenced", "anonymous", "lazyfree", "huge", "hugetlb", "swap", "locked")
_COUNTED_IN_PAGES = ("present", "swapped", "guarded", "exclusive", "file", "frames")
EXPECTABLE = (*_COUNTED_IN_BYTES, *_COUNTED_IN_PAGES)
"""What `expect` can ask of a region."""

_KINDS = {
    frozenset[str](): PRIVATE_ANONYMOUS,
    frozenset(("shared",)): SHARED_ANONYMOUS,
    frozenset(("file",)): PRIVATE_FILE,
    frozenset(("file", "shared")): SHARED_FILE,
    frozenset(("hugetlb",)): HUGETLB,
}
"""Kinds of memory by the options that ask for them."""
_BY_DEFAULT = ("anonymous", "private")
_NO_ACCESS = "none"
_NOTHING = "0"
"""The answer of a call that was not refused, of a touch that raised no signal; and zeros, where bytes are found."""


class Word(Record):
    """A word of a scenario.

    Attributes:
        usage: how a line with it is written.
        arguments: how few and how many words may follow.
        perform: does it; what the kernel answered, in the words that `->` compares with.
        answers: takes what is expected to be answered, and refuses what nobody answers; None where there is no answer.
    """

    usage: str
    arguments: tuple[int, int]
    perform: Callable[[Performance, Bench, Statement], str | None]
    answers: Callable[[Statement, tuple[str, ...]], tuple[str, ...]] | None = None


# What can be answered


def _errnos(statement: Statement, expected: tuple[str, ...]) -> tuple[str, ...]:
    if len(expected) != 1 or expected[0] not in (_NOTHING, *errno.errorcode.values()):
        statement.refuse("that is no errno", "as in `-> EINVAL`; `-> 0` where the call is not refused")
    return expected


def _signals(statement: Statement, expected: tuple[str, ...]) -> tuple[str, ...]:
    if len(expected) != 1 or expected[0] not in (_NOTHING, *signal.Signals.__members__):
        statement.refuse("that is no signal", "as in `-> SIGSEGV`; `-> 0` where the touch raises none")
    return expected


def _letters(statement: Statement, expected: tuple[str, ...]) -> tuple[str, ...]:
    if not expected:
        statement.refuse("letters are missing", "as in `-> Z`, or `-> 0 Z` where there are zeros too")
    return tuple(sorted({each if each == _NOTHING else statement.letter(each) for each in expected}))


def _errno(refused: int) -> str:
    return errno.errorcode.get(refused, str(refused)) if refused else _NOTHING


def _found(values: Iterable[int]) -> str:
    return " ".join(sorted(chr(value) if value else _NOTHING for value in values))


# What each word does


def _map(performance: Performance, bench: Bench, statement: Statement) -> None:
    name = performance.fresh(statement)
    pages = statement.pages(statement.arguments[1])
    asked: set[str] = set()
    file, protection, huge = None, "rw", False
    options = iter(statement.arguments[2:])
    for option in options:
        match option:
            case "shared" | "hugetlb":
                asked.add(option)
            case "file":
                asked.add(option)
                file = performance.file(statement, next(options, ""))
            case "protection":
                protection = _protection(statement, next(options, ""))
            case "huge":
                huge = True
            case _ if option not in _BY_DEFAULT:
                statement.refuse(f"{option!r} is no kind of memory", f"it is: {WORDS['map'].usage}")
    kind = _KINDS.get(frozenset(asked))
    if kind is None or (huge and kind == HUGETLB):
        statement.refuse("no memory is all of that", f"it is: {WORDS['map'].usage}")
    performance.regions[name] = bench.map(name, pages, kind=kind, file=file, protection=protection, huge=huge)


def _protection(statement: Statement, text: str) -> str:
    if text not in ("r", "w", "rw", _NO_ACCESS):
        statement.refuse(f"{text!r} is no protection", "r, w, rw or none")
    return "" if text == _NO_ACCESS else text


def _create_file(performance: Performance, bench: Bench, statement: Statement) -> None:
    _, pages, letter, *rest = statement.arguments
    if rest not in ([], ["in", "memory"]):
        statement.refuse(f"{' '.join(rest)!r} says nothing of a file", f"it is: {WORDS['file'].usage}")
    name = performance.fresh(statement)
    performance.files[name] = bench.create_file(
        name, statement.pages(pages), statement.letter(letter), in_memory=bool(rest)
    )


def _read(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _found(bench.read(performance.region(statement)).values)


def _read_file(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _found(bench.file_bytes(performance.file(statement, statement.arguments[0])))


def _write(performance: Performance, bench: Bench, statement: Statement) -> None:
    bench.write(performance.region(statement), statement.letter(statement.arguments[1]))


def _touch(performance: Performance, bench: Bench, statement: Statement) -> str:
    if statement.arguments[1:] not in ((), ("write",)):
        statement.refuse("a touch reads or writes", f"it is: {WORDS['touch'].usage}")
    raised = bench.touch(performance.region(statement), write=len(statement.arguments) > 1)
    return signal.Signals(raised).name if raised else _NOTHING


def _advise(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _errno(bench.advise(performance.region(statement), Advice.named(statement.arguments[1])))


def _posix_advise(performance: Performance, bench: Bench, statement: Statement) -> str:
    return _errno(bench.posix_advise(performance.region(statement), PosixAdvice.named(statement.arguments[1])))


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
    region = performance.whole_region(statement)
    performance.regions[region.name] = bench.remap(region, statement.pages(statement.arguments[1]))


def _fork(performance: Performance, bench: Bench, statement: Statement) -> None:
    name = performance.fresh(statement)
    performance.benches[name] = bench.fork(name)


def _start_thread(performance: Performance, bench: Bench, statement: Statement) -> None:
    name = performance.fresh(statement)
    thread = bench.start_thread(name, statement.pages(statement.arguments[1]))
    performance.threads[name] = thread
    performance.regions[name] = thread.stack


def _use_stack(performance: Performance, bench: Bench, statement: Statement) -> None:
    thread = performance.thread(statement)
    pages = statement.pages(statement.arguments[1])
    if pages >= thread.stack.pages:
        statement.refuse("the stack is not that long", f"fewer than {thread.stack.pages} pages")
    bench.use_stack(thread, pages)


def _end(performance: Performance, bench: Bench, statement: Statement) -> None:
    name = statement.arguments[0]
    if name in performance.benches:
        performance.benches.pop(name).end()
    else:
        bench.end_thread(performance.thread(statement))
        del performance.threads[name]


def _swap(performance: Performance, bench: Bench, statement: Statement) -> None:
    if statement.arguments != ("on",):
        statement.refuse("swap space cannot be taken away", "swap on")
    performance.keep(bench.swap())


def _hugetlb(performance: Performance, bench: Bench, statement: Statement) -> None:
    performance.keep(bench.hugetlb_pool(statement.number(statement.arguments[0], least=1)))


def _wait(performance: Performance, bench: Bench, statement: Statement) -> None:
    bench.wait_for_khugepaged(performance.region(statement))


def _look(performance: Performance, bench: Bench, statement: Statement) -> None:
    performance.look(bench, statement.process, statement.arguments[0])


def _expect(performance: Performance, bench: Bench, statement: Statement) -> None:
    name, quantity, number, *units = statement.arguments
    unit = _unit_of(statement, quantity, units)
    expected = statement.number(number) * _UNITS[unit]
    held = performance.seen(bench, statement).held(performance.region(statement))
    whose = f"{statement.process}'s {name}" if statement.process else name
    bench.claim(
        f"{statement.line}, {quantity} of {whose}",
        _amount(expected, unit),
        _amount(_held_bytes(held, quantity), unit),
    )


def _unit_of(statement: Statement, quantity: str, units: list[str]) -> str:
    if quantity not in EXPECTABLE:
        statement.refuse(f"nobody counts {quantity!r}", f"one of: {', '.join(EXPECTABLE)}")
    unit = units[0] if units else "pages" if quantity in _COUNTED_IN_PAGES else "KiB"
    if unit not in _UNITS:
        statement.refuse(f"{unit!r} is no unit", f"one of: {', '.join(_UNITS)}")
    if quantity in _COUNTED_IN_PAGES and unit != "pages":
        statement.refuse(f"{quantity} is counted in pages", f"expect {statement.arguments[0]} {quantity} NUMBER")
    return unit


def _held_bytes(held: Held, quantity: str) -> int:
    if quantity in _COUNTED_IN_BYTES:
        return int(getattr(held, f"{quantity}_bytes"))
    return PAGE_BYTES * int(held.frames if quantity == "frames" else getattr(held, f"{quantity}_pages"))


def _amount(count_bytes: int, unit: str) -> str:
    """An amount in a unit, or in bytes where that would not be all of it."""
    if count_bytes % _UNITS[unit]:
        return f"{count_bytes} bytes"
    return f"{count_bytes // _UNITS[unit]} {unit}"


_MAP_USAGE = "map NAME PAGES [anonymous | shared | hugetlb | file FILE [shared]] [huge] [protection r|w|rw|none]"

WORDS: dict[str, Word] = {
    "map": Word(_MAP_USAGE, (2, 8), _map),
    "unmap": Word("unmap REGION [-> ERRNO]", (1, 1), _unmap, _errnos),
    "file": Word("file NAME PAGES LETTER [in memory]", (3, 5), _create_file),
    "write": Word("write REGION LETTER", (2, 2), _write),
    "read": Word("read REGION [-> LETTERS]", (1, 1), _read, _letters),
    "read-file": Word("read-file FILE [-> LETTERS]", (1, 1), _read_file, _letters),
    "touch": Word("touch REGION [write] [-> SIGNAL]", (1, 2), _touch, _signals),
    "advise": Word("advise REGION ADVICE [-> ERRNO]", (2, 2), _advise, _errnos),
    "posix-advise": Word("posix-advise REGION ADVICE [-> ERRNO]", (2, 2), _posix_advise, _errnos),
    "protect": Word("protect REGION r|w|rw|none [-> ERRNO]", (2, 2), _protect, _errnos),
    "lock": Word("lock REGION [-> ERRNO]", (1, 1), _lock, _errnos),
    "unlock": Word("unlock REGION [-> ERRNO]", (1, 1), _unlock, _errnos),
    "seal": Word("seal REGION [-> ERRNO]", (1, 1), _seal, _errnos),
    "remap": Word("remap REGION PAGES", (2, 2), _remap),
    "fork": Word("fork PROCESS, then: PROCESS: any other word", (1, 1), _fork),
    "thread": Word("thread NAME STACK-PAGES", (2, 2), _start_thread),
    "use-stack": Word("use-stack THREAD PAGES", (2, 2), _use_stack),
    "end": Word("end PROCESS | THREAD", (1, 1), _end),
    "swap": Word("swap on", (1, 1), _swap),
    "hugetlb": Word("hugetlb HUGE-PAGES", (1, 1), _hugetlb),
    "khugepaged": Word("khugepaged REGION", (1, 1), _wait),
    "look": Word("look TITLE", (1, 1), _look),
    "expect": Word("expect REGION QUANTITY NUMBER [UNIT]", (3, 4), _expect),
}
"""Every word that a line may begin with."""
