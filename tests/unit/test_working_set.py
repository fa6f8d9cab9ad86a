"""What is made of marks that were seen: rows, totals, sentences; and the time that passes meanwhile."""

from __future__ import annotations

import random

import pytest

from dontneed.errors import ProcessGone, UsageError
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.smaps import SmapsCounters
from dontneed.observe import working_set as module
from dontneed.observe.mapping import Mapping
from dontneed.observe.working_set import METHODS, MappingUse, WorkingSet, check, use_of, wait
from dontneed.remote.working_set import _bytes_between, _columns
from dontneed.remote.written import Written
from dontneed.report.working_set import format_working_set, working_set_document
from dontneed.spans import Spans

PAGE = 4096
MIB = 1 << 20


def mapping(start, end, **fields):
    """A mapping of a look."""
    usual = {"perms": "rw-p", "offset": 0, "device": "00:00", "inode": 0, "name": "", "kind": "anonymous"}
    amounts = {"rss_bytes": end - start, "swap_bytes": 0, "huge_bytes": 0, "zero_bytes": 0, "hugetlb_bytes": 0}
    return Mapping(start=start, end=end, **{**usual, **amounts, **fields})


def working_set(*uses, **fields):
    """A result."""
    usual = {
        "pid": 7,
        "command": "some",
        "method": "tables",
        "source": "page tables, read 11 times",
        "known_error": "much",
        "disturbed": False,
        "seconds": 10.0,
        "minor_faults": 1234,
        "major_faults": 0,
    }
    return WorkingSet(mappings=uses, **{**usual, **fields})


def use(start, touched, at_most, written, **fields):
    """A row of it."""
    usual = {"perms": "rw-p", "name": "", "kind": "anonymous", "rss_bytes": 4 * MIB}
    return MappingUse(
        start=start,
        end=start + 4 * MIB,
        touched_bytes=touched,
        at_most_bytes=at_most,
        written_bytes=written,
        **{**usual, **fields},
    )


# Rows


@pytest.mark.parametrize(
    ("kind", "before", "touched"),
    [
        ("anonymous", 10, 20),
        ("heap", 0, 30),
        ("stack", 40, 0),
        ("file", 10, 0),
        ("shared memory", 10, 0),
        ("anonymous", None, 0),
    ],
)
def test_referenced_proves_by_how_much_it_grew_of_private_memory_alone(kind, before, touched):
    """Others refer to files too; and what mremap brought along was referred to elsewhere."""
    counters = SmapsCounters(referenced_bytes=30 * PAGE)
    row = mapping(MIB, 2 * MIB, kind=kind, smaps=counters)
    found = module._use_by_smaps(row, None if before is None else before * PAGE)
    assert (found.touched_bytes, found.at_most_bytes, found.written_bytes) == (touched * PAGE, 30 * PAGE, None)


def test_marks_of_hugetlb_pages_are_not_cleared():
    """So they prove nothing then; writes do."""
    row = mapping(MIB, 5 * MIB, kind="hugetlb", rss_bytes=0, hugetlb_bytes=4 * MIB)
    found = module._use_by_tables(row, 4 * MIB, 4 * MIB, 2 * MIB, cleared=True)
    assert (found.rss_bytes, found.touched_bytes, found.at_most_bytes) == (4 * MIB, 2 * MIB, 4 * MIB)
    found = module._use_by_tables(row, MIB, 2 * MIB, 0, cleared=False)
    assert (found.touched_bytes, found.at_most_bytes) == (MIB, 2 * MIB)


def test_writes_are_told_by_mapping_and_unknown_where_nobody_watched():
    """A mapping that came meanwhile was watched: all of it is new."""
    mappings = [mapping(start, start + MIB) for start in (MIB, 3 * MIB, 5 * MIB)]
    spans = Spans([(MIB, MIB + 3 * PAGE), (5 * MIB + PAGE, 5 * MIB + 2 * PAGE), (9 * MIB, 10 * MIB)])
    found = Written(spans, Spans([(3 * MIB, 4 * MIB)]), 1.0, ())
    assert [each[1:] for each in _columns(mappings, found)] == [
        (3 * PAGE, None, 3 * PAGE),
        (0, None, None),
        (PAGE, None, PAGE),
    ]


def test_bytes_between_are_those_that_counting_finds():
    """Over random spans and ranges, none too."""
    dice = random.Random(3)  # noqa: S311 - for a test, not for secrets
    for _ in range(200):
        pages = {dice.randrange(60) for _ in range(dice.randrange(40))}
        edges = sorted(dice.randrange(60) for _ in range(8))
        bounds = list(zip(edges[::2], edges[1::2], strict=True))
        spans = Spans([(page * PAGE, page * PAGE + PAGE) for page in pages])
        starts, ends = ([bound[side] * PAGE for bound in bounds] for side in (0, 1))
        expected = [PAGE * len(pages & set(range(*bound))) for bound in bounds]
        assert _bytes_between(spans, starts, ends) == expected


# The whole


def test_totals_leave_out_what_is_unknown():
    """And are unknown, if everything is."""
    found = working_set(use(0, 10, 20, 5), use(8 * MIB, 1, 2, None))
    assert (found.touched_bytes, found.at_most_bytes, found.written_bytes) == (11, 22, 5)
    assert working_set(use(0, 10, None, None)).at_most_bytes is None
    assert working_set().written_bytes is None


@pytest.mark.parametrize(("seconds", "method"), [(0, "auto"), (-1, "auto"), (float("inf"), "auto"), (1, "guess")])
def test_what_cannot_be_is_refused(seconds, method):
    """With what can."""
    with pytest.raises(UsageError):
        check(seconds, method)


def test_every_method_may_be_asked_for():
    """For a week at most."""
    for method in METHODS:
        check(7 * 86_400, method)


def test_waiting_ends_when_it_is_over(child):
    """Or when the time is, and says which; or when there is nobody left to wait for."""
    asked = []
    watched = child()
    with ProcessDirectory(watched.pid) as process:
        assert wait(process, 3600.0, lambda: asked.append(1) or len(asked) > 2)
        assert len(asked) == 3
        assert not wait(process, 0.01, lambda: False)
        watched.kill()
        with pytest.raises(ProcessGone, match="ended while it was watched"):
            wait(process, 3600.0, lambda: False)


def test_a_mapping_keeps_what_a_look_says_of_it():
    """Hugetlb pages are resident too."""
    row = mapping(MIB, 2 * MIB, name="/x", kind="file", perms="r--s", hugetlb_bytes=PAGE, rss_bytes=PAGE)
    assert use_of(row, 1, 2, 3) == MappingUse(MIB, 2 * MIB, "r--s", "/x", "file", 2 * PAGE, 1, 2, 3)


# As text, and as JSON


def test_the_text_says_bounds_method_and_error():
    """The mapping that is used most comes first."""
    found = working_set(
        use(0x1000, 0, MIB, 0),
        use(0x900000, 3 * MIB, 4 * MIB, 0, name="/a\x1bb"),
        use(0x2000000, 1, 1, 0),
        gone_bytes=MIB,
    )
    lines = format_working_set(found, 2)
    assert lines[0] == "some (pid 7): 3.0 MiB used at least, 5.0 MiB at most, of 12.0 MiB, in 10 s"
    assert lines[2].split() == ["USED", "AT", "MOST", "RSS", "PERMS", "KIND", "ADDRESS", "NAME"]
    assert lines[3].split()[-2:] == ["900000", "/a?b"]
    assert lines[5] == "… 1 more mappings, with 0 used (--top 0 shows all)"
    assert lines[7] == (
        "method tables: page tables, read 11 times; nothing of it was changed; 1,234 minor and 0 major faults meanwhile"
    )
    assert lines[8] == "known error: much"
    assert lines[9] == "note: 1.0 MiB more were used, and unmapped before the end"


def test_bounds_that_say_little_name_the_method_that_says_more():
    """As of a process that once touched all it holds; not where they lie close, nor where marks were cleared."""
    far = use(0x1000, 0, 4 * MIB, 0)
    assert "--method accessed" in format_working_set(working_set(far), 0)[-1]
    assert "--method accessed" not in format_working_set(working_set(use(0x1000, 3 * MIB, 4 * MIB, 0)), 0)[-1]
    assert "--method accessed" not in format_working_set(working_set(far, method="accessed"), 0)[-1]


def test_the_text_of_writes_has_no_bounds():
    """And a question mark where nobody watched."""
    found = working_set(
        use(0x1000, 0, None, None), use(0x900000, MIB, None, MIB), method="written", disturbed=True, notes=("said",)
    )
    lines = format_working_set(found, 0)
    assert lines[0].startswith("some (pid 7): 1.0 MiB written to, of 8.0 MiB")
    assert lines[2].split() == ["WRITTEN", "RSS", "PERMS", "KIND", "ADDRESS", "NAME"]
    assert lines[4].split()[0] == "?"
    assert "disturbed, see below" in lines[6]
    assert lines[-1] == "note: said"


def test_the_document_has_the_totals_before_the_mappings():
    """All mappings in the order of addresses, or the most used."""
    found = working_set(use(0x1000, 0, MIB, 0), use(0x900000, MIB, MIB, 0))
    document = working_set_document(found, 0)
    assert list(document)[-2:] == ["total", "mappings"]
    assert document["total"] == {
        "rss_bytes": 8 * MIB,
        "touched_bytes": MIB,
        "at_most_bytes": 2 * MIB,
        "written_bytes": 0,
    }
    assert document["mappings"] == list(found.mappings)
    assert working_set_document(found, 1)["mappings"] == [found.mappings[1]]
