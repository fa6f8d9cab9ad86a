"""Give up all but one page of a huge page, and let khugepaged come: it makes a whole one again, and RSS grows back."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.errors import KernelLacks
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = HUGE_PAGE_BYTES // PAGE_BYTES
SIZE = HUGE_PAGE_BYTES
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    p = bench.map("p", PAGES, huge=True)
    rest = p.part("rest", 1, PAGES - 1)
    if bench.write(p, LETTER).minor == PAGES:
        raise KernelLacks("no huge page was to be had", hint="`echo 1 > /proc/sys/vm/compact_memory` may make some")
    bench.advise(p, Advice.NOHUGEPAGE)
    full = bench.look("Write to a huge page, and have khugepaged keep away for the moment").held(p)
    bench.advise(rest, Advice.DONTNEED)
    given_up = bench.look("Give up all of it but one small page").held(p)
    bench.advise(p, Advice.HUGEPAGE)
    done = bench.wait_for_khugepaged(p)
    taken = bench.look("Let khugepaged come: it copies that page into a huge one, and fills up with zeros").held(p)
    found = [contents(bench.read(part).values) for part in (p.part("one", 0, 1), rest)]
    bench.advise(p, Advice.NOHUGEPAGE)
    bench.advise(rest, Advice.DONTNEED)
    for_good = bench.look("Have it keep away, and give up again: this time for good").held(p)

    bench.claim("RSS by giving up all but a page", kib(SIZE, PAGE_BYTES), kib(full.rss_bytes, given_up.rss_bytes))
    bench.claim("khugepaged came", "yes", "yes" if done else "no")
    bench.claim("RSS by that", kib(PAGE_BYTES, SIZE), kib(given_up.rss_bytes, taken.rss_bytes))
    bench.claim("found in that page, and in the rest", f"{LETTER}, zeros", ", ".join(found))
    bench.claim("RSS where it keeps away", kib(PAGE_BYTES), kib(for_good.rss_bytes))


EXPERIMENT = Experiment(
    "khugepaged-takes-back",
    "Does memory stay given up that was a part of a huge page?",
    perform,
)
