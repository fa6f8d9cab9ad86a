"""`malloc_state` of glibc: which layout fits the bytes of an arena, and what they say. Parsing only.

A layout fits if all 127 pairs of bin links make sense under it: both lead back to the bin, which is then empty; or both
lead to where a chunk can be, and the map of bins says that the bin may be filled. Bytes that are no arena, or one of
another build, fail that 127 times over.
"""

from __future__ import annotations

from dontneed.abi.glibc_malloc import ALIGNMENT, BINMAP_WORDS, BINS, LAYOUTS, STATE_BYTES, UNSORTED_BIN
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.abi.glibc_malloc import StateLayout
    from dontneed.kernel.pagemap import Words

_WORD = 8
_LINKS = 2 * _WORD
"""A pair of links stands where fd and bk of a chunk would be, so a bin is told by an address 16 bytes before it."""
_LEAST_EMPTY_BINS = 20
"""Of 127; a program that has filled more sizes than the rest was never seen."""


class ArenaState(Record):
    """What the malloc_state at an address says.

    Attributes:
        address: of the malloc_state, by which an arena is known.
        layout: that its bytes have.
        mutex, flags, top, next, system_mem: its fields.
        links: fd and bk of every bin, shape (127, 2).
        has_fast_chunks: whether a fastbin holds anything.
    """

    address: int
    layout: StateLayout
    mutex: int
    flags: int
    top: int
    next: int
    system_mem: int
    links: Words
    has_fast_chunks: bool

    def bin_address(self, number: int) -> int:
        """What the first chunk of a bin has as bk, and the last as fd."""
        return self.address + self.layout.bins - _LINKS + _LINKS * (number - 1)

    def filled_bins(self) -> list[int]:
        """The numbers of the bins that hold chunks."""
        import numpy as np

        filled = self.links[:, 0] != self.bin_address(UNSORTED_BIN) + np.arange(BINS, dtype=np.uint64) * _LINKS
        return [int(number) + 1 for number in np.flatnonzero(filled)]


def fitting_layouts(address: int, data: bytes, layouts: Iterable[StateLayout] = LAYOUTS) -> list[StateLayout]:
    """The layouts under which `data`, found at `address`, is a malloc_state: exactly one, if it is one."""
    import numpy as np

    words = np.frombuffer(data, np.uint64, len(data) // _WORD)
    return [layout for layout in layouts if _fits(address, words, layout)]


def parse_state(address: int, data: bytes, layout: StateLayout) -> ArenaState:
    """The fields of the malloc_state at `address`, whose layout is known."""
    import numpy as np

    words = np.frombuffer(data, np.uint64, len(data) // _WORD)
    first, last = layout.fastbins
    lock, flags = np.frombuffer(data, np.uint32, 2).tolist()
    return ArenaState(
        address=address,
        layout=layout,
        mutex=lock,
        flags=flags,
        top=_field(words, layout.top),
        next=_field(words, layout.next),
        system_mem=_field(words, layout.system_mem),
        links=_links(words, layout),
        has_fast_chunks=bool(words[first // _WORD : last // _WORD].any()),
    )


def find_states(start: int, data: bytes) -> list[tuple[int, StateLayout]]:
    """Where in `data`, which lies at `start`, a malloc_state may be.

    All layouts agree in what lies behind the bins, so bins alone do not say where a state begins: each place is told
    with every layout, and one of them is right.
    """
    import numpy as np

    words = np.frombuffer(data, np.uint64, len(data) // _WORD)
    own = np.uint64(start - _LINKS) + np.arange(len(words), dtype=np.uint64) * np.uint64(_WORD)
    empty = np.flatnonzero((words[:-1] == own[:-1]) & (words[1:] == own[:-1]))
    if len(empty) < _LEAST_EMPTY_BINS:
        return []
    pairs = (start + _WORD * int(empty[0]), start + _WORD * int(empty[-1]))
    bins = sorted({pair - _LINKS * number for pair in pairs for number in range(BINS)})
    return [
        (address - layout.bins, layout)
        for address in bins
        for layout in LAYOUTS
        if _may_be(address - layout.bins, layout, start, data)
    ]


def _may_be(address: int, layout: StateLayout, start: int, data: bytes) -> bool:
    """Whether a layout fits at an address, and the fields that lead elsewhere could."""
    if address < start:
        return False
    state = data[address - start :][:STATE_BYTES]
    links = (int.from_bytes(state[at : at + _WORD], "little") for at in (layout.top, layout.next))
    if any(link < PAGE_BYTES or link % ALIGNMENT for link in links):
        return False
    return layout in fitting_layouts(address, state, (layout,))


def _fits(address: int, words: Words, layout: StateLayout) -> bool:
    import numpy as np

    if len(words) * _WORD <= layout.system_mem:
        return False
    links = _links(words, layout)
    own = np.uint64(address + layout.bins - _LINKS) + np.arange(BINS, dtype=np.uint64) * np.uint64(_LINKS)
    leads_back = links == own[:, None]
    empty = leads_back.all(axis=1)
    if leads_back.any(axis=1).sum() != empty.sum():
        return False
    chunks = links[~empty]
    if (chunks % np.uint64(ALIGNMENT)).any() or (chunks < PAGE_BYTES).any():
        return False
    marked = np.unpackbits(words[layout.binmap // _WORD :][: BINMAP_WORDS // 2].view(np.uint8), bitorder="little")
    may_be_filled = marked[1 : BINS + 1].astype(np.bool_)
    may_be_filled[UNSORTED_BIN - 1] = True  # is not in the map
    return bool((may_be_filled | empty).all())


def _links(words: Words, layout: StateLayout) -> Words:
    return words[layout.bins // _WORD :][: 2 * BINS].reshape(BINS, 2)


def _field(words: Words, offset: int) -> int:
    return int(words[offset // _WORD])
