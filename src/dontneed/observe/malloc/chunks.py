"""Free chunks in the bins of an arena: walked while the process runs, proven while it stands still.

A chain of thousands of chunks is too long to be followed during a stop: each step is a read that waits for the last.
So it is followed while the process runs, all bins in step, and what is found are hints: some chunks are gone by the
time of the stop, others were never there. Then all are read at once, and of each chain the part is believed that leads
from its bin link by link, each chunk agreeing with its neighbours on both sides and with the chunk behind it. A chunk
that has been taken meanwhile, even if it is free again and looks the same, breaks the chain where it was.
"""

from __future__ import annotations

from bisect import bisect_right

from dontneed.abi import glibc_malloc as abi
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.process_memory import Truths
    from dontneed.observe.malloc.arenas import Arena
    from dontneed.observe.malloc.memory import MallocMemory

_CHUNK_WORDS = 4
"""prev_size, size, fd, bk."""
_FOOTER_WORDS = 2
"""prev_size and size of the chunk behind."""
_FEW_CHAINS = 4
_MOST_STEPS = 4096
_MOST_CHUNKS = 1 << 15
"""A walk of some 20 µs a step ends here, and so does what a stop has to prove; malloc_trim reaches what lies behind."""


class Chains(Record):
    """Chunks as they were found, chain by chain, those of a chain in their order.

    Attributes:
        arenas: the address of the arena of each chunk.
        bins: the number of the bin of each chunk.
        chunks: the address of each chunk.
        is_whole: whether every chain was followed to its end.
    """

    arenas: Words
    bins: Words
    chunks: Words
    is_whole: bool


def walk_chains(memory: MallocMemory, arenas: Iterable[Arena]) -> Chains:
    """Follow the chains of all bins that hold chunks with a whole page in them. What it finds are hints.

    Args:
        memory: of the process, which may be running.
        arenas: of which those that may not be believed have no memory.
    """
    import numpy as np

    arenas = [arena for arena in arenas if arena.memory]
    heads = np.array([head for arena in arenas for head in _heads(arena)], np.uint64).reshape(-1, 4)
    reach = Spans()
    for arena in arenas:
        reach |= arena.memory
    steps, found = [np.zeros((0, 3), np.uint64)], 0
    while len(heads) and len(steps) <= _MOST_STEPS and found < _MOST_CHUNKS:
        head, chunk = heads[:, 2], heads[:, 3]
        sane = _lies_within(reach, chunk, np.uint64(abi.CHUNK_HEADER_BYTES)) & (chunk != head)
        heads = heads[sane & (chunk % np.uint64(abi.ALIGNMENT) == 0)]
        rows, could_be_read = memory.read_each(np.ascontiguousarray(heads[:, 3]), _CHUNK_WORDS * 8)
        heads = heads[could_be_read]
        steps.append(heads[:, [0, 1, 3]])
        found += len(heads)
        heads[:, 3] = rows.view(np.uint64)[could_be_read, 2]
        if len(heads) <= _FEW_CHAINS and memory.peek is not None:
            heads, alone = _follow_alone(memory.peek, reach, heads, _MOST_CHUNKS - found)
            steps += alone
            break
    chunks = np.concatenate(steps)
    chunks = chunks[np.lexsort((chunks[:, 1], chunks[:, 0]))]  # stable: the order within a chain stays
    return Chains(chunks[:, 0], chunks[:, 1], chunks[:, 2], is_whole=not len(heads))


def _follow_alone(
    peek: Callable[[int, int], bytes | None], reach: Spans, heads: Words, most: int
) -> tuple[Words, list[Words]]:
    """Follow the last few chains, one after the other: a step costs a fortieth of one that could be of many chains.

    Returns:
        The chains that were too long, and where; and the steps, as `walk_chains` collects them.
    """
    import numpy as np

    starts, ends = (reach.array[:, side].tolist() for side in (0, 1))
    left: list[tuple[int, int, int, int]] = []
    steps: list[Words] = []
    for arena, number, head, first in heads.tolist():
        chunk: int = first
        chunks: list[tuple[int, int, int]] = []
        while chunk != head and chunk % abi.ALIGNMENT == 0:
            nearest = bisect_right(starts, chunk) - 1
            if nearest < 0 or chunk + abi.CHUNK_HEADER_BYTES > ends[nearest]:
                break
            if len(chunks) >= most:
                left.append((arena, number, head, chunk))
                break
            data = peek(chunk, _CHUNK_WORDS * 8)
            if data is None:
                break
            chunks.append((arena, number, chunk))
            chunk = int.from_bytes(data[16:24], "little")
        most -= len(chunks)
        steps.append(np.array(chunks, np.uint64).reshape(-1, 3))
    return np.array(left, np.uint64).reshape(-1, 4), steps


def proven_spans(memory: MallocMemory, arena: Arena, chains: Chains) -> Spans:
    """The whole pages inside the free chunks of an arena, as far as its chains still are what they were.

    Args:
        memory: of the process, which stands still; or else what is returned is an estimate.
        arena: as it is now.
        chains: as they were found.
    """
    import numpy as np

    own = chains.arenas == np.uint64(arena.address)
    bins, chunks = chains.bins[own], chains.chunks[own]
    if not len(chunks):
        return Spans()
    rows, sizes, ok = _read_chunks(memory, arena, chunks)
    begins = np.concatenate(([True], bins[1:] != bins[:-1]))
    numbers = bins.astype(np.intp)
    heads = np.uint64(arena.state.bin_address(0)) + bins * np.uint64(_FOOTER_WORDS * 8)
    ok &= chunks == np.where(begins, arena.state.links[numbers - 1, 0], np.roll(rows[:, 2], 1))
    ok &= rows[:, 3] == np.where(begins, heads, np.roll(chunks, 1))
    failures = np.cumsum(~ok)
    before = np.maximum.accumulate(np.where(begins, failures - ~ok, 0))
    return _whole_pages(chunks, sizes, failures == before)


def _heads(arena: Arena) -> Iterable[tuple[int, int, int, int]]:
    for number in arena.state.filled_bins():
        if number == abi.UNSORTED_BIN or number >= abi.FIRST_PAGE_BIN:
            yield arena.address, number, arena.state.bin_address(number), int(arena.state.links[number - 1, 0])


def _read_chunks(memory: MallocMemory, arena: Arena, chunks: Words) -> tuple[Words, Words, Truths]:
    """Four words of each chunk, its size, and whether it is a free chunk of this arena."""
    import numpy as np

    ok = _lies_within(arena.memory, chunks, np.uint64(abi.CHUNK_HEADER_BYTES))
    ok &= chunks % np.uint64(abi.ALIGNMENT) == 0
    rows = _read_where(memory, ok, chunks, _CHUNK_WORDS)
    flags = rows[:, 1] & np.uint64(abi.FLAG_BITS)
    sizes = rows[:, 1] - flags
    ok &= flags == abi.PREV_INUSE
    ok &= _lies_within(arena.memory, chunks, sizes + np.uint64(_FOOTER_WORDS * 8))
    behind = _read_where(memory, ok, chunks + sizes, _FOOTER_WORDS)
    ok &= behind[:, 0] == sizes
    ok &= behind[:, 1] & np.uint64(abi.PREV_INUSE) == 0
    return rows, sizes, ok


def _read_where(memory: MallocMemory, ok: Truths, addresses: Words, words: int) -> Words:
    """So many words at each address that is in order; those that cannot be read are not, and all others are zeros."""
    import numpy as np

    rows = np.zeros((len(addresses), words), np.uint64)
    read, could_be_read = memory.read_each(addresses[ok], words * 8)
    rows[ok] = read.view(np.uint64)
    ok[ok] = could_be_read
    return rows


def _lies_within(spans: Spans, starts: Words, lengths: Any) -> Truths:
    """Whether `[start, start + length)` lies in one of the spans, for each; no sum can wrap."""
    import numpy as np

    if not len(spans):
        return np.zeros(len(starts), np.bool_)
    rows = spans.array
    nearest = np.maximum(np.searchsorted(rows[:, 0], starts, side="right"), 1) - 1
    ends = rows[nearest, 1]
    inside: np.ndarray[Any, np.dtype[np.bool_]] = (starts >= rows[nearest, 0]) & (starts < ends)
    inside &= np.where(inside, ends - starts, np.uint64(0)) >= lengths
    return inside


def _whole_pages(chunks: Words, sizes: Words, believed: Truths) -> Spans:
    import numpy as np

    page = np.uint64(PAGE_BYTES)
    starts = (chunks + np.uint64(abi.CHUNK_HEADER_BYTES) + page - np.uint64(1)) & ~(page - np.uint64(1))
    ends = (chunks + sizes) & ~(page - np.uint64(1))
    some = believed & (starts < ends)
    return Spans.from_array(np.column_stack((starts[some], ends[some])))
