"""Map a file privately, read it, write to half of it, give all up, and see the half that was written go back."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.lab.machine import PRIVATE_FILE
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
    p = bench.map("p", PAGES, kind=PRIVATE_FILE, file=fd)
    reading = bench.read(p).faults
    unwritten = bench.look("Map a file and read it: the frames are those of the page cache")
    copying = bench.write(p.part("half", 0, PAGES // 2), WRITTEN)
    written = bench.look("Write to the first half: each page is copied, and only the copies are dirty")
    before = bench.read(p).values
    bench.advise(p, Advice.DONTNEED)
    advised = bench.look("Give it up: the copies are freed, the page cache keeps its frames")
    cached = bench.cached_pages(fd)
    again = bench.read(p)
    reread = bench.look("Read it again: the file as it is, and nothing of what was written")

    clean, mixed, empty, back = (seen.held(p) for seen in (unwritten, written, advised, reread))
    around = bench.kernel.behaviour.fault_around
    bench.claim("RSS of the region", kib(SIZE, 0), kib(mixed.rss_bytes, empty.rss_bytes))
    dirty = (clean.dirty_bytes, mixed.dirty_bytes, empty.dirty_bytes, back.dirty_bytes)
    bench.claim("Dirty when read, written, given up, read again", kib(0, SIZE // 2, 0, 0), kib(*dirty))
    bench.claim("found before", f"{WRITTEN} and {ORIGINAL}", contents(before))
    bench.claim("found afterwards", ORIGINAL, contents(again.values))
    bench.claim("found in the file itself", ORIGINAL, contents(bench.file_bytes(fd)))
    bench.claim("pages that the page cache keeps", str(PAGES), str(cached))
    bench.claim("faults that copy the half", str(PAGES // 2), str(copying.minor))
    bench.claim("faults to read it all", str(PAGES // around), str(reading.minor))
    bench.claim("faults to read it all again", str(PAGES // around), str(again.faults.minor))
    bench.claim("major faults, for a read from disk", "0", str(again.faults.major))


EXPERIMENT = Experiment(
    "private-file",
    "What becomes of a private mapping of a file, of what was read and of what was written?",
    perform,
)
