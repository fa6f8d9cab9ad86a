"""The way of a discard through the kernel, as the model tells it: functions, entries, outcomes, flushes, counters."""

from __future__ import annotations

import re

import pytest

from dontneed.abi.advice import Advice
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.mappings import mlock, mmap, mprotect, munmap
from dontneed.model.paging.faults import touch
from dontneed.model.process import Process
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import (
    ANON,
    DIRTY,
    FILE,
    HUGE,
    MIGRATION,
    POISON,
    SHMEM,
    SWAP,
)
from dontneed.model.space.mm import PAGE_SHIFT, Mm
from dontneed.model.system import System
from dontneed.model.versions import behaviour_at
from dontneed.model.views.descent import Descent
from dontneed.model.views.gather import Gather
from dontneed.model.views.outcomes import outcomes
from dontneed.model.views.path import Path
from dontneed.model.views.walk import walk
from dontneed.report.path import path_lines

RW = vm.READ | vm.WRITE
BASE = 1 << 20
OLD, NEW = "2.6.32", "6.18"


def memory(version, pages=1200, *, shared=False, file=None, first=BASE):
    """An address space on a machine that records the way, with memory mapped."""
    mm = Mm(System(version))
    mm.system.path = Path(mm.system.behaviour)
    assert mmap(mm, first, first + pages, RW, shared=shared, file=file) == 0
    return mm


def advise(mm, pages, advice=Advice.DONTNEED, first=BASE):
    return madvise(mm, first << PAGE_SHIFT, pages << PAGE_SHIFT, int(advice))


def functions(stages):
    """The calls, in order, each once."""
    return list(dict.fromkeys(stage.function for stage in stages if stage.function))


def said(stages):
    """Everything, as --explain prints it."""
    return "\n".join(path_lines(stages))


def flushes(stages):
    """After how many pages the TLB was flushed, and why."""
    return re.findall(r"TLB flush after (\d+) pages?, ([^:]+)", said(stages))


# Calls


def test_the_way_of_2_6_32_is_the_seed_s():
    """From the system call to the PTEs, one below the other."""
    mm = memory(OLD)
    touch(mm, BASE, BASE + 1200, write=True)
    assert advise(mm, 1200) == 0
    stages = mm.system.path.taken()
    assert functions(stages) == [
        "sys_madvise",
        "madvise_vma",
        "madvise_dontneed",
        "zap_page_range",
        "unmap_vmas",
        "unmap_page_range",
        "zap_pud_range",
        "zap_pmd_range",
        "zap_pte_range",
    ]
    first_of_each = [next(stage for stage in stages if stage.function == name) for name in functions(stages)]
    assert [stage.depth for stage in first_of_each] == list(range(9))


def test_the_way_of_6_18_has_its_modern_names():
    """One mapping at a time, a level more, and present entries apart from others."""
    mm = memory(NEW)
    touch(mm, BASE, BASE + 1200, write=True)
    assert advise(mm, 1200) == 0
    assert functions(mm.system.path.taken()) == [
        "do_madvise",
        "madvise_walk_vmas",
        "madvise_vma_behavior",
        "madvise_dontneed_free",
        "madvise_dontneed_single_vma",
        "zap_page_range_single_batched",
        "unmap_single_vma",
        "unmap_page_range",
        "zap_p4d_range",
        "zap_pud_range",
        "zap_pmd_range",
        "zap_pte_range",
        "zap_present_ptes",
    ]


@pytest.mark.parametrize(("version", "calls"), [(OLD, "sys_munmap"), (NEW, "__vm_munmap")])
def test_munmap_meets_the_same_functions_from_unmap_page_range_down(version, calls):
    """The seed: zap_page_range's work is munmap's work."""
    ways = []
    for call in (lambda mm: advise(mm, 1200), lambda mm: munmap(mm, BASE, BASE + 1200)):
        mm = memory(version)
        touch(mm, BASE, BASE + 1200, write=True)
        assert call(mm) == 0
        ways.append(functions(mm.system.path.taken()))
    discard, munmap_way = ways
    assert munmap_way[0] == calls
    shared = discard.index("unmap_page_range")
    assert munmap_way[munmap_way.index("unmap_page_range") :] == discard[shared:]


@pytest.mark.parametrize("version", [OLD, NEW])
def test_munmap_tells_of_the_tables_it_frees_and_a_discard_of_2_6_32_frees_none(version):
    """A table of PTEs for each 512 pages; on 6.18 the discard frees those it empties."""
    mm = memory(version, 1024)
    touch(mm, BASE, BASE + 1024, write=True)
    assert advise(mm, 1024) == 0
    assert ("2 page tables freed (try_to_free_pte)" in said(mm.system.path.taken())) == (version == NEW)
    touch(mm, BASE, BASE + 1024, write=True)
    assert munmap(mm, BASE, BASE + 1024) == 0
    told = re.search(r"(\d+) page tables freed \(free_pgtables\)", said(mm.system.path.taken()))
    assert told[1] == "4"  # two of PTEs, and what was above them


def test_a_second_mapping_is_told_from_the_function_that_is_called_for_it():
    """The system call once, what it does to each mapping each time."""
    for version, each in ((OLD, "madvise_vma"), (NEW, "madvise_vma_behavior")):
        mm = memory(version, 8)
        touch(mm, BASE, BASE + 8, write=True)
        mprotect(mm, BASE + 4, BASE + 8, vm.READ)
        assert advise(mm, 8) == 0
        told = [stage.function for stage in mm.system.path.taken()]
        assert told.count(each) == 2
        assert told.count(told[0]) == 1


def test_a_discard_that_is_refused_says_that_nothing_is_zapped():
    """A locked mapping."""
    mm = memory(OLD, 4)
    mlock(mm, BASE, BASE + 4)
    mm.system.path.taken()
    assert advise(mm, 4) != 0
    (only,) = mm.system.path.taken()
    assert (only.function, only.outcome) == ("sys_madvise", "nothing is zapped")


def test_calls_that_meet_no_entry_are_not_told():
    """Unmapping what nobody touched, advice that zaps nothing, the end of the process."""
    process = Process(System(NEW))
    process.system.path = Path(process.system.behaviour)
    address = process.mmap(1 << 20, RW)
    process.madvise(address, 1 << 20, int(Advice.NOHUGEPAGE))
    process.munmap(address, 1 << 19)
    process.write(address + (1 << 19), 1 << 19, 7)
    process.exit()
    assert process.system.path.taken() == ()


def test_advice_that_zaps_has_a_way_of_its_own():
    """REMOVE goes through the file, and GUARD_INSTALL clears what was there."""
    system = System(NEW)
    system.path = Path(system.behaviour)
    mm = Mm(system)
    file = system.new_file("memory", 4, kind=SHMEM)
    mmap(mm, BASE, BASE + 4, RW, shared=True, file=file)
    touch(mm, BASE, BASE + 4, write=True)
    assert advise(mm, 4, Advice.REMOVE) == 0
    assert functions(system.path.taken())[3:6] == ["madvise_remove", "vfs_fallocate", "unmap_mapping_range"]
    mm = memory(NEW, 4)
    touch(mm, BASE, BASE + 4, write=True)
    assert advise(mm, 4, Advice.GUARD_INSTALL) == 0
    assert functions(mm.system.path.taken())[3:5] == ["madvise_guard_install", "zap_page_range_single"]


def test_locked_memory_goes_by_an_advice_of_its_own():
    """DONTNEED_LOCKED gets past the check for VM_LOCKED, so that is not told as one that was passed."""
    mm = memory(NEW, 4)
    mlock(mm, BASE, BASE + 4)
    assert advise(mm, 4, Advice.DONTNEED_LOCKED) == 0
    assert "madvise_dontneed_free: VM_PFNMAP would be EINVAL" in said(mm.system.path.taken())


# Flushes


def test_the_worked_example_of_2_6_32_flushes_four_times():
    """1,200 present PTEs: twice as 506 are gathered, once as the budget of 1,024 is spent, once at the end."""
    mm = memory(OLD)
    touch(mm, BASE, BASE + 1200, write=True)
    advise(mm, 1200)
    stages = mm.system.path.taken()
    assert flushes(stages) == [
        ("506", "as the gather is full"),
        ("1012", "as the gather is full"),
        ("1024", "as zap_work is spent"),
        ("1200", "at the end"),
    ]
    let_go = [int(count) for count in re.findall(r"(\d+) frames let go", said(stages))]
    assert let_go == [506, 506, 12, 176]


def test_6_18_flushes_once_and_few_pages_one_by_one():
    """9,698 entries fit into a gather; up to 33 pages are flushed singly, by their span and not by their number."""
    for pages, touched, how in (
        (1200, range(1200), "the whole address space"),
        (33, range(33), "33 pages, one by one"),
        (34, range(34), "the whole address space"),
        (34, (0, 33), "the whole address space"),
        (34, (33,), "1 page, one by one"),
    ):
        mm = memory(NEW, pages)
        for page in touched:
            touch(mm, BASE + page, BASE + page + 1, write=True)
        advise(mm, pages)
        stages = mm.system.path.taken()
        assert len(flushes(stages)) == 1
        assert f": {how}; {len(touched)} frame" in said(stages)


def test_a_gather_of_6_18_is_full_after_9698():
    """Then the rest."""
    gather = Gather(behaviour_at(NEW))
    gather.take(20000, ANON | DIRTY)
    assert [int(flush.split()[3]) for flush in gather.finish()] == [9698, 2 * 9698, 20000]


def test_what_is_none_costs_a_byte_of_the_budget_and_what_is_kept_a_page():
    """Of 4 MiB in 2.6.32; an empty entry of an upper table costs a byte too, whatever it stands for."""
    gather = Gather(behaviour_at(OLD))
    gather.take(1, ANON)
    gather.pass_over(1 << 30, 4096 - 1)
    gather.keep(1023)  # a byte is left of the budget
    gather.pass_over(1, 1)
    gather.take(1, ANON)
    assert [flush.partition(":")[0] for flush in gather.finish()] == [
        f"TLB flush after {(1 << 30) + 1024} pages, as zap_work is spent",
        f"TLB flush after {(1 << 30) + 1026} pages, at the end",
    ]


def test_the_zero_page_is_flushed_and_no_frame_is_let_go():
    """need_flush is set by any entry that is cleared."""
    mm = memory(OLD, 4)
    touch(mm, BASE, BASE + 4, write=False)
    advise(mm, 4)
    assert "0 frames let go" in said(mm.system.path.taken())


@pytest.mark.parametrize(
    ("version", "reasons"),
    [(OLD, ["as the gather is full", "at the end"]), (NEW, ["as it met dirty pages of files", "at the end"])],
)
def test_dirty_pages_of_files_are_flushed_with_their_table(version, reasons):
    """Since 3.15, before the lock of the page table is let go; 2.6.32 waits until its gather is full."""
    system = System(version)
    system.path = Path(system.behaviour)
    mm = Mm(system)
    mmap(mm, BASE, BASE + 516, RW, shared=True, file=system.new_file("file", 516, kind=FILE))
    touch(mm, BASE, BASE + 512, write=True)
    touch(mm, BASE + 512, BASE + 516, write=False)
    advise(mm, 516)
    assert [why for _, why in flushes(system.path.taken())] == reasons


# Entries


def test_each_run_of_entries_alike_is_told_with_its_first_raw_entry_and_what_it_leads_to():
    """Anonymous, zero page, swap, migration, poison; and the none ones counted."""
    mm = memory(OLD, 16)
    touch(mm, BASE, BASE + 2, write=True)
    touch(mm, BASE + 2, BASE + 3, write=False)
    mm.table.put(BASE + 3, BASE + 5, SWAP, 291)
    mm.table.put(BASE + 5, BASE + 6, MIGRATION, 0x1022A)
    mm.table.put(BASE + 6, BASE + 7, POISON, 0x1022B)
    stages = list(Descent(mm, mm.vmas.find(BASE), BASE, BASE + 16, frozenset()).stages(0))
    runs = stages[[stage.function for stage in stages].index("zap_pte_range") + 1 :]
    assert [stage.what for stage in runs] == [
        "2 × present, anonymous, dirty, young",
        "1 × present, zero page, young",
        "2 × swap",
        "1 × migration",
        "1 × poisoned",
        "9 × none",
    ]
    assert [stage.entries[0] for stage in runs[:-1]] == [walk(mm, BASE + page)[-1] for page in (0, 2, 3, 5, 6)]
    assert runs[2].entries[0].flags == ("swap", "type 0", "offset 291")
    assert "RSS is not counted down" in runs[3].outcome


def test_guards_stay_and_pages_between_go():
    """A discard keeps them and says so; munmap does not."""
    mm = memory(NEW, 4)
    advise(mm, 1, Advice.GUARD_INSTALL)
    touch(mm, BASE + 1, BASE + 4, write=True)
    mm.system.path.taken()
    advise(mm, 4)
    guard = next(stage for stage in mm.system.path.taken() if stage.what == "1 × guard marker")
    assert (guard.function, guard.outcome) == ("zap_nonpresent_ptes", "kept")
    assert guard.entries[0].flags == ("guard",)
    munmap(mm, BASE, BASE + 4)
    guard = next(stage for stage in mm.system.path.taken() if stage.what == "1 × guard marker")
    assert guard.outcome.startswith("kept by a discard, dropped")


def test_a_dirty_page_of_a_file_hands_its_flags_on_and_a_private_copy_forgets_them():
    """The file keeps its page."""
    system = System(NEW)
    system.path = Path(system.behaviour)
    mm = Mm(system)
    mmap(mm, BASE, BASE + 4, RW, shared=True, file=system.new_file("file", 4, kind=FILE))
    mmap(mm, BASE + 8, BASE + 12, RW, file=system.new_file("other", 4, kind=FILE))
    touch(mm, BASE, BASE + 4, write=True)
    touch(mm, BASE + 8, BASE + 12, write=True)
    system.path.taken()
    advise(mm, 4)
    assert "→ cleared; the page is marked dirty and used; file counter down" in said(system.path.taken())
    advise(mm, 4, first=BASE + 8)
    assert "→ cleared, dirty and young forgotten; anon counter down" in said(system.path.taken())


@pytest.mark.parametrize(("pages", "function"), [(512, "zap_huge_pmd"), (256, "__split_huge_pmd")])
def test_a_huge_page_goes_whole_or_is_split_first(pages, function):
    """What a part of it leads to is told of small entries."""
    mm = memory(NEW, 512)
    advise(mm, 512, Advice.HUGEPAGE)
    touch(mm, BASE, BASE + 512, write=True)
    assert mm.table.get(BASE)[0] & HUGE
    mm.system.path.taken()
    advise(mm, pages)
    stages = mm.system.path.taken()
    assert function in functions(stages)
    assert ("zap_pte_range" in functions(stages)) == (pages < 512)
    huge = [entry for stage in stages for entry in stage.entries if "huge" in entry.flags]
    assert [entry.table for entry in huge] == ["PMD"]
    assert huge[0].frame == 1 << 38


def test_where_no_table_is_the_way_ends_with_the_entry_that_is_none():
    """pgd_none, pud_none, pmd_none: the seed's list."""
    mm = memory(NEW, 1024)
    advise(mm, 1024)
    assert "PGD[0] 0x0000000000000000  none" in said(mm.system.path.taken())
    touch(mm, BASE + 512, BASE + 513, write=True)
    advise(mm, 1024)
    told = said(mm.system.path.taken())
    assert "→ pmd_none: skipped, 512 pages" in told
    assert "511 × none: skipped" in told


def test_upper_tables_are_told_once_and_many_page_tables_in_short():
    """Of ten tables the first three and the last."""
    mm = memory(NEW, 5120)
    touch(mm, BASE, BASE + 5120, write=True)
    advise(mm, 5120)
    stages = mm.system.path.taken()
    met = [entry.table for stage in stages for entry in stage.entries]
    assert {table: met.count(table) for table in met} == {"PGD": 1, "PUD": 1, "PMD": 4, "PTE": 4}
    assert "… 6 page tables more" in said(stages)


@pytest.mark.parametrize("version", [OLD, "3.10", "4.14", "5.4", NEW])
def test_what_is_said_of_counters_is_how_they_moved(version):
    """RSS by kind, swap, frames."""
    mm = memory(version, 1000)
    touch(mm, BASE, BASE + 700, write=True)
    touch(mm, BASE + 700, BASE + 900, write=False)
    before, frames = dict(mm.resident), mm.system.frames.in_use
    advise(mm, 1000)
    told = said(mm.system.path.taken()).splitlines()[-1]
    assert told == f"  counters, in pages: anon {mm.resident[ANON] - before[ANON]}, frames in use " + str(
        mm.system.frames.in_use - frames
    )
    assert mm.resident[ANON] - before[ANON] == -700


def test_outcomes_are_told_for_what_a_kernel_knows():
    """Nonlinear entries until 4.0, guards since 6.13, huge pages since 2.6.38."""

    def known(version):
        return {entry for entry, _ in outcomes(behaviour_at(version))}

    assert "nonlinear file page" in known(OLD)
    assert not {"guard marker", "present, anonymous, huge"} & known(OLD)
    assert {"guard marker", "present, anonymous, huge"} <= known(NEW)
    assert "nonlinear file page" not in known(NEW)
    assert "guard marker" in known("6.13")
