"""What `--json` says, and that a saved look is read back as it was."""

from __future__ import annotations

import json

import pytest

from dontneed.errors import UsageError
from dontneed.kernel.smaps import SmapsCounters, parse_smaps
from dontneed.kernel.status import Counters
from dontneed.observe.address_space import AddressSpace, Drift, Total
from dontneed.observe.difference import difference_of
from dontneed.observe.mapping import Mappings
from dontneed.observe.residency import count_by_smaps
from dontneed.report.json import address_space_document, difference_document, format_json, parse_address_space

SMAPS = b"""\
5600000000-5600004000 rw-p 00001000 fe:01 77 /srv/a \\012\x1b\xff (deleted)
Rss:                  12 kB
Pss:                   5 kB
Private_Dirty:         4 kB
Swap:                  4 kB
VmFlags: rd wr lo
7f00000000-7f00001000 ---p 00000000 00:00 0
Rss:                   0 kB
VmFlags: mr
"""
COUNTERS = Counters(rss_bytes=12288, swap_bytes=4096, minor_faults=12, threads=1)


def space(*, smaps: bool = False) -> AddressSpace:
    """The process of SMAPS."""
    table, counted = parse_smaps(SMAPS)
    residency = count_by_smaps(counted)
    return AddressSpace(
        pid=7,
        command="a\nb",
        mappings=Mappings(table, ["file", "anonymous"], residency, counted if smaps else None),
        total=Total(20480, 12288, 4096, 0, None, 0),
        counters=COUNTERS,
        drift=Drift(0, 0, 0, 0.001),
        method="maps",
        notes=("a note",),
    )


def document(*, smaps: bool = False) -> dict:
    """What a program gets that parses what is printed."""
    looked = space(smaps=smaps)
    return json.loads(format_json(address_space_document(looked, looked.mappings)))


def test_the_schema_comes_first():
    """A program knows what it reads before it reads it."""
    assert next(iter(document().items())) == ("schema", 1)


def test_records_become_objects_and_amounts_that_nobody_knows_are_left_out():
    """`zero_bytes` cannot be told here, and PSS was not asked for."""
    told = document()
    assert told["counters"] == COUNTERS.as_dict()
    assert told["total"] == {
        "size_bytes": 20480, "rss_bytes": 12288, "swap_bytes": 4096, "huge_bytes": 0, "hugetlb_bytes": 0
    }  # fmt: skip
    assert (told["pid"], told["command"], told["notes"]) == (7, "a\nb", ["a note"])
    assert "pages" not in told


def test_a_mapping_has_integers_for_addresses_and_its_size():
    """And a name as the kernel has it, with surrogates for bytes that are no UTF-8."""
    first = document()["mappings"][0]
    assert first == {
        "start": 0x5600000000, "end": 0x5600004000, "size_bytes": 16384, "perms": "rw-p", "offset": 4096,
        "device": "fe:01", "inode": 77, "name": "/srv/a \\012\x1b\udcff (deleted)", "kind": "file",
        "rss_bytes": 12288, "swap_bytes": 4096, "huge_bytes": 0, "zero_bytes": None, "hugetlb_bytes": 0,
        "accessed_bytes": None, "dirty_bytes": 4096,
    }  # fmt: skip


def test_smaps_stands_beside_the_fields_of_the_mapping():
    """Not inside, so that a program finds `pss_bytes` where it finds `rss_bytes`."""
    first, second = document(smaps=True)["mappings"]
    assert (first["pss_bytes"], first["private_dirty_bytes"]) == (5 << 10, 4 << 10)
    assert first["flags"] == ["readable", "writable", "locked"]
    assert set(first) == set(second) > {*SmapsCounters._fields}


def test_what_is_printed_is_ascii_on_whatever_terminal():
    """Control characters and odd bytes are escapes in JSON."""
    looked = space()
    text = format_json(address_space_document(looked, looked.mappings))
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


def test_a_look_that_was_saved_before_page_tables_were_read_is_read_back():
    """Without the two fields that they brought: what is not known is None, as by any other method."""
    looked = space()
    saved = json.loads(format_json(address_space_document(looked, looked.mappings)))
    for mapping in saved["mappings"]:
        del mapping["accessed_bytes"], mapping["dirty_bytes"]
    _, mappings, _ = parse_address_space(json.dumps(saved))
    assert mappings == [each.replace(accessed_bytes=None, dirty_bytes=None) for each in looked.mappings]


@pytest.mark.parametrize("smaps", [False, True])
def test_a_saved_look_is_read_back_as_it_was(smaps):
    """Every field of every mapping, and all counters."""
    looked = space(smaps=smaps)
    saved = format_json(address_space_document(looked, looked.mappings))
    assert parse_address_space(saved) == (7, list(looked.mappings), COUNTERS)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "7", '"text"', "{}", '{"schema": 1}', '{"schema": 1, "mappings": 3}', "[" * 50, "{'schema': 1}"],
)
def test_what_is_no_saved_look_is_refused(text):
    """With how to save one."""
    with pytest.raises(UsageError, match="does not hold") as raised:
        parse_address_space(text)
    assert "--json > FILE" in raised.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "this is schema 2"),
        ({"mappings": []}, "saved with --top"),
        ({"counters": {"rss_bytes": 1, "colour": "red"}}, "does not hold"),
        ({"mappings": [{"start": "low", "end": "high"}]}, "does not hold"),
    ],
)
def test_a_look_that_was_changed_is_refused(change, said):
    """Another schema, some of the mappings, fields that nobody has heard of."""
    with pytest.raises(UsageError, match=said) as raised:
        parse_address_space(json.dumps({**document(), **change}))
    assert raised.value.hint


def test_a_difference_has_the_mapping_as_it_is_now_and_its_changes():
    """What has gone is as it was."""
    before = list(space().mappings)
    after = [before[0].replace(rss_bytes=0, swap_bytes=0, end=before[0].end + 4096)]
    told = json.loads(format_json(difference_document(difference_of(before, after, COUNTERS, Counters()))))
    (changed,) = told["changed"]
    assert (changed["size_change_bytes"], changed["rss_change_bytes"], changed["swap_change_bytes"]) == (
        4096, -12288, -4096
    )  # fmt: skip
    assert changed["end"] == after[0].end
    assert [mapping["start"] for mapping in told["gone"]] == [0x7F00000000]
    assert told["come"] == []
    assert told["counters"]["minor_faults"] == -12


def test_what_has_no_form_is_an_error():
    """Rather than a string that looks like one."""
    with pytest.raises(TypeError, match="set has no JSON form"):
        format_json({"numbers": {1, 2}})
