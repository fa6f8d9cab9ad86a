"""The model's machine and the live one print the same about the same: smaps line by line, pagemap bit by bit."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dontneed.abi import pagemap as abi
from dontneed.abi.advice import Advice
from dontneed.kernel.smaps import parse_smaps
from dontneed.lab.live import LiveMachine
from dontneed.lab.machine import HUGETLB, PRIVATE_FILE, SHARED_ANONYMOUS, SHARED_FILE
from dontneed.lab.modelled import ModelMachine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dontneed.lab.machine import Machine, Process, Region

pytestmark = [pytest.mark.needs_kernel("6.18")]

PAGES = 64
HUGE = 512
NOT_COMPARED = ("lazyfree_bytes",)  # the live kernel marks pages in batches

Scene = tuple["Process", "Region"]
"""A process, and the region of it that is compared."""


def seen(process: Process, region: Region) -> tuple[list[dict[str, object]], list[int]]:
    """What smaps says of the mappings of a region, and pagemap of its pages but for their places."""
    table, counted = parse_smaps(process.smaps())
    rows = []
    for start, end, counters in zip(table.starts, table.ends, counted, strict=True):
        if region.start <= start and end <= region.end:
            row = {name: value for name, value in counters.as_dict().items() if name not in NOT_COMPARED}
            rows.append({"pages": (end - start) // 4096, **row})
    entries = np.frombuffer(process.pagemap(region), np.uint64)
    return rows, [int(entry) & ~abi.PFN_MASK for entry in entries]


def untouched(process: Process, _: ExitStack) -> Iterator[Scene]:
    """Mapped, and nothing more."""
    yield process, process.map("p", PAGES)


def written(process: Process, _: ExitStack) -> Iterator[Scene]:
    """Every page has a frame."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    yield process, region


def read(process: Process, _: ExitStack) -> Iterator[Scene]:
    """Every page maps the zero page, but for a few that were written then."""
    region = process.map("p", PAGES)
    process.read(region)
    yield process, region
    process.write(region.part("q", 3, 5), 1)
    yield process, region


def discarded(process: Process, _: ExitStack) -> Iterator[Scene]:
    """A part of what was written is given up."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    process.advise(region.part("q", 10, 20), Advice.DONTNEED)
    yield process, region


def protected(process: Process, _: ExitStack) -> Iterator[Scene]:
    """Three mappings, of which the middle one cannot be written to any more."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    process.protect(region.part("q", 8, 8), "r")
    yield process, region
    process.protect(region.part("q", 8, 8), "rw")
    yield process, region


def locked(process: Process, _: ExitStack) -> Iterator[Scene]:
    """Locked in part, unlocked in a part of that."""
    region = process.map("p", PAGES)
    process.lock(region.part("q", 8, 32))
    yield process, region
    process.unlock(region.part("r", 8, 8))
    yield process, region


def advised(process: Process, _: ExitStack) -> Iterator[Scene]:
    """Flags of all sorts."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    for number, advice in enumerate((Advice.RANDOM, Advice.SEQUENTIAL, Advice.DONTFORK, Advice.DONTDUMP)):
        process.advise(region.part("q", 8 * number, 8), advice)
    process.advise(region.part("q", 40, 8), Advice.WIPEONFORK)
    process.advise(region.part("q", 48, 8), Advice.HUGEPAGE)
    yield process, region


def guarded(process: Process, _: ExitStack) -> Iterator[Scene]:
    """Guard markers among written pages."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    process.advise(region.part("q", 4, 4), Advice.GUARD_INSTALL)
    yield process, region


def freed_lazily(process: Process, _: ExitStack) -> Iterator[Scene]:
    """MADV_FREE: clean and old, and still there."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    process.advise(region, Advice.FREE)
    process.write(region.part("q", 0, 8), 2)
    yield process, region


def cold(process: Process, _: ExitStack) -> Iterator[Scene]:
    """MADV_COLD: dirty and old."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    process.advise(region, Advice.COLD)
    yield process, region


def shared_anonymous(process: Process, _: ExitStack) -> Iterator[Scene]:
    """MAP_SHARED memory: written, discarded, read again."""
    region = process.map("p", PAGES, kind=SHARED_ANONYMOUS)
    process.write(region.part("q", 0, 16), 1)
    yield process, region
    process.advise(region.part("q", 0, 8), Advice.DONTNEED)
    yield process, region
    process.read(region)
    yield process, region


def private_file(process: Process, _: ExitStack) -> Iterator[Scene]:
    """A file's pages, and copies of some."""
    region = process.map("p", PAGES, kind=PRIVATE_FILE, file=process.create_file("f", PAGES, 1))
    process.touch(region.part("q", 20, 1))
    yield process, region
    process.write(region.part("q", 16, 8), 2)
    yield process, region
    process.advise(region.part("q", 20, 8), Advice.DONTNEED)
    yield process, region


def shared_file(process: Process, _: ExitStack) -> Iterator[Scene]:
    """A file on a disk, written through a mapping."""
    region = process.map("p", PAGES, kind=SHARED_FILE, file=process.create_file("f", PAGES, 1))
    process.touch(region.part("q", 40, 1))
    process.write(region.part("q", 0, 8), 2)
    yield process, region
    process.advise(region.part("q", 0, 4), Advice.DONTNEED)
    yield process, region


def file_in_memory(process: Process, _: ExitStack) -> Iterator[Scene]:
    """A memfd, mapped twice."""
    file = process.create_file("f", PAGES, 1, in_memory=True)
    region = process.map("p", PAGES, kind=SHARED_FILE, file=file)
    private = process.map("q", PAGES, kind=PRIVATE_FILE, file=file)
    process.touch(region.part("r", 0, 1))
    process.write(private.part("r", 4, 4), 2)
    yield process, region
    yield process, private


def forked(process: Process, stack: ExitStack) -> Iterator[Scene]:
    """Shared between parent and child, and no more where either wrote."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    child = stack.enter_context(process.fork())
    yield process, region
    yield child, region
    child.write(region.part("q", 0, 16), 2)
    process.write(region.part("q", 32, 8), 3)
    yield process, region
    yield child, region
    child.end()
    yield process, region


def moved(process: Process, _: ExitStack) -> Iterator[Scene]:
    """Remapped to twice the length, and back."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    longer = process.remap(region, 2 * PAGES)
    yield process, longer
    yield process, process.remap(longer, PAGES // 2)


def sealed(process: Process, _: ExitStack) -> Iterator[Scene]:
    """A seal shows."""
    region = process.map("p", PAGES)
    process.seal(region.part("q", 0, 8))
    yield process, region


def on_a_stack(process: Process, _: ExitStack) -> Iterator[Scene]:
    """A thread's stack while it is used, and what is left when the thread has ended."""
    thread = process.start_thread("t", 256)  # which may not have run yet
    process.use_stack(thread, PAGES)
    yield process, thread.stack
    process.end_thread(thread)
    yield process, thread.stack


def huge(process: Process, _: ExitStack) -> Iterator[Scene]:
    """A huge page, whole and split."""
    region = process.map("p", 2 * HUGE, huge=True)
    process.write(region, 1)
    yield process, region
    process.protect(region.part("q", 0, 8), "r")
    yield process, region


def swapped(process: Process, stack: ExitStack) -> Iterator[Scene]:
    """Swapped out, shared with a child, and partly back."""
    stack.enter_context(process.machine.swap())
    region = process.map("p", PAGES)
    process.write(region, 1)
    process.advise(region, Advice.PAGEOUT)
    yield process, region
    process.read(region.part("q", 0, 8))
    process.write(region.part("q", 8, 8), 2)
    yield process, region
    child = stack.enter_context(process.fork())
    yield child, region


def from_hugetlb_pool(process: Process, stack: ExitStack) -> Iterator[Scene]:
    """Pages of the pool are in lines of their own."""
    stack.enter_context(process.machine.hugetlb_pool(2))
    region = process.map("p", 2 * HUGE, kind=HUGETLB)
    process.write(region.part("q", 0, HUGE), 1)
    yield process, region
    process.unmap(region)


SCENARIOS = (
    untouched,
    written,
    read,
    discarded,
    protected,
    locked,
    advised,
    guarded,
    freed_lazily,
    cold,
    shared_anonymous,
    private_file,
    shared_file,
    file_in_memory,
    forked,
    moved,
    sealed,
    pytest.param(
        on_a_stack, marks=pytest.mark.skipif(LiveMachine().libc != ModelMachine().libc, reason="needs glibc 2.36")
    ),
    huge,
    pytest.param(swapped, marks=pytest.mark.needs_root),
    pytest.param(from_hugetlb_pool, marks=pytest.mark.needs_root),
)


def scenes(machine: Machine, scenario: Callable[[Process, ExitStack], Iterator[Scene]]) -> list[object]:
    """What is seen at every stop of a scenario on a machine."""
    with ExitStack() as stack:
        process = stack.enter_context(machine.start())
        return [seen(*scene) for scene in scenario(process, stack)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_smaps_and_pagemap_are_those_of_the_live_kernel(scenario):
    """Every mapping of the region: its length, its counters, its flags; every page of it: its bits."""
    assert scenes(ModelMachine("6.18"), scenario) == scenes(LiveMachine(), scenario)
