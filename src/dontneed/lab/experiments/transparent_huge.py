"""Give up half of a transparent huge page, then all of it: the half that RSS loses is not free until the rest goes."""

from __future__ import annotations

from dontneed.abi import kpageflags
from dontneed.abi.advice import Advice
from dontneed.errors import KernelLacks
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import Region

PAGES = HUGE_PAGE_BYTES // PAGE_BYTES
SIZE = HUGE_PAGE_BYTES
HALF = PAGES // 2
LETTER = "Z"
_PART_OF_HUGE = kpageflags.COMPOUND_HEAD | kpageflags.COMPOUND_TAIL


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    p = bench.map("p", PAGES, huge=True)
    _give_up_half(bench, p)
    _give_up_rest(bench, p)


def _give_up_half(bench: Bench, p: Region) -> None:
    half = p.part("half", HALF, HALF)
    filling = bench.write(p, LETTER)
    if filling.minor == PAGES:
        raise KernelLacks("no huge page was to be had", hint="`echo 1 > /proc/sys/vm/compact_memory` may make some")
    bench.advise(p, Advice.NOHUGEPAGE)  # or khugepaged fills it up again
    before = bench.look("Write to 2 MiB: one fault brings a huge page, which from now on is left alone")
    frames = before.frames(half)
    bench.advise(half, Advice.DONTNEED)
    after = bench.look("Give up half of it: RSS falls by that")
    still_parts = _parts_of_huge(bench, frames)
    found = bench.read(p).values
    bench.write(half, LETTER)
    again = bench.look("Read all, and write to that half: small pages come")

    bench.claim("faults to fill a huge page", "1", str(filling.minor))
    bench.claim("RSS by giving up half", kib(SIZE, SIZE // 2), kib(before.held(p).rss_bytes, after.held(p).rss_bytes))
    if bench.kernel.behaviour.prints("AnonHugePages"):
        huge = kib(*(seen.held(p).huge_bytes for seen in (before, after, again)))
        bench.claim("AnonHugePages by giving up half, and writing there again", kib(SIZE, 0, 0), huge)
    if still_parts is not None:
        kept = HALF if bench.kernel.behaviour.huge_outlives else 0
        bench.claim("given up frames that the huge page keeps", str(kept), str(still_parts))
    bench.claim("found after giving up half", f"zeros and {LETTER}", contents(found))
    bench.claim("RSS once written again", kib(SIZE), kib(again.held(p).rss_bytes))


def _give_up_rest(bench: Bench, p: Region) -> None:
    bench.advise(p, Advice.DONTNEED)
    empty = bench.look("Give all up: now the huge page goes")
    bench.advise(p, Advice.HUGEPAGE)
    refilling = bench.write(p, LETTER)
    bench.look("Write again, to have a huge page; where the page table of the small ones is still there, none comes")
    bench.advise(p, Advice.DONTNEED)

    bench.claim("RSS by giving up all", kib(0), kib(empty.held(p).rss_bytes))
    faults = 1 if bench.kernel.behaviour.frees_tables else PAGES
    bench.claim("faults to fill it again", str(faults), str(refilling.minor))


def _parts_of_huge(bench: Bench, frames: list[int]) -> int | None:
    """How many of frames are parts of a huge page; None: this user may not know."""
    if not all(frames):
        return None
    return sum(bool(flags & _PART_OF_HUGE) for flags in bench.frame_flags(frames))


EXPERIMENT = Experiment(
    "transparent-huge",
    "What is freed when half of a transparent huge page is given up?",
    perform,
)
