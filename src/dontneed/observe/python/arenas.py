"""Where CPython keeps its array of arena objects, found without symbols: by agreement.

Pools know themselves: a header is consistent in itself, and says which arena object its pool belongs to. So a few dozen
pools are looked for in anonymous memory, and then the one word in the interpreter's data that points to an array whose
objects agree with all of them. The word's address stays what it is as long as the process lives; the array moves as it
grows. Other words may hold the same value for a while: the list of usable arenas may begin with the first object. The
interpreter's own lies beside the array's length; where that does not decide, all of them are kept, and believed only
as long as they agree.

The target runs on: what is read may be torn, and is believed only where it agrees.

Source:
    CPython: Objects/obmalloc.c new_arena(), address_in_range().
"""

from __future__ import annotations

from dontneed.abi import pymalloc as abi
from dontneed.errors import TargetRefused, Unreadable
from dontneed.kernel.process_memory import read_each, read_memory
from dontneed.observe.presence import read_presence
from dontneed.observe.python.pools import are_pools_in_use, header_type
from dontneed.observe.resident import find_anonymous
from dontneed.records import Record
from dontneed.spans import Spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words
    from dontneed.observe.presence import Presence, Truths
    from dontneed.observe.python.runtime import PythonRuntime
    from dontneed.observe.subject import Subject

    Objects = np.ndarray[Any, np.dtype[np.void]]
    """struct arena_object."""

_ENOUGH_POOLS = 256
_SAMPLES = 40
_FEWEST_POOLS = 8
_AGREES = 0.8
_PLAUSIBLE = 0.9
"""One of sixteen objects may be in the making while it is read."""
_TRIES = 3
"""The array may move while it is looked for."""
_BATCH = 16 * 1024
_SCATTER = 0x9E3779B1
"""A prime: stepping by it visits all addresses in an order that has nothing to do with theirs."""
_LARGEST_ARRAY = 1 << 22
_HINT = "holder"


class Arenas(Record):
    """The arenas of an interpreter at one moment.

    Attributes:
        holders: addresses of the words that hold the array's address; the interpreter's own is among them.
        array: where the array of arena objects was.
        numbers: of the arenas in use, their places in the array.
        objects: their arena objects.
        presence: which pages of all anonymous memory were there.
    """

    holders: tuple[int, ...]
    array: int
    numbers: Words
    objects: Objects
    presence: Presence

    @property
    def hint(self) -> Mapping[str, int] | None:
        """What finds the array faster the next time; nothing where it is not certain."""
        return {_HINT: self.holders[0]} if len(self.holders) == 1 else None


def find_arenas(subject: Subject, runtime: PythonRuntime, hint: Mapping[str, int] | None = None) -> Arenas:
    """Find the arenas of the process.

    Args:
        subject: whose.
        runtime: its CPython.
        hint: of an earlier find.
    Raises:
        TargetRefused: it has none, or not only plain ones; says which.
        NotPermitted, ProcessGone, KernelLacks: as every read.
    """
    presence = read_presence(subject.process, private_memory(subject))
    # What a forked worker shares with its parent would be copied by reading it, and free nothing when it goes.
    presence = presence.replace(alone=find_anonymous(subject.process, presence.present).alone)
    holders: tuple[int, ...] = (hint[_HINT],) if hint and _HINT in hint else ()
    for _ in range(_TRIES):
        try:
            arenas = _read_arenas(subject.pid, holders, presence) if holders else None
        except Unreadable:  # the hint is of another life, or the array moved just now
            arenas = None
        if arenas is not None:
            return arenas
        holders = _find_holders(subject, runtime, presence)
    msg = "its array of arenas moved each time it was read"
    raise TargetRefused(msg, hint="try again when the process is less busy")


def private_memory(subject: Subject) -> Spans:
    """Where arenas can lie: private anonymous memory that can be read and written."""
    rows = subject.rows("anonymous", "heap")
    return Spans((row.start, row.end) for row in rows if row.perms.startswith("rw") and row.perms.endswith("p"))


def object_type() -> np.dtype[np.void]:
    """The fields of struct arena_object."""
    import numpy as np

    return np.dtype(list(abi.ARENA_OBJECT))


def read_objects(pid: int, array: int, numbers: Words) -> tuple[Objects, Truths]:
    """The arena objects at these places of the array, and which of them could be read."""
    import numpy as np

    addresses = np.uint64(array) + numbers.astype(np.uint64) * np.uint64(abi.ARENA_OBJECT_BYTES)
    rows, read = read_each(pid, addresses, abi.ARENA_OBJECT_BYTES)
    return rows.view(object_type())[:, 0], read


# Pools, here and there


def _sample_pools(pid: int, presence: Presence) -> tuple[Words, Words]:
    """Some pools in use, of as many arenas as there are; and the number of the arena that each names."""
    import numpy as np

    candidates = _pool_addresses(presence.present if presence.alone is None else presence.alone)
    found, headers = [], []
    for first in range(0, len(candidates), _BATCH):
        batch = candidates[first : first + _BATCH]
        rows, read = read_each(pid, batch, abi.HEADER_BYTES)
        heads = rows.view(header_type())[:, 0]
        good = read & are_pools_in_use(batch, heads)
        found.append(batch[good])
        headers.append(heads["arenaindex"][good])
        if sum(map(len, found)) >= _ENOUGH_POOLS:
            break
    if sum(map(len, found)) < _FEWEST_POOLS:
        msg = (
            "it has no pools of its own: its objects are those of malloc (PYTHONMALLOC), of another allocator, or "
            "all shared with the process that forked it"
        )
        raise TargetRefused(msg, hint="the reason malloc-free is for those")
    pools, numbers = np.concatenate(found), np.concatenate(headers)
    first_of_each = np.unique(numbers, return_index=True)[1]
    others = np.setdiff1d(np.arange(len(pools)), first_of_each)
    chosen = np.concatenate((first_of_each, others))[:_SAMPLES]
    return pools[chosen], numbers[chosen]


def _pool_addresses(present: Spans) -> Words:
    """Every address at which a pool may begin, in an order that meets all parts of memory early."""
    import numpy as np

    pool = np.uint64(abi.POOL_BYTES)
    starts = (present.array[:, 0] + pool - np.uint64(1)) // pool
    ends = (present.array[:, 1] + pool - np.uint64(1)) // pool
    counts = (ends - starts).astype(np.int64)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    addresses = (np.repeat(starts, counts) + nth.astype(np.uint64)) * pool
    scattered: Words = addresses[np.arange(len(addresses)) * _SCATTER % max(len(addresses), 1)]
    return scattered


# The words that may point to the array


def _find_holders(subject: Subject, runtime: PythonRuntime, presence: Presence) -> tuple[int, ...]:
    """The addresses of the words in the interpreter's data whose value is the address of its array.

    Raises:
        TargetRefused: none is, or more than one array agrees.
    """
    import numpy as np

    pools, numbers = _sample_pools(subject.pid, presence)
    words, values = _pointers(subject, runtime, presence)
    agreement = np.zeros(len(values))
    for tried, (pool, number) in enumerate(zip(pools, numbers, strict=True), start=1):
        likely = np.flatnonzero(agreement >= tried - 1 - (1 - _AGREES) * len(pools))  # those that can still win
        agreement[likely] += _agree(subject.pid, values[likely], pool, number, presence)
    agreement /= len(pools)
    winners = np.unique(values[agreement >= _AGREES])
    if len(winners) == 1:
        return _likeliest(subject.pid, words[values == winners[0]])
    if len(winners) == 0 and (agreement > 1 - _AGREES).any():
        msg = "its pools belong to more than one array of arenas: sub-interpreters with allocators of their own"
        raise TargetRefused(msg)
    msg = f"its array of arenas was not found: {len(winners)} agree with its pools"
    raise TargetRefused(msg, hint="it may run with an allocator of its own; try again when it is less busy")


def _likeliest(pid: int, holders: Words) -> tuple[int, ...]:
    """Those of some words of the same value that lie beside the array's length, as the interpreter's own does.

    The others are lists of arenas that begin with the first object just now; beside them lie pointers. Where none lies
    beside a length, the data is laid out otherwise, and each may be the one.
    """
    import numpy as np

    if len(holders) == 1:
        return tuple(holders.tolist())
    beside = np.concatenate((holders - np.uint64(8), holders + np.uint64(8)))
    rows, _ = read_each(pid, beside, 4)
    lengths = rows.view(np.uint32)[:, 0].astype(np.int64)
    are_lengths = (lengths & (lengths - 1) == 0) & (lengths >= abi.ARENA_OBJECTS_AT_FIRST) & (lengths < _LARGEST_ARRAY)
    likely = are_lengths.reshape(2, -1).any(axis=0)
    return tuple(holders[likely if likely.any() else slice(None)].tolist())


def _pointers(subject: Subject, runtime: PythonRuntime, presence: Presence) -> tuple[Words, Words]:
    """The words of the interpreter's data that point to memory which is there: their addresses, and their values."""
    import numpy as np

    addresses, values = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for start, end in read_presence(subject.process, runtime.mapped.data).present.array.tolist():
        words = np.frombuffer(read_memory(subject.pid, start, end - start), np.uint64)
        pointing = np.flatnonzero((words % np.uint64(abi.ALIGNMENT) == 0) & presence.has(words))
        addresses.append(np.uint64(start) + pointing.astype(np.uint64) * np.uint64(8))
        values.append(words[pointing])
    return np.concatenate(addresses), np.concatenate(values)


def _agree(pid: int, arrays: Words, pool: np.uint64, number: np.uint32, presence: Presence) -> Truths:
    """For each address of an array: whether its object of that number holds the pool."""
    import numpy as np

    offset = np.uint64(int(number) * abi.ARENA_OBJECT_BYTES)
    last = offset + np.uint64(abi.ARENA_OBJECT_BYTES - 1)
    there = presence.has(arrays + offset) & presence.has(arrays + last)
    rows, read = read_each(pid, arrays[there] + offset, abi.ARENA_OBJECT_BYTES)
    agree = np.zeros(len(arrays), np.bool_)
    agree[there] = read & hold_pools(rows.view(object_type())[:, 0], pool)
    return agree


def hold_pools(objects: Objects, pools: Words | np.uint64) -> Truths:
    """Whether each arena object is sound, and its pool (or the one given for all) was cut off its arena. Pure."""
    import numpy as np

    pool = np.uint64(abi.POOL_BYTES)
    hold: Truths = are_sound(objects) & (objects["address"] <= pools) & (pools + pool <= objects["pool_address"])
    return hold


def are_sound(objects: Objects) -> Truths:
    """Whether each object can be that of an arena in use. Pure."""
    import numpy as np

    end = objects["address"] + np.uint64(abi.ARENA_BYTES)
    sound: Truths = (
        (objects["address"] != 0)
        & (objects["address"] % np.uint64(4096) == 0)
        & (objects["pool_address"] >= objects["address"])
        & (objects["pool_address"] <= end)
        & (objects["pool_address"] % np.uint64(abi.POOL_BYTES) == 0)
        & (objects["ntotalpools"] <= abi.POOLS_IN_ARENA)
        & (objects["ntotalpools"] >= abi.POOLS_IN_ARENA - 1)
        & (objects["nfreepools"] <= objects["ntotalpools"])
    )
    return sound


# The array


def _read_arenas(pid: int, holders: tuple[int, ...], presence: Presence) -> Arenas | None:
    """The arenas of the array that `holders` point to; None if they do not agree with their pools, or with each other.

    Raises:
        Unreadable: the array, or the word that points to it, is no longer there.
        TargetRefused: the array was allocated under debug hooks.
    """
    import numpy as np

    arrays = {int.from_bytes(read_memory(pid, holder, 8), "little") for holder in holders}
    array = arrays.pop()
    if arrays or not presence.has(np.array([array], np.uint64))[0]:
        return None
    objects = _read_array(pid, array, presence)
    numbers = np.flatnonzero(are_sound(objects))
    objects = objects[numbers]
    if not _name_themselves(pid, numbers.astype(np.uint64), objects, presence):
        return None
    if read_memory(pid, array - len(abi.DEBUG_HOOK), len(abi.DEBUG_HOOK)) == abi.DEBUG_HOOK:
        msg = "its objects are behind debug hooks (PYTHONMALLOC=debug, -X dev, or a debug build)"
        raise TargetRefused(msg)
    return Arenas(holders, array, numbers.astype(np.uint64), objects, presence)


def _read_array(pid: int, array: int, presence: Presence) -> Objects:
    """The whole array, as far as can be told: it doubles as long as all that is new looks like arena objects.

    Zeros behind the array look like objects that are not in use, and do no harm.
    """
    import numpy as np

    count = abi.ARENA_OBJECTS_AT_FIRST
    objects = np.frombuffer(read_memory(pid, array, count * abi.ARENA_OBJECT_BYTES), object_type())
    while count < _LARGEST_ARRAY:
        start, end = array + count * abi.ARENA_OBJECT_BYTES, array + 2 * count * abi.ARENA_OBJECT_BYTES
        pages = np.append(np.arange(start, end, 4096, dtype=np.uint64), np.uint64(end - 1))
        if not presence.has(pages).all():
            break
        more = np.frombuffer(read_memory(pid, start, end - start), object_type())
        if (are_sound(more) | _are_unused(more, array)).mean() < _PLAUSIBLE:
            break
        objects = np.concatenate((objects, more))
        count *= 2
    return objects


def _are_unused(objects: Objects, array: int) -> Truths:
    """Whether each is an object without an arena: the link to the next of those leads into the array, or ends.

    How long that is nobody knows yet: the link may lead further than has been read.
    """
    import numpy as np

    place = objects["nextarena"] - np.uint64(array)
    longest = np.uint64(_LARGEST_ARRAY * abi.ARENA_OBJECT_BYTES)
    within = (place % np.uint64(abi.ARENA_OBJECT_BYTES) == 0) & (place < longest)
    unused: Truths = (objects["address"] == 0) & ((objects["nextarena"] == 0) | within)
    return unused


def _name_themselves(pid: int, numbers: Words, objects: Objects, presence: Presence) -> bool:
    """Whether the first pools of most arenas say that they belong to them."""
    import numpy as np

    pool = np.uint64(abi.POOL_BYTES)
    first = (objects["address"] + pool - np.uint64(1)) // pool * pool
    asked = (first < objects["pool_address"]) & presence.has(first)
    numbers, first = numbers[asked][:1024], first[asked][:1024]
    rows, read = read_each(pid, first, abi.HEADER_BYTES)
    agree = read & (rows.view(header_type())[:, 0]["arenaindex"] == numbers)
    return len(first) > 0 and bool(agree.mean() >= _AGREES)
