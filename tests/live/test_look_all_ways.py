"""`look_all` takes for each process the best way that is open to us: which, and what is said if that is not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import pytest

import dontneed
from dontneed.errors import KernelLacks, NotPermitted
from dontneed.observe.holders.look_all import ROLLUP, STATUS, TABLES, WINDOWS

from .holders import HELD, SEEN, by_tables, holder_of, plausible


@pytest.fixture
def all_are_large(monkeypatch):
    """Every process counts as one that would have to wait long."""
    monkeypatch.setattr("dontneed.observe.holders.look_all._SMALL_BYTES", 0)


def test_where_all_are_small_the_kernel_walks(child, monkeypatch):
    """It is the fastest, needs no numpy, and nobody waits for long."""
    monkeypatch.setattr("dontneed.observe.holders.look_all._SMALL_BYTES", 1 << 50)
    assert holder_of(child(HELD).pid).method == ROLLUP


@by_tables
@pytest.mark.usefixtures("all_are_large")
def test_what_is_large_is_read_in_windows(child):
    """Nobody waits, and numpy is not needed."""
    assert holder_of(child(HELD).pid).method == WINDOWS


@by_tables
@pytest.mark.usefixtures("all_are_large")
def test_where_windows_do_not_do_page_tables_are_read(child, monkeypatch):
    """One that shares too much, for instance: then all are read so, and shares are of one moment."""
    monkeypatch.setattr("dontneed.observe.holders.windows._MOST_SHARED", 10)
    pid = child(HELD).pid
    holders = dontneed.look_all()
    assert next(each for each in holders.processes if each.pid == pid).method == TABLES
    assert {each.method for each in holders.processes} <= {TABLES, STATUS}
    assert plausible(holders)


@pytest.mark.usefixtures("all_are_large")
def test_where_frames_are_out_of_reach_the_kernel_walks_and_it_is_said(child, monkeypatch):
    """Why, and whom that stalls."""

    def refuse(*_):
        msg = "page tables cannot be read: no"
        raise NotPermitted(msg, hint="ask")

    def lack(*_):
        msg = "there is no /proc/kpagecount"
        raise KernelLacks(msg)

    monkeypatch.setattr("dontneed.kernel.kernel_memory.kernel_memory", refuse)
    monkeypatch.setattr("dontneed.observe.holders.windows.read_map_counts_of", lack)
    pid = child(HELD).pid
    holders = dontneed.look_all()
    assert next(each for each in holders.processes if each.pid == pid).method == ROLLUP
    assert holders.notes[0] == "page tables cannot be read: no; ask"
    assert "stalled by smaps_rollup while it was read: " in holders.notes[1]
    assert len({each.pid for each in holders.processes}) == len(holders.processes)
    with pytest.raises(NotPermitted):
        dontneed.look_all(TABLES)


@pytest.mark.needs_root
def test_nobodys_own_large_process_is_walked_by_the_kernel_and_it_is_said(as_nobody):
    """It may not see frames."""
    done = as_nobody(
        "from dontneed.observe.holders import look_all as way; way._SMALL_BYTES = 1 << 20\n" + SEEN.strip()
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert seen["rows"][str(seen["me"])]["method"] == ROLLUP
    assert any("stalled by smaps_rollup while it was read: " in note for note in seen["notes"])
    assert len([note for note in seen["notes"] if "are not known" in note]) == 1


@by_tables
def test_windows_see_processes_that_come_and_go_as_well(child):
    """Whoever has ended is left out, whatever was read of it before."""
    pid = child(HELD).pid
    with subprocess.Popen(
        ["sh", "-c", "while :; do sh -c true & true & wait; done"], start_new_session=True, stderr=subprocess.DEVNULL
    ) as shell:
        try:
            for _ in range(15):
                holders = dontneed.look_all(WINDOWS)
                assert plausible(holders)
                assert pid in {holder.pid for holder in holders.processes}
        finally:
            os.killpg(shell.pid, signal.SIGKILL)  # a session of its own
