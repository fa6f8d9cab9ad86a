"""ELF files, built byte by byte: symbols by name, where the loader puts pointers, and where a file lies in memory."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontneed.observe.objects.elf import EXECUTABLE, WRITABLE, parse_elf

PT_LOAD, PT_NOTE = 1, 4
SHT_STRTAB, SHT_SYMTAB, SHT_RELA, SHT_DYNSYM = 3, 2, 4, 11
FUNC, TLS, IFUNC = 2, 6, 10
GLOB_DAT, JUMP_SLOT, RELATIVE = 6, 7, 8


class Elf:
    """A file with segments and sections, one behind the other."""

    def __init__(self, *segments):
        self.segments = segments
        self.sections = [(0, 0, b"")]

    def section(self, kind, data, link=0):
        """Add a section; its number."""
        self.sections.append((kind, link, data))
        return len(self.sections) - 1

    def symbols(self, kind, strings, *symbols):
        """Add a table of (name's offset, type, section, value), and its names; its number."""
        names = self.section(SHT_STRTAB, strings)
        rows = (struct.pack("<IBBHQQ", name, sort, 0, section, value, 8) for name, sort, section, value in symbols)
        return self.section(kind, b"".join(rows), names)

    def relocations(self, table, *relocations):
        """Add a table of (offset, type, symbol's number)."""
        self.section(SHT_RELA, b"".join(struct.pack("<QIIq", *entry, 0) for entry in relocations), table)

    def bytes(self):
        """The file."""
        programs = b"".join(
            struct.pack("<IIQQQQQQ", kind, flags, offset, address, address, length, memory, 4096)
            for kind, flags, offset, address, length, memory in self.segments
        )
        headers, data, at = b"", b"", 64 + len(programs)
        for kind, link, content in self.sections:
            headers += struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, at, len(content), link, 0, 0, 0)
            data += content
            at += len(content)
        start = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQI", 3, 62, 1, 0, 64, at, 0)
        start += struct.pack("<HHHHHH", 64, 56, len(self.segments), 64, len(self.sections), 0)
        return start + programs + data + headers

    def parsed(self):
        """The file, parsed."""
        return parsed(self.bytes())


def parsed(data):
    """Bytes, parsed as a file."""
    return parse_elf(lambda offset, length: data[offset : offset + length])


def test_symbols_are_found_by_name_in_either_table():
    """`.symtab` has them all, if it was not stripped; `.dynsym` those for others."""
    elf = Elf()
    elf.symbols(SHT_DYNSYM, b"\0malloc\0free\0", (1, FUNC, 7, 0x1000), (8, FUNC, 7, 0x2000))
    elf.symbols(SHT_SYMTAB, b"\0hidden\0", (1, FUNC, 7, 0x3000))
    found = elf.parsed().addresses(["malloc", "free", "hidden", "absent"])
    assert found == {"malloc": 0x1000, "free": 0x2000, "hidden": 0x3000}


def test_a_name_that_is_the_end_of_another_is_found_by_where_it_is_pointed_to():
    """Linkers store `malloc` as the end of `je_malloc`; and `malloc` at another's end alone is not its name."""
    elf = Elf()
    elf.symbols(SHT_DYNSYM, b"\0je_malloc\0", (1, FUNC, 7, 0x1000), (4, FUNC, 7, 0x2000))
    assert elf.parsed().addresses(["malloc", "je_malloc"]) == {"malloc": 0x2000, "je_malloc": 0x1000}
    other = Elf()
    other.symbols(SHT_DYNSYM, b"\0je_malloc\0", (1, FUNC, 7, 0x1000))
    assert other.parsed().addresses(["malloc", "je_mall"]) == {}


@pytest.mark.parametrize(
    "symbol",
    [(1, FUNC, 0, 0), (1, FUNC, 0, 0x1000), (1, TLS, 7, 0x10), (1, IFUNC, 7, 0x1000)],
    ids=["undefined", "undefined with a stub", "thread-local", "chosen at run time"],
)
def test_what_has_no_address_here_is_left_out(symbol):
    """A call to it would go anywhere."""
    elf = Elf()
    elf.symbols(SHT_DYNSYM, b"\0malloc\0", symbol)
    assert elf.parsed().addresses(["malloc"]) == {}


def test_a_definition_behind_a_reference_is_found():
    """One name may be in a table twice."""
    elf = Elf()
    elf.symbols(SHT_SYMTAB, b"\0malloc\0", (1, FUNC, 0, 0), (1, FUNC, 7, 0x1000))
    assert elf.parsed().addresses(["malloc"]) == {"malloc": 0x1000}


def test_pointers_that_the_loader_sets_are_found_by_the_function_they_lead_to():
    """Where libc calls malloc through, whoever's it is."""
    elf = Elf()
    table = elf.symbols(SHT_DYNSYM, b"\0malloc\0free\0", (0, 0, 0, 0), (1, FUNC, 0, 0), (8, FUNC, 0, 0))
    elf.relocations(table, (0x9000, GLOB_DAT, 1), (0x9008, JUMP_SLOT, 2), (0x9010, RELATIVE, 1))
    elf.relocations(table, (0x9018, JUMP_SLOT, 1))
    assert elf.parsed().pointers_to("malloc") == [0x9000, 0x9018]
    assert elf.parsed().pointers_to("calloc") == []


def test_the_bias_follows_from_where_code_is_mapped():
    """Segments share pages of the file, and each may be shifted by another amount: only code is asked."""
    elf = Elf(
        (PT_NOTE, 4, 0, 0, 64, 64),
        (PT_LOAD, 4, 0, 0, 0x1880, 0x1880),
        (PT_LOAD, 5, 0x1880, 0x2880, 0x2000, 0x2000),
        (PT_LOAD, 6, 0x3880, 0x6880, 0x100, 0x9000),
    ).parsed()
    assert [segment.flags for segment in elf.segments] == [0, EXECUTABLE, WRITABLE]
    assert elf.segments[2].pages == (0x6000, 0x10000)
    assert elf.bias_of(0x7F00_0000_2000, 0x1000) == 0x7F00_0000_0000
    assert elf.bias_of(0x7F00_0000_3000, 0x2000) == 0x7F00_0000_0000
    assert elf.bias_of(0x7F00_0000_0000, 0) is None
    assert elf.bias_of(0x7F00_0000_0000, 0x8000) is None


@pytest.mark.parametrize("change", [(0, b"\x7fELG"), (4, b"\1"), (5, b"\2")], ids=["no ELF", "32-bit", "big-endian"])
def test_other_files_are_none(change):
    """Scripts, fonts and locales are mapped as well."""
    offset, data = change
    file = bytearray(Elf().bytes())
    file[offset : offset + len(data)] = data
    assert parsed(bytes(file)) is None
    assert parsed(b"") is None


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_a_broken_file_is_parsed_without_an_error(data):
    """What is cut off, or says nonsense, has no symbols; it must not end a survey."""
    elf = Elf((PT_LOAD, 5, 0, 0, 0x100, 0x100))
    table = elf.symbols(SHT_DYNSYM, b"\0malloc\0", (1, FUNC, 7, 0x1000))
    elf.relocations(table, (0x9000, GLOB_DAT, 0))
    file = bytearray(elf.bytes())
    for _ in range(data.draw(st.integers(0, 8))):
        file[data.draw(st.integers(16, len(file) - 1))] = data.draw(st.integers(0, 255))
    found = parsed(bytes(file[: data.draw(st.integers(0, len(file)))]))
    if found is not None:
        found.addresses(["malloc"])
        found.pointers_to("malloc")
        found.bias_of(0x7F00_0000_0000, 0)


def test_this_interpreter_can_be_parsed():
    """A real file, and not only ours."""
    with open(sys.executable, "rb") as file:
        elf = parsed(file.read())
    assert any(segment.flags & EXECUTABLE for segment in elf.segments)
    assert elf.bias_of(0, next(s.offset & -4096 for s in elf.segments if s.flags & EXECUTABLE)) is not None
