"""Swap: slots with the contents of pages that have no frame, and the swap cache of frames that still have a slot.

Slots are given out in ascending order and never twice, as frames are. A slot is named by one entry unless `_entries`
says otherwise. An entry that was never shared is *exclusive*: the page it stands for comes back as its process's alone.

Kernel:
    mm/swapfile.c (swap_map counts), mm/swap_state.c. A slot is used until its last entry and its cached frame are gone.
    pte_swp_exclusive() since 5.19; it is a flag of the entry there, and lost by all entries of a slot at once.
"""

from __future__ import annotations

FIRST_SLOT = 1
"""Slot 0 holds the header of a swap area."""


class Swap:
    """The swap of a machine. It has no end.

    Attributes:
        enabled: swapon was done.
        used: slots in use.
        cache: slot → frame of the swap cache.
    """

    def __init__(self) -> None:
        self.enabled = False
        self.used = 0
        self.cache: dict[int, int] = {}
        self._slot_of: dict[int, int] = {}
        self._next = FIRST_SLOT
        self._entries: dict[int, int] = {}
        self._contents: dict[int, int] = {}

    # Slots

    def allocate(self, count: int) -> int:
        """`count` slots in a row, each with one entry, exclusive; the number of the first."""
        first = self._next
        self._next += count
        self.used += count
        return first

    def store(self, slot: int, byte: int) -> None:
        """Fill the page in a slot with a byte."""
        if byte:
            self._contents[slot] = byte
        else:
            self._contents.pop(slot, None)

    def load(self, slot: int) -> int:
        """The byte that fills the page in a slot."""
        return self._contents.get(slot, 0)

    def entries(self, slot: int) -> int:
        """How many entries name a slot."""
        return self._entries.get(slot, 1)

    def is_exclusive(self, slot: int) -> bool:
        """Whether a slot has one entry, and that is exclusive."""
        return slot not in self._entries

    def are_plain(self, first: int, count: int) -> bool:
        """Whether `count` slots from `first` on all have one exclusive entry, and no cached frame."""
        if not self._entries and not self.cache:
            return True
        return not any(slot in self._entries or slot in self.cache for slot in range(first, first + count))

    def share(self, first: int, count: int) -> None:
        """Have `count` slots from `first` on named by one more entry (swap_duplicate)."""
        for slot in range(first, first + count):
            self._entries[slot] = self._entries.get(slot, 1) + 1

    def doubt(self, slot: int) -> None:
        """Have a slot's only entry be not exclusive: its page was shared, and nobody has looked since."""
        self._entries[slot] = 1

    def name_again(self, slot: int, *, exclusive: bool) -> None:
        """Have a slot of the swap cache named by one more entry."""
        if exclusive:
            self._entries.pop(slot, None)
        else:
            self._entries[slot] = self._entries[slot] + 1

    def release(self, first: int, count: int) -> list[int]:
        """Take one entry away from each of `count` slots from `first` on; the cached frames that fell idle by it."""
        idle = []
        for slot in range(first, first + count):
            left = self._entries.get(slot, 1) - 1
            if left:
                self._entries[slot] = left
            elif slot in self.cache:
                self._entries[slot] = 0  # held by the cache alone
                idle.append(self.cache[slot])
            else:
                self._free(slot)
        return idle

    # The swap cache

    def slot_of(self, frame: int) -> int | None:
        """The slot of a frame that is in the swap cache."""
        return self._slot_of.get(frame)

    def cached_frames(self, first: int, count: int) -> list[int]:
        """Those of `count` frames from `first` on that are in the swap cache, ascending."""
        cached = self._slot_of
        if count <= len(cached):
            return [frame for frame in range(first, first + count) if frame in cached]
        return sorted(frame for frame in cached if first <= frame < first + count)

    def add_to_cache(self, slot: int, frame: int) -> None:
        """Let `frame` hold what the slot holds."""
        self.cache[slot] = frame
        self._slot_of[frame] = slot

    def drop_from_cache(self, frame: int) -> None:
        """Part a frame from its slot; the slot is free unless entries name it."""
        slot = self._slot_of.pop(frame)
        del self.cache[slot]
        if not self.entries(slot):
            self._free(slot)

    def _free(self, slot: int) -> None:
        self._entries.pop(slot, None)
        self._contents.pop(slot, None)
        self.used -= 1
