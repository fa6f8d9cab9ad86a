"""`look` against `pmap -x`: the same rows, to the kilobyte and, where we print them ourselves, to the byte."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dontneed.observe.address_space import look
from dontneed.report.pmap import format_pmap, pmap_rows

pytestmark = pytest.mark.needs_command("pmap")

KIB = 1024


def pmap(pid: int) -> list[str]:
    """What `pmap -x` prints for a process, line by line; every byte that is not printable ASCII is a `?` of its own."""
    done = subprocess.run(["pmap", "-x", str(pid)], capture_output=True, check=True)
    return done.stdout.decode("ascii").split("\n")[:-1]


def rows_of(lines: list[str]) -> list[tuple[int, int, int, int, str]]:
    """Address, Kbytes, RSS, Dirty and Mode of every row."""
    rows = [line.split(None, 5) for line in lines[2:-2]]
    return [(int(row[0], 16), int(row[1]), int(row[2]), int(row[3]), row[4]) for row in rows]


def in_ascii(text: str) -> str:
    """What pmap makes of letters that we print, `größer` say."""
    return "".join(letter if letter.isascii() else "?" * len(letter.encode()) for letter in text)


def test_every_row_is_that_of_pmap(zoo, at_one_moment) -> None:
    """Address, Kbytes, RSS, Dirty and Mode of all mappings, from the kernel's counters."""
    told, seen = at_one_moment(lambda: rows_of(pmap(zoo.pid)), lambda: look(zoo.pid, smaps=True))
    assert told == [
        (
            each.start,
            each.size_bytes // KIB,
            each.rss_bytes // KIB,
            each.smaps.dirty_bytes // KIB,
            f"{each.perms[:3]}{'s' if each.shared else '-'}-",
        )
        for each in seen.mappings
    ]


@pytest.mark.needs_kernel("6.7")
def test_the_fast_way_counts_what_pmap_counts(zoo, at_one_moment) -> None:
    """RSS of all mappings, and of all together, without reading smaps as pmap does."""
    told, seen = at_one_moment(lambda: pmap(zoo.pid), lambda: look(zoo.pid))
    assert [each.rss_bytes // KIB for each in seen.mappings] == [row[2] for row in rows_of(told)]
    assert seen.total.rss_bytes // KIB == int(told[-1].split()[3])
    assert seen.total.size_bytes // KIB == int(told[-1].split()[2])


def test_the_table_is_that_of_pmap(zoo, at_one_moment) -> None:
    """Header, rows with odd names, rule and totals, byte for byte; above it pmap prints pid and command line."""
    told, seen = at_one_moment(lambda: pmap(zoo.pid)[1:], lambda: look(zoo.pid, smaps=True))
    assert in_ascii(format_pmap(pmap_rows(seen.mappings))).split("\n") == told


def test_twenty_thousand_rows_are_those_of_pmap(crowd, at_one_moment) -> None:
    """As many as a crowded process has."""
    told, seen = at_one_moment(lambda: pmap(crowd)[1:], lambda: look(crowd, smaps=True))
    assert len(told) > 20_000
    ours = format_pmap(pmap_rows(seen.mappings)).split("\n")
    assert [pair for pair in zip(ours, told, strict=True) if pair[0] != pair[1]] == []


def test_the_command_prints_what_pmap_prints(zoo, at_one_moment) -> None:
    """`dontneed look PID --pmap`, from the command line in the first row to the totals in the last."""
    command = "import sys; from dontneed.cli.main import main; sys.exit(main())"
    argv = [sys.executable, "-c", command, "look", str(zoo.pid), "--pmap"]
    told, seen = at_one_moment(lambda: pmap(zoo.pid), lambda: subprocess.run(argv, capture_output=True, check=True))
    assert in_ascii(seen.stdout.decode()).split("\n")[:-1] == told
    assert seen.stderr == b""
