"""Say of memory that it is not used, instead of giving it up: MADV_COLD and MADV_PAGEOUT lose nothing."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, contents, kib
from dontneed.lab.machine import PRIVATE_FILE
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 64
SIZE = PAGES * PAGE_BYTES
LETTER, FILED = "Z", "f"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    bench.require(Advice.COLD)
    with bench.swap():
        _anonymous(bench)
        _file(bench)


def _anonymous(bench: Bench) -> None:
    p = bench.map("p", PAGES)
    bench.write(p, LETTER)
    used = bench.look("Write to memory: it is in use").held(p)
    bench.advise(p, Advice.COLD)
    cold = bench.look("Say that it is cold: it stays, and is the first to go when memory is short").held(p)
    with bench.fork("child"):
        bench.advise(p, Advice.PAGEOUT)
        shared = bench.look("Push it out while a child shares it: nothing happens").held(p)
    bench.advise(p, Advice.PAGEOUT)
    out = bench.look("Push it out when the child has ended: it goes to swap").held(p)
    found = bench.read(p).values
    back = bench.look("Read it: all of it comes back").held(p)
    bench.advise(p, Advice.DONTNEED)
    lost = bench.read(p).values
    bench.look("Give it up, for comparison, and read it")

    bench.claim("Referenced by COLD", kib(SIZE, 0), kib(used.referenced_bytes, cold.referenced_bytes))
    bench.claim("RSS after COLD", kib(SIZE), kib(cold.rss_bytes))
    bench.claim("RSS after PAGEOUT of what a child shares", kib(SIZE), kib(shared.rss_bytes))
    bench.claim("RSS after PAGEOUT", kib(0), kib(out.rss_bytes))
    bench.claim("in swap after PAGEOUT", kib(SIZE), kib(out.swap_bytes))
    bench.claim("found after PAGEOUT", LETTER, contents(found))
    bench.claim("RSS once read", kib(SIZE), kib(back.rss_bytes))
    bench.claim("found after DONTNEED", "zeros", contents(lost))


def _file(bench: Bench) -> None:
    f = bench.create_file("f", PAGES, FILED)
    q = bench.map("q", PAGES, kind=PRIVATE_FILE, file=f)
    bench.read(q)
    bench.look("Read a file through a mapping")
    bench.advise(q, Advice.DONTNEED)
    cached = [bench.cached_pages(f)]
    bench.look("Give the mapping's pages up: the page cache keeps them")
    bench.read(q)
    bench.advise(q, Advice.PAGEOUT)
    cached.append(bench.cached_pages(f))
    out = bench.look("Read them again, and push them out: they leave the page cache too").held(q)
    found = bench.read(q).values
    bench.look("Read once more, from the disk")

    bench.claim("pages of the file cached after DONTNEED, after PAGEOUT", f"{PAGES}, 0", ", ".join(map(str, cached)))
    bench.claim("RSS of the mapping after PAGEOUT", kib(0), kib(out.rss_bytes))
    bench.claim("found in it after PAGEOUT", FILED, contents(found))


EXPERIMENT = Experiment(
    "cold-and-pageout",
    "What can be said of memory that is only unused for now, and must not lose its contents?",
    perform,
)
