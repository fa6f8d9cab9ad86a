"""Page tables of five levels: addresses above 47 bits, and the level that they take."""

from __future__ import annotations

from errno import ENOMEM

import pytest

from dontneed.model.process import Process
from dontneed.model.space.vma import READ, WRITE
from dontneed.model.system import System
from dontneed.model.views.walk import walk

HIGH = 1 << 50


@pytest.mark.parametrize("levels", [4, 5])
def test_a_way_down_has_so_many_levels(levels) -> None:
    """The tables met are those of the processor, from the PGD to the PTE."""
    process = Process(System("6.18", levels=levels))
    address = process.mmap(4096, READ | WRITE)
    process.write(address, 4096, 1)
    names = [entry.table for entry in walk(process.mm, address >> 12)]
    assert names == ["PGD", *(["P4D"] if levels == 5 else []), "PUD", "PMD", "PTE"]


def test_only_five_levels_reach_above_47_bits() -> None:
    """What asks for a high address gets it there, and ENOMEM with four levels."""
    assert Process(System("6.18", levels=4)).mmap(4096, READ | WRITE, address=HIGH) == -ENOMEM
    process = Process(System("6.18", levels=5))
    assert process.mmap(4096, READ | WRITE, address=HIGH) == HIGH
    assert process.write(HIGH, 4096, 7) == 0
    assert process.read(HIGH, 4096) == {7}


def test_a_discard_frees_the_last_table_and_munmap_all_of_them() -> None:
    """As with four levels: upper tables stay until their addresses are unmapped."""
    process = Process(System("6.18", levels=5))
    process.mmap(1 << 21, READ | WRITE, address=HIGH)
    process.write(HIGH, 1 << 21, 7)
    table = process.mm.table
    assert (len(table.leaves), len(table.pmds), len(table.puds), len(table.p4ds)) == (1, 1, 1, 1)
    process.madvise(HIGH, 1 << 21, 4)
    assert (len(table.leaves), len(table.pmds), len(table.puds), len(table.p4ds)) == (0, 1, 1, 1)
    process.munmap(HIGH, 1 << 21)
    assert (len(table.leaves), len(table.pmds), len(table.puds), len(table.p4ds)) == (0, 0, 0, 0)
