"""Which entries of upper tables map the huge zero page, which is no memory: never written to, and its frame says so.

The kernel makes the huge zero page when it is first needed and gives it back when nobody has it: where it is, is asked
of /proc/kpageflags, frame by frame, and each frame once.
"""

from __future__ import annotations

from dontneed.abi import page_entry as abi
from dontneed.abi.kpageflags import ZERO_PAGE
from dontneed.errors import KernelLacks, NotPermitted
from dontneed.kernel.kpage import read_flags_of
from dontneed.observe.tables.entries import frames_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dontneed.kernel.pagemap import Words

_NEVER_ZERO = abi.WRITABLE | abi.DIRTY | abi.SAVED_DIRTY
"""An entry that has any of these is of a page that was written to, or will be without a fault."""


class HugeZeroPage:
    """Tells the huge zero page from others, for one look.

    Attributes:
        notes: what could not be told apart, in sentences.
    """

    __slots__ = ("_known", "notes")

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._known: dict[int, bool] = {}

    def is_mapped_by(self, entry: int) -> bool:
        """Whether an entry that maps a huge page maps this one."""
        if entry & _NEVER_ZERO:
            return False
        frame = abi.frame_of(entry)
        self._ask((frame,))
        return self._known[frame]

    def among(self, entries: Words, present: Any) -> Any:
        """Which of many entries map it: a mask.

        Args:
            entries: uint64.
            present: which of them map huge pages; a mask.
        """
        import numpy as np

        doubtful = present & (entries & np.uint64(_NEVER_ZERO) == 0)
        if doubtful.any():
            frames = frames_of(entries[doubtful]).tolist()
            self._ask(frames)
            doubtful[doubtful] = [self._known[frame] for frame in frames]
        return doubtful

    def _ask(self, frames: Iterable[int]) -> None:
        """Find out about the frames that are not known."""
        new = sorted({frame for frame in frames if frame not in self._known})
        if not new:
            return
        try:
            flags = read_flags_of(new)
        except (NotPermitted, KernelLacks) as error:
            note = f"huge zero pages count as resident: {error}"
            self.notes += [] if note in self.notes else [note]
            flags = dict.fromkeys(new, 0)
        self._known.update((frame, flags[frame] & ZERO_PAGE > 0) for frame in new)
