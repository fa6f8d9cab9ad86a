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
    from collections.abc import Callable, Sequence

    from dontneed.kernel.procfs import ProcessDirectory

_WORDS_BEFORE_NAME = 5


class MapsTable:
    """The lines of a maps file as columns: addresses at once, the words of a line when someone asks for them.

    Attributes:
        starts, ends: addresses in bytes, ascending, `[start, end)`.
    """

    __slots__ = ("_lines", "ends", "starts")

    def __init__(self, lines: list[list[bytes]]) -> None:
        ranges = [words[0].split(b"-") for words in lines]
        self._lines = lines
        self.starts = [int(start, 16) for start, _ in ranges]
        self.ends = [int(end, 16) for _, end in ranges]

    def __len__(self) -> int:
        return len(self.starts)

    def words(self, row: int) -> tuple[str, int, str, int, str]:
        """What a line says behind its addresses.

        Returns:
            Permissions as `rw-p`; offset in the file, in bytes; device as `fe:00`, in hexadecimal; inode; and name: a
            path, a word in brackets, or nothing. Bytes that are not UTF-8 become surrogates.
        """
        words = self._lines[row]
        name = words[5].decode("utf-8", "surrogateescape") if len(words) > _WORDS_BEFORE_NAME else ""
        return words[1].decode("ascii"), int(words[2], 16), words[3].decode("ascii"), int(words[4]), name

    def perms(self, row: int) -> str:
        """The permissions of a mapping, as `words` gives them."""
        return self._lines[row][1].decode("ascii")

    def classify(self, kind_of: Callable[[str, str], str]) -> list[str]:
        """A word for every mapping by its name and permissions; mappings alike are asked for once."""
        known: dict[tuple[bytes, bytes], str] = {}
        kinds = []
        for words in self._lines:
            key = (words[5] if len(words) > _WORDS_BEFORE_NAME else b"", words[1])
            kind = known.get(key)
            if kind is None:
                kind = known[key] = kind_of(key[0].decode("utf-8", "surrogateescape"), key[1].decode("ascii"))
            kinds.append(kind)
        return kinds


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
