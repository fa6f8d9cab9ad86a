"""The frames of a machine: their numbers, how often each is mapped, and what it holds.

Numbers are given out in ascending order and never twice, so that a run of pages touched together is a run of frames,
and what is usual about a frame need not be written down. Anonymous frames are mapped once unless `_shared` says
otherwise; frames of the page cache are mapped by nobody unless `_mapped` does. A huge page (a *folio* of 512 frames)
lives in a range of numbers of its own and is held whole until its last mapped page goes, or until it is split: that is
why half a discarded huge page frees nothing.

Kernel:
    mm/rmap.c, mm/page_alloc.c, mm/huge_memory.c deferred_split_folio(): since 4.5 a huge page outlives its mapping.
"""

from __future__ import annotations

from dontneed.model.space.entries import LEAF_PAGES

FIRST_FRAME = 0x1_0000
"""Where anonymous and cached frames begin; 0 is no frame, and `ZERO_FRAME` the zero page."""
ZERO_FRAME = 0x1000
HUGE_ZERO_FRAME = 0x2000
KERNEL_FRAME = 0x1800
"""Data of the kernel that processes may read."""
FIRST_HUGE_FRAME = 1 << 38
FIRST_POOLED_FRAME = 1 << 39
"""Where the frames of the hugetlb pool begin. All numbers fit into the 40 bits that a page-table entry has for them."""


_WAITING_AT_MOST = 15


class Frames:
    """Every frame in use.

    Attributes:
        in_use: frames that are allocated, mapped or not.
        lazy: anonymous frames that MADV_FREE marked; one that was written since has a dirty entry.
        dirty: anonymous frames that are dirty whatever their entries say (PG_dirty).
    """

    def __init__(self) -> None:
        self.in_use = 0
        self._next = self._first_waiting = FIRST_FRAME
        self._next_huge = FIRST_HUGE_FRAME
        self._next_pooled = FIRST_POOLED_FRAME
        self._shared: dict[int, int] = {}
        self._mapped: dict[int, int] = {}
        self._contents: dict[int, int] = {}
        self.lazy: set[int] = set()
        self.dirty: set[int] = set()
        self._folios: dict[int, int] = {}

    def allocate(self, count: int) -> int:
        """`count` fresh zeroed frames in a row; the number of the first. As anonymous ones they are mapped once."""
        first = self._next
        self._next = first + count
        self.in_use += count
        return first

    def allocate_huge(self) -> int:
        """A fresh zeroed huge page, mapped once; the number of its first frame."""
        first = self._next_huge
        self._next_huge = first + LEAF_PAGES
        self._folios[first] = LEAF_PAGES
        self.in_use += LEAF_PAGES
        return first

    # Anonymous frames

    def share(self, first: int, count: int) -> None:
        """Map `count` anonymous frames from `first` on once more."""
        shared = self._shared
        for frame in range(first, first + count):
            shared[frame] = shared.get(frame, 1) + 1

    def unmap(self, first: int, count: int) -> None:
        """Unmap anonymous frames once; those that nobody maps any more are freed, or wait for their huge page."""
        if first >= FIRST_HUGE_FRAME:
            self._unmap_huge(first, count)
            return
        if self.is_exclusive(first, count):
            self._forget(first, count)
            self.in_use -= count
            return
        shared = self._shared
        for frame in range(first, first + count):
            sharers = shared.get(frame, 1) - 1
            if sharers:
                shared[frame] = sharers
            else:
                self.release_unmapped(frame)

    @property
    def are_unremarkable(self) -> bool:
        """Whether all that is known of small anonymous frames is how many there are."""
        return not (self._shared or self._contents or self.lazy or self.dirty)

    def map_count(self, frame: int) -> int:
        """How many entries map an anonymous frame."""
        return self._shared.get(frame, 1)

    def leave_unmapped(self, frame: int) -> None:
        """Unmap an anonymous frame that the swap cache goes on holding."""
        self._shared[frame] = 0

    def release_unmapped(self, frame: int) -> None:
        """Free an anonymous frame that the swap cache let go of."""
        self._shared.pop(frame, None)
        self.release(frame)

    def is_shared(self, first: int, count: int) -> bool:
        """Whether anonymous frames of this run are mapped more than once."""
        shared = self._shared
        return bool(shared) and any(shared.get(frame, 1) > 1 for frame in range(first, first + count))

    def is_exclusive(self, first: int, count: int) -> bool:
        """Whether all of these anonymous frames are known to be their mapper's alone (PageAnonExclusive).

        A frame that was shared stays in doubt when its sharers are gone, until a write looks and `claim` notes it.
        """
        return not self._shared or not _among(self._shared, first, count)

    def claim(self, frame: int) -> None:
        """Note that an anonymous frame is its only mapper's alone."""
        self._shared.pop(frame, None)

    def make_dirty(self, first: int, count: int) -> None:
        """Note that anonymous frames are dirty; a huge page is as a whole (folio_mark_dirty)."""
        self.dirty.update(range(first, first + count))
        for head in range(first & -LEAF_PAGES, first + count if self._folios else 0, LEAF_PAGES):
            if head in self._folios:
                self.dirty.update(range(head, head + LEAF_PAGES))

    def drain(self) -> None:
        """Put the fresh frames that wait on the list by which they age (lru_add_drain())."""
        self._first_waiting = self._next

    def is_waiting(self, frame: int) -> bool:
        """Whether a frame is among the fresh ones that wait together; one more than fits, and none does."""
        return 0 < self._next - frame <= (self._next - self._first_waiting) % _WAITING_AT_MOST

    # Frames of the page cache

    def map_cached(self, first: int, count: int) -> None:
        """Map frames of the page cache once more."""
        mapped = self._mapped
        for frame in range(first, first + count):
            mapped[frame] = mapped.get(frame, 0) + 1

    def unmap_cached(self, first: int, count: int) -> None:
        """Unmap frames of the page cache once; the cache keeps them."""
        mapped = self._mapped
        for frame in range(first, first + count):
            mappers = mapped[frame] - 1
            if mappers:
                mapped[frame] = mappers
            else:
                del mapped[frame]

    def cached_map_count(self, frame: int) -> int:
        """How many entries map a frame of the page cache."""
        return self._mapped.get(frame, 0)

    def release(self, frame: int) -> None:
        """Free a frame that nobody maps: the page cache, or the swap cache, lets it go."""
        self._contents.pop(frame, None)
        self.lazy.discard(frame)
        self.dirty.discard(frame)
        self.in_use -= 1

    # Huge pages

    @property
    def has_huge(self) -> bool:
        """Whether there is a huge page of anonymous memory, in one piece or in parts."""
        return bool(self._folios)

    def folio_of(self, frame: int) -> int | None:
        """The first frame of the huge page that `frame` is a part of."""
        head = frame & -LEAF_PAGES
        return head if head in self._folios else None

    def mapped_of_folio(self, head: int) -> int:
        """How many of the 512 frames of a huge page are mapped by someone."""
        return self._folios[head]

    @property
    def deferred(self) -> int:
        """Frames that nobody maps and that are held because the rest of their huge page is mapped."""
        return sum(LEAF_PAGES - mapped for mapped in self._folios.values())

    def split_folio(self, head: int) -> int:
        """Make ordinary frames of a huge page; those that nobody maps are freed. How many that were."""
        freed = LEAF_PAGES - self._folios.pop(head)
        for frame in range(head, head + LEAF_PAGES):
            if self._shared.get(frame) == 0:
                del self._shared[frame]
                self._forget(frame, 1)
        self.in_use -= freed
        return freed

    def _unmap_huge(self, first: int, count: int) -> None:
        """Unmap frames that are or were parts of huge pages."""
        shared, folios = self._shared, self._folios
        for frame in range(first, first + count):
            sharers = shared.pop(frame, 1) - 1
            if sharers:
                shared[frame] = sharers
            else:
                head = frame & -LEAF_PAGES
                if head in folios:
                    shared[frame] = 0
                    folios[head] -= 1
                    if not folios[head]:
                        self.split_folio(head)
                else:
                    self.release(frame)

    # Pages of the hugetlb pool: never in use, for nobody else can have them

    def allocate_pooled(self) -> int:
        """A zeroed huge page of the hugetlb pool, as an anonymous one mapped once; the number of its first frame."""
        first = self._next_pooled
        self._next_pooled = first + LEAF_PAGES
        return first

    def unmap_pooled(self, first: int) -> bool:
        """Unmap an anonymous huge page of the pool once; whether nobody maps it any more."""
        mappers = self.map_count(first) - 1
        for frame in range(first, first + LEAF_PAGES):
            if mappers > 1:
                self._shared[frame] = mappers
            else:
                self._shared.pop(frame, None)
        if not mappers:
            self._erase(first, LEAF_PAGES)
        return not mappers

    # Contents: one byte value for all bytes of a frame

    def store(self, first: int, count: int, byte: int) -> None:
        """Fill frames with a byte."""
        if byte:
            self._contents.update(dict.fromkeys(range(first, first + count), byte))
        else:
            self._erase(first, count)

    def load(self, frame: int) -> int:
        """The byte that fills a frame."""
        return self._contents.get(frame, 0)

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the contents of frames to fresh ones."""
        contents = self._contents
        if contents:
            for offset in range(count):
                if byte := contents.get(source + offset):
                    contents[target + offset] = byte

    def _forget(self, first: int, count: int) -> None:
        """Forget what is known of frames that are freed."""
        self._erase(first, count)
        for known in (self.lazy, self.dirty):
            if known:
                known.difference_update(_among(known, first, count))

    def _erase(self, first: int, count: int) -> None:
        if self._contents:
            for frame in _among(self._contents, first, count):
                del self._contents[frame]


def _among(frames: set[int] | dict[int, int], first: int, count: int) -> list[int]:
    """Those of `count` frames from `first` on that are in a collection, ascending; the time is that of the fewer."""
    wanted = range(first, first + count)
    if count <= len(frames):
        return [frame for frame in wanted if frame in frames]
    return sorted(frame for frame in frames if frame in wanted)
