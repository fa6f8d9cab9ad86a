"""ELF files: where their segments go in memory, and the addresses of symbols by name. Parsing only.

A file is read by offset, through a function: a library of 60 MiB is not copied for the sake of one name. Both tables
are searched, `.symtab` (all symbols, if it was not stripped) and `.dynsym` (those exported). Names may share bytes: a
linker stores `free` as the end of `je_free`, so a name is compared where a symbol points, not looked for between zeros.

Only 64-bit little-endian files are understood. Of versioned symbols (`memcpy@GLIBC_2.2.5`) the first found is taken;
thread-local symbols and those that the loader chooses at run time (IFUNC) have no address here and are left out.
"""

from __future__ import annotations

import struct

from dontneed.records import Record
from dontneed.units import round_down, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    import numpy as np

    ReadAt = Callable[[int, int], bytes]
    """`read_at(offset, length)`: the bytes of the file, fewer where it ends."""
    Table = np.ndarray[Any, Any]

_MAGIC = b"\x7fELF\x02\x01"
"""ELFCLASS64, ELFDATA2LSB."""
_HEADER_BYTES = 64
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_PT_LOAD = 1
_SHT_SYMTAB, _SHT_RELA, _SHT_DYNSYM = 2, 4, 11
_R_GLOB_DAT, _R_JUMP_SLOT = 6, 7
"""R_X86_64_*: a pointer of the global offset table, which the loader sets to the address of a symbol."""
_STT_TLS, _STT_GNU_IFUNC = 6, 10
_SYMBOL = (("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8"))
"""Elf64_Sym; elf(5)."""
_RELOCATION = (("offset", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8"))
"""Elf64_Rela."""

EXECUTABLE, WRITABLE = 1, 2
"""PF_X, PF_W."""


class Segment(Record):
    """What is loaded of a file: PT_LOAD.

    Attributes:
        flags: EXECUTABLE, WRITABLE.
        offset: in the file.
        address: where it is meant to go, before the bias.
        file_bytes: from the file.
        memory_bytes: in memory: what is more than the file has is zero (.bss).
    """

    flags: int
    offset: int
    address: int
    file_bytes: int
    memory_bytes: int

    @property
    def pages(self) -> tuple[int, int]:
        """The pages it touches, `[start, end)`, before the bias."""
        return round_down(self.address), round_up(self.address + self.memory_bytes)


class ElfFile:
    """The headers of an ELF file, and its symbols when they are asked for.

    Attributes:
        segments: what is loaded of it, in address order.
    """

    def __init__(self, read_at: ReadAt, header: bytes) -> None:
        self._read_at = read_at
        programs, self._sections_at = struct.unpack_from("<QQ", header, 32)
        size, count, self._section_bytes, self._sections = struct.unpack_from("<HHHH", header, 54)
        table = read_at(programs, size * count)
        self.segments = tuple(_loaded(table, size))

    def addresses(self, names: Iterable[str]) -> dict[str, int]:
        """The address of each symbol that the file defines, before the bias; names that it lacks are left out."""
        found: dict[str, int] = {}
        missing = {name.encode() for name in names}
        for symbols, strings in self._symbol_tables():
            for name in tuple(missing):
                value = _value_of(name, symbols, strings)
                if value:
                    found[name.decode()] = value
                    missing.discard(name)
        return found

    def bias_of(self, start: int, offset: int) -> int | None:
        """What was added to every address, if code is mapped at `start` from `offset` on; None if no code is there.

        Only code is asked for: segments share pages of the file, and each may be shifted by another amount.
        """
        for segment in self.segments:
            within = round_down(segment.offset) <= offset < segment.offset + segment.file_bytes
            if within and segment.flags & EXECUTABLE:
                return start - offset + segment.offset - segment.address
        return None

    def pointers_to(self, name: str) -> list[int]:
        """Where the loader puts the address of the function `name`, whoever defines it; before the bias."""
        import numpy as np

        found: list[int] = []
        sections = self._section_headers()
        for _, kind, _, _, offset, size, table, *_ in sections:
            if kind != _SHT_RELA or table >= len(sections) or sections[table][1] != _SHT_DYNSYM:
                continue
            symbols, strings = self._symbols(sections, table)
            numbers = np.flatnonzero(_named(name.encode(), symbols, strings))
            if len(numbers):
                entries = _table(self._read_at(offset, size), _RELOCATION)
                entries = entries[np.isin(entries["symbol"], numbers)]
                found += entries["offset"][np.isin(entries["kind"], (_R_GLOB_DAT, _R_JUMP_SLOT))].tolist()
        return found

    def _symbol_tables(self) -> Iterator[tuple[Table, bytes]]:
        """Symbols, and the names they point into: of .symtab first, then of .dynsym."""
        sections = self._section_headers()
        for wanted in (_SHT_SYMTAB, _SHT_DYNSYM):
            for number, header in enumerate(sections):
                if header[1] == wanted and header[6] < len(sections):
                    yield self._symbols(sections, number)

    def _symbols(self, sections: list[tuple[int, ...]], number: int) -> tuple[Table, bytes]:
        _, _, _, _, offset, size, strings, *_ = sections[number]
        names = self._read_at(sections[strings][4], sections[strings][5])
        return _table(self._read_at(offset, size), _SYMBOL), names

    def _section_headers(self) -> list[tuple[int, ...]]:
        if self._section_bytes != _SECTION_HEADER.size:
            return []
        table = self._read_at(self._sections_at, self._section_bytes * self._sections)
        return list(_SECTION_HEADER.iter_unpack(table[: len(table) - len(table) % _SECTION_HEADER.size]))


def parse_elf(read_at: ReadAt) -> ElfFile | None:
    """The file behind `read_at`; None if it is no 64-bit little-endian ELF file."""
    header = read_at(0, _HEADER_BYTES)
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return None
    return ElfFile(read_at, header)


def _loaded(table: bytes, size: int) -> Iterator[Segment]:
    if size != _PROGRAM_HEADER.size:
        return
    for kind, flags, offset, address, _, file_bytes, memory_bytes, _ in _PROGRAM_HEADER.iter_unpack(
        table[: len(table) - len(table) % size]
    ):
        if kind == _PT_LOAD and memory_bytes:
            yield Segment(flags & (EXECUTABLE | WRITABLE), offset, address, file_bytes, memory_bytes)


def _value_of(name: bytes, symbols: Table, strings: bytes) -> int:
    """The value of the first symbol of this name that is defined here; 0 without one."""
    import numpy as np

    named = symbols[_named(name, symbols, strings)]
    kinds = named["info"] & 15
    defined = named[(named["section"] != 0) & ~np.isin(kinds, (_STT_TLS, _STT_GNU_IFUNC))]
    return int(defined["value"][0]) if len(defined) else 0


def _named(name: bytes, symbols: Table, strings: bytes) -> Any:
    """Which of the symbols are called `name`."""
    import numpy as np

    places = list(_places(name + b"\0", strings))
    return np.isin(symbols["name"], np.array(places, np.uint32)) if places else np.zeros(len(symbols), np.bool_)


def _places(name: bytes, strings: bytes) -> Iterator[int]:
    at = strings.find(name)
    while at >= 0:
        yield at
        at = strings.find(name, at + 1)


def _table(data: bytes, fields: tuple[tuple[str, str], ...]) -> Table:
    import numpy as np

    layout = np.dtype(list(fields))
    return np.frombuffer(data, layout, len(data) // layout.itemsize)
