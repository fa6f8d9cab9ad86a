"""`dontneed walk`: what it prints of a process that lives, of the model, and to those whom nothing is shown."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import dontneed
from dontneed.cli.main import main
from dontneed.observe.tables.page_tables import Walk

PID, ADDRESS = 4242, 0x7F12_3440_5000
TABLE, PAGE = 0x067, 0x8000_0000_0000_0067
RAW = (0x1000 << 12 | TABLE, 0x1001 << 12 | TABLE, 0x1002 << 12 | TABLE, 0x5C93 << 12 | PAGE)

GOLDEN = """\
process 4242, address 7f1234405000, 4 levels of page tables: frame 0x5c93

PGD[254] 0x0000000001000067  present writable user accessed dirty, frame 0x1000
   = leads to a page upper directory (PUD), a frame of its own: 512 entries for 512 GiB
PUD[72] 0x0000000001001067  present writable user accessed dirty, frame 0x1001
   = leads to a page middle directory (PMD), a frame of its own: 512 entries for 1.0 GiB
PMD[418] 0x0000000001002067  present writable user accessed dirty, frame 0x1002
   = leads to a page table (PTE), a frame of its own: 512 entries for 2.0 MiB
PTE[5] 0x8000000005c93067  present writable user accessed dirty no-execute, frame 0x5c93
   = maps a page: may be written, was written to
"""


@pytest.fixture
def walked(monkeypatch):
    """A process that we make up."""
    monkeypatch.setattr(
        "dontneed.observe.tables.page_tables.walk",
        lambda pid, address: Walk(pid, address & -4096, 4, RAW, zero_frame=7),
    )


@pytest.mark.usefixtures("walked")
@pytest.mark.parametrize("address", ["7f1234405000", "0x7f1234405000", "7F12344050FF"])
def test_each_entry_has_its_bits_its_words_and_its_meaning(capsys, address):
    """In hexadecimal, as everybody prints addresses; any address within the page."""
    assert main(["walk", str(PID), address]) == 0
    assert capsys.readouterr().out == GOLDEN


@pytest.mark.usefixtures("walked")
def test_json_has_levels_and_entries(capsys):
    """Each with table, index, raw, flags and frame; numbers are numbers."""
    assert main(["walk", str(PID), hex(ADDRESS), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["pid"], document["address"]) == (1, PID, ADDRESS)
    assert (document["levels"], document["frame"]) == (4, 0x5C93)
    assert [entry["table"] for entry in document["entries"]] == ["PGD", "PUD", "PMD", "PTE"]
    assert document["entries"][-1] == {
        "table": "PTE",
        "index": 5,
        "raw": RAW[-1],
        "flags": ["present", "writable", "user", "accessed", "dirty", "no-execute"],
        "frame": 0x5C93,
        "meaning": "maps a page: may be written, was written to",
    }


@pytest.mark.usefixtures("walked")
def test_the_code_that_is_shown_does_the_same(capsys, monkeypatch):
    """It runs, and prints the same entries."""
    monkeypatch.setattr(dontneed, "walk", lambda pid, address: Walk(pid, address, 4, RAW))
    assert main(["walk", str(PID), hex(ADDRESS), "--show-code"]) == 0
    exec(capsys.readouterr().out, {})  # noqa: S102 - our own code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"4 {0x5C93}"
    assert lines[4].startswith("PTE 5 0x8000000005c93067 present writable")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["walk"], "takes a PID and an ADDRESS"),
        (["walk", "1"], "takes a PID and an ADDRESS"),
        (["walk", "one", "1000"], "a pid is a number"),
        (["walk", "1", "heap"], "an address is a hexadecimal number"),
        (["walk", "1", "-0x10"], None),
        (["walk", "1", "1_000"], "an address is a hexadecimal number"),
        (["walk", "1", "0x" + "f" * 40], "an address is a hexadecimal number"),
        (["walk", "1", "1000", "--before-after"], "without a PID"),
        (["walk", "--before-after", "--show-code"], "without --show-code"),
        (["walk", "1", "1000", "--machine", "6.18"], "--machine goes with --before-after"),
        (["walk", "--before-after", "--machine", "plan9"], "there is no machine"),
    ],
)
def test_a_call_that_makes_no_sense_is_a_usage_error(capsys, arguments, words):
    """Exit code 2, and what would be right."""
    try:
        code = main(arguments)
    except SystemExit as ended:  # argparse's own
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2
    assert words is None or (words in said and "try: " in said)


# The model, which everybody may see


def test_the_model_shows_what_the_kernel_would(as_nobody):
    """No rights, no kernel: the way to a page before and after each touch and discard."""
    done = as_nobody.command("walk", "--before-after", "--machine", "6.18")
    assert done.returncode == 0, done.stderr
    moments = done.stdout.split("\n\n")
    assert moments[0] == "Linux 6.18 (a model), 4 levels of page tables"
    assert "maps the zero page" in done.stdout
    assert "madvise(p, 2 << 20, MADV_DONTNEED);" in done.stdout
    assert "huge no-execute" in done.stdout
    assert "(as before)" in done.stdout


def test_an_old_kernel_keeps_its_tables_and_has_no_huge_pages(capsys):
    """2.6.32: a discard frees frames and never tables; what is not done is said."""
    assert main(["walk", "--before-after", "--machine", "2.6.32"]) == 0
    said = capsys.readouterr().out
    given_back = said.partition("6. Give all of them back")[2]
    assert "PTE[0] 0x0000000000000000  none" in given_back
    assert "not done: Linux 2.6.32 has no transparent huge pages" in said


def test_the_moments_as_json_have_the_same_entries(capsys):
    """Of the same shape as a live walk's."""
    assert main(["walk", "--before-after", "--machine", "6.18", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["machine"] == "6.18"
    for moment in document["moments"]:
        assert moment["levels"] == 4
        assert set(moment["entries"][0]) == {"table", "index", "raw", "flags", "frame", "meaning"}
    raws = [moment["entries"][-1]["raw"] for moment in document["moments"]]
    assert [bool(raw) for raw in raws] == [False, True, True, False, True, False, True, True, False, True, False]


# Live


def test_without_rights_the_model_is_offered(as_nobody):
    """Exit code 3, what is missing, and what goes without it."""
    refused = as_nobody.command("walk", "1", "1000")
    assert refused.returncode == 3
    assert "page tables cannot be read" in refused.stderr
    assert "dontneed walk --before-after --machine 6.18" in refused.stderr


@pytest.mark.needs_root
@pytest.mark.needs_feature("kernel memory")
def test_a_live_process_is_walked(child):
    """From the start of its first mapping, which is present."""
    process = child()
    start = f"{dontneed.look(process.pid).mappings[0].start:x}"
    command = [sys.executable, "-m", "dontneed", "walk", str(process.pid), start]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"process {process.pid}, address {start}, ")
    assert "PTE[" in done.stdout


@pytest.mark.needs_root
@pytest.mark.needs_feature("kernel memory")
def test_before_and_after_tell_the_story_live(capsys):
    """The seed's way: follow the directories to the page table entry."""
    assert main(["walk", "--before-after"]) == 0
    said = capsys.readouterr().out
    assert "(live)" in said
    assert said.index("maps the zero page") < said.index("maps a page: may be written, was written to")


def test_a_process_that_is_not_there_is_gone(capsys):
    """Exit code 5, whoever asks."""
    assert main(["walk", "4194303", "1000"]) == 5
    assert "there is no process" in capsys.readouterr().err
