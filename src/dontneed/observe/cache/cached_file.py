"""What is known of the file cache: a record a file, sums over all, and the columns that both are made of when asked."""

from __future__ import annotations

from array import array

from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dontneed.kernel.cachestat import Run

WIDTH = 7
"""Words of a file in `FileColumns.words`, laid out as cachestat has them: the first one is nothing to us, then the
length in bytes, and pages cached, dirty, under writeback, evicted, evicted recently."""
_SIZE, _CACHED, _DIRTY = 1, 2, 3
UNKNOWN = (1 << 64) - 1


class CachedFile(Record):
    """What of one file is in the page cache. Bytes are those of whole pages, but for `size_bytes`.

    Attributes:
        path: under which it was found; a file with several names counts under the first one.
        size_bytes: its length; a hole counts as much as data, and is as well cached when it was read.
        cached_bytes: in the page cache; before the eviction, if there was one.
        dirty_bytes, writeback_bytes: of those, changed and not yet written; being written; after the eviction, if there
            was one. None: mincore cannot tell.
        evicted_bytes: that the kernel remembers to have evicted. None as above.
        recently_evicted_bytes: of those, so recently that some more memory would have kept them. None as above.
        left_bytes: in the page cache after the eviction; None if there was none.
        runs: which pages are cached: first page and number of pages of each run. None if nobody asked, or the kernel
            does not tell us.
    """

    path: str
    size_bytes: int
    cached_bytes: int
    dirty_bytes: int | None
    writeback_bytes: int | None
    evicted_bytes: int | None
    recently_evicted_bytes: int | None
    left_bytes: int | None = None
    runs: tuple[Run, ...] | None = None

    @property
    def pages(self) -> int:
        """How many its length takes."""
        return -(-self.size_bytes // PAGE_BYTES)

    @property
    def cached_pages(self) -> int:
        """How many are cached."""
        return self.cached_bytes // PAGE_BYTES


class CacheTotal(Record):
    """Sums over all files; the fields are those of `CachedFile`, and None where no file has a number."""

    files: int
    pages: int
    size_bytes: int
    cached_bytes: int
    dirty_bytes: int | None
    writeback_bytes: int | None
    evicted_bytes: int | None
    recently_evicted_bytes: int | None
    left_bytes: int | None


class FileColumns:
    """What is known of many files, a column a fact: a record each would take as long as asking the kernel does.

    Attributes:
        paths: of each file.
        words: `WIDTH` numbers of each file, flat.
        left: pages of each file after an eviction; empty if there was none.
        runs: of each file; empty if nobody asked for them.
    """

    __slots__ = ("left", "paths", "runs", "words")

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.words = array("Q")
        self.left = array("Q")
        self.runs: list[list[Run] | None] = []

    def __len__(self) -> int:
        return len(self.paths)

    def add(self, path: str, size: int, counts: Sequence[int]) -> None:
        """Add a file; its cell in `left`, or in `runs`, has to follow if these are kept."""
        self.paths.append(path)
        self.words.extend((0, size, *counts))

    def file(self, nth: int) -> CachedFile:
        """The record of one file."""
        _, size, *pages = self.words[nth * WIDTH : (nth + 1) * WIDTH]
        cached, dirty, writeback, evicted, recently = (
            None if count == UNKNOWN else count * PAGE_BYTES for count in pages
        )
        runs = self.runs[nth] if self.runs else None
        left = self.left[nth] * PAGE_BYTES if self.left else None
        return CachedFile(
            path=self.paths[nth],
            size_bytes=size,
            cached_bytes=cached or 0,
            dirty_bytes=dirty,
            writeback_bytes=writeback,
            evicted_bytes=evicted,
            recently_evicted_bytes=recently,
            left_bytes=left,
            runs=None if runs is None else tuple(runs),
        )

    def largest(self, count: int) -> list[int]:
        """The numbers of the files with most in the cache, or after an eviction with most left there."""
        from heapq import nsmallest

        cached, left, sizes = self.words[_CACHED::WIDTH], self.left, self.words[_SIZE::WIDTH]

        def rank(nth: int) -> tuple[int, int, int, str]:
            return -left[nth] if left else 0, -cached[nth], -sizes[nth], self.paths[nth]

        return nsmallest(count, range(len(self)), key=rank)

    def total(self) -> CacheTotal:
        """The sums."""
        sizes = self.words[_SIZE::WIDTH]
        dirty, writeback, evicted, recently = (_sum_of(self.words[cell::WIDTH]) for cell in range(_DIRTY, WIDTH))
        return CacheTotal(
            files=len(self),
            pages=sum(-(-size // PAGE_BYTES) for size in sizes),
            size_bytes=sum(sizes),
            cached_bytes=sum(self.words[_CACHED::WIDTH]) * PAGE_BYTES,
            dirty_bytes=dirty,
            writeback_bytes=writeback,
            evicted_bytes=evicted,
            recently_evicted_bytes=recently,
            left_bytes=sum(self.left) * PAGE_BYTES if self.left else None,
        )


def _sum_of(counts: Iterable[int]) -> int | None:
    known = [count for count in counts if count != UNKNOWN]
    return sum(known) * PAGE_BYTES if known else None
