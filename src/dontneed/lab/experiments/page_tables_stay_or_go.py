"""Empty page tables in several ways, and see in VmPTE which of them are freed: none of them ever was before 6.14."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.abi.page_table import SLOT_BYTES, TABLE_BYTES
from dontneed.errors import KernelLacks
from dontneed.lab.experiment import Experiment, kib
from dontneed.lab.machine import SHARED_ANONYMOUS
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = SLOT_BYTES // PAGE_BYTES  # what one page table maps
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    if bench.kernel.frees_emptied_tables is None:
        msg = f"nobody can tell whether Linux {bench.kernel.release} frees page tables that are empty"
        raise KernelLacks(msg, hint="its configuration (CONFIG_PT_RECLAIM) is not to be seen")
    has_guards = bench.kernel.behaviour.knows(Advice.GUARD_INSTALL)
    p = bench.map("p", 4 * PAGES)
    full, partly, zeros, guarded = (
        p.part(name, slot * PAGES, PAGES) for slot, name in enumerate(("full", "partly", "zeros", "guarded"))
    )
    shared = bench.map("shared", PAGES, kind=SHARED_ANONYMOUS)
    for region in (full, partly, guarded, shared):
        bench.write(region, LETTER)
    bench.read(zeros)
    if has_guards:
        bench.advise(guarded.part("guard", 0, 1), Advice.GUARD_INSTALL)
    seen = bench.look("Fill five page tables, which map 2 MiB each")

    discards = [
        ("all that a table maps", full, True),
        ("all but a page", partly.part("but_one", 0, PAGES - 1), False),
        ("that page alone", partly.part("last", PAGES - 1, 1), False),
        ("all again, where nothing is left", partly, True),
        ("zero pages", zeros, True),
        ("shared memory", shared, True),
    ]
    if has_guards:
        discards.append(("all around a guard", guarded, False))
    for what, region, empties in discards:
        before = seen.counters.page_table_bytes
        bench.advise(region, Advice.DONTNEED)
        seen = bench.look(f"Give up {what}")
        freed = empties and bench.kernel.behaviour.frees_tables
        change = seen.counters.page_table_bytes - before
        bench.claim(f"VmPTE by giving up {what}", kib(-TABLE_BYTES if freed else 0), kib(change))

    before = seen.counters.page_table_bytes
    bench.unmap(guarded)
    seen = bench.look("Unmap the last one: munmap has always freed what it empties")
    bench.claim("VmPTE by munmap", kib(-TABLE_BYTES), kib(seen.counters.page_table_bytes - before))


EXPERIMENT = Experiment(
    "page-tables-stay-or-go",
    "Are the page tables freed too, once what they map was given up?",
    perform,
)
