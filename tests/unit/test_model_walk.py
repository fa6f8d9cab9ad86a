"""The modelled page table as the processor sees it, and the entries that nonlinear mappings keep."""

from __future__ import annotations

import pytest

from dontneed.abi.advice import Advice
from dontneed.abi.page_entry import PRESENT
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.mappings import mmap, mprotect
from dontneed.model.calls.nonlinear import remap_file_pages
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import DIRTY, FILE, KIND, NONLINEAR, YOUNG, ZERO
from dontneed.model.space.mm import PAGE_SHIFT, Mm
from dontneed.model.space.page_table import PageTable
from dontneed.model.system import System
from dontneed.model.views.path import Path
from dontneed.model.views.walk import walk

RW = vm.READ | vm.WRITE
BASE = 1 << 20
OLD, NEW = "2.6.32", "6.18"


def memory(version, pages):
    """An address space on a machine that records the way, with memory mapped."""
    mm = Mm(System(version))
    mm.system.path = Path(mm.system.behaviour)
    assert mmap(mm, BASE, BASE + pages, RW) == 0
    return mm


def advise(mm, pages):
    return madvise(mm, BASE << PAGE_SHIFT, pages << PAGE_SHIFT, int(Advice.DONTNEED))


# The walk


@pytest.mark.parametrize("version", [OLD, NEW])
def test_the_walk_says_what_the_table_says(version):
    """Frame, write, dirty, young of each page; and no entry beyond one that is none."""
    mm = memory(version, 1024)
    touch(mm, BASE, BASE + 8, write=True)
    touch(mm, BASE + 8, BASE + 12, write=False)
    for page in range(BASE, BASE + 12):
        code, frame = mm.table.get(page)
        entry = walk(mm, page)[-1]
        assert (entry.table, entry.index, entry.frame) == ("PTE", page % 512, frame)
        assert ("dirty" in entry.flags, "accessed" in entry.flags) == (bool(code & DIRTY), bool(code & YOUNG))
        assert ("special" in entry.flags) == (code & KIND == ZERO)
        assert "no-execute" in entry.flags
    assert [entry.table for entry in walk(mm, BASE)] == ["PGD", "PUD", "PMD", "PTE"]
    assert walk(mm, BASE + 12)[-1].flags == ("none",)
    assert [entry.table for entry in walk(mm, BASE + 600)] == ["PGD", "PUD", "PMD"]
    assert [entry.table for entry in walk(mm, 1 << 34)] == ["PGD"]


def test_a_table_has_one_frame_and_no_two_have_the_same():
    """Made up, and told apart by level and place."""
    mm = memory(NEW, 1024)
    touch(mm, BASE, BASE + 1024, write=True)
    one, other = walk(mm, BASE)[:-1], walk(mm, BASE + 512)[:-1]
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert len({entry.frame for entry in (*one, *other)}) == 4
    assert all(entry.raw & PRESENT for entry in one)


def test_five_levels_have_a_table_more():
    """PGD, P4D, PUD, PMD, PTE; and each level's function reads its own."""
    mm = memory(NEW, 8)
    mm.table = PageTable(levels=5)
    touch(mm, BASE, BASE + 8, write=True)
    assert [entry.table for entry in walk(mm, BASE)] == ["PGD", "P4D", "PUD", "PMD", "PTE"]
    advise(mm, 8)
    reads = {stage.function: stage.entries[0].table for stage in mm.system.path.taken() if stage.entries}
    assert reads == {
        "unmap_page_range": "PGD",
        "zap_p4d_range": "P4D",
        "zap_pud_range": "PUD",
        "zap_pmd_range": "PMD",
        "zap_present_ptes": "PTE",
    }


def test_memory_without_access_keeps_its_pages():
    """Mprotect to nothing leaves entries that are not present, with their frames."""
    mm = memory(NEW, 4)
    touch(mm, BASE, BASE + 4, write=True)
    frame = mm.table.get(BASE)[1]
    mprotect(mm, BASE, BASE + 4, 0)
    entry = walk(mm, BASE)[-1]
    assert entry.flags[0] == "prot-none"
    assert entry.frame == frame
    assert not entry.raw & PRESENT


# Nonlinear mappings


def nonlinear_memory(version, order):
    system = System(version)
    system.path = Path(system.behaviour)
    mm = Mm(system)
    file = system.new_file("file", len(order), kind=FILE)
    for page in range(len(order)):
        file.write(page, page + 1)
    mmap(mm, BASE, BASE + len(order), RW, shared=True, file=file)
    for place, page in enumerate(order):
        assert remap_file_pages(mm, BASE + place, BASE + place + 1, page) == 0
    return mm


def seen(mm, pages):
    touch(mm, BASE, BASE + pages, write=False)
    return [mm.system.frames.load(mm.table.get(BASE + page)[1]) - 1 for page in range(pages)]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_a_nonlinear_order_survives_a_discard(version):
    """Where a page lay out of its place an entry stays that names it; 6.18 has mappings instead."""
    order = [3, 1, 0, 2]
    mm = nonlinear_memory(version, order)
    assert seen(mm, 4) == order
    assert advise(mm, 4) == 0
    kinds = [mm.table.get(BASE + page)[0] & KIND for page in range(4)]
    assert kinds == ([NONLINEAR, 0, NONLINEAR, NONLINEAR] if version == OLD else [0, 0, 0, 0])
    assert mm.resident[FILE] == 0
    assert seen(mm, 4) == order


def test_what_is_not_present_in_a_nonlinear_mapping_stays_as_it_is():
    """Entries that name pages are kept, and the way says so, in one descent."""
    mm = nonlinear_memory(OLD, [3, 1, 0, 2])
    touch(mm, BASE, BASE + 2, write=False)
    mm.system.path.taken()
    advise(mm, 4)
    stages = mm.system.path.taken()
    assert [stage.function for stage in stages].count("zap_pte_range") == 1
    kept = next(stage for stage in stages if stage.what.endswith("nonlinear file page"))
    assert kept.outcome == "kept"
    assert kept.entries[0].flags == ("file", "page 0")


def test_only_shared_mappings_of_files_can_be_nonlinear():
    """EINVAL for others, and across the end of the mapping."""
    mm = memory(OLD, 4)
    assert remap_file_pages(mm, BASE, BASE + 1, 0) != 0
    mm = nonlinear_memory(OLD, [0, 1])
    assert remap_file_pages(mm, BASE, BASE + 3, 0) != 0
    assert remap_file_pages(mm, BASE + 9, BASE + 10, 0) != 0
