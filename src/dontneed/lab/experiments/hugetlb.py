"""Give up memory that is made of hugetlb pages: a page or two, a part of one, and what begins inside one."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, answer, contents, kib
from dontneed.lab.machine import HUGETLB
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import Region

HUGE_PAGES = 3
IN_EACH = HUGE_PAGE_BYTES // PAGE_BYTES
LETTER = "Z"
FULL = ", ".join([LETTER] * HUGE_PAGES)


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    with bench.hugetlb_pool(HUGE_PAGES):
        p = bench.map("p", HUGE_PAGES * IN_EACH, kind=HUGETLB)
        _give_up_unaligned(bench, p)
        _give_up_partly(bench, p)
        _give_up(bench, p)
        bench.unmap(p)


def _give_up_unaligned(bench: Bench, p: Region) -> None:
    filling = bench.write(p, LETTER)
    before = bench.look("Fill three hugetlb pages, which no RSS counts")
    refused = bench.advise(p.part("inside", 1, IN_EACH), Advice.DONTNEED)
    found = _found(bench, p)
    bench.look("Give up what begins inside of one")

    bench.claim("faults to fill three hugetlb pages", str(HUGE_PAGES), str(filling.minor))
    bench.claim("RSS of them", kib(0), kib(before.held(p).rss_bytes))
    bench.claim("answer where it begins inside a huge page", "EINVAL", answer(refused))
    bench.claim("found after that", FULL, found)


def _give_up_partly(bench: Bench, p: Region) -> None:
    takes, rounds_down = bench.kernel.behaviour.hugetlb_dontneed, bench.kernel.behaviour.hugetlb_end_down
    answered = bench.advise(p.part("more", 0, IN_EACH + 1), Advice.DONTNEED)
    found = _found(bench, p)
    bench.look("Give up a huge page and 4 KiB of the next")

    second = LETTER if rounds_down else "zeros"
    bench.claim("answer for one huge page and a part of the next", "accepted" if takes else "EINVAL", answer(answered))
    bench.claim("found after one and a part", f"zeros, {second}, {LETTER}" if takes else FULL, found)


def _give_up(bench: Bench, p: Region) -> None:
    bench.write(p, LETTER)
    before = bench.look("Fill them again")
    answered = bench.advise(p, Advice.DONTNEED)
    after = bench.look("Give all up")
    found = _found(bench, p)
    bench.look("Read: huge pages are taken from the pool again, there is no zero page of them")

    takes = bench.kernel.behaviour.hugetlb_dontneed
    bench.claim("answer for all three", "accepted" if takes else "EINVAL", answer(answered))
    if bench.kernel.behaviour.prints("Private_Hugetlb"):  # before, smaps said nothing of them
        size = p.size_bytes
        observed = kib(before.held(p).hugetlb_bytes, after.held(p).hugetlb_bytes)
        bench.claim("hugetlb memory by giving up all", kib(size, 0 if takes else size), observed)
    bench.claim("found after all three", ", ".join(["zeros"] * HUGE_PAGES) if takes else FULL, found)


def _found(bench: Bench, p: Region) -> str:
    """What each huge page is full of."""
    parts = [p.part(f"huge{nth}", nth * IN_EACH, IN_EACH) for nth in range(HUGE_PAGES)]
    return ", ".join(contents(bench.read(part).values) for part in parts)


EXPERIMENT = Experiment(
    "hugetlb",
    "Can hugetlb pages be given up, and a part of one?",
    perform,
)
