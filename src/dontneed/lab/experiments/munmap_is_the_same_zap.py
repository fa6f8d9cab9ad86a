"""Give up one half of a region with MADV_DONTNEED, the other with munmap, and see what only munmap takes."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.abi.page_table import SLOT_BYTES, TABLE_BYTES
from dontneed.lab.experiment import Experiment, kib, raised
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = SLOT_BYTES // PAGE_BYTES  # of a half: what one page table maps, so that each half has one of its own
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    p = bench.map("p", 2 * PAGES)
    kept, gone = p.part("kept", 0, PAGES), p.part("gone", PAGES, PAGES)
    bench.write(p, LETTER)
    written = bench.look("Write to a region, each half of which has a page table of its own")
    bench.advise(kept, Advice.DONTNEED)
    advised = bench.look("Give up one half: the pages are zapped, and the mapping stays")
    bench.unmap(gone)
    unmapped = bench.look("Unmap the other half: the pages are zapped, and then the mapping goes too")
    raises = [raised(bench.touch(half)) for half in (kept, gone)]
    bench.look("Touch both")

    frees_tables = bench.kernel.behaviour.frees_tables
    for half, how, after in ((kept, "DONTNEED", advised), (gone, "munmap", unmapped)):
        pages = f"{written.held(half).present_pages} → {after.held(half).present_pages}"
        bench.claim(f"pages present before and after {how}", f"{PAGES} → 0", pages)
    bench.claim(
        "mapped before, after DONTNEED, after munmap",
        kib(2 * SLOT_BYTES, 2 * SLOT_BYTES, SLOT_BYTES),
        kib(*(seen.held(p).size_bytes for seen in (written, advised, unmapped))),
    )
    tables = [seen.counters.page_table_bytes for seen in (written, advised, unmapped)]
    bench.claim("VmPTE changes by DONTNEED", kib(-TABLE_BYTES if frees_tables else 0), kib(tables[1] - tables[0]))
    bench.claim("VmPTE changes by munmap", kib(-TABLE_BYTES), kib(tables[2] - tables[1]))
    bench.claim("raised by touching, after DONTNEED", "nothing", raises[0])
    bench.claim("raised by touching, after munmap", "SIGSEGV", raises[1])


EXPERIMENT = Experiment(
    "munmap-is-the-same-zap",
    "What does munmap do to memory that MADV_DONTNEED does not?",
    perform,
)
