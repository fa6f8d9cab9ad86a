"""`look` against /proc/PID/smaps, the kernel's own count: to the byte, mapping by mapping, whatever the method.

The oracle reads smaps by itself, in as few words as possible, and knows nothing of dontneed.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dontneed.kernel.features import PRESENT, feature
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.procmap import read_mappings_at, read_parts
from dontneed.observe.address_space import look

PAGE = 4096
SCAN = pytest.param("PAGEMAP_SCAN", marks=pytest.mark.needs_kernel("6.7"))
TABLES = pytest.param("page tables", marks=[pytest.mark.needs_root, pytest.mark.needs_feature("kernel memory")])
METHODS = (SCAN, "pagemap", "smaps")

HEADER = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d+) *(.*)")


class Told(dict):
    """What smaps tells of one mapping: its lines by their names, sizes in bytes; 0 for a line that is not there."""

    def __missing__(self, name: str) -> int:
        return 0


def smaps_of(pid: int, *lines: str) -> list[Told]:
    """The mappings in the smaps of a process; with the named lines only, or with all."""
    mappings = []
    for line in Path(f"/proc/{pid}/smaps").read_bytes().splitlines():
        if header := HEADER.fullmatch(line):
            start, end, perms, offset, device, inode, name = header.groups()
            where = {"start": int(start, 16), "end": int(end, 16), "offset": int(offset, 16), "inode": int(inode)}
            words = {"perms": perms.decode(), "device": device.decode(), "name": name}
            mappings.append(Told(where | words))
            continue
        key, _, value = line.decode().partition(":")
        if lines and key not in lines:
            continue
        mappings[-1][key] = int(value.split()[0]) * 1024 if value.endswith(" kB") else value.strip()
    return mappings


def rollup_of(pid: int) -> dict[str, int]:
    """The sums that smaps_rollup tells, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def hugetlb(told: Told) -> int:
    """What the kernel keeps out of Rss."""
    return told["Shared_Hugetlb"] + told["Private_Hugetlb"]


def huge(told: Told) -> int:
    """What huge entries map, anonymous or not."""
    return told["AnonHugePages"] + told["ShmemPmdMapped"] + told["FilePmdMapped"]


@pytest.fixture
def methods() -> list[str]:
    """Those that count pages here; the page tables are for root alone."""
    tables = ["page tables"] if feature("kernel memory").state == PRESENT else []
    return ["PAGEMAP_SCAN", "pagemap", "smaps", *tables]


@pytest.mark.parametrize("smaps", [False, True])
def test_the_words_of_every_line_are_those_of_the_kernel(zoo, smaps) -> None:
    """Addresses, permissions, offset, device, inode and name, the odd ones too, byte for byte."""
    seen = look(zoo.pid, smaps=smaps)
    told = [(each["start"], each["end"], each["perms"], each["offset"], each["device"], each["inode"], each["name"])
            for each in smaps_of(zoo.pid, "none")]  # fmt: skip
    assert told == [
        (each.start, each.end, each.perms, each.offset, each.device, each.inode, _bytes(each.name))
        for each in seen.mappings
    ]


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


@pytest.mark.needs_kernel("6.11")
def test_one_mapping_is_asked_for_as_the_file_prints_it(zoo) -> None:
    """PROCMAP_QUERY by address: words and page size of every mapping but vsyscall, which it does not know."""
    told = [each for each in smaps_of(zoo.pid, "KernelPageSize") if each["name"] != b"[vsyscall]"]
    with ProcessDirectory(zoo.pid) as process:
        seen = read_mappings_at(process, [each["start"] for each in told])
        inside = [read_parts(process, each["start"], each["end"]) for each in told]
    assert [(each["start"], each["end"], each["perms"], each["name"], each["KernelPageSize"]) for each in told] == [
        (each.start, each.end, each.perms, _bytes(each.name), each.page_bytes) for each in seen
    ]
    assert inside == [[each] for each in seen]


def test_a_range_is_divided_as_its_mappings_are(zoo) -> None:
    """From the middle of one mapping to the middle of another: its parts, cut at both ends, and no holes."""
    told = [(each["start"], each["end"], each["perms"]) for each in smaps_of(zoo.pid, "none")]
    row = next(row for row, (start, _, _) in enumerate(told) if start == zoo.start_of("anonymous"))
    start, end = told[row - 1][0], told[row + 4][1] - PAGE
    with ProcessDirectory(zoo.pid) as process:
        parts = [(part.start, part.end, part.perms) for part in read_parts(process, start, end)]
    assert parts == [*told[row - 1 : row + 4], (told[row + 4][0], end, told[row + 4][2])]


@pytest.mark.parametrize("method", [SCAN, TABLES, "smaps"])
def test_resident_bytes_are_those_of_the_kernel(zoo, at_one_moment, method) -> None:
    """RSS of every mapping, and their sum."""
    told, seen = at_one_moment(lambda: smaps_of(zoo.pid, "Rss"), lambda: look(zoo.pid, method=method))
    assert [(each.start, each.rss_bytes) for each in seen.mappings] == [(each["start"], each["Rss"]) for each in told]
    assert seen.mappings.rss == [each["Rss"] for each in told]
    assert seen.total.rss_bytes == sum(each["Rss"] for each in told)


@pytest.mark.needs_kernel("6.7")
def test_pagemap_entries_count_zero_pages_as_resident(zoo, at_one_moment) -> None:
    """What the entries call present is what the kernel calls resident, and the zero pages, and a note says so."""
    told, (plain, scanned) = at_one_moment(
        lambda: smaps_of(zoo.pid, "Rss"), lambda: (look(zoo.pid, method="pagemap"), look(zoo.pid))
    )
    resident = [each["Rss"] for each in told]
    zeros = [each.zero_bytes for each in scanned.mappings]
    assert [each.rss_bytes for each in plain.mappings] == [sum(both) for both in zip(resident, zeros, strict=True)]
    assert {each.zero_bytes for each in plain.mappings} == {None}
    assert any("zero pages count as resident" in note for note in plain.notes)
    assert scanned.notes == ()


@pytest.mark.needs_kernel("6.7")
def test_zero_pages_are_counted_and_are_not_resident(zoo) -> None:
    """What was read and never written: 40 pages, half of 64, and a huge one."""
    seen = {each.start: each for each in look(zoo.pid).mappings}
    zeros = [seen[zoo.start_of(name)] for name in ("zero_pages", "zero_and_written", "huge_zero")]
    assert [(each.zero_bytes // PAGE, each.rss_bytes // PAGE) for each in zeros] == [(40, 0), (32, 32), (512, 0)]
    assert [each.huge_bytes for each in zeros] == [0, 0, 0]


@pytest.mark.parametrize("method", [SCAN, TABLES, "smaps"])
def test_huge_bytes_are_those_of_the_kernel(zoo, at_one_moment, method) -> None:
    """AnonHugePages, ShmemPmdMapped and FilePmdMapped of every mapping, in one number."""
    lines = ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped")
    told, seen = at_one_moment(lambda: smaps_of(zoo.pid, *lines), lambda: look(zoo.pid, method=method))
    assert [each.huge_bytes for each in seen.mappings] == [huge(each) for each in told]
    assert any(huge(each) for each in told)


@pytest.mark.parametrize("method", METHODS)
def test_hugetlb_is_outside_rss_and_in_a_number_of_its_own(zoo, at_one_moment, method) -> None:
    """Private, shared, and behind a memfd that is called like any other."""
    lines = ("Rss", "Shared_Hugetlb", "Private_Hugetlb", "VmFlags")
    told, seen = at_one_moment(lambda: smaps_of(zoo.pid, *lines), lambda: look(zoo.pid, method=method))
    animals = {zoo.start_of(name) for name in ("hugetlb_private", "hugetlb_shared", "hugetlb_memfd")}
    assert {each.start for each in seen.mappings if each.hugetlb_bytes} == animals
    assert [each.hugetlb_bytes for each in seen.mappings] == [hugetlb(each) for each in told]
    assert [each.kind == "hugetlb" for each in seen.mappings] == ["ht" in each["VmFlags"].split() for each in told]


@pytest.mark.needs_root
@pytest.mark.parametrize("method", METHODS)
def test_swapped_bytes_are_those_of_the_kernel(swap_space, zoo, at_one_moment, method) -> None:  # noqa: ARG001
    """Private memory that is out; shared memory that is out leaves nothing in the page map, and only smaps knows."""
    told, seen = at_one_moment(lambda: smaps_of(zoo.pid, "Swap"), lambda: look(zoo.pid, method=method))
    shared = zoo.start_of("swapped_shared")
    expected = {each["start"]: each["Swap"] for each in told}
    assert expected[zoo.start_of("swapped")] > 0
    assert expected[shared] > 0
    if method != "smaps":
        expected[shared] = 0
    assert {each.start: each.swap_bytes for each in seen.mappings} == expected
    assert seen.counters.swap_bytes == sum(expected.values()) - expected[shared]  # VmSwap knows of no shared memory


def test_the_kernels_counters_come_with_every_mapping(zoo, at_one_moment) -> None:
    """Every line that does not depend on what other processes do with the same pages."""
    lines = {
        "Rss": "rss_bytes",
        "Anonymous": "anonymous_bytes",
        "LazyFree": "lazyfree_bytes",
        "Swap": "swap_bytes",
        "AnonHugePages": "huge_bytes",
        "Private_Hugetlb": "hugetlb_bytes",
        "Locked": "locked_bytes",
    }
    told, seen = at_one_moment(lambda: smaps_of(zoo.pid, *lines), lambda: look(zoo.pid, smaps=True))
    ours = [row for row, each in enumerate(seen.mappings) if zoo.animal_at(each.start) and each.perms[3] == "p"]
    assert [[getattr(seen.mappings[row].smaps, field) for field in lines.values()] for row in ours] == [
        [told[row][line] for line in lines] for row in ours
    ]
    assert all(any(told[row][line] for row in ours) for line in lines.keys() - {"Swap"})


def test_shares_and_references_of_private_memory_are_those_of_the_kernel(zoo, at_one_moment) -> None:
    """PSS, and clean and dirty, shared and not: for the zoo's own pages, which no other process maps meanwhile."""
    lines = {
        "Pss": "pss_bytes",
        "Shared_Clean": "shared_clean_bytes",
        "Shared_Dirty": "shared_dirty_bytes",
        "Private_Clean": "private_clean_bytes",
        "Private_Dirty": "private_dirty_bytes",
        "Referenced": "referenced_bytes",
    }

    def of_the_zoo() -> list[Told]:
        return [each for each in smaps_of(zoo.pid, *lines) if zoo.animal_at(each["start"])]

    told, seen = at_one_moment(of_the_zoo, lambda: look(zoo.pid, smaps=True))
    counted = [each.smaps for each in seen.mappings if zoo.animal_at(each.start)]
    assert [[getattr(each, field) for field in lines.values()] for each in counted] == [
        [each[line] for line in lines] for each in told
    ]
    assert [each.dirty_bytes for each in counted] == [each["Shared_Dirty"] + each["Private_Dirty"] for each in told]
    assert [each.uss_bytes for each in counted] == [each["Private_Clean"] + each["Private_Dirty"] for each in told]


def test_every_flag_of_the_kernel_has_a_word_of_ours(zoo) -> None:
    """As many words as letters, in their order, and no letters left among them."""
    seen = look(zoo.pid, smaps=True)
    letters = [each["VmFlags"].split() for each in smaps_of(zoo.pid, "VmFlags")]
    words = [each.smaps.flags for each in seen.mappings]
    assert [len(each) for each in words] == [len(each) for each in letters]
    meanings = {pair for row in zip(letters, words, strict=True) for pair in zip(*row, strict=True)}
    assert len(meanings) == len({letter for letter, _ in meanings}) == len({word for _, word in meanings})
    assert [word for _, word in meanings if len(word) <= 2] == []
    assert {("lo", "locked"), ("ht", "hugetlb"), ("hg", "advised huge pages")} <= meanings


def test_the_totals_are_those_of_the_rollup(zoo, at_one_moment) -> None:
    """The kernel adds up too; PSS it rounds once, where its rows were rounded each."""
    steady = ("Rss", "Swap", "Private_Hugetlb", "Shared_Hugetlb", "AnonHugePages", "Pss")
    told, seen = at_one_moment(
        lambda: {line: value for line, value in rollup_of(zoo.pid).items() if line in steady},
        lambda: look(zoo.pid, smaps=True),
    )
    assert seen.total.rss_bytes == told["Rss"]
    assert seen.total.swap_bytes == told["Swap"]
    assert seen.total.hugetlb_bytes == told["Private_Hugetlb"] + told["Shared_Hugetlb"]
    assert seen.total.size_bytes == sum(seen.mappings.sizes)
    assert told["Pss"] - len(seen.mappings) * 1024 <= seen.total.pss_bytes <= told["Pss"]


@pytest.mark.needs_kernel("6.7")
def test_twenty_thousand_mappings_are_counted_one_by_one(crowd, at_one_moment, methods) -> None:
    """As many as a crowded process has, by every method; most runs of pages end where the next mapping begins."""
    told, (scanned, plain, counted, *walked) = at_one_moment(
        lambda: [(each["start"], each["Rss"]) for each in smaps_of(crowd, "Rss")],
        lambda: [look(crowd, method=method) for method in methods],
    )
    assert len(told) > 20_000
    assert rss_that_differs(scanned, told) == []
    assert rss_that_differs(counted, told) == []
    assert [difference for space in walked for difference in rss_that_differs(space, told)] == []
    zeros = [each.zero_bytes for each in scanned.mappings]
    with_zeros = [(start, rss + zero) for (start, rss), zero in zip(told, zeros, strict=True)]
    assert rss_that_differs(plain, with_zeros) == []
    assert {space.drift.unmatched_bytes for space in (scanned, plain, counted)} == {0}


def rss_that_differs(space, told: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Start and RSS of the mappings whose RSS is another than was told."""
    seen = [(each.start, each.rss_bytes) for each in space.mappings]
    return [mapping for mapping, row in zip(seen, told, strict=True) if mapping != row]


@pytest.mark.needs_kernel("6.7")
def test_all_methods_see_the_same(zoo, at_one_moment, methods) -> None:
    """But for zero and huge pages, which pagemap entries do not show, and what smaps alone knows of swap and dirt."""
    told, seen = at_one_moment(
        lambda: smaps_of(zoo.pid, "Rss", "Swap", "AnonHugePages"),
        lambda: [look(zoo.pid, method=method) for method in methods],
    )
    fields = ("rss_bytes", "zero_bytes", "huge_bytes", "swap_bytes", "accessed_bytes", "dirty_bytes", "smaps")
    numbers = dict.fromkeys(fields)
    scanned, plain, counted, *walked = ([each.replace(**numbers) for each in space.mappings] for space in seen)
    assert scanned == plain == counted
    assert walked in ([], [scanned])
    assert len(scanned) == len(told)
    assert [space.method.removeprefix("maps + ") for space in seen] == methods
