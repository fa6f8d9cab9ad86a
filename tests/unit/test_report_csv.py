"""Mappings as CSV: what a spreadsheet, or csv.DictReader, makes of it."""

from __future__ import annotations

import csv

import pytest

from dontneed.kernel.smaps import SmapsCounters
from dontneed.observe.mapping import Mapping
from dontneed.report.csv import format_csv


def mapping(**fields: object) -> Mapping:
    """A page of a file, but for what is said otherwise."""
    plain = {
        "start": 0xABC000,
        "end": 0xABD000,
        "perms": "r--p",
        "offset": 8192,
        "device": "fe:00",
        "inode": 5,
        "name": "/bin/cat",
        "kind": "file",
        "rss_bytes": 4096,
        "swap_bytes": 0,
        "huge_bytes": 0,
        "zero_bytes": None,
        "hugetlb_bytes": 0,
    }
    return Mapping(**{**plain, **fields})


def rows_of(*mappings: Mapping) -> list[dict[str, str]]:
    """The rows, by column."""
    return list(csv.DictReader(format_csv(mappings).splitlines()))


def test_a_row_has_every_field_of_its_mapping_and_its_size():
    """Addresses in hexadecimal, as maps has them; what is unknown is empty."""
    assert rows_of(mapping()) == [
        {
            "start": "abc000", "end": "abd000", "perms": "r--p", "offset": "8192", "device": "fe:00", "inode": "5",
            "name": "/bin/cat", "kind": "file", "rss_bytes": "4096", "swap_bytes": "0", "huge_bytes": "0",
            "zero_bytes": "", "hugetlb_bytes": "0", "accessed_bytes": "", "dirty_bytes": "", "size_bytes": "4096",
        }
    ]  # fmt: skip


def test_the_columns_of_smaps_are_there_if_it_was_read():
    """Once: what the mapping has already is not told twice. Flags are words in one cell."""
    counted = SmapsCounters(pss_bytes=2048, rss_bytes=4096, flags=("readable", "may write"))
    header = format_csv([mapping(smaps=counted)]).split("\n")[0].split(",")
    assert len(header) == len(set(header))
    (row,) = rows_of(mapping(smaps=counted))
    assert (row["pss_bytes"], row["flags"]) == ("2048", "readable; may write")
    assert "pss_bytes" not in rows_of(mapping())[0]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("/a, b", "/a, b"),
        ('/a "b"', '/a "b"'),
        ("/größer", "/größer"),
        ("/a\x1b[31m\n", "/a\\033[31m\\012"),
        ("/a\udcff", "/a\\377"),
        ("/a\u202eb", "/a\\342\\200\\256b"),
    ],
)
def test_odd_names_come_through(name, cell):
    """Commas and quotes as CSV has them; what a terminal would obey as the kernel prints a newline, byte by byte."""
    assert rows_of(mapping(name=name))[0]["name"] == cell


def test_no_mapping_is_a_header():
    """A table without rows has its columns all the same."""
    assert format_csv([]).startswith("start,end,perms,")
    assert rows_of() == []
