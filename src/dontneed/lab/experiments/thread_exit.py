"""Let a thread use its stack and return, and see what the C library leaves of the stack, which it keeps mapped."""

from __future__ import annotations

from dontneed.lab.experiment import Experiment, kib
from dontneed.lab.libraries import STACK_KEPT_BYTES, library_of, mapped_bytes, stack_left_bytes
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import Region
    from dontneed.model.program.libc import Libc

STACK_PAGES = 2048
USED_PAGES = 256
KEPT_PAGES = STACK_KEPT_BYTES // PAGE_BYTES
USED = USED_PAGES * PAGE_BYTES


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    library = library_of(bench.machine)
    thread = bench.start_thread("thread", STACK_PAGES)
    stack = thread.stack
    bench.look("Start a thread: its stack is mapped, and hardly used")
    bench.use_stack(thread, USED_PAGES)
    running = bench.look("It calls 1 MiB deep, and returns from there")
    bench.end_thread(thread)
    ended = bench.look(_title(library))

    in_memory = [seen.held(stack).present_pages * PAGE_BYTES for seen in (running, ended)]
    bench.claim("of the stack in memory", kib(USED, stack_left_bytes(library, USED)), kib(*in_memory))
    mapped = kib(mapped_bytes(running, stack), mapped_bytes(ended, stack))
    bench.claim("of the stack mapped", kib(stack.size_bytes, stack.size_bytes if library.cache_bytes else 0), mapped)
    if library.cache_bytes:
        _read_what_it_used(bench, stack, discards=library.discards_at_exit)


def _read_what_it_used(bench: Bench, stack: Region, *, discards: bool) -> None:
    """What a next thread finds there, which is given the same stack."""
    used = stack.part("used", stack.pages - USED_PAGES, USED_PAGES - KEPT_PAGES)
    reading = bench.read(used)
    bench.look("Read what it used, all but the top")
    bench.claim(
        "faults to read what it used, all but the top", str(used.pages if discards else 0), str(reading.faults.minor)
    )


def _title(library: Libc) -> str:
    if not library.cache_bytes:
        return "It ends: the C library unmaps its stack"
    if library.discards_at_exit:
        return "It ends: the C library keeps its stack for the next thread, and gives up all but the top"
    return "It ends: the C library keeps its stack for the next thread, as it is"


EXPERIMENT = Experiment(
    "thread-exit",
    "What becomes of the stack of a thread that ends?",
    perform,
)
