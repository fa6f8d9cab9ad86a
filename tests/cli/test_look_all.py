"""`dontneed look --all`: what it prints of processes that we make up, and of this machine.

The golden files are renewed as those of `dontneed look`: see tests/cli/test_look.py.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dontneed.cli.look import _SORTS_OF_ALL
from dontneed.cli.main import main
from dontneed.observe.holders.holder import SORT_KEYS, Holder, Holders, HoldersTotal, total_of

GOLDEN = Path(__file__).parent / "golden"
PATIENCE_SECONDS = 60
MIB = 1 << 20


def holder(pid, command, rss, uss, pss, **more):
    """A process, in KiB."""
    amounts = [None if each is None else each << 10 for each in (rss, uss, pss)]
    fields = {
        "swap_bytes": 0,
        "hugetlb_bytes": 0,
        "page_table_bytes": (40 + pid % 7 * 4) << 10,
        "method": "page tables",
    }
    return Holder(pid, command, *amounts, **{**fields, **more})


PROCESSES = (
    holder(1, "init", 12_400, None, None, method="status"),
    holder(310, "database", 8_389_952, 8_388_700, 8_389_001, page_table_bytes=16 << 20, hugetlb_bytes=64 * MIB),
    holder(4_242, "\x1b[31mserver\n", 90_112, 41_000, 60_123, swap_bytes=12 * MIB),
    holder(4_243, "\udcff", 90_112, 41_000, 60_123, swap_bytes=12 * MIB, same_as=4_242),
    holder(7_001, "python3", 9_876, 1_800, 3_210),
    holder(7_002, "python3", 9_876, 1_804, 3_214),
)
NOTES = ("USS and PSS of 1 process are not known, by want of rights; root needs CAP_SYS_PTRACE",)


@pytest.fixture
def told(monkeypatch, capsys):
    """Run the command on the processes above; what it printed."""

    def run(*words, processes=PROCESSES, notes=NOTES):
        method = " + ".join(dict.fromkeys(each.method for each in processes[::-1]))
        holders = Holders(processes, total_of(processes), method, 0.0421, notes)
        monkeypatch.setattr("dontneed.observe.holders.look_all.look_all", lambda _method="auto": holders)
        code = main(["look", "--all", *words])
        printed = capsys.readouterr()
        assert (code, printed.err) == (0, "")
        return printed.out

    return run


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("look-all.txt", ()),
        ("look-all-top.txt", ("--top", "2", "--sort", "rss")),
        ("look-all.json", ("--json",)),
        ("look-all.csv", ("--csv", "--sort", "uss")),
        ("look-all-code.txt", ("--show-code", "--sort", "uss", "--top", "5")),
    ],
)
def test_a_look_at_all_is_printed_as_the_golden_files_have_it(told, name, words):
    """Every form, whole, down to the space."""
    text = told(*words)
    path = GOLDEN / name
    if os.environ.get("DONTNEED_RENEW_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{name} was written anew: read it before you believe it")
    assert text == path.read_text(encoding="utf-8")


def test_the_plainest_call_says_what_the_parsed_one_says(told):
    """It takes another way, without a parser."""
    assert told() == told("--top", "20", "--sort", "pss")


def test_columns_that_are_empty_are_left_out(told):
    """Of processes without swap and hugetlb pages there is no such column."""
    titles = told(processes=PROCESSES[-2:], notes=()).splitlines()[2].split()
    assert titles == ["RSS", "USS", "PSS", "TABLES", "PID", "COMMAND"]


def test_where_no_shares_are_known_the_sum_says_so(told):
    """RSS counts what is shared once for each."""
    first, *_ = told(processes=PROCESSES[:1]).splitlines()
    assert first == "1 process: 12.1 MiB RSS, shared pages once a process, 44.0 KiB of page tables"


@pytest.mark.parametrize("words", [(), ("--csv",), ("--json",)])
def test_no_form_prints_what_a_terminal_would_obey(told, words):
    """A process may call itself as it likes."""
    assert all(letter.isprintable() or letter == "\n" for letter in told(*words))


def test_the_orders_of_the_command_are_those_of_the_library():
    """The command names them without importing what has them."""
    assert tuple(SORT_KEYS) == _SORTS_OF_ALL


@pytest.mark.parametrize("key", SORT_KEYS)
def test_processes_come_in_the_order_that_is_asked_for(told, key):
    """In each form the same."""
    pids = [str(each.pid) for each in Holders(PROCESSES, total_of(PROCESSES), "", 0.0).largest(by=key)]
    assert [row["pid"] for row in csv.DictReader(io.StringIO(told("--csv", "--sort", key)))] == pids
    assert [str(row["pid"]) for row in json.loads(told("--json", "--sort", key))["processes"]] == pids
    table = told("--sort", key).splitlines()[2:-3]
    place = table[0].split().index("PID")
    rows = [line.replace("iB", "").replace(" M", "").replace(" K", "").replace(" G", "").split() for line in table[1:]]
    assert [row[place] for row in rows] == pids


# Used wrongly


@pytest.mark.parametrize("words", [("--pmap",), ("--smaps",), ("--pages", "--json"), ("--diff", "before.json")])
def test_what_is_about_mappings_goes_without_all(capsys, words):
    """An option that would be ignored is refused by name."""
    assert main(["look", "--all", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{words[0]} is about the mappings of one process: it goes without --all" in printed.err
    assert f"  try: dontneed look PID {words[0]}" in printed.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--all", "--sort", "address"), "processes are not ordered by address"),
        (("1", "--sort", "pss"), "the mappings of a process are not ordered by pss"),
    ],
)
def test_an_order_of_the_other_look_is_refused(capsys, words, said):
    """With those that there are."""
    assert main(["look", *words]) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert "  try: by " in printed.err


# This machine


def dontneed(*words):
    """What the command prints, when it goes well."""
    done = subprocess.run(
        [sys.executable, "-m", "dontneed", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


HOLD = """if True:
    import mmap
    held = mmap.mmap(-1, 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held[:] = b"x" * len(held)
"""


def test_json_has_what_the_documentation_promises(child):
    """Schema 1; every field of a process and of the sums."""
    pid = child(HOLD).pid
    document = json.loads(dontneed("look", "--all", "--json"))
    assert list(document) == ["schema", "method", "seconds", "notes", "total", "processes"]
    assert document["schema"] == 1
    assert set(document["total"]) == set(HoldersTotal._fields)
    rows = {row["pid"]: row for row in document["processes"]}
    assert all(set(row) == set(Holder._fields) for row in rows.values())
    assert 64 * MIB < rows[pid]["uss_bytes"] <= rows[pid]["pss_bytes"] <= rows[pid]["rss_bytes"]
    assert document["total"]["processes"] == len(rows)


def test_a_process_that_holds_much_is_among_the_first(child):
    """By PSS, among those that are shown without a word of how many."""
    pid = child(HOLD).pid
    lines = dontneed("look", "--all").splitlines()
    titles = lines[2].split()
    assert titles[:3] == ["RSS", "USS", "PSS"]
    assert titles[-2:] == ["PID", "COMMAND"]
    assert any(f" {pid}  " in line for line in lines[3:23])


@pytest.mark.needs_root
def test_nobody_gets_a_table_with_dashes_and_the_reason(child, as_nobody):
    """Exit code 0: what can be seen is seen."""
    pid = child(HOLD).pid
    done = as_nobody.command("look", "--all", "--top", "0")
    assert (done.returncode, done.stderr) == (0, "")
    [row] = [line.split() for line in done.stdout.splitlines() if f" {pid}  " in line]
    assert row[2:4] == ["-", "-"]
    assert "note: USS and PSS of " in done.stdout
    assert "run as root (sudo)" in done.stdout


@pytest.mark.parametrize("form", [("--top", "0"), ("--json",), ("--csv",)])
def test_whoever_has_seen_enough_may_go(form):
    """`dontneed look --all | head -1`: exit code 0, and not a word about it."""
    words = [sys.executable, "-m", "dontneed", "look", "--all", *form]
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | head -1', "bash", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
