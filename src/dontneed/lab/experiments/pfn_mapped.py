"""Give up the two mappings that the kernel makes for the clock: one of ordinary pages, one of frames by number."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, answer, kib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    _give_up_code(bench)
    if bench.kernel.behaviour.vvar:  # before, its data lay where no process has a mapping
        _give_up_data(bench)


def _give_up_code(bench: Bench) -> None:
    page = bench.locate("vdso").part("code", 0, 1)
    bench.read(page)
    before = bench.look("Read the kernel's code for this process: its page is one as others are").held(page)
    accepted = bench.advise(page, Advice.DONTNEED)
    after = bench.look("Give it up: it goes from the page table, and the kernel keeps it").held(page)
    faults = bench.read(page).faults
    again = bench.look("Read it again: a fault, and it is back").held(page)

    bench.claim("answer on [vdso]", "accepted", answer(accepted))
    pages = f"{before.pages}, {after.pages}, {again.pages}"
    bench.claim("page of [vdso] when read, given up, read again", "P, -, P", pages)
    bench.claim("faults to read [vdso] again", "1", str(faults.minor))


def _give_up_data(bench: Bench) -> None:
    whole = bench.locate("vvar")
    page = whole.part("data", 0, 1)
    bench.read(page)
    seen = bench.look("Read the data of the clock: mapped by the number of its frame, and counted nowhere").held(whole)
    refused = bench.advise(page, Advice.DONTNEED)
    refused_too = bench.advise(page, Advice.DONTNEED_LOCKED)
    faults = bench.read(page).faults
    bench.look("Give it up and read it: refused until 7.0, and still mapped")

    by_number = bench.kernel.behaviour.vvar_by_number
    expected = "EINVAL" if by_number else "accepted"
    bench.claim("answer on [vvar]", expected, answer(refused))
    bench.claim("answer on [vvar] to DONTNEED_LOCKED", expected, answer(refused_too))
    bench.claim("faults to read [vvar] again", "0" if by_number else "1", str(faults.minor))
    bench.claim("RSS of [vvar]", kib(0), kib(seen.rss_bytes))


EXPERIMENT = Experiment(
    "pfn-mapped",
    "Can a mapping be given up whose frames the kernel mapped by number, such as the [vvar] of every process?",
    perform,
)
