"""What tests of `look_all` share: a process that holds 3 MiB, and what is true of any table."""

from __future__ import annotations

import time

import pytest

import dontneed

PATIENCE_SECONDS = 60
MIB = 1 << 20
HELD = """if True:
    import mmap
    held = mmap.mmap(-1, 3 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held[:] = b"x" * len(held)
"""


BY_FRAMES = [pytest.mark.needs_root, pytest.mark.needs_feature("kernel memory"), pytest.mark.needs_feature("BTF")]
SEEN = """if True:
    import json, os, dontneed
    holders = dontneed.look_all()
    print(json.dumps({
        "me": os.getpid(), "method": holders.method, "notes": holders.notes, "unknown": holders.total.unknown,
        "rows": {holder.pid: holder.as_dict() for holder in holders.processes},
    }))
"""


def by_tables(test):
    """Mark a test that reads page tables."""
    for mark in BY_FRAMES:
        test = mark(test)
    return test


def holder_of(pid, method="auto"):
    """What a process holds; None if it is not in the table."""
    return next((holder for holder in dontneed.look_all(method).processes if holder.pid == pid), None)


def comes_true(condition):
    """Whether something becomes true before patience ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def plausible(holders):
    """Every sum is one, and every share a share."""
    for holder in holders.processes:
        assert holder.rss_bytes >= 0
        if holder.pss_bytes is not None:
            assert 0 <= holder.uss_bytes <= holder.pss_bytes + 1 <= holder.rss_bytes + 1, holder
    alone = [holder for holder in holders.processes if holder.same_as is None]
    assert holders.total.rss_bytes == sum(holder.rss_bytes for holder in alone)
    assert holders.total.processes == len(holders.processes)
    return True
