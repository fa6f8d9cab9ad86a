"""Lock memory, and try to give it up: with MADV_DONTNEED, which must not, and with MADV_DONTNEED_LOCKED, which may."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.errors import NotPermitted
from dontneed.lab.experiment import Experiment, answer, contents, kib
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 8
SIZE = PAGES * PAGE_BYTES
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    p = bench.map("p", PAGES)
    if bench.lock(p):
        msg = f"this user may not lock {kib(SIZE)} of memory"
        raise NotPermitted(msg, hint="raise the limit: ulimit -l")
    locked = bench.look("Lock memory that nobody has touched: all of it is brought in")
    bench.write(p, LETTER)
    refused = bench.advise(p, Advice.DONTNEED)
    spared = bench.look("Give it up: the lock stands in the way")
    kept = bench.read(p).values
    forced = bench.advise(p, Advice.DONTNEED_LOCKED)
    emptied = bench.look("Give it up in spite of the lock, where the kernel knows that advice")
    bench.write(p.part("page", 0, 1), LETTER)
    touched = bench.look("Touch one page: it comes back locked, and comes alone")
    bench.unlock(p)
    accepted = bench.advise(p, Advice.DONTNEED)
    unlocked = bench.look("Unlock it, and give it up as any other memory")

    full, same, empty, one, none = (seen.held(p) for seen in (locked, spared, emptied, touched, unlocked))
    knows = bench.kernel.behaviour.knows(Advice.DONTNEED_LOCKED)
    bench.claim("RSS that locking brings", kib(SIZE), kib(full.rss_bytes))
    bench.claim("answer to DONTNEED", "EINVAL", answer(refused))
    bench.claim("RSS after DONTNEED", kib(SIZE), kib(same.rss_bytes))
    bench.claim("found after DONTNEED", LETTER, contents(kept))
    bench.claim("answer to DONTNEED_LOCKED", "accepted" if knows else "EINVAL", answer(forced))
    bench.claim("RSS after DONTNEED_LOCKED", kib(0 if knows else SIZE), kib(empty.rss_bytes))
    bench.claim("still locked after it", kib(SIZE), kib(emptied.counters.locked_bytes))
    bench.claim("pages after a touch of one", "P-------" if knows else "P" * PAGES, one.pages)
    bench.claim("answer to DONTNEED once unlocked", "accepted", answer(accepted))
    bench.claim("RSS after that", kib(0), kib(none.rss_bytes))


EXPERIMENT = Experiment(
    "locked",
    "Can memory be given up that is locked, and does it stay locked?",
    perform,
)
