"""What does a page map cost beyond the kernel's own time, which is that of the bare reads of /proc/PID/pagemap?

The reads are the same, 2 MiB of addresses each; what remains is to turn entries into runs. How many runs there are is
up to the frames; the worst case, with no frame beside its neighbour's, is made by shuffling what was read.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

import dontneed
from comparing import Case, at_most, at_most_more
from dontneed.abi.pagemap import ENTRY_BYTES
from dontneed.kernel.pagemap import read_entries
from dontneed.observe.pages import decode_entries
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES, format_bytes, round_up
from measuring import alternate, timed
from programs import Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from comparing import Comparison
    from options import Options

QUESTION = "decoding a page map"
HOLDS = ()

READS, READS_AND_RUNS, SHUFFLED_RUNS = "bare reads", "reads and runs", "runs alone, entries shuffled"
LOOK_AND_READS, LOOK_WITH_PAGES = "look() and bare reads", "look(pages=True)"


def run(options: Options) -> list[Comparison]:
    """Read the page map of one large mapping, bare, decoded, and as a part of `look`."""
    with Program("hold", "pages", options.decoded_bytes) as program:
        largest = max(dontneed.look(program.pid).mappings, key=lambda mapping: mapping.size_bytes)
        fd = os.open(f"/proc/{program.pid}/pagemap", os.O_RDONLY)
        try:
            return _compare(options, program.pid, fd, largest.start, largest.end)
        finally:
            os.close(fd)


def _compare(options: Options, pid: int, fd: int, start: int, end: int) -> list[Comparison]:
    read_bare = _bare_reads(fd, start, end)
    shuffled = np.random.default_rng(0).permutation(read_entries(fd, start, end))
    runners = [
        timed(READS, read_bare),
        timed(READS_AND_RUNS, lambda: decode_entries(start, read_entries(fd, start, end))),
        timed(SHUFFLED_RUNS, lambda: decode_entries(start, shuffled)),
        timed(LOOK_AND_READS, lambda: [dontneed.look(pid), read_bare()]),
        timed(LOOK_WITH_PAGES, lambda: dontneed.look(pid, pages=True)),
    ]
    samples = alternate(runners, 2 * options.rounds)
    case = Case(QUESTION, f"{format_bytes(end - start)} of 4 KiB pages", samples)
    return [
        case.compare(READS_AND_RUNS, READS, at_most_more(0.005)),
        case.compare(SHUFFLED_RUNS, READS, at_most(0.005)),
        case.compare(LOOK_WITH_PAGES, LOOK_AND_READS),
    ]


def _bare_reads(fd: int, start: int, end: int) -> Callable[[], int]:
    """A call that reads every entry into memory that is there already, and looks at none; it returns their bytes."""
    cuts = [start, *range(round_up(start + 1, HUGE_PAGE_BYTES), end, HUGE_PAGE_BYTES), end]
    pieces = [
        ([bytearray((upto - begin) // PAGE_BYTES * ENTRY_BYTES)], begin // PAGE_BYTES * ENTRY_BYTES)
        for begin, upto in pairwise(cuts)
    ]
    return lambda: sum(os.preadv(fd, buffers, offset) for buffers, offset in pieces)
