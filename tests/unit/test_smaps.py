"""/proc/PID/smaps, parsed: captured texts of several kernels, each with other lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from dontneed.abi.vm_flags import VM_FLAG_WORDS, flag_words
from dontneed.kernel.maps import parse_maps
from dontneed.kernel.smaps import SmapsCounters, parse_smaps
from dontneed.kernel.status import parse_status

PROCFS = Path(__file__).parents[1] / "data" / "procfs"
KERNELS = ("2.6.32", "3.10", "4.4", "5.10", "6.1", "6.18")

LINES = {
    "rss_bytes": ("Rss",),
    "pss_bytes": ("Pss",),
    "shared_clean_bytes": ("Shared_Clean",),
    "shared_dirty_bytes": ("Shared_Dirty",),
    "private_clean_bytes": ("Private_Clean",),
    "private_dirty_bytes": ("Private_Dirty",),
    "referenced_bytes": ("Referenced",),
    "anonymous_bytes": ("Anonymous",),
    "lazyfree_bytes": ("LazyFree",),
    "huge_bytes": ("AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"),
    "hugetlb_bytes": ("Shared_Hugetlb", "Private_Hugetlb"),
    "swap_bytes": ("Swap",),
    "locked_bytes": ("Locked",),
}
"""Our counters, and the lines that each is the sum of."""

KIB = 1024


def text_of(kernel: str, name: str = "smaps") -> bytes:
    """A captured text."""
    return (PROCFS / kernel / name).read_bytes()


def blocks_of(kernel: str) -> list[dict[str, str]]:
    """The mappings of a captured text: each the lines below its header, by name."""
    blocks: list[dict[str, str]] = []
    for line in text_of(kernel).decode("utf-8", "surrogateescape").splitlines():
        key, _, value = line.partition(":")
        if key[0].isupper():
            blocks[-1][key] = value.strip()
        else:
            blocks.append({})
    return blocks


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_line_is_in_the_counter_it_belongs_to(kernel) -> None:
    """Mapping by mapping, in bytes; 0 for a line that this kernel does not print."""
    _, counted = parse_smaps(text_of(kernel))
    for counters, block in zip(counted, blocks_of(kernel), strict=True):
        kib = {line: int(value[: -len(" kB")]) for line, value in block.items() if value.endswith(" kB")}
        told = {field: sum(kib.get(line, 0) for line in lines) * KIB for field, lines in LINES.items()}
        assert {field: getattr(counters, field) for field in LINES} == told


def test_no_counter_is_forgotten() -> None:
    """The lines above are all the fields there are, but for the flags."""
    assert SmapsCounters._fields == (*LINES, "flags")


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_headers_are_the_lines_of_maps(kernel) -> None:
    """The same mappings with the same words, odd names too."""
    table, _ = parse_smaps(text_of(kernel))
    maps = parse_maps(text_of(kernel, "maps"))
    assert (table.starts, table.ends) == (maps.starts, maps.ends)
    assert [table.words(row) for row in range(len(table))] == [maps.words(row) for row in range(len(maps))]


@pytest.mark.parametrize(
    ("kernel", "sums"),
    [
        ("2.6.32", {"rss": 4416, "dirty": 4144, "uss": 4148, "swap": 12}),
        ("3.10", {"rss": 3040, "dirty": 2336, "uss": 2336, "swap": 44, "huge": 2048, "locked": 16}),
        ("4.4", {"rss": 3668, "dirty": 1864, "uss": 60, "swap": 100, "hugetlb": 2048}),
        (
            "5.10",
            {"rss": 6340, "dirty": 4132, "uss": 4140, "swap": 8, "huge": 6144, "hugetlb": 2048, "locked": 16}
            | {"lazyfree": 2048},
        ),
        ("6.1", {"rss": 2272, "dirty": 212, "uss": 2268, "huge": 2048}),
    ],
)
def test_the_sums_of_every_kernel_are_known(kernel, sums) -> None:
    """In KiB, added up by hand; what is not named is 0."""
    _, counted = parse_smaps(text_of(kernel))
    names = ("rss", "dirty", "uss", "swap", "huge", "hugetlb", "locked", "lazyfree")
    told = {name: sum(getattr(each, f"{name}_bytes") for each in counted) // KIB for name in names}
    assert told == dict.fromkeys(names, 0) | sums


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_sums_are_those_of_status(kernel) -> None:
    """A process at rest: what its mappings hold is what the kernel counts for it, where it counts."""
    _, counted = parse_smaps(text_of(kernel))
    status = parse_status(text_of(kernel, "status"))
    fields = [field for field in ("rss_bytes", "swap_bytes", "hugetlb_bytes") if field in status]
    assert {field: sum(getattr(each, field) for each in counted) for field in fields} == {
        field: status[field] for field in fields
    }


def test_a_kernel_without_flags_has_mappings_without_flags() -> None:
    """2.6.32 prints no VmFlags; no mapping is lost, none has the counters of its neighbour."""
    table, counted = parse_smaps(text_of("2.6.32"))
    assert len(table) == len(counted) == 11
    assert {each.flags for each in counted} == {()}


@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_flags_are_words_in_the_order_of_the_letters(kernel) -> None:
    """Every flag that these kernels print has a word."""
    _, counted = parse_smaps(text_of(kernel))
    for counters, block in zip(counted, blocks_of(kernel), strict=True):
        assert counters.flags == tuple(VM_FLAG_WORDS[letters] for letters in block["VmFlags"].split())


def test_flags_say_what_was_done_with_a_mapping() -> None:
    """Locked, huge, of hugetlb, wiped on fork, watched by userfaultfd."""
    words = {
        kernel: {word for counters in parse_smaps(text_of(kernel))[1] for word in counters.flags} for kernel in KERNELS
    }
    assert {"locked", "advised huge pages", "stack that grows down"} <= words["3.10"]
    assert {"hugetlb", "does not expand", "shared"} <= words["4.4"]
    assert {"wiped on fork", "userfaultfd, missing pages"} <= words["6.1"]


def test_letters_that_came_later_are_shown_as_they_are() -> None:
    """A kernel of tomorrow may print what nobody has a word for today."""
    assert flag_words(" rd zz wr ") == ("readable", "zz", "writable")
    assert flag_words("") == ()


def test_lines_that_came_later_change_nothing() -> None:
    """Another line, with kB or a number or words, before, between or behind the known ones."""
    text = text_of("6.18")
    odd = text.replace(b"\nRss:", b"\nNew_Line:           12 kB\nRss:")
    odd = odd.replace(b"\nVmFlags:", b"\nNumber:         7\nWords: one two\nVmFlags:")
    assert odd.count(b"\n") == text.count(b"\n") + 3 * text.count(b"VmFlags")
    assert parse_smaps(odd)[1] == parse_smaps(text)[1]


def test_no_text_is_no_mapping() -> None:
    """What a kernel thread's smaps holds."""
    table, counted = parse_smaps(b"")
    assert (len(table), counted) == (0, [])


def test_dirty_and_uss_are_sums() -> None:
    """The Dirty column of `pmap -x`, and what only this process maps."""
    counters = SmapsCounters(shared_clean_bytes=1, shared_dirty_bytes=2, private_clean_bytes=4, private_dirty_bytes=8)
    assert (counters.dirty_bytes, counters.uss_bytes) == (10, 12)
