"""Make one page of a mapping a guard with MADV_GUARD_INSTALL, and another with mprotect; then give all up."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, answer, contents, raised
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import Region

PAGES = 8
GUARD = 3
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    _protect(bench)
    p = bench.map("p", PAGES)
    guard = p.part("guard", GUARD, 1)
    _install(bench, p, guard)
    _remove(bench, guard)


def _protect(bench: Bench) -> None:
    """The old way: a mapping of its own."""
    q = bench.map("q", PAGES)
    bench.write(q, LETTER)
    wall = q.part("wall", GUARD, 1)
    bench.protect(wall, "")
    signal = bench.touch(wall)
    split = bench.look("Forbid a page by mprotect: three mappings are made of one").held(q)
    bench.claim("mappings by mprotect", "3", str(len(split.mappings)))
    bench.claim("touch of what mprotect forbids", "SIGSEGV", raised(signal))
    bench.unmap(q)


def _install(bench: Bench, p: Region, guard: Region) -> None:
    behaviour = bench.kernel.behaviour
    knows = behaviour.knows(Advice.GUARD_INSTALL)
    bench.write(p, LETTER)
    answered = bench.advise(guard, Advice.GUARD_INSTALL)
    touched = bench.touch(guard)
    installed = bench.look("Make a page a guard: it stays one mapping, and the page's frame is freed").held(p)
    bench.advise(p, Advice.DONTNEED)
    emptied = bench.look("Give all up: the guard stays where the pages go").held(p)
    touched_again = bench.touch(guard)

    bench.claim("answer to GUARD_INSTALL", "accepted" if knows else "EINVAL", answer(answered))
    bench.claim("mappings by GUARD_INSTALL", "1", str(len(installed.mappings)))
    freed = PAGE_BYTES if knows else 0
    bench.claim("bytes that GUARD_INSTALL frees", str(freed), str(p.size_bytes - installed.rss_bytes))
    marker = ("G" if behaviour.pagemap_guard else "S") if knows else "P"  # before 6.15 it looks like a page in swap
    bench.claim("pages with a guard", "P" * GUARD + marker + "P" * (PAGES - GUARD - 1), installed.pages)
    bench.claim("touch of the guard", "SIGSEGV" if knows else "nothing", raised(touched))
    left = marker if knows else "-"
    bench.claim("pages after DONTNEED", "-" * GUARD + left + "-" * (PAGES - GUARD - 1), emptied.pages)
    bench.claim("touch of the guard after DONTNEED", "SIGSEGV" if knows else "nothing", raised(touched_again))


def _remove(bench: Bench, guard: Region) -> None:
    knows = bench.kernel.behaviour.knows(Advice.GUARD_REMOVE)
    answered = bench.advise(guard, Advice.GUARD_REMOVE)
    touched = bench.touch(guard)
    found = bench.read(guard).values
    bench.look("Take the guard away, and read the page")
    bench.claim("answer to GUARD_REMOVE", "accepted" if knows else "EINVAL", answer(answered))
    bench.claim("touch where the guard was", "nothing", raised(touched))
    bench.claim("found where the guard was", "zeros", contents(found))


EXPERIMENT = Experiment(
    "guard-regions",
    "Does a guard page survive when the memory around it is given up?",
    perform,
)
