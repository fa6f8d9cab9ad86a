"""The pools of CPython's arenas: their headers, and which pages of them hold nothing that anyone will read again.

| pool | what goes | what has to be written first |
|---|---|---|
| free: no block in use | all but the page of its header | its size class, "never used": its next user sets it up anew |
| used, with pages behind `nextoffset` | those | nothing: blocks there are set up when they are first cut off |
| used, its last blocks all free | the pages that only they are on | its free list without them: see pymalloc_lists |

Pages behind `nextoffset` are there if the pool held larger blocks, or more of them, in an earlier life.

Source:
    CPython: Objects/obmalloc.c pymalloc_alloc(), allocate_from_new_pool(), pymalloc_pool_extend(), pymalloc_free().
"""

from __future__ import annotations

from dontneed.abi import pymalloc as abi
from dontneed.kernel.process_memory import read_each
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    from dontneed.kernel.pagemap import Words
    from dontneed.observe.presence import Presence, Truths
    from dontneed.observe.python.arenas import Arenas, Objects

    Headers = np.ndarray[Any, np.dtype[np.void]]
    """struct pool_header."""
    Counts = np.ndarray[Any, np.dtype[np.signedinteger[Any]]]

PAGE = 4096
"""A page on every machine whose pymalloc has this layout."""
PAGES = abi.POOL_BYTES // PAGE


class Pools(Record):
    """Pools and their headers, a row each.

    Attributes:
        addresses: where each begins.
        numbers: of the arena that each was cut off from.
        headers: as they were read, torn perhaps.
        present: whether each of its pages is there, a column a page.
    """

    addresses: Words
    numbers: Words
    headers: Headers
    present: Truths

    def __len__(self) -> int:
        return len(self.addresses)

    def take(self, rows: Any) -> Pools:
        """Some of them, by a mask, numbers or a slice."""
        return Pools(self.addresses[rows], self.numbers[rows], self.headers[rows], self.present[rows])

    def behind(self, offsets: Counts) -> Counts:
        """How many bytes of pages that are there lie wholly at or behind an offset into each pool."""
        import numpy as np

        later = np.arange(PAGES)[None, :] * PAGE >= offsets[:, None]
        counts: Counts = (later & self.present).sum(axis=1) * PAGE
        return counts


def header_type() -> np.dtype[np.void]:
    """The fields of struct pool_header."""
    import numpy as np

    return np.dtype(list(abi.POOL_HEADER))


def read_headers(pid: int, addresses: Words) -> tuple[Headers, Truths]:
    """The headers of these pools, and which of them could be read."""
    rows, read = read_each(pid, addresses, abi.HEADER_BYTES)
    return rows.view(header_type())[:, 0], read


def read_pools(pid: int, arenas: Arenas) -> Pools:
    """All pools that were cut off their arenas and whose headers are there and consistent."""
    addresses, rows = _addresses(arenas.objects)
    there = arenas.presence.has_alone(addresses)
    addresses, numbers = addresses[there], arenas.numbers[rows[there]]
    headers, read = read_headers(pid, addresses)
    good = read & are_pools(addresses, headers) & (headers["arenaindex"] == numbers)
    return Pools(addresses[good], numbers[good], headers[good], _present(arenas.presence, addresses[good]))


def are_pools(addresses: Words, headers: Headers) -> Truths:
    """Whether each header can be that of a pool at that address, in use or free. Pure."""
    untouched = (headers["count"] == 0) & (headers["szidx"] == abi.NEVER_USED)
    pools: Truths = _are_set_up(addresses, headers) | untouched
    return pools


def are_pools_in_use(addresses: Words, headers: Headers) -> Truths:
    """Whether each header can be that of a pool with blocks in use. Pure."""
    return _are_set_up(addresses, headers) & (headers["count"] > 0)


def are_free(headers: Headers) -> Truths:
    """Which pools have no block in use, and still remember their last life."""
    free: Truths = (headers["count"] == 0) & (headers["szidx"] < abi.SIZE_CLASSES)
    return free


def sizes_of(headers: Headers) -> Counts:
    """The size of the blocks of each pool, in bytes."""
    import numpy as np

    sizes: Counts = (headers["szidx"].astype(np.int32) + 1) * abi.ALIGNMENT
    return sizes


def blocks_of(headers: Headers) -> Counts:
    """How many blocks have been cut off in each pool."""
    import numpy as np

    blocks: Counts = (headers["nextoffset"].astype(np.int32) - abi.HEADER_BYTES) // sizes_of(headers)
    return blocks


def page_up(offsets: Counts) -> Counts:
    """The first page at or behind each offset."""
    return (offsets + (PAGE - 1)) & ~(PAGE - 1)


def _are_set_up(addresses: Words, headers: Headers) -> Truths:
    """Whether a header is consistent in itself: each word is bounded by the others."""
    import numpy as np

    small = np.where(headers["szidx"] < abi.SIZE_CLASSES, headers["szidx"], 0).astype(np.int64)
    size = (small + 1) * abi.ALIGNMENT
    cut = headers["nextoffset"].astype(np.int64) - abi.HEADER_BYTES
    first = headers["freeblock"] - addresses  # wraps where it lies before the pool, and is then too large
    consistent: Truths = (
        (headers["szidx"] < abi.SIZE_CLASSES)
        & (headers["maxnextoffset"] == abi.POOL_BYTES - size)
        & (cut > 0)
        & (cut % size == 0)
        & (headers["nextoffset"] <= abi.POOL_BYTES)
        & (headers["count"] <= cut // size)
        & ((headers["freeblock"] == 0) | ((first >= np.uint64(abi.HEADER_BYTES)) & (first < headers["nextoffset"])))
    )
    return consistent


def _addresses(objects: Objects) -> tuple[Words, Counts]:
    """The address of every pool that was cut off, and the row of its arena."""
    import numpy as np

    pool = np.uint64(abi.POOL_BYTES)
    first = (objects["address"] + pool - np.uint64(1)) // pool * pool
    counts = np.minimum((objects["pool_address"] - first) // pool, np.uint64(abi.POOLS_IN_ARENA)).astype(np.int64)
    rows = np.repeat(np.arange(len(objects)), counts)
    nth = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return first[rows] + nth.astype(np.uint64) * pool, rows


def _present(presence: Presence, addresses: Words) -> Truths:
    import numpy as np

    pages = addresses[:, None] + (np.arange(PAGES) * PAGE).astype(np.uint64)[None, :]
    return presence.has(pages.reshape(-1)).reshape(-1, PAGES)
