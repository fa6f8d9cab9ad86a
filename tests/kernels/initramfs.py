"""An initramfs: the archive of files that a kernel unpacks for its first process, in cpio's `newc` form."""

from __future__ import annotations

import gzip
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CONSOLE = ("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))
"""The kernel opens it for the first process, before anything is mounted on /dev."""

_DIRECTORIES = ("dev", "proc", "sys", "tmp")


def initramfs(programs: Mapping[str, bytes]) -> bytes:
    """The archive, compressed, with these programs by name at its root, and directories to mount on.

    Args:
        programs: contents by name, as in `{"init": …}`; all of them may be executed.
    """
    entries = [(name, stat.S_IFDIR | 0o755, b"", (0, 0)) for name in _DIRECTORIES]
    entries.append(_CONSOLE)
    entries += [(name, stat.S_IFREG | 0o755, content, (0, 0)) for name, content in programs.items()]
    # Decompressing in an emulated machine costs more than what a better level would save in reading.
    return gzip.compress(b"".join(_archive(entries)), compresslevel=1, mtime=0)


def _archive(entries: list[tuple[str, int, bytes, tuple[int, int]]]) -> Iterator[bytes]:
    for number, (name, mode, content, device) in enumerate([*entries, ("TRAILER!!!", 0, b"", (0, 0))], start=1):
        name_bytes = name.encode() + b"\0"
        # Inode, mode, owner, group, links, time, size, device of the file, device it is, length of name, checksum.
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name_bytes), 0)
        yield _to_four(b"070701" + b"".join(b"%08X" % field for field in fields) + name_bytes)
        yield _to_four(content)


def _to_four(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
