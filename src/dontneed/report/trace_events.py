"""The events of a timeline one by one, with names for what they hold: as text, and for JSON."""

from __future__ import annotations

from dontneed.abi import trace_kinds as kinds
from dontneed.report.table import printable
from dontneed.units import signed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from dontneed.observe.trace.timeline import Timeline

    Fields = dict[str, Any]

_EVERYTHING = (1 << 64) - 1
_HEAD = ("at_ns", "thread", "cpu", "kind")
_LONG = 1 << 16
"""Numbers from here on are addresses, or frames."""


def format_events(timeline: Timeline) -> Iterator[str]:
    """A line an event: microseconds from the start, thread, CPU, and what happened."""
    for event in events_of(timeline):
        words = " ".join(f"{key}={_word(value)}" for key, value in event.items() if key not in _HEAD)
        yield f"{event['at_ns'] / 1e3:14.1f}  {event['thread']:>7}  {event['cpu']:>3}  {event['kind']:<9}  {words}"


def events_of(timeline: Timeline) -> Iterator[Fields]:
    """Each event with names for what it holds; further arguments of a call are with the call."""
    call: Fields | None = None
    for time, thread, cpu, kind, _, *values in timeline.events.tolist():
        if kind == kinds.MORE:
            if call is not None:
                call["arguments"] = _arguments(call["call"], [*call["arguments"], *values[:3]])
            continue
        if call is not None:
            yield call
            call = None
        event = {"at_ns": time - timeline.started, "thread": thread, "cpu": cpu, "kind": kinds.KIND_NAMES[kind]}
        event.update(_MEANINGS[kind](timeline, *values))
        if kind == kinds.CALL:
            call = event
        else:
            yield event
    if call is not None:
        yield call


def _arguments(name: str, values: list[int]) -> list[int]:
    return values[: dict(kinds.ALL_CALLS.values()).get(name, len(values))]


def _call(_: Timeline, a: int, b: int, c: int, d: int) -> Fields:
    name = _call_name(a)
    return {"call": name, "arguments": _arguments(name, [b, c, d])}


def _return(_: Timeline, a: int, b: int, _c: int, _d: int) -> Fields:
    return {"call": _call_name(a), "result": signed(b)}


def _fault(_: Timeline, a: int, b: int, c: int, _d: int) -> Fields:
    access = "fetch" if c & kinds.INSTRUCTION else "write" if c & kinds.WRITE else "read"
    user, protected = bool(c & kinds.USER), bool(c & kinds.PRESENT)
    return {"address": a, "access": access, "user": user, "protected": protected, "instruction": b}


def _rss(_: Timeline, a: int, b: int, c: int, d: int) -> Fields:
    return {"counter": _named(kinds.COUNTERS, a), "bytes": signed(b), "space": c, "own": bool(d)}


def _frames(_: Timeline, a: int, b: int, _c: int, _d: int) -> Fields:
    return {"frame": a, "order": b}


def _flush(_: Timeline, a: int, b: int, _c: int, _d: int) -> Fields:
    return {"reason": _named(kinds.FLUSH_REASONS, a), "pages": None if b == _EVERYTHING else b}


def _mapping(timeline: Timeline, a: int, b: int, c: int, d: int) -> Fields:
    index, protection, flags = kinds.mapping_parts(d)
    name = timeline.names[index]
    return {"start": a, "end": a + b, "offset": c, "protection": protection, "flags": flags, "name": name}


def _fork(_: Timeline, a: int, b: int, c: int, _d: int) -> Fields:
    return {"new_thread": a, "pid": b, "parent": c}


def _exec(timeline: Timeline, a: int, b: int, _c: int, _d: int) -> Fields:
    return {"pid": a, "name": timeline.names[b]}


def _exit(_: Timeline, a: int, _b: int, _c: int, _d: int) -> Fields:
    return {"pid": a}


def _lost(_: Timeline, a: int, _b: int, _c: int, _d: int) -> Fields:
    return {"records": a}


_MEANINGS: dict[int, Callable[[Timeline, int, int, int, int], Fields]] = {
    kinds.CALL: _call,
    kinds.RETURN: _return,
    kinds.FAULT: _fault,
    kinds.RSS: _rss,
    kinds.ALLOCATED: _frames,
    kinds.FREED: _frames,
    kinds.TLB_FLUSH: _flush,
    kinds.MAPPING: _mapping,
    kinds.FORK: _fork,
    kinds.EXEC: _exec,
    kinds.EXIT: _exit,
    kinds.LOST: _lost,
}


def _call_name(number: int) -> str:
    return kinds.ALL_CALLS.get(number, (str(number), 0))[0]


def _named(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else str(number)


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(f"{number:#x}" for number in value)
    if isinstance(value, int) and value >= _LONG:
        return f"{value:#x}"
    return "everything" if value is None else printable(str(value))
