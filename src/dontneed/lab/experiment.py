"""What an experiment is: a name, a question, and steps at a bench that end in claims."""

from __future__ import annotations

import errno
import signal

from dontneed.records import Record
from dontneed.units import KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dontneed.lab.bench import Bench


class Experiment(Record):
    """A question to a kernel.

    Attributes:
        name: what `dontneed lab run` calls it.
        question: one sentence.
        perform: does the steps and makes the claims. Raises KernelLacks or NotPermitted where it cannot be done.
    """

    name: str
    question: str
    perform: Callable[[Bench], None]


def kib(*sizes_bytes: int) -> str:
    """Sizes as a claim compares them: '4096 KiB', or '4096 → 0 KiB' for what becomes of one."""
    return f"{' → '.join(str(size // KIB) for size in sizes_bytes)} KiB"


def answer(number: int) -> str:
    """What a call answered, as a claim compares it: the name of the errno, or 'accepted' for 0."""
    return errno.errorcode.get(number, str(number)) if number else "accepted"


def raised(number: int) -> str:
    """What a touch raised, as a claim compares it: the name of the signal, or 'nothing' for 0."""
    return signal.Signals(number).name if number else "nothing"


def contents(values: Iterable[int]) -> str:
    """What memory or a file holds, as a claim compares it: the letters that it is full of, and 'zeros' for byte 0."""
    return " and ".join(chr(value) if value else "zeros" for value in values)
