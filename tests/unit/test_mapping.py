"""`Mapping` and `Mappings`: what kind of memory a name means, and rows that take their fields from columns."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from dontneed.kernel.maps import parse_maps
from dontneed.kernel.smaps import parse_smaps
from dontneed.observe.mapping import KINDS, Mapping, Mappings, kind_of
from dontneed.observe.residency import Residency, count_by_smaps

PROCFS = Path(__file__).parents[1] / "data" / "procfs"


def mappings_of(kernel: str, *, smaps: bool = True) -> Mappings:
    """A look at a captured text."""
    table, counted = parse_smaps((PROCFS / kernel / "smaps").read_bytes())
    return Mappings(table, table.classify(kind_of), count_by_smaps(counted), counted if smaps else None)


@pytest.mark.parametrize(
    ("name", "perms", "kind"),
    [
        ("", "rw-p", "anonymous"),
        ("", "---p", "anonymous"),
        ("[anon:glibc: malloc arena]", "rw-p", "anonymous"),
        ("[anon: .bss]", "rw-p", "anonymous"),
        ("[heap]", "rw-p", "heap"),
        ("[stack]", "rw-p", "stack"),
        ("[stack:2714]", "rw-p", "thread stack"),
        ("[vdso]", "r-xp", "vdso"),
        ("[vvar]", "r--p", "vvar"),
        ("[vvar_vclock]", "r--p", "vvar"),
        ("[vsyscall]", "--xp", "vsyscall"),
        ("[uprobes]", "--xp", "special"),
        ("[sigpage]", "r-xp", "special"),
        ("/dev/zero (deleted)", "rw-s", "shared anonymous"),
        ("/dev/zero", "rw-p", "anonymous"),
        ("[anon_shmem:pool]", "rw-s", "shared anonymous"),
        ("/memfd:name (deleted)", "rw-s", "shared memory"),
        ("/memfd: (deleted)", "rw-p", "shared memory"),
        ("/dev/shm/sem.x", "rw-s", "shared memory"),
        ("/SYSV00000000 (deleted)", "rw-s", "shared memory"),
        ("/anon_hugepage (deleted)", "rw-p", "hugetlb"),
        ("/dev/hugepages/pool", "rw-s", "hugetlb"),
        ("/dev/nvidia0", "rw-s", "device"),
        ("anon_inode:[perf_event]", "rw-s", "device"),
        ("anon_inode:kvm-vcpu:0", "rw-s", "device"),
        ("socket:[1234]", "rw-s", "device"),
        ("/usr/bin/python3", "r-xp", "file"),
        ("/development/file", "rw-s", "file"),
        ("/tmp/[heap]", "rw-p", "file"),
        ("/tmp/new\\012line (deleted)", "r--p", "file"),
    ],
)
def test_a_name_means_a_kind_of_memory(name, perms, kind) -> None:
    """By the kernel's own names, with permissions where they make the difference."""
    assert kind_of(name, perms) == kind
    assert kind in KINDS


@pytest.mark.parametrize("kernel", ["2.6.32", "3.10", "4.4", "5.10", "6.1", "6.18"])
def test_the_columns_are_those_of_the_rows(kernel) -> None:
    """Sizes, RSS, swap and kinds without making a row for each."""
    mappings = mappings_of(kernel)
    assert mappings.sizes == [each.size_bytes for each in mappings]
    assert mappings.rss == [each.rss_bytes for each in mappings]
    assert mappings.swap == [each.swap_bytes for each in mappings]
    assert mappings.kinds == [each.kind for each in mappings]


def test_a_row_has_the_words_of_its_line() -> None:
    """A private file mapping of 6.18, field by field."""
    found = next(each for each in mappings_of("6.18") if each.name == "/tmp/zoo/private")
    assert (found.start, found.end) == (0x7FDF1E243000, 0x7FDF1E263000)
    assert (found.perms, found.offset, found.device, found.inode) == ("rw-p", 0, "fe:00", 2146402)
    assert (found.kind, found.size_bytes, found.shared) == ("file", 32 * 4096, False)
    assert (found.rss_bytes, found.smaps.anonymous_bytes) == (32 * 4096, 8 * 4096)
    assert (found.swap_bytes, found.huge_bytes, found.zero_bytes, found.hugetlb_bytes) == (0, 0, None, 0)


def test_hugetlb_is_in_its_rows_and_in_no_other() -> None:
    """Four rows of 119 would be waste: what is not there is 0."""
    found = {each.name: each.hugetlb_bytes for each in mappings_of("6.18") if each.hugetlb_bytes}
    assert found == {"/anon_hugepage (deleted)": 2 << 20, "/memfd:hugetlb (deleted)": 2 << 20}


def test_without_smaps_a_row_has_none() -> None:
    """Nothing that was not read is made up."""
    assert {each.smaps for each in mappings_of("6.18", smaps=False)} == {None}


def test_what_a_method_cannot_tell_is_none() -> None:
    """A column that is not there."""
    table = parse_maps((PROCFS / "6.1" / "maps").read_bytes())
    residency = Residency("pagemap", len(table))
    residency.huge = residency.zero = None
    rows = Mappings(table, table.classify(kind_of), residency, None)
    assert {(each.huge_bytes, each.zero_bytes, each.rss_bytes) for each in rows} == {(None, None, 0)}


def test_mappings_are_a_sequence() -> None:
    """Length, rows by number from either end, slices, iteration both ways, membership."""
    mappings = mappings_of("3.10")
    rows = list(mappings)
    assert len(mappings) == len(rows) == 10
    assert [mappings[row] for row in range(-10, 10)] == rows * 2
    assert mappings[2:5] == rows[2:5]
    assert mappings[::-3] == rows[::-3]
    assert list(reversed(mappings)) == rows[::-1]
    assert rows[4] in mappings
    assert rows[4].replace(start=0) not in mappings


@pytest.mark.parametrize("row", [10, -11, 1 << 40])
def test_a_row_that_is_not_there_is_an_index_error(row) -> None:
    """Which says how many there are."""
    with pytest.raises(IndexError, match="10 mappings"):
        mappings_of("3.10")[row]


def test_a_row_is_worth_as_much_as_one_made_whole() -> None:
    """Equal, with equal hash and text, whichever field was asked for first."""
    for row in mappings_of("6.18"):
        whole = Mapping(**row.as_dict())
        assert (row, hash(row), repr(row)) == (whole, hash(whole), repr(whole))
    for field in Mapping._fields:
        first, second = mappings_of("6.1"), mappings_of("6.1")
        assert [getattr(each, field) for each in first] == [each.as_dict()[field] for each in second]


def test_a_row_survives_copy_and_pickle() -> None:
    """With all its fields, asked for or not, and without the look it came from."""
    for row in mappings_of("6.1"):
        assert copy.copy(row) == copy.deepcopy(row) == pickle.loads(pickle.dumps(row)) == row  # noqa: S301


def test_a_row_is_frozen_and_has_no_other_fields() -> None:
    """It says what was seen; a changed one is another one."""
    row = mappings_of("6.1")[0]
    with pytest.raises(AttributeError, match="frozen"):
        row.rss_bytes = 0
    with pytest.raises(AttributeError, match="nonsense"):
        row.nonsense  # noqa: B018
    assert row.replace(rss_bytes=7).rss_bytes == 7
    assert row.rss_bytes != 7
