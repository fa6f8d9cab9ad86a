"""The table of versions: what changed between kernels, and how a kernel behaves by it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from dontneed.abi.advice import Advice
from dontneed.errors import UsageError
from dontneed.model.steps import STEPS
from dontneed.model.versions import (
    LAST,
    NEWEST,
    OLDEST,
    Behaviour,
    behaviour_at,
    is_modelled,
    modelled_version,
    numbers_of,
)

DEFAULTS = behaviour_at(OLDEST)
FIELDS = set(Behaviour.__annotations__) - {"version", "lines_to_come"}
SOURCE = re.compile(r"\b(?:[0-9a-f]{11,12}|memory|measured (?:on|between)|\w+\(\d\)|mm/\w+\.c)")


def by_name(step) -> str:
    """How a step is called in the list of tests."""
    return f"{step.since}-{step.what[:30]}"


def test_steps_ascend():
    """So that the last that sets a field is the newest."""
    versions = [numbers_of(step.since) for step in STEPS]
    assert [(one, other) for one, other in pairwise(versions) if one > other] == []


def test_steps_lie_between_the_ends():
    """Nothing is known of what is older, or came later."""
    assert all(numbers_of(OLDEST) < numbers_of(step.since) <= numbers_of(LAST) for step in STEPS)


@pytest.mark.parametrize("step", STEPS, ids=by_name)
def test_a_step_changes_something(step):
    """A field of `Behaviour` gets another value than it had, or a line appears; and the kernel before has neither."""
    assert set(step.changes) <= FIELDS
    assert step.changes or step.lines
    earlier = STEPS[: STEPS.index(step)]
    before = {name: value for each in earlier for name, value in each.changes.items()}
    unchanged = {name for name, value in step.changes.items() if before.get(name, getattr(DEFAULTS, name)) == value}
    assert unchanged == set()
    assert not set(step.lines) & {line for each in earlier for line in each.lines}


@pytest.mark.parametrize("step", STEPS, ids=by_name)
def test_a_step_says_how_it_is_known(step):
    """By a commit, a file, a manual page, a measurement; or it admits that it is from memory."""
    assert SOURCE.search(step.source)


@pytest.mark.parametrize("step", STEPS, ids=by_name)
def test_a_measured_step_names_the_kernels(step):
    """It came after the first of the two, and was there in the second."""
    if found := re.search(r"measured between ([\d.]+) and ([\d.]+)", step.source):
        not_yet, there = map(numbers_of, found.groups())
        assert not_yet < numbers_of(step.since) <= there


def test_every_field_is_set_by_a_step():
    """What never changes is no difference between kernels."""
    assert FIELDS - {name for step in STEPS for name in step.changes} == set()


def test_every_field_is_documented():
    """Each has its place among the attributes."""
    documented = set(re.findall(r"\w+", Behaviour.__doc__ or ""))
    assert FIELDS - documented == set()


def test_the_oldest_kernel_has_nothing_of_what_came_later():
    """No field is changed, and every line is to come."""
    lines = {line for step in STEPS for line in step.lines}
    assert Behaviour(version=(2, 6, 32), lines_to_come=frozenset(lines)) == DEFAULTS
    assert DEFAULTS.nonlinear
    assert not DEFAULTS.knows(Advice.FREE)
    assert not DEFAULTS.prints("VmSwap")


def test_the_last_kernel_has_all():
    """Every step was taken, and no line is to come."""
    last = behaviour_at(LAST)
    assert last.lines_to_come == frozenset()
    changes = {name: value for step in STEPS for name, value in step.changes.items()}
    assert {name: getattr(last, name) for name in changes} == changes


def test_a_series_is_its_newest_stable_release():
    """What a stable release took back the series has, and its early releases have not."""
    assert behaviour_at("6.18").guard_is_sticky
    assert behaviour_at("6.18.44").guard_is_sticky
    assert not behaviour_at("6.18.15").guard_is_sticky
    assert not behaviour_at("6.17").guard_is_sticky
    assert behaviour_at("6.18").version == (6, 18)


def test_what_follows_the_third_number_says_nothing():
    """Distributions write there what they like."""
    assert behaviour_at("6.18.44-cloud-amd64") == behaviour_at("6.18.44")
    assert numbers_of("2.6.32.67") == (2, 6, 32)
    assert behaviour_at("6.12-rc3").version == (6, 12)


@pytest.mark.parametrize("version", ["", "6", "six", "6.x", "v6.1", "6." + "1" * 5000])
def test_what_is_no_version_is_told_so(version):
    """With one that would be one."""
    with pytest.raises(UsageError, match="no version of Linux") as caught:
        behaviour_at(version)
    assert OLDEST in caught.value.hint
    assert not is_modelled(version)


@pytest.mark.parametrize("version", ["2.4.20", "2.6.31", "2.6"])
def test_older_kernels_have_no_model(version):
    """And the error says from where on they have."""
    with pytest.raises(UsageError, match=f"no model of Linux {version}") as caught:
        behaviour_at(version)
    assert f"the oldest is {OLDEST}" in caught.value.hint
    assert not is_modelled(version)


@pytest.mark.parametrize(
    ("version", "modelled"),
    [
        (OLDEST, True),
        ("2.6.32.67", True),
        (NEWEST, True),
        ("6.18.44", True),
        (LAST, True),
        (f"{LAST}.4", True),
        ("9.0", False),
    ],
)
def test_versions_up_to_the_last_are_modelled(version, modelled):
    """With its stable releases, and no further."""
    assert is_modelled(version) == modelled


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-generic", "6.18.44"),
        ("6.18", "6.18"),
        (f"{LAST}.9", LAST),
        ("9.0.1", LAST),
        ("2.6.32-754.el6", "2.6.32"),
    ],
)
def test_newer_kernels_are_told_of_by_the_last(release, version):
    """All others by their own model."""
    assert modelled_version(release) == version
