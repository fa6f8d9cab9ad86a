r"""/proc/PID/maps: every mapping of a process, in address order.

One `read` returns about a page of lines, coherent in itself; the next one is a later moment. A newline in a file name
is printed as `\012`; no other character is escaped, and ` (deleted)` is appended to the name of an unlinked file, so a
file really named so cannot be told apart.

Kernel:
    fs/proc/task_mmu.c show_map_vma(); proc(5).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.kernel.procfs import ProcessDirectory


class MapsTable:
    """The lines of a maps file as columns: addresses at once, the words of a line when someone asks for them.

    Attributes:
        starts, ends: addresses in bytes, ascending, `[start, end)`.
    """

    __slots__ = ("_fields", "ends", "starts")

    def __init__(self, fields: list[list[bytes]]) -> None:
        ranges = [words[0].split(b"-") for words in fields]
        self._fields = fields
        self.starts = [int(start, 16) for start, _ in ranges]
        self.ends = [int(end, 16) for _, end in ranges]

    def __len__(self) -> int:
        return len(self.starts)

    def perms(self, row: int) -> str:
        """Four letters: r, w, x, and p (private) or s (shared)."""
        return self._fields[row][1].decode("ascii")

    def offset(self, row: int) -> int:
        """Where the mapping begins in its file, in bytes."""
        return int(self._fields[row][2], 16)

    def device(self, row: int) -> str:
        """Major and minor number, in hexadecimal, as `fe:00`; `00:00` for no file."""
        return self._fields[row][3].decode("ascii")

    def inode(self, row: int) -> int:
        """The file's inode number on its device; 0 for no file."""
        return int(self._fields[row][4])

    def name(self, row: int) -> str:
        """The kernel's name: a path, a word in brackets, or nothing. Bytes that are not UTF-8 become surrogates."""
        words = self._fields[row]
        return words[5].decode("utf-8", "surrogateescape") if len(words) > 5 else ""  # noqa: PLR2004 - five before it


def parse_maps(text: bytes | Sequence[bytes]) -> MapsTable:
    """The mappings in the text of a maps file, or in the header lines of an smaps file."""
    lines = text.split(b"\n") if isinstance(text, bytes) else text
    return MapsTable([line.split(None, 5) for line in lines if line])


def read_maps(process: ProcessDirectory) -> MapsTable:
    """The mappings of `process`; none for a kernel thread or a zombie.

    Raises:
        ProcessGone, NotPermitted: as `ProcessDirectory.read`.
    """
    return parse_maps(process.read("maps"))
