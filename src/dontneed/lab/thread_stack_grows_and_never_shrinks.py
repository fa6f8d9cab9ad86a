"""Let a thread call deep and return, and see what its stack holds then; and give that up by hand while it lives."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, kib
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
    shallow = bench.look("Calls 64 KiB deep: so much of the stack is in memory").held(stack)
    bench.use_stack(thread, DEEP_PAGES)
    deep = bench.look("Calls 2 MiB deep, once").held(stack)
    bench.use_stack(thread, SHALLOW_PAGES)
    returned = bench.look("Calls 64 KiB deep again: what the deep one used stays, and nobody needs it").held(stack)
    below = stack.part("below", 0, stack.pages - SHALLOW_PAGES)
    bench.advise(below, Advice.DONTNEED)
    trimmed = bench.look("Give it up by hand, below where the thread stands").held(stack)
    bench.use_stack(thread, DEEP_PAGES)
    again = bench.look("Calls 2 MiB deep: the thread never noticed").held(stack)
    bench.end_thread(thread)

    grown = kib(shallow.rss_bytes, deep.rss_bytes, returned.rss_bytes)
    bench.claim("RSS of the stack by calls 64 KiB, 2 MiB, 64 KiB deep", kib(SHALLOW, DEEP, DEEP), grown)
    bench.claim("RSS of it when given up by hand", kib(SHALLOW), kib(trimmed.rss_bytes))
    bench.claim("RSS of it by the next deep call", kib(DEEP), kib(again.rss_bytes))
    mapped = kib(shallow.size_bytes, again.size_bytes)
    bench.claim("of the stack mapped, all the time", kib(stack.size_bytes, stack.size_bytes), mapped)


EXPERIMENT = Experiment(
    "thread-stack-grows-and-never-shrinks",
    "Does a thread's stack get smaller again when deep calls have returned?",
    perform,
)
