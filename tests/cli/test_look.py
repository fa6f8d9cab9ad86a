"""`dontneed look`: what it prints of a process that we make up, and of processes that live.

The golden files hold what the command prints of one captured process, with one of every kind of memory. After a change
that is meant, `DONTNEED_RENEW_GOLDEN=1 pytest tests/cli/test_look.py` writes them anew, and fails: read them first.
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

from dontneed.cli.main import main
from dontneed.kernel.smaps import SmapsCounters, parse_smaps
from dontneed.kernel.status import Counters, parse_status
from dontneed.observe.address_space import AddressSpace, Drift, _total
from dontneed.observe.mapping import Mapping, Mappings, kind_of
from dontneed.observe.residency import Residency, count_by_smaps

GOLDEN = Path(__file__).parent / "golden"
PATIENCE_SECONDS = 60
ATTEMPTS = 20
"""To find a moment in which nothing moves; a child at rest needs one."""

PID = 4242
THREAD_STACK, ONLY_READ = 0x7FA3B4700000, 0x7FA3B5000000
"""What smaps does not tell: a thread's stack pointer lies in the one, the other was only read."""


# A captured process


def captured(*, smaps: bool, edits: tuple[tuple[bytes, bytes], ...]) -> AddressSpace:
    """The process whose smaps and status lie in golden/, as `look` would return it; `edits` change its smaps."""
    text = (GOLDEN / "process.smaps").read_bytes()
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    table, counted = parse_smaps(text)
    kinds = table.classify(kind_of)
    kinds[table.starts.index(THREAD_STACK)] = "thread stack"
    residency = count_by_smaps(counted) if smaps else as_by_tables(counted)
    residency.zero = [0] * len(table)
    residency.accessed = [each.referenced_bytes for each in counted]
    residency.zero[table.starts.index(ONLY_READ)] = 2 << 20
    return AddressSpace(
        pid=PID,
        command="python3",
        mappings=Mappings(table, kinds, residency, counted if smaps else None),
        total=_total(table, residency, counted if smaps else None),
        counters=counters(rss_bytes=sum(residency.rss), swap_bytes=sum(residency.swap)),
        drift=Drift(rss_bytes=8192 if edits else 0, size_bytes=0, unmatched_bytes=0, seconds=0.00163),
        method=f"{'smaps' if smaps else 'maps'} + page tables",
        notes=("1 running or hidden threads: their stacks are listed as anonymous memory",) if edits else (),
    )


def as_by_tables(counted: list[SmapsCounters]) -> Residency:
    """What the page tables would have said: the same, if nobody else has the pages."""
    residency = count_by_smaps(counted)
    residency.method = "page tables"
    return residency


def counters(**changed: int) -> Counters:
    """The counters of its status, with faults, which stand in another file."""
    told = parse_status((GOLDEN / "process.status").read_bytes())
    return Counters(**{**told, "minor_faults": 5071, "major_faults": 3, **changed})


LATER = (
    (b"5637c5e35000-5637c6233000 rw-p", b"5637c5e35000-5637c6633000 rw-p"),
    (b"Rss:                2936 kB", b"Rss:                7032 kB"),
    (
        b"7fa3b69bb000-7fa3b69be000 rw-p 00000000 fe:00 2165101",
        b"7fa3b69b0000-7fa3b69b3000 rw-p 00000000 fe:00 2165109",
    ),
    (b"Rss:                8192 kB", b"Rss:                2048 kB"),
    (b"AnonHugePages:      8192 kB", b"AnonHugePages:      2048 kB"),
    (b"Swap:               1024 kB", b"Swap:                512 kB"),
)
"""The heap grew and half of it came in from swap, a file was mapped elsewhere, and huge pages went back."""


@pytest.fixture
def told(monkeypatch, capsys):
    """Run the command on the captured process; what it printed. A look with `edits` is a look at it later."""

    def run(*words: str, edits: tuple[tuple[bytes, bytes], ...] = ()) -> str:
        def look(pid, *, pages=False, smaps=False, method="auto"):
            assert (pid, pages, method) == (PID, False, "auto")
            return captured(smaps=smaps, edits=edits)

        monkeypatch.setattr("dontneed.cli.look.look", look)
        monkeypatch.setattr("dontneed.kernel.cmdline.read_command_line", lambda _: "python3 -m \x1b[31mserver")
        code = main(["look", str(PID), *words])
        printed = capsys.readouterr()
        assert (code, printed.err) == (0, "")
        return printed.out

    return run


def hold_to_golden(name: str, text: str) -> None:
    """Compare with a golden file; see the top of this module."""
    path = GOLDEN / name
    if os.environ.get("DONTNEED_RENEW_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
        pytest.fail(f"{name} was written anew: read it before you believe it")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("look.txt", ()),
        ("look-top.txt", ("--top", "3", "--sort", "address")),
        ("look-smaps.txt", ("--smaps", "--top", "8")),
        ("look.json", ("--json",)),
        ("look-smaps.json", ("--json", "--smaps", "--top", "2", "--sort", "rss")),
        ("look.csv", ("--csv",)),
        ("look-smaps.csv", ("--csv", "--smaps", "--sort", "swap", "--top", "3")),
        ("look.pmap", ("--pmap",)),
        ("show-code.txt", ("--show-code", "--smaps", "--sort", "size", "--top", "5")),
    ],
)
def test_a_look_is_printed_as_the_golden_files_have_it(told, name, words):
    """Every form, whole, down to the space."""
    hold_to_golden(name, told(*words))


@pytest.mark.parametrize(("name", "words"), [("difference.txt", ()), ("difference.json", ("--json",))])
def test_a_difference_is_printed_as_the_golden_files_have_it(told, tmp_path, name, words):
    """The counters first, then mappings gone, come and changed, the largest change first."""
    saved = tmp_path / "before.json"
    saved.write_text(told("--json"))
    hold_to_golden(name, told("--diff", str(saved), *words, edits=LATER))


@pytest.mark.parametrize("words", [(), ("--top", "0"), ("--smaps",), ("--csv",), ("--pmap",), ("--json",)])
def test_no_form_prints_what_a_terminal_would_obey(told, words):
    """A file's name there holds a newline, an escape sequence, and a byte that is no UTF-8."""
    assert all(letter.isprintable() or letter == "\n" for letter in told(*words))


# Processes that live


def dontneed(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "dontneed", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, **environment},
    )


def succeeded(*words: object, **environment: str) -> str:
    """What the command printed, when it went well."""
    done = dontneed(*words, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


HOLD = """if True:
    import mmap
    held = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held[:] = b"x" * len(held)
"""


def test_json_has_what_the_documentation_promises(child):
    """Schema 1; every field of a mapping and of the totals, addresses as integers, sizes in bytes."""
    pid = child(HOLD).pid
    document = json.loads(succeeded("look", pid, "--json"))
    assert document["schema"] == 1
    assert (document["pid"], document["notes"]) == (pid, [])
    assert document["method"].startswith("maps + ")
    assert {"size_bytes", "rss_bytes", "swap_bytes"} <= set(document["total"])
    assert set(document["counters"]) == set(Counters._fields)
    assert set(document["drift"]) == set(Drift._fields)
    for mapping in document["mappings"]:
        assert set(mapping) == {*Mapping._fields, "size_bytes"} - {"smaps"}
        assert mapping["size_bytes"] == mapping["end"] - mapping["start"]
    for sums in ("rss_bytes", "swap_bytes", "size_bytes"):
        assert document["total"][sums] == sum(mapping[sums] for mapping in document["mappings"])
    assert max(mapping["rss_bytes"] for mapping in document["mappings"]) >= 4 << 20


def test_json_with_smaps_has_every_counter_of_smaps(child):
    """Beside the fields of the mapping, with VmFlags as words."""
    for mapping in json.loads(succeeded("look", child().pid, "--json", "--smaps"))["mappings"]:
        assert set(mapping) == {*Mapping._fields, *SmapsCounters._fields, "size_bytes"} - {"smaps"}
        assert all(isinstance(flag, str) for flag in mapping["flags"])


@pytest.mark.needs_feature("PAGEMAP_SCAN")
def test_json_with_pages_has_the_runs_of_the_page_map(child):
    """They lie in the mappings, and what is resident there is present in them."""
    document = json.loads(succeeded("look", child(HOLD).pid, "--json", "--pages"))
    largest = max(document["mappings"], key=lambda mapping: mapping["rss_bytes"])
    runs = [run for run in document["pages"] if largest["start"] <= run["start"] < largest["end"] and run["present"]]
    assert sum(run["end"] - run["start"] for run in runs) == largest["rss_bytes"] + largest["zero_bytes"]
    assert {"start", "end", "frame", "present", "swapped", "file", "exclusive", "guard"} <= set(runs[0])


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a CSV, by the names in its header."""
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_says_what_json_says(child):
    """A row a mapping, in the order of addresses, which are hexadecimal."""
    pid = child(HOLD).pid
    rows = rows_of(succeeded("look", pid, "--csv"))
    mappings = json.loads(succeeded("look", pid, "--json"))["mappings"]
    assert len(rows) == len(mappings)
    for row, mapping in zip(rows, mappings, strict=True):
        assert (int(row.pop("start"), 16), int(row.pop("end"), 16)) == (mapping["start"], mapping["end"])
        row.pop("accessed_bytes"), mapping.pop("accessed_bytes")  # which DAMON may change between two looks
        told = {field: mapping[field] for field in row}
        assert row == {field: "" if value is None else str(value) for field, value in told.items()}
    assert set(rows[0]) == set(mappings[0]) - {"start", "end"}


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("rss", lambda row: -int(row["rss_bytes"])),
        ("swap", lambda row: -int(row["swap_bytes"])),
        ("size", lambda row: -int(row["size_bytes"])),
        ("address", lambda row: int(row["start"], 16)),
    ],
)
def test_sort_orders_and_top_cuts(child, key, order):
    """Amounts largest first; --top takes from the front, and 0 takes all."""
    pid = child(HOLD).pid
    every = rows_of(succeeded("look", pid, "--csv", "--sort", key, "--top", "0"))
    assert every == sorted(every, key=order)
    first = rows_of(succeeded("look", pid, "--csv", "--sort", key, "--top", "3"))
    for row in (*every, *first):
        row.pop("accessed_bytes")  # which DAMON may change between two looks
    assert first == every[:3]


@pytest.mark.needs_kernel("6.7")
def test_the_method_can_be_chosen(child):
    """With a hyphen for the space; the last line says which it was, and a wrong one is a wrong call."""
    pid = child().pid
    for method in ("pagemap", "PAGEMAP_SCAN"):
        assert json.loads(succeeded("look", pid, "--json", "--method", method))["method"] == f"maps + {method}"
    assert "method='page tables'" in succeeded("look", pid, "--show-code", "--method", "page-tables")
    assert "look_all('page tables')" in succeeded("look", "--all", "--show-code", "--method", "page-tables")
    assert json.loads(succeeded("look", "--all", "--json", "--method", "status"))["method"] == "status"
    for words in ((pid,), ("--all",)):
        assert "there is no method 'guess'" in refused(*words, "--method", "guess")


def test_text_shows_twenty_mappings_and_says_what_the_others_hold(child):
    """What is shown and what is left out add up to the whole."""
    pid = child().pid
    twenty, all_of_them = succeeded("look", pid), succeeded("look", pid, "--top", "0")
    assert "more mappings hold" in twenty
    assert "(--top 0 shows all)" in twenty
    assert "more mappings hold" not in all_of_them
    assert len(table_of(twenty)) == 20
    assert [(row[:2], row[-1]) for row in table_of(all_of_them)[:20]] == [
        (row[:2], row[-1]) for row in table_of(twenty)
    ]


def table_of(text: str) -> list[list[str]]:
    """The rows of the table of mappings, cut at two spaces or more."""
    lines = text.split("\n")
    header = next(number for number, line in enumerate(lines) if "PERMS" in line)
    rows = lines[header + 1 :]
    return [row.split() for row in rows[: rows.index("")] if not row.startswith("…")]


def test_smaps_adds_its_columns(child):
    """PSS and what is locked, for instance; without --smaps nobody reads it, and nothing shows them."""
    pid = child(HOLD).pid
    plain, detailed = succeeded("look", pid), succeeded("look", pid, "--smaps")
    for word in ("PSS", "REFERENCED", "USS"):
        assert word in detailed
        assert word not in plain
    assert "read by smaps" in detailed


@pytest.mark.needs_command("pmap")
def test_pmap_is_that_of_pmap_byte_for_byte(child):
    """`dontneed look PID --pmap` and `pmap -x PID` of one moment: a child at rest, seen the same before and after."""
    pid = child("import mmap; held = mmap.mmap(-1, 1 << 20); held[:8192] = bytes(8192)").pid
    for _ in range(ATTEMPTS):
        before, ours, after = pmap(pid), succeeded("look", pid, "--pmap"), pmap(pid)
        if before == after:
            assert ours == before
            return
    pytest.fail(f"the child did not stand still for {ATTEMPTS} looks")


def pmap(pid: int) -> str:
    """What `pmap -x` prints."""
    return subprocess.run(["pmap", "-x", str(pid)], capture_output=True, text=True, check=True).stdout


def test_pmap_adds_up_what_it_shows(child):
    """With --top the last line is the sum of the rows above it."""
    lines = succeeded("look", child().pid, "--pmap", "--sort", "rss", "--top", "2").split("\n")
    rows = [line.split()[1:4] for line in lines[2:4]]
    assert lines[5].split()[2:] == [str(sum(map(int, column))) for column in zip(*rows, strict=True)]
    assert len(lines) == 7


def test_the_code_that_is_shown_runs(child):
    """--show-code prints a program that prints the same mappings, with the options that were given."""
    pid = child(HOLD).pid
    code = succeeded("look", pid, "--show-code", "--smaps", "--sort", "size", "--top", "4")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    first, *rows = done.stdout.splitlines()
    largest = rows_of(succeeded("look", pid, "--csv", "--sort", "size", "--top", "4"))
    assert "pss_bytes=" in first
    assert "pss_bytes=None" not in first
    assert rows == [f"{row['rss_bytes']} {row['kind']} {row['name']}" for row in largest]


# Odd names

ODD_CODE = """if True:
    import mmap, os
    path = os.fsencode({directory!r}) + b"/odd \\n\\x1b[31m\\xff (deleted)"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 8192)
    held = mmap.mmap(fd, 8192)
    held[0] = 1
    open("/proc/self/comm", "wb").write(b"\\x1b[2J\\n) \\xff")
"""
ODD_NAME = "/odd \\012\x1b[31m\udcff (deleted)"
"""As the kernel prints it: a newline is escaped, nothing else is."""


@pytest.mark.parametrize(
    "words", [("--top", "0"), ("--smaps", "--top", "0"), ("--csv",), ("--pmap",), ("--json",)], ids=" ".join
)
def test_odd_names_reach_no_terminal_raw(child, tmp_path, words):
    """A newline, an escape sequence and a byte that is no UTF-8, in the names of a file and of the process."""
    pid = child(ODD_CODE.format(directory=str(tmp_path))).pid
    printed = succeeded("look", pid, *words)
    assert "odd " in printed
    assert all(letter.isprintable() or letter == "\n" for letter in printed)


def test_json_keeps_an_odd_name_whole(child, tmp_path):
    """What is for programs loses nothing: escapes in JSON, and surrogates for bytes that are no UTF-8."""
    pid = child(ODD_CODE.format(directory=str(tmp_path))).pid
    document = json.loads(succeeded("look", pid, "--json"))
    assert f"{tmp_path}{ODD_NAME}" in [mapping["name"] for mapping in document["mappings"]]
    assert document["command"] == "\x1b[2J\n) \udcff"


def test_csv_escapes_an_odd_name_as_the_kernel_does(child, tmp_path):
    """In octal, as maps has the newline: nothing is lost, and a spreadsheet shows it."""
    pid = child(ODD_CODE.format(directory=str(tmp_path))).pid
    names = [row["name"] for row in rows_of(succeeded("look", pid, "--csv"))]
    assert f"{tmp_path}/odd \\012\\033[31m\\377 (deleted)" in names


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LANG": "C", "LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=str,
)
def test_a_terminal_without_the_letters_gets_escapes(child, environment):
    """A file's name that the encoding does not have is printed, not failed on."""
    code = """if True:
        import mmap, os
        fd = os.memfd_create("größer")
        os.ftruncate(fd, 1 << 20)
        held = mmap.mmap(fd, 1 << 20)
        held[:] = bytes(1 << 20)
    """
    pid = child(code).pid
    done = subprocess.run(
        [sys.executable, "-m", "dontneed", "look", str(pid)],
        capture_output=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"/memfd:gr" in done.stdout
    if "ascii" in environment.values():
        assert done.stdout.isascii()


# Differences

GROW = """if True:
    import mmap
    kept = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pause()
    more = mmap.mmap(-1, 8 << 20)
    more[:] = b"x" * len(more)
"""


def test_of_a_process_at_rest_nothing_has_changed(child, tmp_path):
    """The plainest difference is a sentence."""
    pid = child(GROW).pid
    saved = tmp_path / "before.json"
    saved.write_text(succeeded("look", pid, "--json"))
    assert succeeded("look", pid, "--diff", saved) == "no mapping came, went or changed\n"


def test_memory_that_came_is_found(child, tmp_path):
    """8 MiB of shared anonymous memory, in the counters, in the table, and as JSON."""
    holder = child(GROW)
    saved = tmp_path / "before.json"
    saved.write_text(succeeded("look", holder.pid, "--json"))
    holder.proceed()
    text = succeeded("look", holder.pid, "--diff", saved)
    assert "rss shmem      +8.0 MiB" in text
    assert any(line.split()[:5] == ["+8.0", "MiB", "+8.0", "MiB", "come"] for line in text.splitlines())
    document = json.loads(succeeded("look", holder.pid, "--diff", saved, "--json"))
    assert (document["schema"], document["pid"], document["gone"]) == (1, holder.pid, [])
    assert [mapping["rss_bytes"] for mapping in document["come"]] == [8 << 20]
    assert document["counters"]["rss_shmem_bytes"] == 8 << 20


def refused(*words: object) -> str:
    """What the command said when it was used wrongly: a sentence and a hint."""
    done = dontneed("look", *words)
    assert (done.returncode, done.stdout) == (2, "")
    sentence, hint = done.stderr.splitlines()
    assert hint.startswith("  try: ")
    return sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read {path}: No such file or directory"),
        (b"\xff\xfe", "cannot read {path}: it is not text"),
        (b"", "the file does not hold what `dontneed look PID --json` prints"),
        (b"[1, 2]", "the file does not hold what `dontneed look PID --json` prints"),
        (b'{"schema": 1, "mappings": [{}]}', "the file does not hold what `dontneed look PID --json` prints"),
        (b'{"schema": 7}', "this is schema 7 of look --json, and schema 1 is what I read"),
    ],
)
def test_a_wrong_file_is_no_look(tmp_path, content, sentence):
    """Missing, no text, empty, of something else, half of it, of another time."""
    path = tmp_path / "before.json"
    if content is not None:
        path.write_bytes(content)
    assert refused(os.getpid(), "--diff", path) == f"dontneed: {sentence.format(path=path)}"


@pytest.mark.parametrize(
    "edit",
    [
        lambda look: look["mappings"][0].update(rss_bytes="many"),
        lambda look: look["mappings"][0].update(name=None),
        lambda look: look["mappings"][0].update(kind=5),
        lambda look: look["counters"].update(threads="some"),
    ],
)
def test_an_edited_look_is_no_look(child, tmp_path, edit):
    """A word for a number, or nothing for a word: told, and no traceback."""
    pid = child().pid
    saved = json.loads(succeeded("look", pid, "--json"))
    edit(saved)
    path = tmp_path / "before.json"
    path.write_text(json.dumps(saved))
    assert "does not hold what" in refused(pid, "--diff", path)


def test_brackets_without_end_are_no_look(tmp_path):
    """Deeper than Python reads."""
    path = tmp_path / "before.json"
    path.write_text("[" * 100_000)
    assert "does not hold what" in refused(os.getpid(), "--diff", path)


def test_a_directory_is_no_look(tmp_path):
    """As the system says it."""
    assert refused(os.getpid(), "--diff", tmp_path) == f"dontneed: cannot read {tmp_path}: Is a directory"


def test_a_look_at_another_process_is_not_compared(child, tmp_path):
    """Two processes have no difference."""
    pid, other = child().pid, child().pid
    saved = tmp_path / "before.json"
    saved.write_text(succeeded("look", other, "--json"))
    assert refused(pid, "--diff", saved) == f"dontneed: {saved} is a look at process {other}, not at {pid}"


def test_a_look_that_was_cut_is_not_compared(child, tmp_path):
    """What --top left out would seem to have come."""
    pid = child().pid
    saved = tmp_path / "before.json"
    saved.write_text(succeeded("look", pid, "--json", "--top", "3"))
    assert (
        refused(pid, "--diff", saved) == "dontneed: the file holds some of the mappings only: it was saved with --top"
    )


@pytest.mark.parametrize(
    "words", [("--csv",), ("--pmap",), ("--show-code",), ("--top", "3"), ("--sort", "rss"), ("--pages", "--json")]
)
def test_a_difference_is_told_whole_or_not_at_all(words):
    """An option that would be ignored is refused by name."""
    assert f"goes without {words[0]}" in refused(os.getpid(), "--diff", "before.json", *words)


@pytest.mark.parametrize("count", ["9" * 5000, "-1", "many"])
def test_top_takes_a_number_of_rows(count, capsys):
    """What is none is said in few words, however long it is."""
    with pytest.raises(SystemExit) as ended:
        main(["look", "1", "--top", count])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "is not a number of rows" in said
    assert len(said) < 1000


def test_pages_are_told_as_json_only():
    """A million runs are nothing to read."""
    assert refused(os.getpid(), "--pages") == "dontneed: the page map is told as JSON only"
