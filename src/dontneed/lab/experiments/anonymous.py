"""Map private anonymous memory, touch it, give it up with MADV_DONTNEED, and see what went and what stayed."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.abi.page_table import TABLE_BYTES, whole_slots
from dontneed.lab.experiment import Experiment, kib
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.lab.bench import Bench

PAGES = 1024
SIZE = PAGES * PAGE_BYTES
_AS_BEFORE = "as before"
LETTER = "Z"  # the memory is filled with something else than the zeros that it is to hold afterwards


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    p = bench.map("p", PAGES)
    bench.look("Map: addresses, and no frame behind them")
    filling = bench.write(p, LETTER)
    touched = bench.look("Write to every page: each takes a fault, and a frame")
    bench.advise(p, Advice.DONTNEED)
    advised = bench.look("Give the contents up: the frames go, the addresses stay")
    found = bench.read(p)
    read = bench.look("Read it all: zeros, and the one zero page behind every address")
    refilling = bench.write(p, LETTER)
    refilled = bench.look("Write again: frames come back, for a fault each")

    full, empty, zeros, new = (seen.held(p) for seen in (touched, advised, read, refilled))
    bench.claim("RSS of the region", kib(SIZE, 0), kib(full.rss_bytes, empty.rss_bytes))
    bench.claim("Dirty of the region", kib(SIZE, 0), kib(full.dirty_bytes, empty.dirty_bytes))
    bench.claim("virtual size of the region", kib(SIZE, SIZE), kib(full.size_bytes, empty.size_bytes))
    after = _AS_BEFORE if empty.mappings == full.mappings else " ".join(empty.mappings)
    bench.claim("the mapping", _AS_BEFORE, after)
    bench.claim("bytes found afterwards", "0", " ".join(map(str, found.values)))
    bench.claim("pages that reading maps to the zero page", str(PAGES), str(zeros.present_pages))
    counted = SIZE if bench.kernel.behaviour.smaps_counts_zero_page else 0  # VmRSS never had it
    bench.claim("RSS that reading brings", kib(counted), kib(zeros.rss_bytes))
    bench.claim("RSS that writing brings back", kib(SIZE), kib(new.rss_bytes))
    faults = (filling, found.faults, refilling)
    bench.claim("minor faults to fill, read, refill", _words([PAGES] * 3), _words(each.minor for each in faults))
    if (tables_freed := bench.kernel.frees_emptied_tables) is not None:
        change = -TABLE_BYTES * whole_slots(p.start, p.end) if tables_freed else 0
        tables = advised.counters.page_table_bytes - touched.counters.page_table_bytes
        bench.claim("VmPTE changes as this kernel's version predicts", kib(change), kib(tables))


def _words(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


EXPERIMENT = Experiment(
    "anonymous",
    "What becomes of the page frames of private anonymous memory after madvise(MADV_DONTNEED)?",
    perform,
)
