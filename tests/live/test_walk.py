"""Page tables of live processes, entry by entry: against pagemap and kpageflags, and against the model's own."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import dontneed
from dontneed.abi import kpageflags
from dontneed.abi import pagemap as abi
from dontneed.abi.page_entry import FRAME_MASK, LEVELS, NO_EXECUTE
from dontneed.errors import NoAddressSpace, ProcessGone, UsageError
from dontneed.kernel.kernel_memory import kernel_memory, open_kernel_memory
from dontneed.kernel.kpage import read_frame_flags
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.lab.before_after import before_after
from dontneed.lab.live import LiveMachine, LiveProcess
from dontneed.lab.modelled import ModelMachine
from dontneed.model.views.walk import walk as walk_model
from dontneed.observe.tables.page_tables import read_walk

from .test_model_against_live import SCENARIOS, file_in_memory, on_a_stack, shared_anonymous

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_feature("kernel memory"), pytest.mark.needs_feature("BTF")]

PAGE = 4096
REPEATS = 9


def walks(process, region):
    """The way to every page of a region."""
    with ProcessDirectory(process.pid) as directory, kernel_memory() as memory:
        task = memory.task(directory)
        return [read_walk(directory, page, memory, task) for page in range(region.start, region.end, PAGE)]


# Against the model


def entry_words(entry, *, dirty):
    """What an entry says, frames and slots aside."""
    flags = entry.flags[:1] if entry.flags[0] == "swap" else entry.flags
    if {"dirty", "saved-dirty"} <= set(flags):  # hugetlb makes an entry writable after it has made it dirty
        flags = tuple(flag for flag in flags if flag != "saved-dirty")
    if not dirty and entry.table == "PTE":
        flags = tuple(flag for flag in flags if flag != "dirty")
    return entry.table, flags


def seen(process, region, *, dirty, placed):
    """The entries on the way to every page of a region; the last one's words where tables may begin anywhere in it."""
    if isinstance(process, LiveProcess):
        found = [walk.entries for walk in walks(process, region)]
    else:
        found = [walk_model(process.memory, page // PAGE) for page in range(region.start, region.end, PAGE)]
    ways = [tuple(entry_words(entry, dirty=dirty) for entry in way) for way in found]
    return ways if placed else [way[-1][1] for way in ways]


def scenes(machine, scenario):
    """What is seen at every stop of a scenario on a machine.

    A read fault maps a page of shared memory dirty if its folio is (set_pte_range()); the model does not know. A stack
    lies where the C library got it: where a table begins in it is chance.
    """
    dirty = scenario not in (shared_anonymous, file_in_memory)
    with ExitStack() as stack:
        process = stack.enter_context(machine.start())
        return [seen(*scene, dirty=dirty, placed=scenario is not on_a_stack) for scene in scenario(process, stack)]


def without_accessed(found):
    """The same, marks of use aside, at every depth."""
    return (
        tuple(without_accessed(each) for each in found if each != "accessed") if type(found) in (list, tuple) else found
    )


@pytest.mark.needs_kernel("6.18")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_entries_are_those_of_the_model_flag_by_flag(scenario):
    """The model writes them from what it knows of the kernel, and has never seen one.

    An accessed mark may be cleared before we see it, by DAMON for one: then the scenario is played again.
    """
    expected = scenes(ModelMachine("6.18"), scenario)
    found = scenes(LiveMachine(), scenario)
    for _ in range(REPEATS):
        assert without_accessed(found) == without_accessed(expected)
        if found == expected:
            break
        found = scenes(LiveMachine(), scenario)
    assert found == expected


@pytest.mark.needs_kernel("6.18")
def test_before_and_after_are_those_of_the_model():
    """The story that `dontneed walk --before-after` tells is the same on both, meanings included."""
    live, model = before_after(LiveMachine()), before_after(ModelMachine("6.18"))
    assert [moment.title for moment in live.moments] == [moment.title for moment in model.moments]
    for one, other in zip(live.moments, model.moments, strict=True):
        assert [(entry.table, entry.flags, entry.meaning) for entry in one.entries] == [
            (entry.table, entry.flags, entry.meaning) for entry in other.entries
        ], one.title


# Against pagemap and kpageflags


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_frames_are_those_of_pagemap_and_are_what_kpageflags_says(scenario):
    """Page by page: present, its frame, swap; and of frames: the zero page, huge pages, files."""
    with ExitStack() as stack:
        process = stack.enter_context(LiveMachine().start())
        for of, region in scenario(process, stack):
            entries = np.frombuffer(of.pagemap(region), np.uint64)
            found = walks(of, region)
            present = [not any(word in ("none", "swap", "guard") for word in walk.entries[-1].flags) for walk in found]
            assert present == (entries & np.uint64(abi.PRESENT) != 0).tolist()
            frames = [int(entry) & abi.PFN_MASK if entry & np.uint64(abi.PRESENT) else None for entry in entries]
            assert [walk.frame for walk in found] == frames
            last = [walk.entries[-1] for walk in found]
            swapped = [entry.flags[0] == "swap" for entry in last]
            guards = [entry.flags[0] == "guard" for entry in last]
            assert [one or other for one, other in zip(swapped, guards, strict=True)] == (
                entries & np.uint64(abi.SWAP) != 0
            ).tolist()
            _compare_with_frames(last, frames)


def _compare_with_frames(last, frames):
    """What the frames themselves are."""
    known = [(entry, frame) for entry, frame in zip(last, frames, strict=True) if frame]
    flags = read_frame_flags(np.array([frame for _, frame in known], np.uint64)).tolist()
    for (entry, _), word in zip(known, flags, strict=True):
        assert bool(word & kpageflags.ZERO_PAGE) == ("zero page" in entry.meaning)
        if "huge" in entry.flags:
            assert word & (kpageflags.THP | kpageflags.HUGE)


def test_tables_are_tables_by_kpageflags(child):
    """Each frame that an upper entry leads to is a page table to the kernel too."""
    process = child()
    start = dontneed.look(process.pid).mappings[0].start
    walk = dontneed.walk(process.pid, start)
    tables = np.array([entry.frame for entry in walk.entries[:-1]], np.uint64)
    assert all(word & kpageflags.PGTABLE for word in read_frame_flags(tables).tolist())
    assert [entry.table for entry in walk.entries] == ["PGD", *reversed(LEVELS[: walk.levels - 1])]
    assert all(not entry.raw & ~(FRAME_MASK | 0xFFF | NO_EXECUTE) for entry in walk.entries)


# Whom


def test_our_own_process_is_walked_too():
    """By the pid None, as everywhere."""
    memory = bytearray(b"x" * PAGE)
    walk = dontneed.walk(None, id(memory))
    assert walk.pid == os.getpid()
    assert walk.frame
    assert "writable" in walk.entries[-1].flags


def test_a_kernel_thread_has_no_page_tables():
    """It borrows those of whoever ran before."""
    kthreadd = 2
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("needs to see a kernel thread")
    with pytest.raises(NoAddressSpace, match="no page tables"):
        dontneed.walk(kthreadd, 0x1000)


def test_a_zombie_is_gone(child):
    """Its memory went before its number."""
    process = child("import subprocess; zombie = subprocess.Popen(['true']); print(zombie.pid, flush=True)")
    zombie = int(process.said[0])
    while b") Z" not in Path(f"/proc/{zombie}/stat").read_bytes():
        os.sched_yield()
    with pytest.raises(ProcessGone):
        dontneed.walk(zombie, 0x1000)


def test_an_address_of_the_kernel_is_refused():
    """Root or not."""
    with pytest.raises(UsageError, match="user space"):
        dontneed.walk(None, 0xFFFF_8000_0000_0000)


def test_a_process_that_replaces_its_program_is_noticed(child):
    """The task is the same and its memory another one: what was looked up before is of no use."""
    process = child("pause(); import os, sys; os.execv(sys.executable, [sys.executable, '-c', 'input()'])")
    with ProcessDirectory(process.pid) as directory, open_kernel_memory() as memory:
        task = memory.task(directory)
        read_walk(directory, 0x1000, memory, task)
        exe = directory.read("maps")
        process._process.stdin.write(b"\n")
        while directory.read("maps")[:40] == exe[:40]:
            os.sched_yield()
        with pytest.raises(ProcessGone, match="replaced its program"):
            read_walk(directory, 0x1000, memory, task)
