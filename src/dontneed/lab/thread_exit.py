"""Let a thread use its stack and return, and see what the C library leaves of the stack, which it keeps mapped."""

from __future__ import annotations

from dontneed.lab.experiment import Experiment, kib
from dontneed.lab.libraries import library_of
from dontneed.units import KIB, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench
    from dontneed.model.libc import Libc

STACK_PAGES = 2048
DEEP_PAGES = 256
DEEP = DEEP_PAGES * PAGE_BYTES
KEPT = 24 * KIB
"""PTHREAD_STACK_MIN, 16 KiB, is left below where the thread stands, and that is in the last page but one."""


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    library = library_of(bench.machine)
    thread = bench.start_thread("thread", STACK_PAGES)
    stack = thread.stack
    bench.look("Start a thread: its stack is mapped, and hardly used")
    bench.use_stack(thread, DEEP_PAGES)
    used = bench.look("Calls 1 MiB deep, which return").held(stack)
    bench.end_thread(thread)
    ended = bench.look(_title(library)).held(stack)

    cached = bool(library.cache_bytes)
    bench.claim("RSS of the stack while the thread runs", kib(DEEP), kib(used.rss_bytes))
    mapped = kib(stack.size_bytes, stack.size_bytes if cached else 0)
    bench.claim("of the stack mapped, before and after", mapped, kib(used.size_bytes, ended.size_bytes))
    bench.claim("RSS when it has ended", kib(_left_of(DEEP, library)), kib(ended.rss_bytes))
    if cached:
        deep = stack.part("deep", stack.pages - DEEP_PAGES, DEEP_PAGES - KEPT // PAGE_BYTES)
        empty = "-" if library.discards_at_exit else "P"
        pages = "".join(sorted(set(ended.pages[-DEEP_PAGES : -KEPT // PAGE_BYTES])))
        bench.claim("pages below that", empty, pages)
        faults = bench.read(deep).faults.minor
        bench.look("Read below that")
        bench.claim("faults to read them", str(deep.pages if library.discards_at_exit else 0), str(faults))


def _title(library: Libc) -> str:
    if not library.cache_bytes:
        return "The thread returns: its stack is unmapped"
    if library.discards_at_exit:
        return "The thread returns: its stack stays for the next thread, and is given up but for the top"
    return "The thread returns: its stack stays for the next thread, as it is"


def _left_of(used_bytes: int, library: Libc) -> int:
    if not library.cache_bytes:
        return 0
    return KEPT if library.discards_at_exit else used_bytes


EXPERIMENT = Experiment(
    "thread-exit",
    "What becomes of the stack of a thread that ends?",
    perform,
)
