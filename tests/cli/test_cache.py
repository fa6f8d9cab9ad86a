"""`dontneed cache`, as people and programs meet it: what it prints, its exit codes, what it refuses."""

from __future__ import annotations

import json
import os
import re

import pytest

import dontneed
from dontneed.cli.main import main
from dontneed.units import PAGE_BYTES


@pytest.fixture
def tree(tmp_path):
    """Three files, of which one is in the cache by half."""
    for name, pages in (("large", 8), ("small", 1), ("empty", 0)):
        with (tmp_path / name).open("wb", buffering=0) as file:
            for _ in range(pages):
                file.write(b"x" * PAGE_BYTES)
            os.fsync(file.fileno())
            if pages:
                os.posix_fadvise(file.fileno(), pages // 2 * PAGE_BYTES, 4 * PAGE_BYTES, os.POSIX_FADV_DONTNEED)
    return tmp_path


def told(capsys, *words):
    """The exit code of a command, and the lines of what it printed and complained of."""
    code = main(["cache", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err.splitlines()


def test_a_look_is_a_headline_and_a_table(tree, capsys):
    """The file with most in the cache first."""
    code, lines, complaints = told(capsys, tree)
    assert (code, complaints) == (0, [])
    assert re.fullmatch(r"3 files, 1 directory: 16\.0 KiB of 36\.0 KiB cached \(44 %\)", lines[0])
    assert [line.split()[-1] for line in lines[2:]] == [
        "FILE",
        *(f"{tree}/{name}" for name in ("large", "small", "empty")),
    ]


def test_top_says_how_many_more_there_are(tree, capsys):
    """Nobody takes a part for the whole; and 0 is all."""
    assert told(capsys, tree, "--top", 1)[1][-1] == "… and 2 more; --top 0 shows all"
    assert len(told(capsys, tree, "--top", 0)[1]) == 6


def test_a_map_is_a_bar_a_file(tree, capsys):
    """Which half."""
    assert told(capsys, "--map", tree / "large")[1][2:] == [f"{tree}/large", "[OOOO    ] 4/8"]


def test_an_eviction_says_what_is_left(tree, capsys):
    """And afterwards it is so."""
    code, lines, _ = told(capsys, "--evict", tree)
    assert code == 0
    assert lines[0].endswith("; 16.0 KiB evicted, 0 left")
    assert dontneed.cache(tree).total.cached_bytes == 0


def test_json_holds_everything(tree, capsys):
    """All files, whatever the text would show, and the runs if they were asked for."""
    document = json.loads("\n".join(told(capsys, "--json", "--map", tree)[1]))
    assert (document["schema"], document["page_bytes"]) == (1, PAGE_BYTES)
    assert document["total"]["cached_bytes"] == 4 * PAGE_BYTES
    files = {os.path.basename(file["path"]): file for file in document["files"]}
    assert files["large"]["runs"] == [[0, 4]]
    assert files["empty"]["runs"] == []


def test_some_that_cannot_be_read_are_told_and_the_exit_code_is_0(tree, capsys):
    """The answer is an answer, and says what is not in it."""
    code, lines, complaints = told(capsys, tree, tree / "missing")
    assert (code, complaints) == (0, [])
    assert lines[-1] == f"{tree}/missing could not be read, and is in no sum: No such file or directory (ENOENT)"


def test_nothing_that_could_be_read_is_exit_code_1(tmp_path, capsys):
    """With a sentence, and what to try."""
    code, lines, complaints = told(capsys, tmp_path / "missing")
    assert (code, lines, len(complaints)) == (1, [], 2)
    assert complaints[0].startswith("dontneed: nothing could be read: ")
    assert complaints[1].endswith("that are there")


def test_a_device_is_there_and_is_no_file(capsys):
    """The hint does not send anyone to look for it."""
    code, lines, complaints = told(capsys, "/dev/null")
    assert (code, lines) == (1, [])
    assert "/dev/null: a character device" in complaints[0]
    assert "regular files" in complaints[1]


def test_an_empty_path_is_wrong_use(capsys):
    """Exit code 2: an empty variable of a script, most likely."""
    assert told(capsys, "")[0] == 2


@pytest.mark.needs_root
def test_nothing_that_may_be_read_is_exit_code_3(tree, as_nobody):
    """And the way to root."""
    tree.chmod(0o700)
    refused = as_nobody.command("cache", str(tree))
    assert refused.returncode == 3
    assert "sudo" in refused.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "required: PATH"),
        ((".", "--map", "--evict"), "not allowed with argument --map"),
        ((".", "--json", "--show-code"), "not allowed with argument --json"),
        ((".", "--top", "many"), "'many' is not a number of files"),
        ((".", "--top", "-1"), "--top"),
    ],
)
def test_a_wrong_call_is_shown_the_usage(capsys, words, said):
    """Exit code 2, and what is wrong with it."""
    with pytest.raises(SystemExit) as ended:
        main(["cache", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--map",), ("--evict",), ("-x", "--top", "1")])
def test_the_code_that_is_shown_runs(tree, capsys, options):
    """And does the same."""
    _, lines, _ = told(capsys, tree, "--show-code", *options)
    exec("\n".join(lines), {})  # noqa: S102 - our own words
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("CacheTotal(files=3, ")
    assert len(printed) == (2 if "--top" in options else 4)


def test_a_name_cannot_command_the_terminal(tmp_path, capsys):
    """What a file is called is anybody's choice."""
    (tmp_path / "evil\x1b]0;x\x07").write_bytes(b"x")
    assert told(capsys, tmp_path)[1][-1].endswith("/evil?]0;x?")
