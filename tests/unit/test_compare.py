"""One experiment on several machines: what differs, since when it does, and how that is printed."""

from __future__ import annotations

import pytest

from dontneed.errors import KernelLacks, UsageError
from dontneed.lab.catalogue import NAMES, experiment_named
from dontneed.lab.compare import compare
from dontneed.lab.experiment import Experiment
from dontneed.model.versions import NEWEST, OLDEST, numbers_of
from dontneed.report.comparison import NO_CLAIM, SKIPPED, comparison_document, format_comparison


def asking(perform):
    """An experiment that does nothing but claim."""
    return Experiment("test", "What differs?", perform)


def _same(bench):
    bench.claim("pages are", "small", "small")


def _tables_go(bench):
    bench.claim("tables", "?", "go" if bench.kernel.behaviour.frees_tables else "stay")


def _counts_twice(bench):
    version = bench.kernel.version
    bench.claim("counted", "?", "by kind" if version >= (4, 5) else "by two" if version >= (2, 6, 34) else "at all")


def _only_new(bench):
    if bench.kernel.behaviour.frees_tables:
        bench.claim("tables", "go", "go")
    bench.claim("pages", "go", "go")


def _skips_the_oldest(bench):
    if bench.kernel.version < (4, 5):
        raise KernelLacks("it has no such thing")
    _tables_go(bench)


def _fails(bench):
    bench.claim("the earth is", "flat", "round")


def test_machines_that_agree_have_no_difference_and_no_history():
    """Nothing is asked of versions between."""
    comparison = compare(asking(_same), [OLDEST, NEWEST])
    (row,) = comparison.rows
    assert (row.differs, row.changes, row.holds) == (False, (), (True, True))
    assert comparison.passed
    assert format_comparison(comparison)[-1] == "All machines agree; every claim holds."


def test_a_difference_is_dated_by_asking_every_version():
    """And the table of versions says what came then."""
    comparison = compare(asking(_tables_go), [OLDEST, NEWEST])
    (row,) = comparison.rows
    assert row.observed == ("stay", "go")
    (change,) = row.changes
    assert (change.since, change.observed) == ("6.14", "go")
    assert "emptied page tables are freed" in change.what


def test_a_difference_may_come_in_steps():
    """Each is dated."""
    (row,) = compare(asking(_counts_twice), [OLDEST, NEWEST]).rows
    changes = [(change.since, change.observed) for change in row.changes]
    assert changes[-1] == ("4.5", "by kind")
    assert changes[0][1] == "by two"
    assert numbers_of(changes[0][0]) > numbers_of(OLDEST)


def test_no_version_outside_those_compared_is_asked():
    """Between 6.12 and 6.18 what came in 4.5 is no news."""
    (row,) = compare(asking(_counts_twice), ["6.12", NEWEST]).rows
    assert not row.differs
    (row,) = compare(asking(_tables_go), ["6.12", "6.14"]).rows
    assert [change.since for change in row.changes] == ["6.14"]


def test_the_live_kernel_is_dated_by_the_model_of_its_version():
    """One model is enough to compare it with."""
    (row,) = compare(asking(_tables_go), [OLDEST, "live"]).rows
    assert [change.since for change in row.changes] == (["6.14"] if row.observed[1] == "go" else [])


def test_a_claim_that_one_machine_does_not_make_differs():
    """It says so in place of an observation."""
    tables, pages = compare(asking(_only_new), [OLDEST, NEWEST]).rows
    assert (tables.observed, tables.holds, tables.differs) == ((NO_CLAIM, "go"), (None, True), True)
    assert [(change.since, change.observed) for change in tables.changes] == [("6.14", "go")]
    assert not pages.differs


def test_a_machine_that_skips_it_is_no_difference():
    """The reason is in the head; others are compared all the same, and dated without it."""
    comparison = compare(asking(_skips_the_oldest), [OLDEST, "5.4", NEWEST])
    assert comparison.skipped == ("it has no such thing", None, None)
    (row,) = comparison.rows
    assert (row.observed, row.holds) == ((SKIPPED, "stay", "go"), (None, False, False))
    assert [change.since for change in row.changes] == ["6.14"]
    lines = format_comparison(comparison)
    assert lines[1].endswith("skipped: it has no such thing")
    (row,) = compare(asking(_skips_the_oldest), [OLDEST, NEWEST]).rows
    assert not row.differs


def test_a_claim_that_does_not_hold_is_marked_and_counted():
    """And it does not pass."""
    comparison = compare(asking(_fails), [OLDEST, NEWEST])
    assert not comparison.passed
    lines = format_comparison(comparison)
    assert [line.count("✗") for line in lines if line.startswith("  the earth")] == [2]
    assert lines[-1] == "All machines agree; 2 claims do not hold (✗)."


@pytest.mark.parametrize("machines", [["9.9"], ["2.6.31"], [""], ["live", "alive"]])
def test_an_unknown_machine_is_refused_before_anything_runs(machines):
    """With those there are."""

    def never(_bench):
        pytest.fail("it ran")

    with pytest.raises(UsageError, match="there is no machine") as caught:
        compare(asking(never), machines)
    assert f"live, {OLDEST}, {NEWEST}" in caught.value.hint


def test_columns_are_aligned_and_what_differs_is_marked():
    """A column a machine, then since when, and a sentence."""
    lines = format_comparison(compare(experiment_named("page-tables-stay-or-go"), [OLDEST, NEWEST]))
    assert lines[1] == "2.6.32: Linux 2.6.32 (a model, read and never run)"
    assert lines[2] == "6.18: Linux 6.18 (a model)"
    head = next(line for line in lines if line.split() == [OLDEST, NEWEST])
    marked = [line for line in lines if line.startswith("≠ ")]
    assert marked
    rows = [line for line in lines if line.startswith(("≠ ", "  ")) and not line.startswith("    ")]
    assert all(line[head.index(NEWEST) - 1] == " " != line[head.index(NEWEST)] for line in rows)
    assert any(line.startswith("    since 6.14: ") for line in lines)


def test_a_terminal_without_unicode_gets_ascii():
    """Marks and arrows too."""
    comparison = compare(experiment_named("page-tables-stay-or-go"), [OLDEST, NEWEST])
    assert all(line.isascii() for line in format_comparison(comparison, ascii_only=True))
    assert not all(line.isascii() for line in format_comparison(comparison))


def test_for_programs_everything_is_by_machine():
    """Observations and claims by name; changes with what the kernel changed."""
    document = comparison_document(compare(asking(_tables_go), [OLDEST, NEWEST]))
    assert document["machines"][0] == {
        "name": OLDEST,
        "where": "Linux 2.6.32 (a model, read and never run)",
        "skipped": None,
    }
    (claim,) = document["claims"]
    assert claim["observed"] == {OLDEST: "stay", NEWEST: "go"}
    assert claim["holds"] == {OLDEST: False, NEWEST: False}
    assert claim["differs"] is True
    assert claim["changes"][0]["since"] == "6.14"
    assert document["passed"] is False


@pytest.mark.parametrize("name", NAMES)
def test_no_experiment_claims_the_same_text_twice(name):
    """A row is found by its text."""
    for machine in (OLDEST, NEWEST):
        comparison = compare(experiment_named(name), [machine])
        texts = [row.text for row in comparison.rows]
        assert len(texts) == len(set(texts))
