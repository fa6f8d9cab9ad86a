"""Give memory up with MADV_DONTNEED, which takes it now, and with MADV_FREE, which takes it when it is short."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, answer, contents, kib
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import Region

PAGES = 256
SIZE = PAGES * PAGE_BYTES
HALF = PAGES // 2
OLD, NEW = "Z", "Y"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    behaviour = bench.kernel.behaviour
    has_free = behaviour.knows(Advice.FREE)
    now = bench.map("now", PAGES)
    later = bench.map("later", PAGES)
    bench.write(now, OLD)
    bench.write(later, OLD)
    bench.look("Write to two regions")
    bench.advise(now, Advice.DONTNEED)
    answered = bench.advise(later, Advice.FREE)
    advised = bench.look("Give up one now, and the other one when the kernel needs its frames")
    found = [contents(bench.read(region).values) for region in (now, later)]
    rewriting = [bench.write(region.part(f"{region.name}_half", 0, HALF), NEW) for region in (now, later)]
    bench.look("Read both, and write to half of each: that half is not given up any more")

    is_lazy = has_free and behaviour.free_keeps_without_swap  # before 4.12 it is DONTNEED, unless there is swap
    keeps = is_lazy or not has_free
    bench.claim("answer to FREE", "accepted" if has_free else "EINVAL", answer(answered))
    bench.claim("RSS after DONTNEED", kib(0), kib(advised.held(now).rss_bytes))
    bench.claim("RSS after FREE", kib(SIZE if keeps else 0), kib(advised.held(later).rss_bytes))
    if behaviour.prints("LazyFree"):
        marked = ["some" if advised.held(region).lazyfree_bytes else "none" for region in (now, later)]
        bench.claim(
            "LazyFree after DONTNEED, after FREE", "none, some", ", ".join(marked)
        )  # kept in batches: not exact
    bench.claim("found after DONTNEED", "zeros", found[0])
    bench.claim("found after FREE", OLD if keeps else "zeros", found[1])
    faults = f"{HALF}, {0 if keeps else HALF}"
    taken = ", ".join(str(each.minor) for each in rewriting)
    bench.claim("faults to write again after DONTNEED, after FREE", faults, taken)
    if is_lazy and behaviour.knows(Advice.PAGEOUT):
        _run_short(bench, later)


def _run_short(bench: Bench, later: Region) -> None:
    """What a shortage of memory would do one day, PAGEOUT does at once."""
    bench.advise(later, Advice.PAGEOUT)
    after = bench.look("Have the kernel reclaim the second region: what was not written again is gone")
    halves = [later.part("later_half", 0, HALF), later.part("rest", HALF, HALF)]
    found = ", ".join(contents(bench.read(half).values) for half in halves)
    bench.look("Read it")

    bench.claim("pages left of the half that was not written, by reclaim", "0", _left(after.held(halves[1]).pages))
    bench.claim("found then, in the half that was written, in the other", f"{NEW}, zeros", found)


def _left(pages: str) -> str:
    """How many pages are in memory or in swap."""
    return str(len(pages) - pages.count("-"))


EXPERIMENT = Experiment(
    "free-vs-dontneed",
    "What is the difference between MADV_DONTNEED and MADV_FREE?",
    perform,
)
