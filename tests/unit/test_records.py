"""`Record` reads like a frozen, slotted dataclass; what is held here is that it also behaves like one."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import dontneed
from dontneed.records import Record


class Region(Record):
    """A record with a default."""

    start: int
    size_bytes: int = 4096

    @property
    def end(self):
        """Computed, no field."""
        return self.start + self.size_bytes


class NamedRegion(Region):
    """A record with one more field, and another default for an inherited one."""

    size_bytes: int = 8192
    name: str = ""


class CheckedRegion(Region):
    """A record whose own `__init__` goes through its base's."""

    def __init__(self, start):
        super().__init__(start, size_bytes=start * 2)


class Empty(Record):
    """A record without fields."""


def test_takes_fields_by_position_and_by_name():
    """Arguments fill the fields in the order in which they are annotated; defaults fill the rest."""
    assert Region(1, 2).as_dict() == {"start": 1, "size_bytes": 2}
    assert Region(size_bytes=2, start=1) == Region(1, 2)
    assert Region(1).size_bytes == 4096
    assert Empty().as_dict() == {}


@pytest.mark.parametrize(
    ("values", "named", "why"),
    [
        ((), {}, "missing 1 required positional argument: 'start'"),
        ((1, 2, 3), {}, "from 2 to 3 positional arguments but 4 were given"),
        ((1,), {"length": 2}, "unexpected keyword argument 'length'"),
        ((1,), {"start": 2}, "multiple values for argument 'start'"),
    ],
)
def test_refuses_bad_arguments(values, named, why):
    """A wrong call is a TypeError that names the class and the field, on the first call and on later ones."""

    class Fresh(Region):
        pass

    for _first_then_compiled in range(2):
        with pytest.raises(TypeError, match=rf"Fresh\.__init__\(\) .*{why}"):
            Fresh(*values, **named)


def test_is_frozen():
    """No field can be set or deleted, and the message says what to do instead."""
    region = Region(1)
    with pytest.raises(AttributeError, match=r"Region is frozen; replace\(\)"):
        region.start = 2
    with pytest.raises(AttributeError, match="frozen"):
        del region.start
    assert region == Region(1)


def test_has_slots_only():
    """An instance has no dictionary, so a misspelt attribute cannot be added even from behind."""
    region = NamedRegion(1)
    assert not hasattr(region, "__dict__")
    with pytest.raises(AttributeError):
        object.__setattr__(region, "strat", 2)


def test_inherits_fields_before_its_own():
    """A subclass has its base's fields first; redeclaring one changes its default and not its place."""
    assert NamedRegion(1).as_dict() == {"start": 1, "size_bytes": 8192, "name": ""}
    assert NamedRegion(1, 2, "heap").end == 3
    assert Region(1).size_bytes == 4096


def test_own_init_stays():
    """A class with an `__init__` of its own keeps it after the base's was compiled, and the base keeps its own."""
    for start in (1, 2, 3):
        assert CheckedRegion(start).size_bytes == 2 * start
    with pytest.raises(TypeError, match="CheckedRegion"):
        CheckedRegion(1, 2)
    assert Region(1, 5).size_bytes == 5


def test_base_first_made_through_a_subclass_keeps_its_own_fields():
    """Which class of a family is made first changes nothing: each compiles its own `__init__`."""

    class Base(Record):
        start: int

    class Derived(Base):
        name: str

        def __init__(self, start):
            super().__init__(start)
            object.__setattr__(self, "name", "derived")

    assert Derived(1).as_dict() == {"start": 1, "name": "derived"}
    assert Base(1).as_dict() == {"start": 1}
    assert Derived(2).as_dict() == {"start": 2, "name": "derived"}


def test_is_equal_by_type_and_fields():
    """Equal are records of the same class with equal fields, and nothing else."""
    assert Region(1, 2) == Region(1, 2)
    assert Region(1, 2) != Region(1, 3)
    assert Region(1, 2) != NamedRegion(1, 2)
    assert Region(1, 2) != (1, 2)
    assert Region(1, 2).__eq__((1, 2)) is NotImplemented


def test_is_hashed_by_type_and_fields():
    """Equal records are one key, records of other classes another; a field that cannot be hashed is a TypeError."""
    assert {Region(1, 2), Region(1, 2), NamedRegion(1, 2)} == {Region(1, 2), NamedRegion(1, 2)}
    assert len({Region(1, 2), Region(1, 2), NamedRegion(1, 2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Region([]))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_survives_pickle(protocol):
    """Every protocol brings back an equal record of the same class."""
    for record in (NamedRegion(1, 2, "heap"), CheckedRegion(3), Empty()):
        again = pickle.loads(pickle.dumps(record, protocol))  # noqa: S301 - our own bytes
        assert again == record
        assert type(again) is type(record)


def test_copies():
    """A copy shares its values, a deep copy does not; both are equal to the original."""
    record = NamedRegion(1, 2, ["heap"])
    assert copy.copy(record) == copy.deepcopy(record) == record
    assert copy.copy(record).name is record.name
    assert copy.deepcopy(record).name is not record.name


def test_replace_changes_a_copy():
    """`replace` gives a record of the same class, leaves the original, and refuses what is no field."""
    record = NamedRegion(1, 2, "heap")
    assert record.replace(start=5) == NamedRegion(5, 2, "heap")
    assert record == NamedRegion(1, 2, "heap")
    with pytest.raises(TypeError, match="strat"):
        record.replace(strat=5)


def test_repr_can_be_pasted():
    """`repr` names the class and every field, and is the expression that makes the record."""
    record = NamedRegion(1, 2, "heap")
    assert repr(record) == "NamedRegion(start=1, size_bytes=2, name='heap')"
    assert eval(repr(record)) == record  # noqa: S307 - our own text
    assert repr(Empty()) == "Empty()"


def test_import_is_cheap():
    """Records load none of the modules that they stand in for."""
    code = "import sys, dontneed.records; sys.exit(len({'dataclasses', 'inspect', 'typing'} & set(sys.modules)))"
    source = str(Path(dontneed.__path__[0]).parent)
    subprocess.run([sys.executable, "-S", "-c", code], check=True, env={**os.environ, "PYTHONPATH": source})
