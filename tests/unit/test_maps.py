"""/proc/PID/maps, parsed: captured texts of several kernels, and lines that no kernel has printed yet but may."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontneed.kernel import maps
from dontneed.kernel.maps import parse_maps
from dontneed.observe.mapping import kind_of

PROCFS = Path(__file__).parents[1] / "data" / "procfs"
KERNELS = ("2.6.32", "3.10", "4.4", "5.10", "6.1", "6.18")

LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ([rwxsp-]{4}) ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) (\d+) *(.*)")

TOP = 1 << 64

bounded = settings(max_examples=100, deadline=None, derandomize=True, database=None)


def text_of(kernel: str, name: str = "maps") -> bytes:
    """A captured text."""
    return (PROCFS / kernel / name).read_bytes()


def rows_of(table) -> list[tuple]:
    """All that a table says, row by row."""
    return [(table.starts[row], table.ends[row], *table.words(row)) for row in range(len(table))]


def names_of(kernel: str) -> list[str]:
    """The names of the mappings in a captured text."""
    table = parse_maps(text_of(kernel))
    return [table.words(row)[4] for row in range(len(table))]


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_line_is_a_mapping_with_all_its_words(kernel) -> None:
    """Each line against an expression that spells out its format."""
    told = []
    for line in text_of(kernel).splitlines():
        start, end, perms, offset, device, inode, name = LINE.fullmatch(line).groups()
        words = (perms.decode(), int(offset, 16), device.decode(), int(inode), name.decode("utf-8", "surrogateescape"))
        told.append((int(start, 16), int(end, 16), *words))
    assert rows_of(parse_maps(text_of(kernel))) == told
    assert len(told) > 8


@pytest.mark.parametrize("kernel", KERNELS)
def test_mappings_are_in_order_and_do_not_overlap(kernel) -> None:
    """As the kernel prints them, and as every search by address relies on."""
    table = parse_maps(text_of(kernel))
    borders = [border for pair in zip(table.starts, table.ends, strict=True) for border in pair]
    assert borders == sorted(borders)


def test_odd_names_arrive_as_they_were_printed() -> None:
    """Spaces inside and around, a tab, an escape, ` (deleted)`; a newline is the only byte that the kernel escapes."""
    names = {name.removeprefix("/tmp/zoo/") for name in names_of("6.18") if name.startswith("/tmp/zoo/")}
    assert names == {
        "private",
        "unlinked (deleted)",
        "two words",
        " leading and trailing ",
        "new\\012line",
        "really (deleted)",
        "not utf-8 \udcff\udcfe",
        "tab\there",
        "back\\slash",
        "a:b-c",
        "%s{0}",
        "\x1b[31mred",
        "[heap]",
        "größer €",
    }


def test_a_name_that_is_no_utf8_finds_its_way_back() -> None:
    """The bytes of the file's name can be had from it, to open the file."""
    name = next(name for name in names_of("6.18") if "utf-8" in name)
    assert name.encode("utf-8", "surrogateescape") == b"/tmp/zoo/not utf-8 \xff\xfe"


@pytest.mark.parametrize(
    ("kernel", "kinds"),
    [
        ("2.6.32", "file file heap anonymous file file file anonymous stack vdso vsyscall"),
        ("3.10", "file file heap anonymous anonymous stack:2714 anonymous stack vdso vsyscall"),
        ("4.4", "file heap hugetlb stack:31338 shared anonymous stack vvar vdso vsyscall"),
        ("5.10", "file heap anonymous memfd hugetlb file anonymous stack vvar vdso"),
        ("6.1", "file heap anonymous file anonymous stack vvar vdso vsyscall"),
    ],
)
def test_the_names_of_every_kernel_are_known(kernel, kinds) -> None:
    """Threads had stacks with a name from 3.4 to 4.4; anonymous memory may have one since 5.17."""
    words = {"memfd": "shared memory", "shared": "shared anonymous"}
    expected = ["thread stack" if kind.startswith("stack:") else words.get(kind, kind) for kind in kinds.split()]
    assert parse_maps(text_of(kernel)).classify(kind_of) == expected


def test_lines_alike_are_classified_once() -> None:
    """Twenty thousand mappings without a name are one question."""
    asked = []
    table = parse_maps(text_of("6.18"))

    def ask(name: str, perms: str) -> str:
        asked.append((name, perms))
        return f"{name} {perms}"

    assert table.classify(ask) == [f"{table.words(row)[4]} {table.words(row)[0]}" for row in range(len(table))]
    assert asked.count(("", "rw-p")) == 1


@pytest.mark.parametrize("text", [b"", b"\n", []])
def test_no_text_is_no_mapping(text) -> None:
    """What a kernel thread's maps holds, and a zombie's."""
    assert len(parse_maps(text)) == 0
    assert parse_maps(text).classify(kind_of) == []


def test_a_text_without_its_last_newline_loses_nothing() -> None:
    """The last line counts whether it is ended or not."""
    text = text_of("6.18")
    assert rows_of(parse_maps(text.rstrip(b"\n"))) == rows_of(parse_maps(text))


borders = st.lists(st.integers(0, TOP - 1) | st.integers(0, 1 << 48), min_size=2, max_size=40, unique=True)
names = st.binary(max_size=30).map(lambda name: b"/" + name.replace(b"\n", b"\\012"))


@bounded
@given(borders.map(sorted), names, st.integers(0, TOP - 1), st.integers(0, TOP - 1))
def test_addresses_of_any_width_are_read(borders, name, offset, inode) -> None:
    """Eight digits at least and sixteen at most, in ascending order, in front of any name."""
    ranges = list(zip(borders[0::2], borders[1::2], strict=False))
    text = b"".join(
        b"%08x-%08x r--p %08x 103:0a %d%s%s\n" % (start, end, offset, inode, b" " * 20, name) for start, end in ranges
    )
    words = ("r--p", offset, "103:0a", inode, name.decode("utf-8", "surrogateescape"))
    assert rows_of(parse_maps(text)) == [(start, end, *words) for start, end in ranges]


@bounded
@given(borders.map(sorted), names, st.booleans())
def test_the_array_of_addresses_says_what_the_lists_say(borders, name, blank) -> None:
    """Made of the text in one piece where the text is large, and of the lists where it is not."""
    ranges = list(zip(borders[0::2], borders[1::2], strict=False))
    lines = [b"%08x-%08x r--p 00000000 103:0a 7 %s\n" % (start, end, name) for start, end in ranges]
    text = (b"\n" if blank else b"").join([b"", *lines, b""])
    large = text + b"\n" * maps._LARGE_BYTES
    for table in (parse_maps(text), parse_maps(text.rstrip(b"\n")), parse_maps(large), parse_maps(text.split(b"\n"))):
        assert table.bounds.T.tolist() == [list(pair) for pair in ranges]
        assert list(zip(table.starts, table.ends, strict=True)) == ranges
        assert len(table) == len(ranges)


def test_a_column_that_there_is_not_is_told_so() -> None:
    """As by any other object."""
    with pytest.raises(AttributeError, match="no pages"):
        _ = parse_maps(b"").pages
