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
    from typing import Any

    import numpy as np

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
    return [layout for layout in layouts if all(fit_together({address: data}, layout))]


def fit_together(states: dict[int, bytes], layout: StateLayout) -> list[bool]:
    """Whether each is a malloc_state of this layout, of bytes by their address; all of them in one go."""
    import numpy as np

    whole = [len(data) >= layout.system_mem + _WORD for data in states.values()]
    if not all(whole):
        return whole
    words = np.array([np.frombuffer(data, np.uint64, len(data) // _WORD) for data in states.values()])
    return [bool(fits) for fits in _fit(np.array(list(states), np.uint64), words, layout)]


def parse_state(address: int, data: bytes, layout: StateLayout) -> ArenaState:
    """The fields of the malloc_state at `address`, whose layout is known."""
    first, last = layout.fastbins
    return ArenaState(
        address=address,
        layout=layout,
        mutex=int.from_bytes(data[:4], "little"),
        flags=int.from_bytes(data[4:_WORD], "little"),
        top=word_at(data, layout.top),
        next=word_at(data, layout.next),
        system_mem=word_at(data, layout.system_mem),
        links=_links(data, layout),
        has_fast_chunks=any(data[first:last]),
    )


def word_at(data: bytes, offset: int) -> int:
    """The word at an offset."""
    return int.from_bytes(data[offset : offset + _WORD], "little")


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
    links = (word_at(state, layout.top), word_at(state, layout.next))
    if any(link < PAGE_BYTES or link % ALIGNMENT for link in links):
        return False
    return layout in fitting_layouts(address, state, (layout,))


def _fit(addresses: Words, words: Words, layout: StateLayout) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows of words, found at these addresses, are states of this layout."""
    import numpy as np

    first = layout.bins // _WORD
    links = words[:, first : first + 2 * BINS].reshape(-1, BINS, 2)
    bins = addresses[:, None] + np.uint64(layout.bins - _LINKS) + np.arange(BINS, dtype=np.uint64) * np.uint64(_LINKS)
    leads_back = links == bins[:, :, None]
    empty = leads_back.all(axis=2)
    is_chunk = (links % np.uint64(ALIGNMENT) == 0) & (links >= PAGE_BYTES) & ~leads_back
    at = layout.binmap // _WORD
    marks = np.ascontiguousarray(words[:, at : at + BINMAP_WORDS // 2]).view(np.uint8)
    may_be_filled = np.unpackbits(marks, axis=1, bitorder="little")[:, 1 : BINS + 1].astype(np.bool_)
    may_be_filled[:, UNSORTED_BIN - 1] = True  # is not in the map
    fits: np.ndarray[Any, np.dtype[np.bool_]] = (empty | (is_chunk.all(axis=2) & may_be_filled)).all(axis=1)
    return fits


def _links(data: bytes, layout: StateLayout) -> Words:
    import numpy as np

    return np.frombuffer(data, np.uint64, 2 * BINS, layout.bins).reshape(BINS, 2)
