"""Share memory with a forked child, let each of the two give it up, and see that the other keeps it."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 64
SIZE = PAGES * PAGE_BYTES
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    p = bench.map("p", PAGES)
    q = bench.map("q", PAGES)
    bench.write(p, LETTER)
    bench.write(q, LETTER)
    alone = bench.look("Write to two regions").held(p)
    with bench.fork("child") as child:
        shared = bench.look("Fork: parent and child share every frame").held(p)
        child.advise(p, Advice.DONTNEED)
        child_p = child.look("Give p up: the child's share of it goes").held(p)
        kept_by_parent = bench.read(p).values
        parent_p = bench.look("Read it: the parent has all of it, and to itself again").held(p)
        bench.advise(q, Advice.DONTNEED)
        parent_q = bench.look("Give q up: the parent's share of it goes").held(q)
        kept_by_child = child.read(q).values
        child_q = child.look("Read it: the child has all of it").held(q)
        lost = [contents(each.values) for each in (child.read(p), bench.read(q))]
        rewriting = bench.write(p, LETTER)
        bench.look("Read what was given up, and write to p, which the fork has write-protected")

    bench.claim("RSS of p in the child, which gave it up", kib(0), kib(child_p.rss_bytes))
    bench.claim("RSS of p in the parent", kib(SIZE), kib(parent_p.rss_bytes))
    bench.claim("RSS of q in the parent, which gave it up", kib(0), kib(parent_q.rss_bytes))
    bench.claim("RSS of q in the child", kib(SIZE), kib(child_q.rss_bytes))
    bench.claim("found by the child in p, by the parent in q", "zeros, zeros", ", ".join(lost))
    kept = f"{contents(kept_by_parent)}, {contents(kept_by_child)}"
    bench.claim("found by the parent in p, by the child in q", f"{LETTER}, {LETTER}", kept)
    if bench.kernel.behaviour.pagemap_exclusive:
        pages = f"{alone.exclusive_pages} → {shared.exclusive_pages} → {parent_p.exclusive_pages}"
        bench.claim("pages of p that only the parent maps", f"{PAGES} → 0 → {PAGES}", pages)
    bench.claim("faults of the parent to write to p again", str(PAGES), str(rewriting.minor))


EXPERIMENT = Experiment(
    "fork-and-cow",
    "Does giving up memory that is shared with a forked child take it from the other one too?",
    perform,
)
