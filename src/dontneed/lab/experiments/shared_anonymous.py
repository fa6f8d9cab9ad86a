"""Map shared anonymous memory, as Python's mmap does unless told otherwise, and see that DONTNEED frees none of it."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, answer, contents, kib
from dontneed.lab.machine import SHARED_ANONYMOUS
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 64
SIZE = PAGES * PAGE_BYTES
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    p = bench.map("p", PAGES, kind=SHARED_ANONYMOUS)
    bench.write(p, LETTER)
    written = bench.look("Write to shared anonymous memory: a file without a name, in memory, has the frames")
    bench.advise(p, Advice.DONTNEED)
    advised = bench.look("Give it up: the entries of the page table go, the file keeps its frames")
    kept = bench.read(p)
    reread = bench.look("Read it: nothing was lost, and the same frames are back")
    refused = bench.advise(p, Advice.REMOVE)
    removed = bench.look("Give it up by MADV_REMOVE: a hole in the file, and now the frames are free")
    lost = bench.read(p)
    refilled = bench.look("Read it: zeros, in fresh frames, for a file in memory has no zero page")

    full, empty, back, hole, zeros = (seen.held(p) for seen in (written, advised, reread, removed, refilled))
    around = bench.kernel.behaviour.fault_around
    bench.claim("RSS after DONTNEED", kib(SIZE, 0), kib(full.rss_bytes, empty.rss_bytes))
    bench.claim("found after DONTNEED", LETTER, contents(kept.values))
    bench.claim("faults to read that", str(PAGES // around), str(kept.faults.minor))
    if all(frames := written.frames(p)):  # this user may see their numbers
        same = sum(old == new for old, new in zip(frames, reread.frames(p), strict=True))
        bench.claim("frames that are the same as before", str(PAGES), str(same))
    bench.claim("answer to REMOVE", "accepted", answer(refused))
    bench.claim("RSS after REMOVE", kib(SIZE, 0), kib(back.rss_bytes, hole.rss_bytes))
    bench.claim("found after REMOVE", "zeros", contents(lost.values))
    bench.claim("faults to read zeros", str(PAGES), str(lost.faults.minor))
    bench.claim("RSS that reading zeros brings", kib(SIZE), kib(zeros.rss_bytes))


EXPERIMENT = Experiment(
    "shared-anonymous",
    "Why does DONTNEED free nothing of shared anonymous memory, which is what Python's mmap gives, and what does?",
    perform,
)
