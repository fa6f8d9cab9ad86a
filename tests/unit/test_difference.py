"""`AddressSpace.difference`: two looks at captured or made-up mappings, subtracted."""

from __future__ import annotations

from dontneed.kernel.status import Counters
from dontneed.observe.difference import difference_of, subtract
from dontneed.observe.mapping import Mapping

PAGE = 4096


def mapping(start: int, pages: int = 10, *, name: str = "", kind: str = "anonymous", perms: str = "rw-p", **counts):
    """A mapping at page `start`, of `pages`; counts in pages."""
    memory = {"rss_bytes": 0, "swap_bytes": 0, "huge_bytes": 0, "zero_bytes": 0, "hugetlb_bytes": 0}
    memory.update((field, count * PAGE) for field, count in counts.items())
    place = {"start": start * PAGE, "end": (start + pages) * PAGE, "perms": perms, "offset": 0}
    return Mapping(**place, device="00:00", inode=0, name=name, kind=kind, **memory)


def difference(before: list[Mapping], after: list[Mapping]):
    """Of two looks whose counters stayed as they were."""
    return difference_of(before, after, Counters(), Counters())


def test_what_stays_as_it_is_is_no_difference() -> None:
    """The same rows twice."""
    rows = [mapping(10), mapping(30, name="/file", kind="file"), mapping(50, kind="heap", name="[heap]")]
    told = difference(rows, rows)
    assert (told.gone, told.come, told.changed) == ((), (), ())


def test_what_came_and_what_went() -> None:
    """By address, in the order of their looks."""
    old, new, stays = mapping(10), mapping(90), mapping(50)
    told = difference([old, stays], [stays, new])
    assert (told.gone, told.come, told.changed) == ((old,), (new,), ())


def test_changes_are_signed() -> None:
    """After less before: of size, RSS and swap."""
    before, after = mapping(10, 10, rss_bytes=9, swap_bytes=1), mapping(10, 12, rss_bytes=4, swap_bytes=6)
    (change,) = difference([before], [after]).changed
    assert (change.size_bytes, change.rss_bytes, change.swap_bytes) == (2 * PAGE, -5 * PAGE, 5 * PAGE)
    assert (change.before, change.after) == (before, after)


def test_another_name_or_other_rights_at_an_address_are_another_mapping() -> None:
    """What was mapped there is gone, and something else has come."""
    for other in (mapping(10, name="/file", kind="file"), mapping(10, perms="r--p")):
        told = difference([mapping(10)], [other])
        assert (told.gone, told.come, told.changed) == ((mapping(10),), (other,), ())


def test_a_stack_is_the_same_when_it_grows_down() -> None:
    """Its start has moved; it is the one stack that a process has."""
    before = mapping(100, 20, name="[stack]", kind="stack", rss_bytes=3)
    after = mapping(90, 30, name="[stack]", kind="stack", rss_bytes=13)
    told = difference([before], [after])
    assert (told.gone, told.come) == ((), ())
    assert [(change.size_bytes, change.rss_bytes) for change in told.changed] == [(10 * PAGE, 10 * PAGE)]


def test_a_heap_is_the_same_when_it_grows() -> None:
    """Its end has moved."""
    before = mapping(100, 20, name="[heap]", kind="heap", rss_bytes=3)
    after = mapping(100, 30, name="[heap]", kind="heap", rss_bytes=5)
    told = difference([before], [after])
    assert [(change.size_bytes, change.rss_bytes) for change in told.changed] == [(10 * PAGE, 2 * PAGE)]


def test_every_part_of_a_split_heap_is_compared() -> None:
    """A call of mprotect in the middle makes three mappings, all called [heap]; none of them hides another."""
    parts = ((100, "rw-p"), (110, "r--p"), (120, "rw-p"))
    rows = [mapping(start, name="[heap]", kind="heap", perms=perms, rss_bytes=5) for start, perms in parts]
    grown = rows[0].replace(rss_bytes=8 * PAGE)
    told = difference(rows, [grown, *rows[1:]])
    assert [(change.before, change.rss_bytes) for change in told.changed] == [(rows[0], 3 * PAGE)]
    assert difference(rows, rows[:2]).gone == (rows[2],)


def test_counters_are_subtracted_one_by_one() -> None:
    """After less before, the same fields."""
    before = Counters(rss_bytes=10, minor_faults=3, threads=2, peak_rss_bytes=7)
    after = Counters(rss_bytes=4, minor_faults=9, threads=2, peak_rss_bytes=8)
    assert subtract(after, before) == Counters(rss_bytes=-6, minor_faults=6, threads=0, peak_rss_bytes=1)
    assert difference_of([], [], before, after).counters == subtract(after, before)
