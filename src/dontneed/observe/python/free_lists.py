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

from itertools import pairwise

from dontneed.abi import pymalloc as abi
from dontneed.kernel.process_memory import read_ranges
from dontneed.observe.python.pools import (
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
    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.process_memory import Bytes
    from dontneed.observe.presence import Truths
    from dontneed.observe.python.pools import Counts, Headers

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
        words: of all pools, one behind the other; and as many as a pool has behind them, so that a word of any offset
            into any pool is there, if not that pool's.
        starts: where the words of each pool begin.
        read: which pools could be read.
    """

    def __init__(self, pid: int, pools: Pools, buffer: Bytes | None = None) -> None:
        import numpy as np

        lengths = page_up(pools.headers["nextoffset"].astype(np.int64))
        ends = np.cumsum(lengths)
        self.starts = self.starts_of(pools)
        ranges = np.column_stack((pools.addresses, pools.addresses + lengths.astype(np.uint64)))
        self.read = np.ones(len(pools), np.bool_)
        buffer = np.zeros(self.buffer_bytes(pools), np.uint8) if buffer is None else buffer
        first = 0
        while first < len(pools):
            begin = int(ends[first] - lengths[first])
            reached = begin + read_ranges(pid, ranges[first:], buffer[begin:])
            first = int(np.searchsorted(ends, reached, side="right"))
            self.read[first : first + 1] = False  # it ended here: go on behind this one
            first += 1
        self.words = buffer[: int(lengths.sum()) + abi.POOL_BYTES].view(np.uint64)

    @staticmethod
    def starts_of(pools: Pools) -> Counts:
        """Where the words of each pool will begin."""
        import numpy as np

        lengths = page_up(pools.headers["nextoffset"].astype(np.int64))
        starts: Counts = (np.cumsum(lengths) - lengths) // _WORD_BYTES
        return starts

    @staticmethod
    def buffer_bytes(pools: Pools) -> int:
        """How long a buffer has to be."""
        return (len(pools) + 1) * abi.POOL_BYTES

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
    buffer = np.zeros(Contents.buffer_bytes(pools.take(order[:_BATCH])), np.uint8)
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

    read_upto = page_up(pools.headers["nextoffset"].astype(np.int32))
    pools = pools.replace(headers=contents.headers())
    good = contents.read & are_pools_in_use(pools.addresses, pools.headers) & (pools.headers["freeblock"] != 0)
    good &= pools.headers["nextoffset"] <= read_upto  # a pool may have grown since its header was read
    pools, starts = pools.take(good), contents.starts[good]
    wanted = blocks_of(pools.headers) - pools.headers["count"]
    order = np.argsort(-wanted, kind="stable")  # the longest first: at every step those that go on are the first ones
    order = order[wanted[order] > 0]
    pools, starts, wanted = pools.take(order), starts[order], wanted[order]
    nodes, ended = _follow(pools, wanted, contents.words, starts)
    listed = np.arange(nodes.shape[1])[None, :] < wanted[:, None]
    lists = FreeLists(pools, nodes[listed], wanted)
    ended[lists.rows[~_are_blocks(lists)]] = False
    return lists.take(ended)


def _follow(pools: Pools, wanted: Counts, words: Words, starts: Counts) -> tuple[Counts, Truths]:
    """The offsets that the lists lead to, whatever those are, a row a pool; and which lists end when they should.

    Args:
        pools: those with the longest lists first.
        wanted: how long each list is to be.
        words: what the pools hold.
        starts: where those of each begin.
    """
    import numpy as np

    nodes = np.zeros((max(wanted.tolist(), default=0), len(pools)), np.int32)
    ended = np.zeros(len(pools), np.bool_)
    going = np.searchsorted(-wanted, -np.arange(len(nodes) + 1), side="left").tolist()
    offsets = _offsets(pools.headers["freeblock"], pools.addresses)
    for step, (count, then) in enumerate(pairwise(going)):
        nodes[step, :count] = offsets
        links = words[starts[:count] + offsets // _WORD_BYTES]
        ended[then:count] = links[then:] == 0
        offsets = _offsets(links[:then], pools.addresses[:then])
    return nodes.T, ended


def _offsets(addresses: Words, pools: Words) -> Counts:
    """Where each address lies as seen from its pool; the pool's length for all that lie outside."""
    import numpy as np

    offsets: Counts = np.minimum(addresses - pools, np.uint64(abi.POOL_BYTES)).astype(np.int32)
    return offsets


def _are_blocks(lists: FreeLists) -> Truths:
    """Which nodes are blocks that were cut off in their pools."""
    headers, rows = lists.pools.headers, lists.rows
    sizes, cut = sizes_of(headers)[rows], blocks_of(headers)[rows]
    nth = (lists.nodes - abi.HEADER_BYTES) // sizes
    blocks: Truths = (nth >= 0) & (nth < cut) & (nth * sizes + abi.HEADER_BYTES == lists.nodes)
    return blocks


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

    sizes, cut = sizes_of(lists.pools.headers), blocks_of(lists.pools.headers)
    ends = np.cumsum(cut)
    starts = ends - cut  # all blocks of all pools, one behind the other
    rows = lists.rows
    used = np.ones(int(cut.sum()), np.bool_)
    used[starts[rows] + (lists.nodes - abi.HEADER_BYTES) // sizes[rows]] = False
    places = np.flatnonzero(used)
    last = places[np.searchsorted(places, ends, side="left") - 1]  # every pool has one in use
    end: Counts = (abi.HEADER_BYTES + (last + 1 - starts) * sizes).astype(np.int32)
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
        self._places = Contents.starts_of(lists.pools)[self._rows] + lists.nodes // _WORD_BYTES
        self._links = np.where(links, lists.pools.addresses[self._rows] + links, np.uint64(0))

    def met_by(self, contents: Contents) -> Truths:
        """Which pools are as they were."""
        headers = contents.headers()
        same: Truths = contents.read.copy()
        for field in ("count", "freeblock", "arenaindex", "szidx", "nextoffset", "maxnextoffset"):
            same &= headers[field] == self._headers[field]
        differs = contents.words[self._places] != self._links
        same[self._rows[differs]] = False
        return same
