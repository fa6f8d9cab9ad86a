"""The page cache against vmtouch and fincore, which ask mincore about every page: the same counts, and the same bar."""

from __future__ import annotations

import os
import subprocess

import pytest

import dontneed
from dontneed.cli.main import main
from dontneed.units import PAGE_BYTES


@pytest.fixture
def tree(tmp_path):
    """Files of many sizes, some of them, and some parts of others, dropped from the cache; a further name; a link."""
    for nth in range(40):
        file = tmp_path / f"directory-{nth % 4}" / str(nth)
        file.parent.mkdir(exist_ok=True)
        with file.open("wb", buffering=0) as made:
            for _ in range(nth * nth % 150):
                made.write(b"x" * PAGE_BYTES)
            made.write(b"x" * (nth * 100))
            os.fsync(made.fileno())
            if nth % 3 == 0:
                os.posix_fadvise(made.fileno(), nth * PAGE_BYTES, 20 * PAGE_BYTES, os.POSIX_FADV_DONTNEED)
            if nth % 7 == 0:
                os.posix_fadvise(made.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    (tmp_path / "again").hardlink_to(tmp_path / "directory-1" / "21")
    (tmp_path / "link").symlink_to("directory-1")
    return tmp_path


def output(*command):
    """What a program prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.needs_command("vmtouch")
def test_a_tree_has_as_many_files_directories_and_pages_as_vmtouch_finds(tree):
    """Hard links once, links not followed, holes and tails of pages alike."""
    lines = dict(line.strip().split(": ") for line in output("vmtouch", tree).splitlines() if ": " in line)
    found = dontneed.cache(tree)
    total = found.total
    assert lines["Files"] == str(total.files)
    assert lines["Directories"] == str(found.directories)
    assert lines["Resident Pages"].split()[0] == f"{total.cached_bytes // PAGE_BYTES}/{total.pages}"
    assert 0 < total.cached_bytes < total.pages * PAGE_BYTES


@pytest.mark.needs_command("vmtouch")
@pytest.mark.parametrize("nth", [0, 1, 6, 9, 15, 21, 24, 33, 39])
def test_a_bar_is_that_of_vmtouch(tree, nth, capsys):
    """Letter by letter, for files of one page to more than a hundred."""
    file = tree / f"directory-{nth % 4}" / str(nth)
    assert main(["cache", "--map", str(file)]) == 0
    ours = capsys.readouterr().out.splitlines()[3]
    theirs = {line for line in output("vmtouch", "-v", file).splitlines() if "[" in line}  # at first, and at last
    assert theirs == ({ours} if nth else set())


@pytest.mark.needs_command("fincore")
def test_each_file_has_as_many_pages_as_fincore_finds(tree):
    """File by file."""
    files = dontneed.cache(tree).files
    columns = "PAGES,SIZE,FILE"
    rows = output("fincore", "--bytes", "--noheadings", "--raw", "--output", columns, *(file.path for file in files))
    told = {path: (int(pages), int(size)) for pages, size, path in map(str.split, rows.splitlines())}
    assert {file.path: (file.cached_pages, file.size_bytes) for file in files} == told


@pytest.mark.needs_command("vmtouch")
def test_what_we_evict_vmtouch_does_not_find(tree):
    """By the eyes of another program."""
    assert dontneed.evict(tree).total.left_bytes == 0
    assert "Resident Pages: 0/" in output("vmtouch", tree)
