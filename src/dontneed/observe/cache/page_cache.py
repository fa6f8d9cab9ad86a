"""What of files is in the page cache, and asking the kernel to let go of it.

Nothing here reads a file, maps it for longer than a question, or touches a page: looking changes nothing.

What `evict` leaves in the cache, and why: dirty pages and those that are being written (the kernel begins to write the
dirty ones, and does not wait; so once more, a little later, takes them as well), pages that somebody has mapped or
locked, and files of tmpfs, which are nowhere else.

Kernel:
    cachestat(2) since 6.5, mincore(2); posix_fadvise(2) POSIX_FADV_DONTNEED: mm/fadvise.c generic_fadvise().
"""

from __future__ import annotations

import errno
import os

from dontneed.errors import DontneedError, KernelLacks, NotPermitted, UsageError, WrongType
from dontneed.kernel.cachestat import cached_runs, page_counter
from dontneed.kernel.statfs import IN_MEMORY, OVERLAY
from dontneed.observe.cache.cached_file import UNKNOWN, WIDTH, FileColumns
from dontneed.observe.cache.file_tree import Passed, Unread, walk
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.kernel.cachestat import PageCounter, Run
    from dontneed.observe.cache.cached_file import CachedFile, CacheTotal
    from dontneed.observe.cache.file_tree import Directory

    Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_REFUSALS = (errno.EACCES, errno.EPERM)
_DONTNEED = os.POSIX_FADV_DONTNEED
_COUNTS = ("cachestat", "mincore")
_ASKED = "; the kernel was asked to let go of it all the same"
_CACHED = 2
"""Where in the words of a file its cached pages are."""
_EMPTY = (0,) * WIDTH
_NOT_COUNTED = [UNKNOWN] * 4
"""What mincore cannot say of a file: dirty, under writeback, evicted, evicted recently."""


class PageCache(Record):
    """What of some files is in the page cache.

    Attributes:
        method: `cachestat`, `mincore`, or both with a plus between them.
        directories: how many were read.
        hard_links, symlinks, special, vanished: what was passed by: further names of a file that was counted, links
            below a directory, what is no file, and what went while we came. How many.
        other_file_systems: directories that were not descended into, and why.
        unread: files and directories that refused, and why. They are in no sum.
        in_memory_bytes: cached of tmpfs and ramfs, where nothing can be evicted: these pages are the files.
        columns: what `files` is made of.
    """

    method: str
    directories: int
    hard_links: int
    symlinks: int
    special: int
    vanished: int
    other_file_systems: tuple[Unread, ...]
    unread: tuple[Unread, ...]
    in_memory_bytes: int
    columns: FileColumns

    @property
    def files(self) -> tuple[CachedFile, ...]:
        """A record a file, made at each call; in the order in which they were found."""
        return tuple(map(self.columns.file, range(len(self.columns))))

    def largest(self, count: int | None = None) -> list[CachedFile]:
        """The files with most in the cache, or after an eviction with most left there; all if no count is given."""
        return list(map(self.columns.file, self.columns.largest(len(self.columns) if count is None else count)))

    @property
    def total(self) -> CacheTotal:
        """The sums."""
        return self.columns.total()


def cache(paths: Path | Iterable[Path], *, maps: bool = False, one_file_system: bool = False) -> PageCache:
    """What of these files, and of the files in these directories, is in the page cache. Changes nothing.

    Args:
        paths: one, or several. A symbolic link is followed when it is named here, and not below a directory.
        maps: say which pages, too: `CachedFile.runs`.
        one_file_system: do not descend into directories that are on another file system.
    Raises:
        NotPermitted, KernelLacks, DontneedError: nothing at all could be read. Some files that could not are no error:
            see `PageCache.unread`.
        WrongType, UsageError: what is no path, or no path at all.
    Kernel:
        cachestat(2) since 6.5, else mincore(2); each for files of ours, or that we may write to.
    """
    return _Reading(maps=maps).read(paths, one_file_system=one_file_system)


def evict(paths: Path | Iterable[Path], *, one_file_system: bool = False) -> PageCache:
    """Ask the kernel to let go of what it has cached of these files, and see what is left.

    Nothing is lost, and nothing is waited for: a dirty page stays, as does one that somebody has mapped. Who may read a
    file may do this.

    Args:
        paths: one, or several, as of `cache`.
        one_file_system: as of `cache`.
    Returns:
        What was cached, and in `left_bytes` what is after it.
    Raises:
        NotPermitted, KernelLacks, DontneedError, WrongType, UsageError: as `cache`.
    Kernel:
        posix_fadvise(2) since 2.5.60
    """
    return _Reading(evicting=True).read(paths, one_file_system=one_file_system)


class _Reading:
    """One reading of files, with what it has found so far."""

    def __init__(self, *, maps: bool = False, evicting: bool = False) -> None:
        self._maps = maps
        self._evicting = evicting
        self._counter = page_counter()
        self._passed = Passed()
        self._found = FileColumns()
        self._seen: dict[int, set[int]] = {}
        self._methods: set[str] = set()
        self._in_memory_pages = 0

    def read(self, paths: Path | Iterable[Path], *, one_file_system: bool) -> PageCache:
        """Read all there is."""
        for directory in walk(_as_names(paths), self._passed, one_file_system=one_file_system):
            self._read_directory(directory)
        passed = self._passed
        if not self._found and passed.unread:
            raise _nothing_read(passed.unread)
        return PageCache(
            method=" + ".join(sorted(self._methods)) or ("cachestat" if self._counter else "mincore"),
            directories=passed.directories,
            hard_links=passed.hard_links,
            symlinks=passed.symlinks,
            special=passed.special,
            vanished=passed.vanished,
            other_file_systems=tuple(passed.other),
            unread=tuple(passed.unread),
            in_memory_bytes=self._in_memory_pages * PAGE_BYTES,
            columns=self._found,
        )

    def _read_directory(self, directory: Directory) -> None:
        """The files of one directory."""
        counter = None if directory.file_system == OVERLAY else self._counter
        in_memory = directory.file_system in IN_MEMORY
        if directory.names:
            self._methods.add("cachestat" if counter else "mincore")
        before = len(self._found)
        if counter and not self._maps:
            self._count_files(directory, counter, evicting=self._evicting and not in_memory)
        else:
            self._read_files(directory, counter)
        if in_memory:
            cached = self._found.words[before * WIDTH + _CACHED :: WIDTH]
            self._in_memory_pages += sum(cached)
            if self._evicting:
                self._found.left.extend(cached)

    def _count_files(self, directory: Directory, counter: PageCounter, *, evicting: bool) -> None:
        """Open, seek to the end, count, close: with twenty thousand files every call here is a tenth of the time."""
        path, parent, flags = directory.path, directory.fd, directory.flags
        open_file, close, seek, end, let_go = os.open, os.close, os.lseek, os.SEEK_END, os.posix_fadvise
        add_words, left_out = self._found.words.extend, set()
        words, fill = counter.words, counter.fill
        twice = self._seen_before(directory)
        for name, inode in zip(directory.names, directory.inodes, strict=True):
            try:
                fd = open_file(name, flags, dir_fd=parent)
            except OSError as error:
                left_out.add(name)
                self._not_read(directory, name, inode, error)
                continue
            try:
                if twice is not None and self._is_known(fd, directory.device, inode, twice):
                    left_out.add(name)
                    continue
                if size := seek(fd, 0, end):
                    fill(fd, size)
                    if evicting:
                        cached = words[_CACHED]
                        if cached:
                            let_go(fd, 0, 0, _DONTNEED)
                            fill(fd, size)
                        self._found.left.append(words[_CACHED])
                        words[_CACHED] = cached
                    add_words(words)
                else:
                    add_words(_EMPTY)
                    if evicting:
                        self._found.left.append(0)
            except OSError as error:
                left_out.add(name)
                if evicting and error.errno == errno.EPERM:
                    let_go(fd, 0, 0, _DONTNEED)  # who may not count may evict all the same
                self._not_read(directory, name, inode, error)
            finally:
                close(fd)
        counted = [name for name in directory.names if name not in left_out] if left_out else directory.names
        self._found.paths.extend(map(path.__add__, counted))

    def _read_files(self, directory: Directory, counter: PageCounter | None) -> None:
        """Files that take more than a count."""
        path, twice = directory.path, self._seen_before(directory)
        in_memory = directory.file_system in IN_MEMORY
        for name, inode in zip(directory.names, directory.inodes, strict=True):
            try:
                fd = os.open(name, directory.flags, dir_fd=directory.fd)
                try:
                    if twice is not None and self._is_known(fd, directory.device, inode, twice):
                        continue
                    if self._evicting and not in_memory:
                        self._evict_file(fd, path + name, counter)
                    else:
                        self._map_file(fd, path + name, counter)
                finally:
                    os.close(fd)
            except OSError as error:
                self._not_read(directory, name, inode, error)

    def _map_file(self, fd: int, path: str, counter: PageCounter | None) -> None:
        size = os.lseek(fd, 0, os.SEEK_END)
        counts, runs = self._counted(fd, size, counter)
        self._found.add(path, size, counts)
        if self._maps:
            self._found.runs.append(runs)

    def _evict_file(self, fd: int, path: str, counter: PageCounter | None) -> None:
        """Count, let go, count: what cannot be counted is let go of all the same.

        Raises:
            OSError: it cannot be counted.
        """
        size = os.lseek(fd, 0, os.SEEK_END)
        try:
            (cached, *others), _ = self._counted(fd, size, counter)
        except OSError:
            os.posix_fadvise(fd, 0, 0, _DONTNEED)
            raise
        left = cached
        if cached:
            os.posix_fadvise(fd, 0, 0, _DONTNEED)
            (left, *others), _ = self._counted(fd, size, counter)
        self._found.add(path, size, (cached, *others))
        self._found.left.append(left)

    def _counted(self, fd: int, size: int, counter: PageCounter | None) -> tuple[list[int], list[Run] | None]:
        """The five counts of a file, and its runs if they are wanted, or have to do.

        Raises:
            OSError: EPERM: not for us.
        """
        if not size:
            return [0] * 5 if counter else [0, *_NOT_COUNTED], []
        counts = counter.count(fd, size) if counter else None
        if counts is not None and not self._maps:
            return counts, None
        runs = cached_runs(fd, size, counter)
        if runs is None:
            if counts is None:
                raise OSError(errno.EPERM, os.strerror(errno.EPERM), "mincore")
            return counts, None
        self._methods.add("mincore")
        cached = sum(pages for _, pages in runs)
        return [cached, *(counts[1:] if counts else _NOT_COUNTED)], runs

    def _not_read(self, directory: Directory, name: str, inode: int, error: OSError) -> None:
        """Take it down; should the same file have another name, it is tried by that."""
        self._seen[directory.device].discard(inode)
        evicted_unseen = self._evicting and directory.file_system not in IN_MEMORY and error.filename in _COUNTS
        besides = _ASKED if evicted_unseen and error.errno == errno.EPERM else ""
        self._passed.refused(directory.path + name, error, named=not directory.path, besides=besides)

    def _seen_before(self, directory: Directory) -> set[int] | None:
        """The inodes met before if one of this directory is among them, or is twice in it; mostly there is none."""
        seen, here = self._seen.setdefault(directory.device, set()), set(directory.inodes)
        if len(here) == len(directory.inodes) and seen.isdisjoint(here):
            seen |= here
            return None
        return seen

    def _is_known(self, fd: int, device: int, inode: int, seen: set[int]) -> bool:
        """Whether an open file is one that we have: else its entry is only a place where another file is mounted."""
        if inode not in seen:
            seen.add(inode)
            return False
        found = os.fstat(fd)
        known = (found.st_dev, found.st_ino) == (device, inode)
        self._passed.hard_links += known
        return known


def _as_names(paths: Path | Iterable[Path]) -> list[str]:
    """The paths as text, each byte of them kept.

    Raises:
        WrongType, UsageError: one is none; or there is none.
    """
    try:
        several = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else list(paths)
        names = [os.fsdecode(os.fsencode(path)) for path in several]
    except TypeError as error:
        msg = f"a path is text, bytes, or os.PathLike: {error}"
        raise WrongType(msg) from None
    except UnicodeEncodeError:
        raise UsageError("a path has letters that no name of a file can have") from None
    if not names or not all(names) or any("\0" in name for name in names):
        msg = "no path was given" if not names else "a path is empty, or has a zero byte in it"
        raise UsageError(msg, hint="name a file or a directory; `.` is the one that you are in")
    return names


def _nothing_read(unread: list[Unread]) -> DontneedError:
    """The error for when there is no file of which anything is known."""
    first = unread[0]
    others = f", and so on for {len(unread) - 1} more" if len(unread) > 1 else ""
    msg = f"nothing could be read: {first.path}: {first.why}{others}"
    numbers = {each.errno for each in unread}
    if numbers <= set(_REFUSALS):
        return NotPermitted(msg, hint="run it as their owner, or as root (sudo)")
    if numbers == {errno.ENOSYS}:
        return KernelLacks(msg, hint="`dontneed doctor` says what is there")
    if numbers == {0}:
        return DontneedError(msg, hint="name regular files, or directories that have some")
    return DontneedError(msg, hint="name files and directories that are there")
