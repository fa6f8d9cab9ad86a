"""Files and the frames that hold their pages: regular files with a disk behind them, and memory that is a file.

Shared anonymous memory and memfd are files in memory (shmem): their page cache is the only place their contents are,
which is why a discard never loses them. A regular file's cached page is clean or dirty; a dirty one differs from disk.

Kernel:
    mm/filemap.c, mm/shmem.c, mm/truncate.c. unmap_mapping_range(even_cows=0) leaves private copies alone.
"""

from __future__ import annotations

from dontneed.model.memory.swap_in import take_slot
from dontneed.model.space.entries import DIRTY, FILE, HUGETLB, LEAF_PAGES, SHMEM, YOUNG
from dontneed.model.space.vma import RAND_READ, SEQ_READ, SHARED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.model.memory.frames import Frames
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma
    from dontneed.model.system import System


REGULAR = "regular"
KERNELS = "the kernel's own"
"""Pages that the kernel maps by itself, and that no descriptor leads to (vdso)."""
ZERO_DEVICE = "zero device"
"""/dev/zero: mapped privately it is anonymous memory with a file behind it."""
SECRET = "secret"  # noqa: S105 - the name of the call
"""memfd_secret(2)."""
RING = "ring"
"""The buffer of a driver (perf_event_open)."""


class CachedPages(dict[int, int]):
    """The cache of a file that has been read whole, and whose pages nobody counts: each has its frame when asked for.

    Args:
        frames: of the machine.
    """

    _PIECE_SHIFT = 9

    def __init__(self, frames: Frames) -> None:
        super().__init__()
        self._frames = frames
        self._pieces: dict[int, int] = {}

    def __missing__(self, page: int) -> int:
        """The frame of a page: those of some pages in a row are in a row too."""
        number = page >> self._PIECE_SHIFT
        first = self._pieces.get(number)
        if first is None:
            first = self._pieces[number] = self._frames.allocate(1 << self._PIECE_SHIFT)
        return first + page - (number << self._PIECE_SHIFT)

    def get(self, page: int, _default: object = None) -> int:
        """The frame of a page, which there always is."""
        return self[page]

    def __contains__(self, page: object) -> bool:
        return True


class File:
    """A file that can be mapped.

    Attributes:
        name: its path, as /proc/PID/maps prints it.
        pages: its size; a touch behind it is SIGBUS.
        kind: FILE, SHMEM, or HUGETLB.
        inode: its number.
        writable: the descriptor it is mapped by may write.
        nature: REGULAR, or one of the others.
        cache: page of the file → frame.
        swapped: page of the file → swap slot (shmem only).
        dirty: frames of the cache that are.
        referenced, active: those that were used once, or often, of late (PG_referenced, PG_active).
        huge: pages of the file from which on a huge page holds 512 of them (SHMEM).
        folios: first page → pages, of what is larger than a page and left of a huge page that a hole was punched into.
        reserved: first pages of huge pages that are reserved for mappings, and have no frame yet (HUGETLB).
        mappers: the address spaces that map it, or did.
    """

    __slots__ = (
        "_disk",
        "active",
        "cache",
        "dirty",
        "folios",
        "huge",
        "inode",
        "kind",
        "mappers",
        "name",
        "nature",
        "pages",
        "referenced",
        "reserved",
        "swapped",
        "system",
        "writable",
    )

    def __init__(self, system: System, name: str, pages: int, *, kind: int = FILE, writable: bool = True) -> None:
        self.system = system
        self.name = name
        self.pages = pages
        self.kind = kind
        self.inode = system.new_inode()
        self.writable = writable
        self.nature = REGULAR
        self.cache: dict[int, int] = {}
        self.swapped: dict[int, int] = {}
        self.dirty: set[int] = set()
        self.referenced: set[int] = set()
        self.active: set[int] = set()
        self.huge: set[int] = set()
        self.folios: dict[int, int] = {}
        self.reserved: set[int] = set()
        self.mappers: set[Mm] = set()
        self._disk: dict[int, int] = {}

    @property
    def in_memory(self) -> bool:
        """Whether the cache is all there is of it (shmem)."""
        return self.kind in (SHMEM, HUGETLB)

    @property
    def is_zero_device(self) -> bool:
        """Whether it is /dev/zero."""
        return self.nature == ZERO_DEVICE

    @property
    def is_kernels(self) -> bool:
        """Whether the kernel maps it by itself."""
        return self.nature == KERNELS

    def write(self, page: int, byte: int) -> None:
        """write(2): fill a page with a byte."""
        frame = self.frame(page)
        self.system.frames.store(frame, 1, byte)
        self.dirty.add(frame)
        if self.kind == SHMEM:
            self.mark_used(frame, 1)

    def read(self, page: int) -> int:
        """read(2): the byte that fills a page."""
        frame = self.frame(page)
        self.mark_used(frame, 1)
        return self.system.frames.load(frame)

    def mark_used(self, first: int, count: int) -> None:
        """Note that cached frames are used (folio_mark_accessed): the second time makes them active."""
        for frame in range(first, first + count):
            if frame not in self.referenced:
                self.referenced.add(frame)
            elif frame not in self.active:
                self.active.add(frame)
                self.referenced.discard(frame)

    def frame(self, page: int) -> int:
        """The frame of a page, read in or made if the cache has none."""
        frame = self.cache.get(page)
        if frame is None:
            frame = self._bring_in(page)
        return frame

    def cached_runs(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """What is cached of some pages, in rows of frames: the first page, how many, and the first frame."""
        start = count = frame = 0
        for page in range(first, last):
            here = self.cache.get(page)
            if count and here == frame + count:
                count += 1
                continue
            if count:
                yield start, count, frame
            start, count, frame = (page, 1, here) if here is not None else (0, 0, 0)
        if count:
            yield start, count, frame

    def write_back(self) -> None:
        """Write what is dirty to disk (sync); memory that is a file has none, and stays dirty."""
        if self.in_memory:
            return
        for page, frame in self.cache.items():
            if frame in self.dirty:
                self._disk[page] = self.system.frames.load(frame)
        self.dirty.clear()

    def drop(self, page: int) -> None:
        """Let go of a cached page that nobody maps: it is read from disk next time, or, in memory, lost."""
        frame = self.cache.pop(page)
        self.forget_folio(page)
        self.dirty.discard(frame)
        self.referenced.discard(frame)
        self.active.discard(frame)
        self.system.frames.release(frame)

    def forget(self, page: int) -> int | None:
        """Forget a page that nobody maps, as if it had never been written; the slot that it had in swap."""
        if page in self.cache:
            self.drop(page)
        self._disk.pop(page, None)
        return self.swapped.pop(page, None)

    def folio_of(self, page: int) -> tuple[int, int]:
        """The folio that holds a page of the file: its first page, and how many it has."""
        if page & -LEAF_PAGES in self.huge:
            return page & -LEAF_PAGES, LEAF_PAGES
        pages = LEAF_PAGES // 2 if self.folios else 1
        while pages > 1:
            if self.folios.get(page & -pages) == pages:
                return page & -pages, pages
            pages //= 2
        return page, 1

    def forget_folio(self, page: int) -> None:
        """Have the pages of the folio that holds `page` be on their own."""
        head, _ = self.folio_of(page)
        self.huge.discard(head)
        self.folios.pop(head, None)

    def cut_folios(self, first: int, last: int) -> list[tuple[int, int]]:
        """Split the folios that a hole cuts, at its ends; where they were."""
        cut = []
        for page in (first, last - 1):
            head, pages = self.folio_of(page)
            if head < first or head + pages > last:
                cut.append((head, pages))
                self._split_folio(max(first, head))
                if head + pages > last:
                    self._split_folio(last)
        return cut

    def _split_folio(self, page: int) -> None:
        """Split a folio into halves, the half that `page` lies in again, and so on (__split_unmapped_folio)."""
        head, pages = self.folio_of(page)
        self.forget_folio(page)
        while pages > 1:
            pages //= 2
            other = head if page >= head + pages else head + pages
            head = head + pages if page >= head + pages else head
            if pages > 1:
                self.folios[other] = pages

    def _bring_in(self, page: int) -> int:
        slot = self.swapped.pop(page, None)
        if slot is not None:
            frame = take_slot(self.system, slot)
            self.dirty.add(frame)
        else:
            frame = self.system.frames.allocate(1)
            if byte := self._disk.get(page):
                self.system.frames.store(frame, 1, byte)
        self.cache[page] = frame
        return frame


def note_use(mm: Mm, vma: Vma, code: int, frame: int, pages: int) -> None:
    """Hand what an entry that goes knew of a file's pages to these: that they are dirty, that they were used."""
    file = vma.file
    if file is None:
        return
    if code & DIRTY and vma.flags & SHARED:
        file.dirty.update(range(frame, frame + pages))
    blind = SEQ_READ | RAND_READ if mm.system.behaviour.zap_ignores_random else SEQ_READ
    if code & YOUNG and not vma.flags & blind:
        file.mark_used(frame, pages)
