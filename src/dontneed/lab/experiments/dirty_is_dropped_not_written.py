"""Write the same to three kinds of memory, give them up, and look for it: in memory, in the files, in swap."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.lab.machine import PRIVATE_FILE, SHARED_FILE
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 16
SIZE = PAGES * PAGE_BYTES
ORIGINAL, WRITTEN = "f", "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    copied_file = bench.create_file("copied_file", PAGES, ORIGINAL)
    shared_file = bench.create_file("shared_file", PAGES, ORIGINAL)
    memory = {
        "anonymous memory": bench.map("anonymous", PAGES),
        "a private mapping of a file": bench.map("copied", PAGES, kind=PRIVATE_FILE, file=copied_file),
        "a shared mapping of a file": bench.map("shared", PAGES, kind=SHARED_FILE, file=shared_file),
    }
    for region in memory.values():
        bench.write(region, WRITTEN)
    written = bench.look("Write to all three: what is dirty exists nowhere but in memory")
    for region in memory.values():
        bench.advise(region, Advice.DONTNEED)
    advised = bench.look("Give all three up: nothing is dirty any more, and nothing was swapped out")
    left = {what: contents(bench.read(region).values) for what, region in memory.items()}
    files = {"the file mapped privately": copied_file, "the file mapped shared": shared_file}
    stored = {what: contents(bench.file_bytes(file)) for what, file in files.items()}
    bench.look("Look for what was written: it is where the page cache had it, and nowhere else")

    for what, region in memory.items():
        before, after = written.held(region), advised.held(region)
        bench.claim(f"Dirty of {what}", kib(SIZE, 0), kib(before.dirty_bytes, after.dirty_bytes))
    swapped = sum(advised.held(region).swap_bytes for region in memory.values())
    bench.claim("swapped out", kib(0), kib(swapped))
    for what, expected in zip(left, ("zeros", ORIGINAL, WRITTEN), strict=True):
        bench.claim(f"found in {what}", expected, left[what])
    for what, expected in zip(stored, (ORIGINAL, WRITTEN), strict=True):
        bench.claim(f"found in {what}", expected, stored[what])


EXPERIMENT = Experiment(
    "dirty-is-dropped-not-written",
    "Is what was written and is given up saved anywhere first: in its file, or in swap?",
    perform,
)
