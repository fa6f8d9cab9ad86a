"""The free lists of CPython's pools in use: which of their last blocks are free, and how to take those off the list.

A pool whose last blocks are all free is made to look as if they had never been cut off: its free list goes past them,
and `nextoffset` is lowered to where they begin. The pages behind hold nothing then. Blocks keep their order on the
list. A pool that has room must have a first free block, so where no other is left, the first of the last blocks stays.

# Every state on the way is a sound pool

The words are written in this order: links of blocks that stay, the first block, `nextoffset`. Links of blocks that go
are never changed, so from wherever the list is entered it leads on, in its old order, past fewer and fewer of them: at
worst some free blocks are on no list, and lost until the pool is empty. `nextoffset` is lowered when the list holds
none of what it gives up. So a writer may die between any two words.

Lists are read while the target runs, all in lock-step, each step one array operation. What is read may be torn or lead
anywhere, so each node is held against the bounds of its pool as a signed number, and no block may come twice.

Source:
    CPython: Objects/obmalloc.c pymalloc_pool_extend(), pymalloc_free().
"""

from __future__ import annotations

from dontneed.abi import pymalloc as abi
from dontneed.kernel.process_memory import read_ranges
from dontneed.observe.pymalloc_pools import (
    Pools,
    are_pools_in_use,
    blocks_of,
    header_type,
    page_up,
    sizes_of,
)
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.process_memory import Bytes
    from dontneed.observe.presence import Truths
    from dontneed.observe.pymalloc_pools import Counts, Headers

_WORD_BYTES = 8
_BATCH = 1024


class FreeLists(Record):
    """Pools and their whole free lists.

    Attributes:
        pools: a row each.
        nodes: offsets of the free blocks into their pools, all lists one behind the other, each in its order.
        lengths: of each list.
    """

    pools: Pools
    nodes: Counts
    lengths: Counts

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, chosen: Truths) -> FreeLists:
        """Some of them."""
        import numpy as np

        return FreeLists(self.pools.take(chosen), self.nodes[np.repeat(chosen, self.lengths)], self.lengths[chosen])

    def part(self, first: int, upto: int) -> FreeLists:
        """Some of them, by their numbers `[first, upto)`."""
        import numpy as np

        before = int(self.lengths[:first].sum())
        lengths = self.lengths[first:upto]
        nodes = self.nodes[before : before + int(np.sum(lengths))]
        return FreeLists(self.pools.take(slice(first, upto)), nodes, lengths)

    @property
    def rows(self) -> Counts:
        """The row of the pool that each node is of."""
        import numpy as np

        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def links(self) -> Counts:
        """What the first word of each node says, as an offset into its pool; 0 ends a list."""
        import numpy as np

        links = np.zeros_like(self.nodes)
        links[:-1] = self.nodes[1:]
        links[np.cumsum(self.lengths)[self.lengths > 0] - 1] = 0
        return links


class Edits(Record):
    """How pools in use come to give up their last pages.

    Attributes:
        lists: the pools, and the lists by which the rest was found.
        link_rows, link_offsets, links: pool, place and new value of each link; as offsets, 0 for none.
        freeblocks: the new first free block of each pool, as an offset.
        nextoffsets: of each pool.
        drops: where the pages that go begin in each pool.
    """

    lists: FreeLists
    link_rows: Counts
    link_offsets: Counts
    links: Counts
    freeblocks: Counts
    nextoffsets: Counts
    drops: Counts

    def __len__(self) -> int:
        return len(self.drops)

    def link_words(self, kept: Truths) -> tuple[Words, Words]:
        """Address and value of each link that has to be written in the `kept` pools."""
        import numpy as np

        wanted = kept[self.link_rows]
        base = self.lists.pools.addresses[self.link_rows[wanted]]
        links = self.links[wanted].astype(np.uint64)
        return base + self.link_offsets[wanted].astype(np.uint64), np.where(links, base + links, np.uint64(0))


class Contents:
    """What pools hold, as far as they were cut into blocks: read into a buffer that can be used again.

    Pages behind that may not be there, and are left so.

    Args:
        buffer: at least `buffer_bytes` of the pools; a new one if there is none.
    Attributes:
        words: of all pools, one behind the other.
        starts: where the words of each pool begin.
        read: which pools could be read.
    """

    def __init__(self, pid: int, pools: Pools, buffer: Bytes | None = None) -> None:
        import numpy as np

        lengths = page_up(pools.headers["nextoffset"].astype(np.int64))
        ends = np.cumsum(lengths)
        ranges = np.column_stack((pools.addresses, pools.addresses + lengths.astype(np.uint64)))
        self.starts = (ends - lengths) // _WORD_BYTES
        self.read = np.ones(len(pools), np.bool_)
        buffer = np.empty(self.buffer_bytes(pools), np.uint8) if buffer is None else buffer
        first = 0
        while first < len(pools):
            begin = int(ends[first] - lengths[first])
            reached = begin + read_ranges(pid, ranges[first:], buffer[begin:])
            first = int(np.searchsorted(ends, reached, side="right"))
            self.read[first : first + 1] = False  # it ended here: go on behind this one
            first += 1
        self.words = buffer[: int(lengths.sum())].view(np.uint64)

    @staticmethod
    def buffer_bytes(pools: Pools) -> int:
        """How long a buffer has to be."""
        return len(pools) * abi.POOL_BYTES

    def headers(self) -> Headers:
        """What the headers say, of the same moment as the rest."""
        import numpy as np

        places = self.starts[:, None] + np.arange(abi.HEADER_BYTES // _WORD_BYTES)
        return np.ascontiguousarray(self.words[places]).view(header_type()).reshape(-1)


def read_lists(pid: int, pools: Pools) -> FreeLists:
    """The free lists of those pools in use that can give up pages: whole lists, with the last blocks on them."""
    import numpy as np

    pools = pools.take(_may_gain(pools))
    order = np.argsort(blocks_of(pools.headers) - pools.headers["count"], kind="stable")  # lists alike take equal steps
    found = [FreeLists(pools.take(order[:0]), np.zeros(0, np.int32), np.zeros(0, np.int32))]
    buffer = np.empty(Contents.buffer_bytes(pools.take(order[:_BATCH])), np.uint8)
    for first in range(0, len(order), _BATCH):
        batch = pools.take(order[first : first + _BATCH])
        contents = Contents(pid, batch, buffer)
        found.append(with_gain(walk(batch, contents)))
    return FreeLists(
        Pools(*(np.concatenate([getattr(each.pools, field) for each in found]) for field in Pools._fields)),
        np.concatenate([each.nodes for each in found]),
        np.concatenate([each.lengths for each in found]),
    )


def walk(pools: Pools, contents: Contents) -> FreeLists:
    """Follow all free lists to their ends, at once. Pure.

    Args:
        pools: pools in use; their headers are taken from `contents`.
        contents: of each.
    Returns:
        Of the pools whose header is consistent and agrees with its list: as many blocks as are not in use, and then an
        end. A list that ends has no block twice.
    """
    import numpy as np

    surveyed, pools = pools, pools.replace(headers=contents.headers())
    good = contents.read & are_pools_in_use(pools.addresses, pools.headers) & (pools.headers["freeblock"] != 0)
    good &= pools.headers["nextoffset"] <= page_up(
        surveyed.headers["nextoffset"].astype(np.int32)
    )  # else not all is here
    wanted = np.where(good, blocks_of(pools.headers) - pools.headers["count"], 0)
    order = np.argsort(-wanted, kind="stable")
    order = order[(wanted > 0)[order]]  # the longest first: at every step those that go on are the first ones
    pools, wanted = pools.take(order), wanted[order]
    follows, blocks = _successors(pools, contents.words, contents.starts[order])
    nodes = np.zeros((len(pools), int(wanted.max(initial=0))), np.int32)
    on = np.searchsorted(-wanted, -np.arange(nodes.shape[1]), side="left")
    place = blocks.places(np.arange(len(pools)), _offset(pools.headers["freeblock"], pools.addresses))
    for step, count in enumerate(on.tolist()):
        nodes[:count, step] = place[:count]
        place = follows[place[:count]]
    listed = np.arange(nodes.shape[1])[None, :] < wanted[:, None]
    last = nodes[np.arange(len(nodes)), wanted - 1]
    sound = (last < blocks.count) & (follows[last] == blocks.count)
    nodes = nodes[sound][listed[sound]]
    return FreeLists(pools.take(sound), blocks.offsets[nodes], wanted[sound])


def with_gain(lists: FreeLists) -> FreeLists:
    """Those whose last blocks are free, over pages that are there. Pure."""
    return lists.take(_gain(lists.pools, _end_of_use(lists)) > 0)


def plan_edits(lists: FreeLists) -> Edits:
    """How each of these pools gives up its last blocks. Pure."""
    return _edits(lists, _end_of_use(lists))


def _may_gain(pools: Pools) -> Truths:
    """Which pools in use could give up pages if their blocks in use were the first ones."""
    headers = pools.headers
    least = abi.HEADER_BYTES + headers["count"] * sizes_of(headers)
    may: Truths = (headers["count"] > 0) & (headers["freeblock"] != 0) & (_gain(pools, least) > 0)
    return may


def _gain(pools: Pools, end: Counts) -> Counts:
    """Bytes of pages that are there, behind `end`, and not behind what was cut off anyway."""
    cut = page_up(pools.headers["nextoffset"].astype(end.dtype))
    return pools.behind(page_up(end)) - pools.behind(cut)


def _edits(lists: FreeLists, end: Counts) -> Edits:
    """The edits by which everything behind `end` is given up in each pool."""
    import numpy as np

    rows, links = lists.rows, lists.links
    stays = lists.nodes < end[rows]
    rows, nodes, links = rows[stays], lists.nodes[stays], links[stays]
    follows = rows[1:] == rows[:-1]  # the node behind is of the same list
    wanted = np.zeros_like(nodes)
    wanted[:-1][follows] = nodes[1:][follows]
    changes = wanted != links
    first = np.flatnonzero(np.concatenate(([True], ~follows))[: len(nodes)])
    freeblocks = end.copy()
    freeblocks[rows[first]] = nodes[first]
    bare = np.setdiff1d(np.arange(len(end)), rows[first])  # of these one block stays, and ends the list
    nextoffsets = end.copy()
    nextoffsets[bare] += sizes_of(lists.pools.headers)[bare]
    return Edits(
        lists,
        np.concatenate((rows[changes], bare)),
        np.concatenate((nodes[changes], end[bare])),
        np.concatenate((wanted[changes], np.zeros(len(bare), np.int32))),
        freeblocks,
        nextoffsets,
        page_up(end),
    )


def _end_of_use(lists: FreeLists) -> Counts:
    """Where the blocks begin behind which none is in use, as an offset into each pool."""
    import numpy as np

    blocks = _Blocks(lists.pools.headers)
    used = blocks.offsets + blocks.sizes[blocks.rows]
    used[blocks.places(lists.rows, lists.nodes)] = abi.HEADER_BYTES
    end: Counts = np.maximum.reduceat(used, blocks.starts) if len(lists) else np.zeros(0, np.int32)
    return end


class Expectation:
    """Exactly the headers and lists that were surveyed, to be held against what the pools hold now.

    An equal header is not enough: blocks taken and given back in another order leave it as it was. All that can be
    worked out before is.
    """

    def __init__(self, lists: FreeLists) -> None:
        import numpy as np

        links = lists.links.astype(np.uint64)
        self._headers = lists.pools.headers
        self._rows = lists.rows
        self._words = lists.nodes // _WORD_BYTES
        self._links = np.where(links, lists.pools.addresses[self._rows] + links, np.uint64(0))

    def met_by(self, contents: Contents) -> Truths:
        """Which pools are as they were."""
        headers = contents.headers()
        same: Truths = contents.read.copy()
        for field in ("count", "freeblock", "arenaindex", "szidx", "nextoffset", "maxnextoffset"):
            same &= headers[field] == self._headers[field]
        differs = contents.words[contents.starts[self._rows] + self._words] != self._links
        same[self._rows[differs]] = False
        return same


class _Blocks:
    """All blocks that were cut off in some pools, one behind the other.

    Attributes:
        sizes, cut, starts: of each pool: bytes of a block, how many there are, and the place of the first.
        count: of all.
        rows, offsets: of each block: the row of its pool, and where it begins there.
    """

    def __init__(self, headers: Headers) -> None:
        import numpy as np

        self.sizes, self.cut = sizes_of(headers), blocks_of(headers)
        self.count = int(self.cut.sum())
        self.starts = np.cumsum(self.cut, dtype=np.int32) - self.cut
        self.rows = np.repeat(np.arange(len(headers), dtype=np.int32), self.cut)
        nth = np.arange(self.count, dtype=np.int32) - self.starts[self.rows]
        self.offsets = abi.HEADER_BYTES + nth * self.sizes[self.rows]

    def places(self, rows: Counts, offsets: Counts) -> Counts:
        """The place of the block that begins at each offset into a pool; `count + 1` where none does."""
        import numpy as np

        nth = (offsets - abi.HEADER_BYTES) // self.sizes[rows]
        good = (nth >= 0) & (nth < self.cut[rows]) & (nth * self.sizes[rows] + abi.HEADER_BYTES == offsets)
        places: Counts = np.where(good, self.starts[rows] + nth, self.count + 1)
        return places


def _successors(pools: Pools, words: Words, starts: Counts) -> tuple[np.ndarray[Any, np.dtype[np.int32]], _Blocks]:
    """The place of the block that each block's first word leads to; behind the last block: an end, then nowhere.

    What follows an end, or leads anywhere else, is nowhere, and nothing leads out of there.
    """
    import numpy as np

    blocks = _Blocks(pools.headers)
    links = words[starts[blocks.rows] + blocks.offsets // _WORD_BYTES]
    follows = np.full(blocks.count + 2, blocks.count + 1, np.int32)
    follows[: blocks.count] = blocks.places(blocks.rows, _offset(links, pools.addresses[blocks.rows]))
    follows[: blocks.count][links == 0] = blocks.count
    return follows, blocks


def _offset(addresses: Words, pools: Words) -> Counts:
    """Where each address lies as seen from its pool; -1 for all that lie before it, and one place for all behind it."""
    import numpy as np

    offsets: Counts = (addresses - pools).view(np.int64).clip(-1, abi.POOL_BYTES).astype(np.int32)
    return offsets
