r"""/proc/PID/maps: every mapping of a process, in address order.

One `read` returns about a page of lines, coherent in itself; the next one is a later moment. A newline in a file name
is printed as `\012`; no other character is escaped, and ` (deleted)` is appended to the name of an unlinked file, so a
file really named so cannot be told apart.

Kernel:
    fs/proc/task_mmu.c show_map_vma(); proc(5).
"""

from __future__ import annotations

import sys
from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.procfs import ProcessDirectory

_WORDS_BEFORE_NAME = 4
_DIGITS = 12
"""What most addresses have; numbers of one width stand together, since lines are in address order."""
_HEAD = 2 * _DIGITS + 1
_JOINS = ((4, 0x00FF_00FF_00FF_00FF), (8, 0x0000_FFFF_0000_FFFF), (16, 0xFFFF_FFFF))
"""How neighbours in a word become one: the bits that each has, and what is kept."""
_LARGE_BYTES = 1 << 15
"""From where on an array of all addresses is sooner made of the text itself than of lists."""


class MapsTable:
    """The lines of a maps file as columns, each made when someone asks for it.

    Attributes:
        starts, ends: addresses in bytes, ascending, `[start, end)`; lists.
        bounds: the same as an array: two rows of uint64.
    """

    __slots__ = ("_lines", "_text", "bounds", "ends", "starts")

    _lines: Sequence[bytes]
    starts: list[int]
    ends: list[int]
    bounds: Words

    def __init__(self, text: bytes | Sequence[bytes]) -> None:
        if isinstance(text, bytes):
            self._text = text
        else:
            self._lines = [line for line in text if line]

    def __getattr__(self, column: str) -> Any:
        """A column that was not asked for before; Python comes here only for one that is not set."""
        if column == "_lines":
            self._lines = [line for line in self._text.split(b"\n") if line]
        elif column == "bounds":
            self.bounds = self._decode_bounds()
        elif column in ("starts", "ends"):
            if _is_set(self, "bounds"):
                self.starts, self.ends = self.bounds.tolist()
            else:
                self.starts, self.ends = _addresses(self._lines)
        else:
            msg = f"a MapsTable has no {column}"
            raise AttributeError(msg)
        return getattr(self, column)

    def __len__(self) -> int:
        if _is_set(self, "bounds"):
            return int(self.bounds.shape[1])
        return len(self._lines)

    def __bool__(self) -> bool:
        return bool(self._text.strip()) if _is_set(self, "_text") else bool(self._lines)

    @property
    def is_long(self) -> bool:
        """Whether there are so many mappings that arrays of them are worth their making: some hundred."""
        return _is_set(self, "_text") and len(self._text) >= _LARGE_BYTES

    @property
    def size_bytes(self) -> int:
        """How many addresses all mappings have together."""
        if _is_set(self, "bounds"):
            return int((self.bounds[1] - self.bounds[0]).sum())
        return sum(self.ends) - sum(self.starts)

    def _decode_bounds(self) -> Words:
        import numpy as np

        if not _is_set(self, "starts") and self.is_long:
            return _bounds_of(self._text)
        return np.array([self.starts, self.ends], np.uint64)

    def words(self, row: int) -> tuple[str, int, str, int, str]:
        """What a line says behind its addresses.

        Returns:
            Permissions as `rw-p`; offset in the file, in bytes; device as `fe:00`, in hexadecimal; inode; and name: a
            path, a word in brackets, or nothing. Bytes that are not UTF-8 become surrogates.
        """
        _, _, rest = self._lines[row].partition(b" ")
        words = rest.split(None, _WORDS_BEFORE_NAME)
        name = words[_WORDS_BEFORE_NAME].decode("utf-8", "surrogateescape") if len(words) > _WORDS_BEFORE_NAME else ""
        return words[0].decode("ascii"), int(words[1], 16), words[2].decode("ascii"), int(words[3]), name

    def classify(self, kind_of: Callable[[str, str], str]) -> list[str]:
        """A word for every mapping by its name and permissions; lines alike are asked for once."""
        known: dict[bytes, str] = {}
        kinds = []
        for row, line in enumerate(self._lines):
            _, _, rest = line.partition(b" ")
            kind = known.get(rest)
            if kind is None:
                perms, _, _, _, name = self.words(row)
                kind = known[rest] = kind_of(name, perms)
            kinds.append(kind)
        return kinds


def parse_maps(text: bytes | Sequence[bytes]) -> MapsTable:
    """The mappings in the text of a maps file, or in the header lines of an smaps file."""
    return MapsTable(text)


def read_maps(process: ProcessDirectory) -> MapsTable:
    """The mappings of `process`; none for a kernel thread or a zombie.

    Raises:
        ProcessGone, NotPermitted: as `ProcessDirectory.read`.
    """
    return parse_maps(process.read("maps"))


def _addresses(lines: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """The starts and the ends; numbers of twelve digits, which nearly all are, decoded together in half the time."""
    first, last = 0, len(lines)
    while first < last and not _is_usual(lines[first]):
        first += 1
    while last > first and not _is_usual(lines[last - 1]):
        last -= 1
    numbers = [
        *_decode_each(lines[:first]),
        *_decode_together(lines[first:last]),
        *_decode_each(lines[last:]),
    ]
    return numbers[0::2], numbers[1::2]


def _is_usual(line: bytes) -> bool:
    return line[_DIGITS : _DIGITS + 1] == b"-" and line[_HEAD : _HEAD + 1] == b" "


def _decode_each(lines: Sequence[bytes]) -> list[int]:
    return [int(number, 16) for line in lines for number in line.partition(b" ")[0].split(b"-")]


def _decode_together(lines: Sequence[bytes]) -> list[int]:
    """Starts and ends in turn, of lines that all begin with two numbers of twelve digits."""
    digits = b"-".join([b"", *(line[:_HEAD] for line in lines)]).replace(b"-", b"0000")
    numbers = array("Q", bytes.fromhex(digits.decode("ascii")))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tolist()


def _is_set(table: MapsTable, column: str) -> bool:
    """Whether a column is there already."""
    try:
        object.__getattribute__(table, column)
    except AttributeError:
        return False
    return True


def _bounds_of(text: bytes) -> Words:
    """The starts and the ends of all lines, decoded side by side; the few of another width one by one."""
    import numpy as np

    letters = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", np.uint8)
    behind = np.flatnonzero(letters == ord("\n")) + 1
    begins = np.concatenate(([0], behind[:-1]))
    blank = behind - begins == 1
    if blank.any():
        begins, behind = begins[~blank], behind[~blank]
    places = np.stack([begins, begins + _DIGITS + 1])
    bounds: Words = _decode_digits(letters, places, 4) << np.uint64(32) | _decode_digits(letters, places + 4, 8)
    unusual = (letters[begins + _DIGITS] != ord("-")) | (letters[begins + _HEAD] != ord(" "))
    for row in np.flatnonzero(unusual):
        bounds[:, row] = _decode_each([text[begins[row] : behind[row]]])
    return bounds


def _decode_digits(letters: Any, places: Any, digits: int) -> Words:
    """The numbers of four or eight hexadecimal digits, in lower case, that begin at some places.

    All digits of a number are in one word, each in a byte, the first in the lowest; neighbours are put together until
    they are one.
    """
    import numpy as np

    anywhere: Any = np.ndarray(len(letters) - digits + 1, f"<u{digits}", letters, strides=(1,))
    words = anywhere[places].astype(np.uint64)
    is_letter = words >> np.uint64(6) & np.uint64(0x0101_0101_0101_0101)
    joined: Words = (words & np.uint64(0x0F0F_0F0F_0F0F_0F0F)) + is_letter * np.uint64(9)
    for bits, kept in _JOINS[: digits // 4 + 1]:
        joined = (joined << np.uint64(bits) | joined >> np.uint64(2 * bits)) & np.uint64(kept)
    return joined
