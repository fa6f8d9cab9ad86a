"""Let a thread call deep and return, and see what its stack holds then; and give that up by hand while it lives."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, kib
from dontneed.lab.libraries import mapped_bytes
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

STACK_PAGES = 2048
SHALLOW_PAGES, DEEP_PAGES = 16, 512
SHALLOW, DEEP = SHALLOW_PAGES * PAGE_BYTES, DEEP_PAGES * PAGE_BYTES


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    thread = bench.start_thread("thread", STACK_PAGES)
    stack = thread.stack
    bench.use_stack(thread, SHALLOW_PAGES)
    shallow = bench.look("A thread calls 64 KiB deep: so much of its stack is in memory")
    bench.use_stack(thread, DEEP_PAGES)
    deep = bench.look("It calls 2 MiB deep, once")
    bench.use_stack(thread, SHALLOW_PAGES)
    returned = bench.look("It calls 64 KiB deep again: what the deep call used stays, and nobody needs it")
    below = stack.part("below", 0, stack.pages - SHALLOW_PAGES)
    bench.advise(below, Advice.DONTNEED)
    given_up = bench.look("Give up by hand what lies below")
    bench.use_stack(thread, DEEP_PAGES)
    again = bench.look("It calls 2 MiB deep: it never noticed")
    bench.end_thread(thread)

    mapped = [mapped_bytes(seen, stack) for seen in (shallow, again)]
    sizes = [seen.held(stack).present_pages * PAGE_BYTES for seen in (shallow, deep, returned, given_up, again)]
    grown, left, grown_again = sizes[:3], sizes[3], sizes[4]
    bench.claim("in memory by calls 64 KiB, 2 MiB, 64 KiB deep", kib(SHALLOW, DEEP, DEEP), kib(*grown))
    bench.claim("in memory once given up by hand", kib(SHALLOW), kib(left))
    bench.claim("in memory by the next deep call", kib(DEEP), kib(grown_again))
    bench.claim("mapped at first, and at last", kib(stack.size_bytes, stack.size_bytes), kib(*mapped))


EXPERIMENT = Experiment(
    "thread-stack-grows-and-never-shrinks",
    "Does a thread's stack get smaller again when deep calls have returned?",
    perform,
)
