"""Read memory that nobody has written to, discard it, write to it: how present pages can cost no frame."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 64
SIZE = PAGES * PAGE_BYTES
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    p = bench.map("p", PAGES)
    found = bench.read(p)
    read = bench.look("Read memory that nobody has written to: one frame, full of zeros, behind every address")
    bench.advise(p, Advice.DONTNEED)
    advised = bench.look("Give it up: the entries go, and there is no frame to free")
    again = bench.read(p)
    copying = bench.write(p, LETTER)
    written = bench.look("Read it again, and write to it: each page gets a frame of its own now")

    zeros, empty, full = (seen.held(p) for seen in (read, advised, written))
    counted = SIZE if bench.kernel.behaviour.smaps_counts_zero_page else 0
    bench.claim("found", "zeros", contents(found.values))
    bench.claim("pages that are present", f"{PAGES} → 0", f"{zeros.present_pages} → {empty.present_pages}")
    if all(read.frames(p)):  # this user may see their numbers
        bench.claim("frames behind them", "1", str(zeros.frames))
    bench.claim("RSS of the region as smaps counts it", kib(counted, 0), kib(zeros.rss_bytes, empty.rss_bytes))
    bench.claim("Dirty of the region", kib(0), kib(zeros.dirty_bytes))
    faults = f"{found.faults.minor}, {again.faults.minor}, {copying.minor}"
    bench.claim("faults to read, read again, write", f"{PAGES}, {PAGES}, {PAGES}", faults)
    bench.claim("RSS that writing brings", kib(SIZE), kib(full.rss_bytes))


EXPERIMENT = Experiment(
    "zero-page",
    "What does it cost to read memory that was never written to, and what does giving that up free?",
    perform,
)
