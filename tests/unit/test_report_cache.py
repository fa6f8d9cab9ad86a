"""The page cache as text and JSON, and the columns that it is kept in."""

from __future__ import annotations

import json

import pytest

from dontneed.observe.cache.cached_file import UNKNOWN, CachedFile, FileColumns
from dontneed.observe.cache.file_tree import Unread
from dontneed.observe.cache.page_cache import PageCache
from dontneed.report.cache import cache_document, format_bar, format_cache
from dontneed.report.json import format_json
from dontneed.units import PAGE_BYTES

NOTHING_ELSE = {
    "method": "cachestat",
    "directories": 0,
    "hard_links": 0,
    "symlinks": 0,
    "special": 0,
    "vanished": 0,
    "other_file_systems": (),
    "unread": (),
    "in_memory_bytes": 0,
}


def columns(*files, left=(), runs=()):
    """Columns of files: path, pages, pages cached, pages dirty."""
    made = FileColumns()
    for path, pages, cached, dirty in files:
        made.add(path, pages * PAGE_BYTES, (cached, dirty, 0, 0, 0))
    made.left.extend(left)
    made.runs.extend(runs)
    return made


def page_cache(*files, left=(), runs=(), **others):
    """A page cache of such files."""
    return PageCache(**{**NOTHING_ELSE, **others}, columns=columns(*files, left=left, runs=runs))


@pytest.mark.parametrize(
    ("runs", "pages", "bar"),
    [
        ([], 0, "[] 0/0"),
        ([(0, 3)], 3, "[OOO] 3/3"),
        ([(1, 1)], 3, "[ O ] 1/3"),
        ([], 3, "[   ] 0/3"),
        ([(0, 60)], 60, f"[{'O' * 60}] 60/60"),
        ([(0, 61)], 61, f"[{'O' * 31}] 61/61"),
        ([(60, 1)], 61, f"[{' ' * 30}O] 1/61"),
        ([(1, 2)], 61, f"[oo{' ' * 29}] 2/61"),
        ([(0, 1000), (5000, 300)], 5300, f"[{'O' * 11}o{' ' * 44}oOOO] 1300/5300"),
    ],
)
def test_a_bar_has_a_letter_for_so_many_pages(runs, pages, bar):
    """The rule is vmtouch's: pages divided by sixty, and one more."""
    assert format_bar(runs, pages) == bar


def test_the_largest_come_first_and_ties_by_name():
    """So that two looks at the same files are the same text."""
    found = page_cache(("b", 9, 2, 0), ("c", 9, 5, 0), ("a", 9, 2, 0))
    assert [file.path for file in found.largest()] == ["c", "a", "b"]
    assert [file.path for file in found.largest(1)] == ["c"]
    assert [file.path for file in found.files] == ["b", "c", "a"]


def test_totals_know_what_nobody_could_tell():
    """Nobody sees dirty pages by mincore, and 0 would be a claim."""
    found = page_cache(("a", 2, 1, 1))
    assert found.total.dirty_bytes == PAGE_BYTES
    unseen = FileColumns()
    unseen.add("a", 100, (1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN))
    assert (unseen.total().dirty_bytes, unseen.total().cached_bytes) == (None, PAGE_BYTES)
    assert unseen.file(0) == CachedFile("a", 100, PAGE_BYTES, None, None, None, None)


def test_nothing_found_has_sums_too():
    """An empty directory."""
    found = page_cache(directories=1)
    assert format_cache(found, []) == ["0 files, 1 directory: 0 of 0 cached"]


def test_the_text_of_a_look():
    """A headline, a table, how many more there are, and what was left out."""
    found = page_cache(
        ("logs/new\x1b[31m", 10, 5, 1),
        ("logs/old", 10, 10, 0),
        ("logs/other", 1, 0, 0),
        directories=2,
        hard_links=1,
        symlinks=3,
        unread=(Unread("logs/a", 13, "may not be opened (EACCES)"),),
    )
    assert format_cache(found, found.largest(2)) == [
        "3 files, 2 directories: 60.0 KiB of 84.0 KiB cached (71 %), 4.0 KiB of that dirty",
        "",
        "  CACHED      SIZE    %    DIRTY  FILE",
        "40.0 KiB  40.0 KiB  100        0  logs/old",
        "20.0 KiB  40.0 KiB   50  4.0 KiB  logs/new?[31m",
        "… and 1 more; --top 0 shows all",
        "",
        "logs/a could not be read, and is in no sum: may not be opened (EACCES)",
        "passed by: 1 further name of a file that was counted, 3 symbolic links",
    ]


def test_the_text_of_an_eviction_says_why_something_is_left():
    """Dirty, in memory only, and the rest, which somebody uses."""
    found = page_cache(("a", 9, 9, 2), ("b", 9, 9, 0), left=(5, 1), in_memory_bytes=PAGE_BYTES)
    assert format_cache(found, found.largest()) == [
        "2 files: 72.0 KiB of 72.0 KiB cached (100 %); 48.0 KiB evicted, 24.0 KiB left",
        "",
        "  CACHED      SIZE    %      LEFT    DIRTY  FILE",
        "36.0 KiB  36.0 KiB  100  20.0 KiB  8.0 KiB  a",
        "36.0 KiB  36.0 KiB  100   4.0 KiB        0  b",
        "",
        "8.0 KiB left: dirty, or being written. Nothing was waited for: evict again a little later, or after `sync`",
        "4.0 KiB left: files in memory only (tmpfs), which are nowhere else",
        "12.0 KiB left: mapped, locked, in use, or read again meanwhile",
    ]


def test_what_mincore_left_may_be_dirty():
    """It cannot tell, so that nobody is told that it is in use."""
    unknown = (UNKNOWN,) * 4
    found = page_cache(method="mincore")
    found.columns.add("a", PAGE_BYTES, (1, *unknown))
    found.columns.left.append(1)
    lines = format_cache(found, [])
    assert lines[-1] == "4.0 KiB left: dirty (mincore cannot tell), mapped, locked, in use, or read again meanwhile"


def test_many_that_refuse_for_one_reason_are_one_line():
    """A tree of another user's files would be a page of them."""
    refused = tuple(Unread(f"f{nth}", 13, "may not be opened (EACCES)") for nth in range(5))
    lines = format_cache(page_cache(("a", 1, 1, 0), unread=refused), [])
    assert lines[-1] == "f0, f1, f2 and 2 more could not be read, and are in no sum: may not be opened (EACCES)"


def test_a_map_that_the_kernel_does_not_tell_is_no_empty_bar():
    """A non-owner is told by mincore that all is cached, which is not believed."""
    found = page_cache(("a", 2, 1, 0), ("b", 2, 2, 0), runs=(None, [(0, 2)]))
    assert format_cache(found, found.largest(), bars=True)[2:] == [
        "b",
        "[OO] 2/2",
        "a",
        "4.0 KiB cached; which pages, the kernel tells its owner, or who may write to it",
    ]


def test_json_holds_the_sums_and_the_files():
    """For programs: bytes, and runs as pairs of pages."""
    found = page_cache(("a", 2, 1, 0), runs=([(1, 1)],))
    document = json.loads(format_json(cache_document(found, found.files)))
    assert document["schema"] == 1
    assert document["total"]["cached_bytes"] == PAGE_BYTES
    assert document["files"][0]["runs"] == [[1, 1]]
