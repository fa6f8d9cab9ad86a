"""`look_all` against smem, which adds up smaps: of each process that stands still the same RSS, USS, PSS and swap."""

from __future__ import annotations

import os
import subprocess

import pytest

from dontneed.observe.holders.look_all import ROLLUP, STATUS, TABLES, WINDOWS, look_all

pytestmark = pytest.mark.needs_command("smem")

READS_TABLES = [pytest.mark.needs_root, pytest.mark.needs_feature("kernel memory"), pytest.mark.needs_feature("BTF")]
KIB = 1 << 10
MIB = 1 << 20
SHARED_WITH_SMEM = 512 * KIB
"""More than smem maps of what a process of ours would otherwise map alone: pages of libc, for one."""

HOLD = """if True:
    import mmap
    alone = mmap.mmap(-1, {size} << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    alone[:] = b"x" * len(alone)
"""


def smem():
    """(RSS, USS, PSS, swap) in bytes of each process that smem sees, by pid."""
    done = subprocess.run(["smem", "-H", "-c", "pid rss uss pss swap"], capture_output=True, text=True, check=True)
    rows = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    return {pid: tuple(each * KIB for each in amounts) for pid, *amounts in rows}


@pytest.fixture
def held(child):
    """Pids of processes that hold so many MiB alone, and their program and libraries together."""
    return {child(HOLD.format(size=size)).pid: size * MIB for size in (1, 2, 3, 5)}


@pytest.mark.parametrize("method", [ROLLUP, *(pytest.param(way, marks=READS_TABLES) for way in (TABLES, WINDOWS))])
def test_amounts_are_those_of_smem(held, method, agreed):
    """Of ours to the byte, but for what they share with smem while it looks, and for the KiB of PSS that it drops."""
    told = {}

    def smems():
        told.update({pid: amounts for pid, amounts in smem().items() if pid in held})
        return {pid: (rss, True, True, swap) for pid, (rss, _, _, swap) in told.items()}

    def ours():
        found = {holder.pid: holder for holder in look_all(method).processes if holder.pid in held}
        return {
            pid: (
                each.rss_bytes,
                0 <= each.uss_bytes - told[pid][1] <= SHARED_WITH_SMEM,
                0 <= each.pss_bytes - told[pid][2] <= SHARED_WITH_SMEM + KIB * mappings_of(pid),
                each.swap_bytes,
            )
            for pid, each in found.items()
        }

    agreed(smems, ours)
    assert all(uss >= held[pid] for pid, (_, uss, _, _) in told.items())


def mappings_of(pid):
    """How many mappings a process has."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return sum(1 for _ in maps)


def test_nobody_that_smem_sees_is_missing(held):
    """But for smem itself, and whoever comes and goes."""
    of_smem = smem()
    ours = {holder.pid for holder in look_all().processes if holder.method != STATUS}
    missing = {pid for pid in of_smem.keys() - ours if os.path.exists(f"/proc/{pid}")}
    assert missing == set()
    assert held.keys() <= ours
