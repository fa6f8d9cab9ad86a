"""What is done to CPython's pools while the GIL is held: looked at again, edited, and their pages named.

Three sorts of pools give up pages (see observe.python.pools); each is a `Batch` that can be cut into parts. Its
`edit` takes the pools that still lie in their arenas, leaves out those that changed since the survey, writes what has
to be written into the others, and returns the ranges that nothing lies in any more. All that can be worked out before
is worked out in `part`, before the GIL is taken.
"""

from __future__ import annotations

from dontneed.abi import pymalloc as abi
from dontneed.kernel.process_memory import write_each
from dontneed.observe.python.free_lists import Contents, Expectation, plan_edits
from dontneed.observe.python.pools import PAGE, are_free, are_pools, are_pools_in_use, page_up, read_headers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.process_memory import Bytes
    from dontneed.observe.presence import Truths
    from dontneed.observe.python.free_lists import Edits, FreeLists
    from dontneed.observe.python.pools import Counts, Headers, Pools

    class Batch(Protocol):
        """Pools of one sort, with what is to be done to them.

        Attributes:
            pools: a row each.
        """

        pools: Pools

        def part(self, first: int, upto: int) -> Batch:
            """Some of them, by their numbers, ready to be edited."""

        def ranges(self) -> Words:
            """What they would give up if nothing changed: rows `[start, end)`."""

        def edit(self, pid: int, there: Truths) -> Words:
            """Edit those that are `there` and as surveyed; what they give up now."""


class FreePools:
    """Pools without a block in use: they forget their last life, and keep their header's page alone."""

    def __init__(self, pools: Pools) -> None:
        self.pools = pools

    def part(self, first: int, upto: int) -> FreePools:
        """Some of them."""
        return FreePools(self.pools.take(slice(first, upto)))

    def ranges(self) -> Words:
        """All but the first page of each."""
        return _behind(self.pools.addresses, _constant(PAGE, len(self.pools)))

    def edit(self, pid: int, there: Truths) -> Words:
        """Mark them as never used."""
        import numpy as np

        headers = _headers_now(pid, self.pools, there)
        addresses = self.pools.addresses[there & are_pools(self.pools.addresses, headers) & are_free(headers)]
        never_used = np.full(len(addresses), abi.NEVER_USED, np.uint32)
        write_each(pid, addresses + np.uint64(abi.SZIDX_OFFSET), never_used)
        return _behind(addresses, _constant(PAGE, len(addresses)))


class Tails:
    """Pools in use with pages behind all that was cut off: nothing has to be written."""

    def __init__(self, pools: Pools) -> None:
        self.pools = pools

    def part(self, first: int, upto: int) -> Tails:
        """Some of them."""
        return Tails(self.pools.take(slice(first, upto)))

    def ranges(self) -> Words:
        """The pages behind `nextoffset`."""
        return _behind(self.pools.addresses, _cut_upto(self.pools.headers))

    def edit(self, pid: int, there: Truths) -> Words:
        """Look where they end now."""
        headers = _headers_now(pid, self.pools, there)
        there = there & are_pools_in_use(self.pools.addresses, headers)
        return _behind(self.pools.addresses[there], _cut_upto(headers[there]))


class FreeEnds:
    """Pools in use whose last blocks are free: they are taken off the free list, as if they had never been cut off."""

    def __init__(self, lists: FreeLists) -> None:
        self._lists = lists
        self._buffer: Bytes | None = None
        self._edits: Edits
        self._expected: Expectation
        self.pools = lists.pools

    def part(self, first: int, upto: int) -> FreeEnds:
        """Some of them, their new lists worked out."""
        import numpy as np

        part = FreeEnds(self._lists.part(first, upto))
        part._edits = plan_edits(part._lists)
        part._expected = Expectation(part._lists)
        wanted = Contents.buffer_bytes(part.pools)
        if self._buffer is None or len(self._buffer) < wanted:
            self._buffer = np.ones(wanted, np.uint8)  # its pages are to be there before the GIL is held
        part._buffer = self._buffer
        return part

    def ranges(self) -> Words:
        """The pages behind the last block in use."""
        return _behind(self.pools.addresses, plan_edits(self._lists).drops)

    def edit(self, pid: int, there: Truths) -> Words:
        """Write the new lists, in the order in which every state on the way is sound (see pymalloc_lists)."""
        import numpy as np

        edits, base = self._edits, self.pools.addresses
        same = there & self._expected.met_by(Contents(pid, self.pools, self._buffer))
        write_each(pid, *edits.link_words(same))
        base = base[same]
        write_each(pid, base + np.uint64(abi.FREEBLOCK_OFFSET), base + edits.freeblocks[same].astype(np.uint64))
        write_each(pid, base + np.uint64(abi.NEXTOFFSET_OFFSET), edits.nextoffsets[same].astype(np.uint32))
        return _behind(base, edits.drops[same])


def _headers_now(pid: int, pools: Pools, there: Truths) -> Headers:
    """The headers of the pools that are `there`, in place; what was surveyed of the others.

    Clears in `there` which cannot be read, or belong to another arena.
    """
    headers: Headers = pools.headers.copy()
    headers[there], read = read_headers(pid, pools.addresses[there])
    there[there] = read
    there &= headers["arenaindex"] == pools.numbers
    return headers


def _cut_upto(headers: Headers) -> Counts:
    """Where the first page begins that nothing has been cut off from."""
    import numpy as np

    return page_up(headers["nextoffset"].astype(np.int32))


def _constant(value: int, count: int) -> Counts:
    import numpy as np

    return np.full(count, value, np.int32)


def _behind(addresses: Words, offsets: Counts) -> Words:
    """Rows `[start, end)` from these offsets to the ends of the pools."""
    import numpy as np

    starts, ends = addresses + offsets.astype(np.uint64), addresses + np.uint64(abi.POOL_BYTES)
    return np.column_stack((starts, ends))
