"""Push memory out to swap, give it up there with MADV_DONTNEED, and see that the swap space is free again."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.units import MIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 1024
SIZE = PAGES * PAGE_BYTES
LETTER = "Z"  # a page of zeros would take no swap space


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    bench.require(Advice.PAGEOUT)
    with bench.swap():
        _push_out_and_give_up(bench)


def _push_out_and_give_up(bench: Bench) -> None:
    p = bench.map("p", PAGES)
    few = p.part("few", 0, 4)
    bench.write(p, LETTER)
    bench.look("Write to memory")
    used = [bench.swap_used_bytes()]
    bench.advise(p, Advice.PAGEOUT)
    used.append(bench.swap_used_bytes())
    out = bench.look("Push it out: the contents go to swap, and the frames are free").held(p)
    read = bench.read(few).values
    some = bench.look("Read some of it: the contents come back").held(few)
    bench.advise(p, Advice.DONTNEED)
    used.append(bench.swap_used_bytes())
    gone = bench.look("Give all up: what is in memory, and what is in swap").held(p)
    found = bench.read(few).values
    bench.look("Read again: nothing comes back, there are zeros")

    bench.claim("RSS once pushed out", kib(0), kib(out.rss_bytes))
    bench.claim("in swap once pushed out", kib(SIZE), kib(out.swap_bytes))
    bench.claim("found in pages that were pushed out", LETTER, contents(read))
    bench.claim("those pages then", "PPPP", some.pages)
    bench.claim("RSS once given up", kib(0), kib(gone.rss_bytes))
    bench.claim("in swap once given up", kib(0), kib(gone.swap_bytes))
    bench.claim("found afterwards", "zeros", contents(found))
    whole = f"0 → {SIZE // MIB} → 0 MiB"
    bench.claim("swap space that this takes", whole, _whole_mib(used))


def _whole_mib(used: list[int]) -> str:
    """How the use of swap space grew, in whole MiB: a page more or less is another process's."""
    return f"{' → '.join(str(round((each - used[0]) / MIB)) for each in used)} MiB"


EXPERIMENT = Experiment(
    "swap-is-freed",
    "Is swap space freed too, when memory is given up that was swapped out?",
    perform,
)
