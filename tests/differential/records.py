"""What the executor says after each operation, decoded; and where two answers differ, in words."""

from __future__ import annotations

import errno
import signal
import struct
from itertools import zip_longest
from typing import TYPE_CHECKING

from differential.sequences import CONTENTS, COUNTERS, FAULTS, MAPPINGS, SMAPS
from dontneed.records import Record

if TYPE_CHECKING:
    from differential.sequences import Sequence

LAST = 0xFFFF
"""The operation of the last record, made after every page was read."""
SIGNALLED = 1000
"""Plus a signal: the error of a touch that raised it."""
NOT_PRESENT = 0xFFFF
"""The contents of a page that a record does not look at, since reading it would change it."""

PRESENT, SWAPPED, OF_FILE, EXCLUSIVE, GUARD, ZERO, IS_HUGE, MOVED = (1 << bit for bit in range(8))
"""The state of a page. ZERO stands beside PRESENT and IS_HUGE alone; a guard marker is SWAPPED too, as in pagemap.
MOVED, where frames are asked for: present in this record and in the one before, in another frame."""

STATE_LETTERS = "PSFXGZHM"

COUNTER_NAMES = ("VmSize", "VmLck", "RssAnon", "RssFile", "RssShmem", "VmData", "VmPTE", "VmSwap", "HugetlbPages")

HEAD = struct.Struct("<HBiq")
LENGTH = struct.Struct("<H")
STATE_RUN = struct.Struct("<HB")
CONTENTS_RUN = struct.Struct("<HH")
MAPPING = struct.Struct("<HHBI")
COUNTER_VALUES = struct.Struct(f"<{len(COUNTER_NAMES)}i")
FAULT_COUNT = struct.Struct("<i")


class Step(Record):
    """One record, decoded.

    Attributes:
        operation: its number; LAST after every page was read.
        depth: 0 for the first process, 1 for its forked child, …
        error: errno, or SIGNALLED plus a signal.
        value: what the call or the read returned.
        states: runs of pages alike, (pages, state).
        parts: whatever else was asked for, by name, in words.
    """

    operation: int
    depth: int
    error: int
    value: int
    states: tuple[tuple[int, int], ...]
    parts: dict[str, object]


def decode(answer: bytes, parts: int) -> list[Step]:
    """Every record of an answer to a sequence that asked for `parts`."""
    return list(_Reader(answer, parts))


class _Reader:
    """Goes through an answer, record by record."""

    def __init__(self, answer: bytes, parts: int) -> None:
        self._answer = answer
        self._parts = parts
        self._at = 0

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Step:
        if self._at >= len(self._answer):
            raise StopIteration
        operation, depth, error, value = self._take(HEAD)
        parts: dict[str, object] = {}
        if operation == LAST:
            parts["contents of all"] = self._take_list(CONTENTS_RUN)
        states = self._take_list(STATE_RUN)
        if self._parts & MAPPINGS:
            parts["mappings"] = [Mapping(*each) for each in self._take_list(MAPPING)]
        if self._parts & COUNTERS:
            parts["counters"] = dict(zip(COUNTER_NAMES, self._take(COUNTER_VALUES), strict=True))
        if self._parts & FAULTS:
            parts["faults"] = self._take(FAULT_COUNT)[0]
        if self._parts & CONTENTS:
            parts["contents"] = self._take_list(CONTENTS_RUN)
        if self._parts & SMAPS:
            (length,) = self._take(LENGTH)
            parts["smaps"] = self._answer[self._at : self._at + length].decode()
            self._at += length
        return Step(operation, depth, error, value, tuple(states), parts)

    def _take(self, form: struct.Struct) -> tuple[int, ...]:
        values = form.unpack_from(self._answer, self._at)
        self._at += form.size
        return values

    def _take_list(self, form: struct.Struct) -> list[tuple[int, ...]]:
        (length,) = self._take(LENGTH)
        return [self._take(form) for _ in range(length)]


class Mapping(Record):
    """A mapping, as far as it meets the arena: pages [first, last), permissions as bits r w x s, page of its file."""

    first: int
    last: int
    permissions: int
    file_page: int

    def __str__(self) -> str:
        letters = "".join(letter if self.permissions >> bit & 1 else "-" for bit, letter in enumerate("rwx"))
        return f"{self.first}..{self.last} {letters}{'s' if self.permissions & 8 else 'p'} @{self.file_page}"


# Where two answers differ


def first_difference(sequence: Sequence, live: bytes, predicted: bytes) -> str:
    """The first record that two answers do not share, in words: the operation, what each says. Empty if none."""
    ours = decode(live, sequence.parts)
    theirs = decode(predicted, sequence.parts)
    for one, other in zip_longest(ours, theirs):
        if one is None or other is None:
            return f"live says {len(ours)} records, predicted were {len(theirs)}"
        if one != other:
            lines = [_title(sequence, one)]
            lines += [
                f"  {name}\n    live       {said}\n    predicted  {expected}"
                for name, said, expected in _apart(one, other)
            ]
            return "\n".join(lines)
    return ""


def first_differing(sequence: Sequence, live: bytes, predicted: bytes) -> int:
    """The operation after which two answers differ first; the last one of the sequence if that is nowhere else."""
    last = len(sequence.operations) - 1
    for one, other in zip(decode(live, sequence.parts), decode(predicted, sequence.parts), strict=False):
        if one != other:
            return min(one.operation, last)
    return last


def _title(sequence: Sequence, step: Step) -> str:
    where = f" in the forked child (depth {step.depth})" if step.depth else ""
    if step.operation == LAST:
        return "after reading every page"
    outcome = f"{error_name(step.error)} {step.value or ''}".rstrip()
    return f"after operation {step.operation}{where}: {sequence.operations[step.operation]}: {outcome}"


def _apart(one: Step, other: Step) -> list[tuple[str, str, str]]:
    """The fields in which two records differ, each spelled both ways."""
    apart = [
        (name, str(getattr(one, name)), str(getattr(other, name)))
        for name in ("operation", "depth", "value")
        if getattr(one, name) != getattr(other, name)
    ]
    if one.error != other.error:
        apart.append(("error", error_name(one.error), error_name(other.error)))
    if one.states != other.states:
        apart.append(("pages", spell_states(one.states), spell_states(other.states)))
    for name, said in one.parts.items():
        expected = other.parts.get(name)
        if said != expected:
            apart.append((name, *_spell_apart(said, expected)))
    return apart


def _spell_apart(said: object, expected: object) -> tuple[str, str]:
    if isinstance(said, dict) and isinstance(expected, dict):
        moved = [name for name in said if said[name] != expected[name]]
        return tuple(", ".join(f"{name} {side[name]:+} kB" for name in moved) for side in (said, expected))  # type: ignore[return-value]
    if isinstance(said, str) and isinstance(expected, str):
        lines, others = said.splitlines(), expected.splitlines()
        moved = [(a, b) for a, b in zip_longest(lines, others, fillvalue="") if a != b]
        return tuple(" | ".join(" ".join(line.split()) for line in side) for side in zip(*moved, strict=True))  # type: ignore[return-value]
    if isinstance(said, list):
        return tuple(", ".join(map(str, side)) for side in (said, expected))  # type: ignore[return-value,arg-type]
    return str(said), str(expected)


def error_name(error: int) -> str:
    """`EINVAL`, `SIGSEGV`, or `done` for 0."""
    if error >= SIGNALLED:
        return signal.Signals(error - SIGNALLED).name
    return errno.errorcode.get(error, str(error)) if error else "done"


def spell_states(states: tuple[tuple[int, int], ...]) -> str:
    """Runs as `24 ----, 3 P--X`: how many pages, and the letters of PSFXGZHM that hold."""
    return ", ".join(f"{pages} {_spell_state(state)}" for pages, state in states)


def _spell_state(state: int) -> str:
    return "".join(letter for bit, letter in enumerate(STATE_LETTERS) if state >> bit & 1) or "-"


def has_swap(answer: bytes, parts: int) -> bool:
    """Whether a page was seen swapped out that no guard marker explains: reclaim meddled, or a frame was migrating."""
    return any(state & (SWAPPED | GUARD) == SWAPPED for step in decode(answer, parts) for _, state in step.states)
