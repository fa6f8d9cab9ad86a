"""Delta debugging: the smallest sequence, and the plainest numbers in it, that still do what was found.

Zeller and Hildebrandt's ddmin over the operations, then each number towards plainer ones, and both again while it
helps. `still` says whether a candidate still shows the disagreement; it is asked for hundreds of candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dontneed.units import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from differential.sequences import Operation, Sequence

Item = TypeVar("Item")

WORDS = ("flags", "backing", "advice")
"""Arguments that are no quantity: another number means another thing."""


def shrink(sequence: Sequence, still: Callable[[Sequence], bool]) -> Sequence:
    """The smallest variant of a sequence for which `still` holds; the sequence itself if nothing smaller does."""

    def shows(operations: tuple[Operation, ...]) -> bool:
        return bool(operations) and still(sequence.replace(operations=operations))

    operations, before = sequence.operations, None
    while operations != before:
        before = operations
        operations = plainest(fewest(operations, shows), shows)
    return sequence.replace(operations=operations)


def fewest(items: tuple[Item, ...], shows: Callable[[tuple[Item, ...]], bool]) -> tuple[Item, ...]:
    """Leave out all that can be missed: halves, quarters, … single items."""
    size = len(items) // 2
    while size:
        start = 0
        while start < len(items):
            candidate = items[:start] + items[start + size :]
            if shows(candidate):
                items = candidate
            else:
                start += size
        size //= 2
    return items


def plainest(
    operations: tuple[Operation, ...], shows: Callable[[tuple[Operation, ...]], bool]
) -> tuple[Operation, ...]:
    """Each number as plain as it can be, one at a time."""
    for place in range(len(operations)):
        for which in range(-1, len(operations[place].arguments)):
            candidates = (_replaced(operations, place, plainer) for plainer in _plainer(operations[place], which))
            operations = next(filter(shows, candidates), operations)
    return operations


def _replaced(operations: tuple[Operation, ...], place: int, by: Operation) -> tuple[Operation, ...]:
    return (*operations[:place], by, *operations[place + 1 :])


def _plainer(operation: Operation, which: int) -> Iterator[Operation]:
    """Variants of an operation with one argument plainer, plainest first; which -1 is its thread."""
    if which < 0:
        if operation.thread:
            yield operation.replace(thread=0)
        return
    name, _ = operation.form.arguments[which]
    before, value, after = operation.arguments[:which], operation.arguments[which], operation.arguments[which + 1 :]
    for candidate in (0,) if name in WORDS else _plainer_numbers(value):
        if abs(candidate) < abs(value):
            yield operation.replace(arguments=(*before, candidate, *after))


def _plainer_numbers(value: int) -> Iterator[int]:
    """Nothing, next to nothing, whole pages, and ever smaller steps down."""
    yield from (0, 1, PAGE_BYTES)
    step = abs(value) // PAGE_BYTES // 2
    while step:
        yield value // PAGE_BYTES * PAGE_BYTES - step * PAGE_BYTES
        step //= 2
    yield value // PAGE_BYTES * PAGE_BYTES
