"""What does it cost to read page tables: one walk, the set-up before the first, and all tables of a large process?

A walk has no peer that shows as much: it stands beside the read of one pagemap entry, which says the frame and no more.
"""

from __future__ import annotations

import os
import tempfile
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import dontneed
from comparing import Case, at_least_times, at_most
from dontneed.abi.pagemap import ENTRY_BYTES
from dontneed.kernel.kernel_memory import KernelMemory, kernel_memory
from dontneed.kernel.maps import read_maps
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.tables.page_tables import dump, read_walk
from dontneed.units import PAGE_BYTES, format_bytes
from measuring import alternate, timed
from programs import Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from comparing import Comparison
    from measuring import Runner
    from options import Options

QUESTION = "page tables"
HOLDS = ()

ONE_WALK, WHOLE_CALL, ONE_ENTRY = "a walk, the process held", "walk(pid, address)", "one entry of pagemap"
SET_UP, SET_UP_FIRST = "set-up, offsets kept", "set-up, offsets looked up in BTF"
DUMP, LOOK, ROLLUP = "all page tables, counted by mapping", "look()", "smaps_rollup"
_WALKS = 500


def run(options: Options) -> list[Comparison]:
    """Walk to a page, set up, and count all pages of a process."""
    with Program("hold", "pages", options.stalled_bytes) as program, ProcessDirectory(program.pid) as process:
        largest = max(dontneed.look(program.pid).mappings, key=lambda mapping: mapping.size_bytes)
        address = largest.start + largest.size_bytes // 2 // PAGE_BYTES * PAGE_BYTES
        return [*_one(options, process, address), *_set_up(options), *_all(options, process, largest.size_bytes)]


def _one(options: Options, process: ProcessDirectory, address: int) -> list[Comparison]:
    pagemap = process.open("pagemap")
    try:
        with kernel_memory() as memory:
            task = memory.task(process)
            runners = [
                _each(ONE_WALK, lambda: read_walk(process, address, memory, task)),
                _each(WHOLE_CALL, lambda: dontneed.walk(process.pid, address)),
                _each(ONE_ENTRY, lambda: os.pread(pagemap, ENTRY_BYTES, address // PAGE_BYTES * ENTRY_BYTES)),
            ]
            case = Case(QUESTION, "one page", alternate(runners, options.rounds))
    finally:
        os.close(pagemap)
    return [case.compare(ONE_WALK, ONE_ENTRY, at_most(50e-6)), case.compare(WHOLE_CALL, ONE_ENTRY)]


def _set_up(options: Options) -> list[Comparison]:
    """With an empty directory to keep offsets in, and with what was kept there."""
    caches = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        try:
            runners = [
                timed(SET_UP, lambda: KernelMemory().close()),
                timed(SET_UP_FIRST, lambda: KernelMemory(anew=True).close()),
            ]
            case = Case(QUESTION, "before the first", alternate(runners, options.rounds))
        finally:
            if caches is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = caches
    return [
        case.compare(SET_UP, SET_UP_FIRST, at_most(0.020)),
        case.compare(SET_UP_FIRST, SET_UP, at_most(0.150)),
    ]


def _all(options: Options, process: ProcessDirectory, size_bytes: int) -> list[Comparison]:
    with kernel_memory() as memory:
        runners = [
            timed(DUMP, lambda: dump(process, read_maps(process), memory)),
            timed(LOOK, lambda: dontneed.look(process.pid)),
            timed(ROLLUP, lambda: process.read("smaps_rollup")),
        ]
        case = Case(QUESTION, f"{format_bytes(size_bytes)} of 4 KiB pages", alternate(runners, options.rounds))
    return [case.compare(DUMP, LOOK), case.compare(DUMP, ROLLUP, at_least_times(8))]


def _each(name: str, call: Callable[[], object]) -> Runner:
    """A runner for the seconds of one call: the median of many in a row, so that an interrupt counts for one."""

    def run() -> dict[str, float]:
        seconds = []
        for _ in range(_WALKS):
            began = perf_counter()
            call()
            seconds.append(perf_counter() - began)
        return {name: median(seconds)}

    return run
