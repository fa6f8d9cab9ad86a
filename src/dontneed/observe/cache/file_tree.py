"""The files of paths and of the trees below them, directory by directory, open and without following where others lead.

A symbolic link is followed when it is named and nowhere else. A file below a directory is opened by its name in that
open directory, a directory by its path (so that one deeper than PATH_MAX is told and left out); and what turned into
something else meanwhile is not followed, waited for, or held.
"""

from __future__ import annotations

import errno
import os
import stat

from dontneed.kernel.statfs import WITHOUT_PAGES, file_system_number
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""O_NONBLOCK: what has become a FIFO since we saw it would make us wait for its writer."""
_OPEN_BELOW = _OPEN | os.O_NOFOLLOW
_GONE = (errno.ENOENT, errno.ESTALE, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)
"""What one is told of a file that is there no more, or is something else now."""
_LOOKS = {
    "cachestat": "cachestat refuses (EPERM)",
    "mincore": "mincore calls every page of it cached, which tells us nothing",
}
_NO_PAGES = "which has no files in the page cache"


class Unread(Record):
    """A file or directory that was not looked at.

    Attributes:
        path: which.
        errno: the kernel's number; 0 where it was our own choice.
        why: a phrase.
    """

    path: str
    errno: int
    why: str


class Passed:
    """What was passed by on the way, and why.

    Attributes:
        unread: what refused.
        other: directories of file systems that were left alone.
        directories, hard_links, symlinks, special, vanished: how many; a hard link counts here from its second on.
    """

    __slots__ = ("directories", "hard_links", "other", "special", "symlinks", "unread", "vanished")

    def __init__(self) -> None:
        self.unread: list[Unread] = []
        self.other: list[Unread] = []
        self.directories = self.hard_links = self.symlinks = self.special = self.vanished = 0

    def refused(self, path: str, error: OSError, *, named: bool = False, besides: str = "") -> None:
        """Take down what the system said of a file; one that has gone is only counted, unless somebody named it.

        Args:
            path: which.
            error: what the system said.
            named: somebody named it.
            besides: what was done to it all the same.
        """
        if error.errno in _GONE and not named:
            self.vanished += 1
        else:
            self.unread.append(Unread(path, error.errno or 0, why_refused(error) + besides))


class Directory:
    """Files that lie together.

    Attributes:
        path: with a slash at its end; "" for a file that was named.
        device, file_system: numbers of what it is on; `file_system` as `kernel.statfs` has them.
        fd, flags: to open a name with: the directory, or None; and flags that follow a link only if it was named.
        names, inodes: of the files.
    """

    __slots__ = ("device", "fd", "file_system", "flags", "inodes", "names", "path")

    def __init__(self, path: str, fd: int | None, device: int, file_system: int) -> None:
        self.path = path
        self.device = device
        self.file_system = file_system
        self.names: list[str] = []
        self.inodes: list[int] = []
        self.fd = fd
        self.flags = _OPEN if fd is None else _OPEN_BELOW


def walk(paths: Iterable[str], passed: Passed, *, one_file_system: bool = False) -> Iterator[Directory]:
    """The files of these paths, regular ones only; each directory is open while it is its turn.

    Args:
        paths: files and directories.
        passed: takes down what is left out.
        one_file_system: do not descend to other ones than that of the path.
    """
    for path in paths:
        try:
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode):
                kind = _kind_of(path)
                if kind in WITHOUT_PAGES:
                    passed.unread.append(Unread(path, 0, f"on {WITHOUT_PAGES[kind]}, {_NO_PAGES}"))
                else:
                    alone = Directory("", None, found.st_dev, kind)
                    alone.names.append(path)
                    alone.inodes.append(found.st_ino)
                    yield alone
            elif stat.S_ISDIR(found.st_mode):
                yield from _tree(path, passed, found.st_dev, one_file_system=one_file_system)
            else:
                passed.special += 1
                passed.unread.append(Unread(path, 0, f"a {_word_for(found.st_mode)}, {_NO_PAGES}"))
        except OSError as error:  # noqa: PERF203 - each may be refused
            passed.refused(path, error, named=True)


def _tree(root: str, passed: Passed, root_device: int, *, one_file_system: bool) -> Iterator[Directory]:
    """A tree, its root first."""
    kinds: dict[int, int] = {}
    waiting = [root]
    while waiting:
        path = waiting.pop()
        named = path is root
        try:
            fd = os.open(path, (_OPEN if named else _OPEN_BELOW) | os.O_DIRECTORY)
        except OSError as error:
            passed.refused(path, error, named=named)
            continue
        try:
            device = os.fstat(fd).st_dev
            if device != root_device and one_file_system:
                passed.other.append(Unread(path, 0, "another file system"))
                continue
            if device not in kinds:
                kinds[device] = file_system_number(fd)
            if kinds[device] in WITHOUT_PAGES:
                passed.other.append(Unread(path, 0, f"{WITHOUT_PAGES[kinds[device]]}, {_NO_PAGES}"))
                continue
            prefix = path if path.endswith("/") else f"{path}/"
            directory = Directory(prefix, fd, device, kinds[device])
            _list(fd, directory, waiting, passed)
            passed.directories += 1
            yield directory
        except OSError as error:
            passed.refused(path, error, named=named)
        finally:
            os.close(fd)


def _list(fd: int, directory: Directory, waiting: list[str], passed: Passed) -> None:
    """Note the regular files of an open directory; its directories wait for their turn, all else is counted."""
    names, inodes = directory.names, directory.inodes
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                if entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
                    inodes.append(entry.inode())
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(directory.path + entry.name)
                elif entry.is_symlink():
                    passed.symlinks += 1
                else:
                    passed.special += 1
            except OSError as error:  # noqa: PERF203 - it did not say what an entry is, and could not be asked
                passed.refused(directory.path + entry.name, error)


def why_refused(error: OSError) -> str:
    """An error in words; those that people meet, with what stands behind them."""
    if error.errno == errno.EPERM and error.filename in _LOOKS:
        return f"is for its owner, or who may write to it, to know: {_LOOKS[error.filename]}"
    if error.errno == errno.EACCES:
        return "may not be opened (EACCES)"
    name = errno.errorcode.get(error.errno or 0, "")
    return f"{error.strerror or error}{f' ({name})' if name else ''}"


def _kind_of(path: str) -> int:
    """The number of the file system of a file that was named; the file itself is not opened."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return file_system_number(fd)
    finally:
        os.close(fd)


def _word_for(mode: int) -> str:
    kinds = {stat.S_IFCHR: "character device", stat.S_IFBLK: "block device", stat.S_IFIFO: "FIFO"}
    return kinds.get(stat.S_IFMT(mode), "socket")
