"""Sequences of memory operations: what they are made of, how the executor reads them, how people do."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dontneed.abi.advice import Advice
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

ARGUMENTS = 10
"""Of an operation as the executor reads it; those that it has no use for are 0."""


# How numbers read


def _bytes(value: int) -> str:
    """As in `3 * PAGE + 1`."""
    pages, rest = divmod(value, PAGE_BYTES)
    parts = [f"{pages} * PAGE" if pages else "", str(rest) if rest or not pages else ""]
    return " + ".join(part for part in parts if part)


def _address(value: int) -> str:
    return f"arena + {_bytes(value)}" if value else "arena"


def _flags(names: dict[int, str], nothing: str) -> Callable[[int], str]:
    def named(value: int) -> str:
        rest = value & ~sum(names)
        words = [name for bit, name in names.items() if value & bit]
        return " | ".join(words + [hex(rest)] * bool(rest)) or nothing

    return named


def _choice(*names: str) -> Callable[[int], str]:
    return lambda value: names[value] if 0 <= value < len(names) else str(value)


def _advice(value: int) -> str:
    return next((f"MADV_{advice.name}" for advice in Advice.all() if advice.number == value), str(value))


_protection = _flags({1: "PROT_READ", 2: "PROT_WRITE", 4: "PROT_EXEC"}, "PROT_NONE")
_remap_flags = _flags({1: "MREMAP_MAYMOVE", 2: "MREMAP_FIXED", 4: "MREMAP_DONTUNMAP"}, "0")
_map_flags = _flags(
    {0x100: "MAP_GROWSDOWN", 0x2000: "MAP_LOCKED", 0x4000: "MAP_NORESERVE", 0x40000: "MAP_HUGETLB"}, "0"
)

PRIVATE_ANONYMOUS, SHARED_ANONYMOUS, PRIVATE_FILE, SHARED_FILE = range(4)
_backing = _choice("private anonymous", "shared anonymous", "private file", "shared file")


# The operations


class Form(Record):
    """One operation of the table: its name, and its arguments with the way each is read by people.

    Attributes:
        code: what the executor knows it by; the place in its table.
        name: the word for it.
        arguments: name and spelling of each.
    """

    code: int
    name: str
    arguments: tuple[tuple[str, Callable[[int], str]], ...]

    def __call__(self, *values: int, thread: int = 0) -> Operation:
        """The operation with these arguments; those left out are 0."""
        return Operation(self.code, thread, values + (0,) * (len(self.arguments) - len(values)))


_RANGE = (("start", _address), ("length", _bytes))
_VECTOR = tuple((f"{word}{i}", spell) for i in range(4) for word, spell in _RANGE)

FORMS: tuple[Form, ...] = tuple(
    Form(code, name, arguments)
    for code, (name, arguments) in enumerate(
        (
            (
                "map",
                (
                    *_RANGE,
                    ("protection", _protection),
                    ("backing", _backing),
                    ("file_page", str),
                    ("flags", _map_flags),
                ),
            ),
            ("unmap", _RANGE),
            ("protect", (*_RANGE, ("protection", _protection))),
            ("advise", (*_RANGE, ("advice", _advice))),
            ("lock", (*_RANGE, ("flags", _flags({1: "MLOCK_ONFAULT"}, "0")))),
            ("unlock", _RANGE),
            ("read", (("at", _address),)),
            ("write", (("at", _address), ("value", str))),
            ("fork", (("operations", str),)),
            (
                "remap",
                (
                    ("start", _address),
                    ("length", _bytes),
                    ("new_length", _bytes),
                    ("flags", _remap_flags),
                    ("to", _address),
                ),
            ),
            ("break", (("end", _address),)),
            ("process_advise", (("advice", _advice), ("ranges", str), *_VECTOR)),
            ("seal", _RANGE),
            ("truncate", (("length", _bytes),)),
        )
    )
)
(
    MAP,
    UNMAP,
    PROTECT,
    ADVISE,
    LOCK,
    UNLOCK,
    READ,
    WRITE,
    FORK,
    REMAP,
    BREAK,
    PROCESS_ADVISE,
    SEAL,
    TRUNCATE,
) = FORMS


class Operation(Record):
    """One step of a sequence.

    Attributes:
        code: which one (`FORMS`).
        thread: who issues it; 0 is the first thread. Ignored where a kind has one thread.
        arguments: as its form names them; addresses and lengths in bytes, addresses from the arena's start.
    """

    code: int
    thread: int
    arguments: tuple[int, ...]

    @property
    def form(self) -> Form:
        """Its row of the table."""
        return FORMS[self.code]

    def with_arguments(self, **changes: int) -> Operation:
        """The same with some arguments changed, by name."""
        names = [name for name, _ in self.form.arguments]
        values = dict(zip(names, self.arguments, strict=True)) | changes
        return self.replace(arguments=tuple(values[name] for name in names))

    def encode(self) -> bytes:
        """As the executor reads it."""
        return _ENCODED.pack(self.code, self.thread, *self.arguments, *(0,) * (ARGUMENTS - len(self.arguments)))

    def __str__(self) -> str:
        words = (
            f"{name}={spell(value)}"
            for (name, spell), value in zip(self.form.arguments, self.arguments, strict=True)
            if value or name in _SHOWN_WHEN_ZERO
        )
        return f"{self.form.name}({', '.join(words)})" + (f" on thread {self.thread}" if self.thread else "")


_SHOWN_WHEN_ZERO = frozenset(("start", "at", "advice", "protection", "backing", "end", "operations", "new_length"))
_ENCODED = struct.Struct(f"<{2 + ARGUMENTS}i")


# What the executor sets up before a sequence, and what it says after each operation


MAPPINGS, COUNTERS, FAULTS, CONTENTS, SMAPS, FRAMES, HUGE = (1 << bit for bit in range(7))
"""Parts of a record beyond the states of the pages: see records.py."""

HUGE_PAGES_ALLOWED, FILE_OF_HUGE_PAGES, SWAP = 1, 2, 4
"""What a process finds: may it have huge pages, is the file of hugetlbfs, is there swap."""


class Arena(Record):
    """The pages that a sequence plays in, and what is around them.

    Attributes:
        base: their address; 0 for the program break.
        pages: how many.
        file_pages: the length of the file; page n holds the byte 0x40 + n.
        threads: besides the first one.
        setup: a sum of HUGE_PAGES_ALLOWED and its like.
    """

    base: int
    pages: int
    file_pages: int
    threads: int = 0
    setup: int = 0


_HEADER = struct.Struct("<Q6I")


class Sequence(Record):
    """Operations in an arena.

    Attributes:
        arena: where they play.
        operations: in their order; a forked child takes those after its `fork`.
        parts: what is recorded after each, a sum of MAPPINGS and its like.
    """

    arena: Arena
    operations: tuple[Operation, ...]
    parts: int = MAPPINGS | COUNTERS

    def encode(self) -> bytes:
        """As the executor reads it."""
        arena = self.arena
        header = _HEADER.pack(
            arena.base, len(self.operations), arena.pages, arena.file_pages, self.parts, arena.setup, arena.threads
        )
        return header + b"".join(map(Operation.encode, self.operations))

    def __str__(self) -> str:
        return "\n".join(f"{number:4}  {operation}" for number, operation in enumerate(self.operations))
