"""Map a file shared, write to it, give the memory up, and find what was written in the file and in the memory."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.lab.machine import SHARED_FILE
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 64
SIZE = PAGES * PAGE_BYTES
ORIGINAL, WRITTEN = "f", "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    fd = bench.create_file("fd", PAGES, ORIGINAL)
    p = bench.map("p", PAGES, kind=SHARED_FILE, file=fd)
    writing = bench.write(p, WRITTEN)
    written = bench.look("Write to a shared mapping of a file: what is written to is the page cache itself")
    bench.advise(p, Advice.DONTNEED)
    advised = bench.look("Give it up: only the entries of the page table go, and the cache learns what was dirty")
    cached = bench.cached_pages(fd)
    in_file = bench.file_bytes(fd)
    again = bench.read(p)
    reread = bench.look("Read it again, from the file and from memory: all is there")

    full, empty, back = (seen.held(p) for seen in (written, advised, reread))
    around = bench.kernel.behaviour.fault_around
    bench.claim("RSS of the region", kib(SIZE, 0), kib(full.rss_bytes, empty.rss_bytes))
    bench.claim("Dirty of the region", kib(SIZE, 0), kib(full.dirty_bytes, empty.dirty_bytes))
    bench.claim("pages that the page cache keeps", str(PAGES), str(cached))
    bench.claim("found in the file", WRITTEN, contents(in_file))
    bench.claim("found in memory", WRITTEN, contents(again.values))
    bench.claim("RSS that reading brings back", kib(SIZE), kib(back.rss_bytes))
    bench.claim("faults to write it", str(PAGES), str(writing.minor))
    bench.claim("faults to read it again", str(PAGES // around), str(again.faults.minor))
    bench.claim("major faults, for a read from disk", "0", str(again.faults.major))


EXPERIMENT = Experiment(
    "shared-file",
    "Does giving up a shared mapping of a file lose what was written to it?",
    perform,
)
