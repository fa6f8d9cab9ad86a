"""The columns of `pmap -x`; tests/against holds them against pmap itself."""

from __future__ import annotations

import pytest

from dontneed.kernel.smaps import SmapsCounters
from dontneed.observe.mapping import Mapping
from dontneed.report.pmap import HEADER, PmapRow, format_pmap, format_pmap_row, format_pmap_total, pmap_rows


def mapping(**fields: object) -> Mapping:
    """64 KiB of private anonymous memory, half resident, but for what is said otherwise."""
    plain = {
        "start": 0x7F0000000000,
        "end": 0x7F0000010000,
        "perms": "rw-p",
        "offset": 0,
        "device": "00:00",
        "inode": 0,
        "name": "",
        "kind": "anonymous",
        "rss_bytes": 32768,
        "swap_bytes": 0,
        "huge_bytes": None,
        "zero_bytes": None,
        "hugetlb_bytes": 0,
    }
    return Mapping(**{**plain, **fields})


def row_of(**fields: object) -> PmapRow:
    """The row of one mapping."""
    (row,) = pmap_rows([mapping(**fields)])
    return row


def test_sizes_are_kib_and_dirty_is_that_of_smaps():
    """Shared and private dirty pages together."""
    counted = SmapsCounters(shared_dirty_bytes=4096, private_dirty_bytes=8192)
    assert row_of(smaps=counted) == PmapRow(0x7F0000000000, 64, 32, 12, "rw---", "  [ anon ]")


def test_without_smaps_dirty_is_0():
    """Nobody has counted it."""
    assert row_of().dirty_kbytes == 0


@pytest.mark.parametrize(
    ("perms", "mode"), [("rw-p", "rw---"), ("r-xs", "r-xs-"), ("---p", "-----"), ("rwxs", "rwxs-")]
)
def test_the_mode_has_five_letters(perms, mode):
    """Private is a dash, and the last one, for MAP_NORESERVE, is always one in pmap too."""
    assert row_of(perms=perms).mode == mode


@pytest.mark.parametrize(
    ("fields", "title"),
    [
        ({"name": "/usr/lib/libc.so.6", "kind": "file"}, "libc.so.6"),
        ({"name": "/usr/lib/my lib.so (deleted)", "kind": "file"}, "my lib.so (deleted)"),
        ({"name": "/memfd:ring (deleted)", "kind": "shared memory"}, "memfd:ring (deleted)"),
        ({"name": "/SYSV00000000 (deleted)", "inode": 0x1A, "kind": "shared memory"}, "  [ shmid=0x1a ]"),
        ({"name": "[stack]", "kind": "stack"}, "  [ stack ]"),
        ({"name": "[heap]", "kind": "heap"}, "  [ anon ]"),
        ({"name": "[vdso]", "kind": "vdso"}, "  [ anon ]"),
        ({"name": "/tmp/a\x1b\udcff", "kind": "file"}, "a??"),
    ],
)
def test_the_mapping_is_named_as_pmap_names_it(fields, title):
    """The last part of a path; the stack; a System V segment by its id; all else is anonymous to pmap."""
    assert row_of(**fields).mapping == title


def test_the_table_has_a_header_a_row_each_and_totals():
    """Down to the space that pmap leaves behind its rule."""
    rows = pmap_rows([mapping(), mapping(start=0x1000, end=0x2000, rss_bytes=4096, name="/bin/cat", kind="file")])
    assert format_pmap(rows) == (
        "Address           Kbytes     RSS   Dirty Mode  Mapping\n"
        "00007f0000000000      64      32       0 rw---   [ anon ]\n"
        "0000000000001000       4       4       0 rw--- cat\n"
        "---------------- ------- ------- ------- \n"
        "total kB              68      36       0"
    )
    assert format_pmap(rows).split("\n") == [HEADER, *map(format_pmap_row, rows), *format_pmap_total(rows)]


def test_a_total_of_tebibytes_is_as_far_to_the_right_as_that_of_pmap():
    """Its first column is as wide as an address, and what is wider than the second one moves the others."""
    _, total = format_pmap_total([PmapRow(0, 68719535536, 25812, 24700, "-----", "")])
    assert total == "total kB         68719535536   25812   24700"


def test_rows_may_come_from_an_iterator():
    """They are gone through more than once."""
    assert format_pmap(iter(pmap_rows(iter([mapping()])))).endswith("total kB              64      32       0")
