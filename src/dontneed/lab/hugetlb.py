"""Give up memory that is made of hugetlb pages: a page or two, a part of one, and what begins inside one."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, answer, contents, kib
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import Region
    from dontneed.model.versions import Behaviour

HUGE_PAGES = 3
IN_EACH = HUGE_PAGE_BYTES // PAGE_BYTES
LETTER = "Z"
FULL = ", ".join([LETTER] * HUGE_PAGES)


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    with bench.hugetlb_pool(HUGE_PAGES):
        p = bench.map("p", HUGE_PAGES * IN_EACH, kind="hugetlb")
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
    bench.claim("answer from inside a huge page", "EINVAL", answer(refused))
    bench.claim("found after that", FULL, found)


def _give_up_partly(bench: Bench, p: Region) -> None:
    behaviour = bench.kernel.behaviour
    answered = bench.advise(p.part("more", 0, IN_EACH + 1), Advice.DONTNEED)
    found = _found(bench, p)
    bench.look("Give up a huge page and 4 KiB of the next")

    left = FULL if not _takes(behaviour) else f"zeros, {LETTER if behaviour.hugetlb_end_down else 'zeros'}, {LETTER}"
    bench.claim("answer for one and a part", "accepted" if _takes(behaviour) else "EINVAL", answer(answered))
    bench.claim("found after it", left, found)


def _give_up(bench: Bench, p: Region) -> None:
    bench.write(p, LETTER)
    before = bench.look("Fill them again")
    answered = bench.advise(p, Advice.DONTNEED)
    after = bench.look("Give all up")
    found = _found(bench, p)
    bench.look("Read: huge pages are taken from the pool again, there is no zero page of them")

    takes = _takes(bench.kernel.behaviour)
    bench.claim("answer for all", "accepted" if takes else "EINVAL", answer(answered))
    if bench.kernel.behaviour.prints("Private_Hugetlb"):  # before, smaps said nothing of them
        size = p.size_bytes
        observed = kib(before.held(p).hugetlb_bytes, after.held(p).hugetlb_bytes)
        bench.claim("hugetlb memory of the region", kib(size, 0 if takes else size), observed)
    bench.claim("found afterwards", ", ".join(["zeros"] * HUGE_PAGES) if takes else FULL, found)


def _found(bench: Bench, p: Region) -> str:
    """What each huge page is full of."""
    parts = [p.part(f"huge{nth}", nth * IN_EACH, IN_EACH) for nth in range(HUGE_PAGES)]
    return ", ".join(contents(bench.read(part).values) for part in parts)


def _takes(behaviour: Behaviour) -> bool:
    return behaviour.hugetlb_dontneed


EXPERIMENT = Experiment(
    "hugetlb",
    "Can hugetlb pages be given up, and a part of one?",
    perform,
)
