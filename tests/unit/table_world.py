"""Page tables built entry by entry in a made-up physical memory, read as the kernel's is: with four levels or five."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from dontneed.abi.page_entry import ACCESSED, DIRTY, FRAME_SHIFT, HUGE, NO_EXECUTE, PRESENT, SPECIAL, USER, WRITABLE
from dontneed.kernel.tasks import Task

PAGE = 4096
BASE = 0xFFFF_8880_0000_0000
ZERO_FRAME = 7
TABLE = PRESENT | WRITABLE | USER | ACCESSED | DIRTY
WRITTEN = TABLE | NO_EXECUTE
ONLY_READ = PRESENT | USER | ACCESSED | SPECIAL | NO_EXECUTE | ZERO_FRAME << FRAME_SHIFT
_FIRST_FRAME = 0x1000


class TableWorld:
    """A machine's memory as `KernelMemory` would show it, and processes with tables in it.

    Attributes:
        before: called with the number of the read that is about to be made, from 1 on; may change anything.
        largest: most pages that were read at one call.
    """

    zero_frame = ZERO_FRAME
    base = BASE

    def __init__(self, levels=4):
        self.levels = levels
        self.frames = {}
        self.reads = 0
        self.largest = 0
        self.before = lambda _number: None
        self._next = _FIRST_FRAME
        self._pages = np.zeros((1024, 512), np.uint64)

    def process(self, pid=1):
        """A process without memory: an uppermost table, and a page that says that it lives."""
        root, record = self._table(), self._table()
        self.frames[record][:3] = (0x1111, 22, pid)
        place = BASE + record * PAGE
        return Task(pid, 0x1111, BASE + root * PAGE, (place, place + 8, place + 16), (0x1111, 22, pid))

    def map(self, task, address, entry=None, *, level=0):
        """Put an entry for an address into its table of a level; without one it maps a fresh frame, written to."""
        if entry is None:
            entry = WRITTEN | self.new_frame() << FRAME_SHIFT | (HUGE if level else 0)
        frame = (task.root - BASE) // PAGE
        for above in range(self.levels - 1, level, -1):
            index = address >> 12 + 9 * above & 511
            if not self.frames[frame][index]:
                self.frames[frame][index] = TABLE | self._table() << FRAME_SHIFT
            frame = (int(self.frames[frame][index]) & (1 << 52) - 1) >> FRAME_SHIFT
        self.frames[frame][address >> 12 + 9 * level & 511] = entry
        return entry

    def table_of(self, task, address, level=0):
        """The entries of the table of a level that serves an address."""
        frame = (task.root - BASE) // PAGE
        for above in range(self.levels - 1, level, -1):
            frame = (int(self.frames[frame][address >> 12 + 9 * above & 511]) & (1 << 52) - 1) >> FRAME_SHIFT
        return self.frames[frame]

    def end(self, task):
        """Have the process end."""
        self.frames[(task.watched[0] - BASE) // PAGE][0] = 0

    def new_frame(self):
        """A frame that nobody has."""
        self._next += 1
        return self._next

    def _table(self):
        frame = self.new_frame()
        self.frames[frame] = np.zeros(512, np.uint64)
        return frame

    # As KernelMemory

    def read_array(self, addresses):
        """Pages, in an array that the next call writes over; frames that nobody has cannot be read."""
        self.reads += 1
        self.largest = max(self.largest, len(addresses))
        self.before(self.reads)
        assert len(addresses) <= 1024
        failed = np.zeros(len(addresses), np.uint64)
        for nth, address in enumerate(addresses.tolist()):
            page = self.frames.get((address - BASE) // PAGE)
            self._pages[nth] = 0 if page is None else page
            failed[nth] = page is None
        return self._pages[: len(addresses)], failed

    def read(self, addresses):
        """The places of those that cannot be read."""
        _, failed = self.read_array(np.array(addresses, np.uint64))
        return failed.nonzero()[0].tolist()

    def pages(self, first, last):
        """What is in some of them."""
        return memoryview(self._pages).cast("B")[first * PAGE : last * PAGE]

    def word(self, place, address):
        """A word of a page that was read."""
        return int(self._pages[place, address % PAGE // 8])


def table_of_mappings(*spans):
    """What `MapsTable` says of mappings."""

    class Table(SimpleNamespace):
        def __len__(self):
            return len(spans)

    starts, ends = [start for start, _ in spans], [end for _, end in spans]
    return Table(starts=starts, ends=ends, bounds=np.array([starts, ends], np.uint64))
