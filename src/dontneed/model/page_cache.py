"""Files and the frames that hold their pages: regular files with a disk behind them, and memory that is a file.

Shared anonymous memory and memfd are files in memory (shmem): their page cache is the only place their contents are,
which is why a discard never loses them. A regular file's cached page is clean or dirty; a dirty one differs from disk.

Kernel:
    mm/filemap.c, mm/shmem.c, mm/truncate.c. unmap_mapping_range(even_cows=0) leaves private copies alone.
"""

from __future__ import annotations

from dontneed.model.entries import FILE, SHMEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.mm import Mm
    from dontneed.model.system import System


class File:
    """A file that can be mapped.

    Attributes:
        name: its path, as /proc/PID/maps prints it.
        pages: its size; a touch behind it is SIGBUS.
        kind: FILE, or SHMEM.
        inode: its number.
        writable: the descriptor it is mapped by may write.
        regular: S_ISREG; REMOVE refuses others.
        cache: page of the file → frame.
        swapped: page of the file → swap slot (shmem only).
        dirty, referenced: frames of the cache that are.
        mappers: the address spaces that map it, or did.
    """

    __slots__ = (
        "_disk",
        "cache",
        "dirty",
        "inode",
        "kind",
        "mappers",
        "name",
        "pages",
        "referenced",
        "regular",
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
        self.regular = True
        self.cache: dict[int, int] = {}
        self.swapped: dict[int, int] = {}
        self.dirty: set[int] = set()
        self.referenced: set[int] = set()
        self.mappers: set[Mm] = set()
        self._disk: dict[int, int] = {}

    @property
    def in_memory(self) -> bool:
        """Whether the cache is all there is of it (shmem)."""
        return self.kind == SHMEM

    def write(self, page: int, byte: int) -> None:
        """write(2): fill a page with a byte."""
        frame = self.frame(page)
        self.system.frames.store(frame, 1, byte)
        self.dirty.add(frame)

    def read(self, page: int) -> int:
        """read(2): the byte that fills a page."""
        return self.system.frames.load(self.frame(page))

    def frame(self, page: int) -> int:
        """The frame of a page, read in or made if the cache has none."""
        frame = self.cache.get(page)
        if frame is None:
            frame = self._bring_in(page)
        return frame

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
        self.dirty.discard(frame)
        self.referenced.discard(frame)
        self.system.frames.release(frame)

    def punch(self, first: int, last: int) -> None:
        """Punch a hole: unmap its pages in every process, and forget them; they read as zeros."""
        from dontneed.model.zap import unmap_file_range  # a fault needs files, and a hole needs the zap

        unmap_file_range(self, first, last)
        for page in range(first, min(last, self.pages)):
            if page in self.cache:
                self.drop(page)
            slot = self.swapped.pop(page, None)
            if slot is not None:
                self.system.swap.release(slot, 1)
            self._disk.pop(page, None)

    def _bring_in(self, page: int) -> int:
        frames = self.system.frames
        frame = frames.allocate(1)
        slot = self.swapped.pop(page, None)
        if slot is not None:
            frames.store(frame, 1, self.system.swap.load(slot))
            self.system.swap.release(slot, 1)
            self.dirty.add(frame)
        elif byte := self._disk.get(page):
            frames.store(frame, 1, byte)
        if self.in_memory:
            self.dirty.add(frame)
        self.cache[page] = frame
        return frame
