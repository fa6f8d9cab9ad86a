"""Start and end a thread with each C library that can be had, and see how its stack is guarded and what is left of it.

On the live kernel that is one library; on the model it is every glibc that did something new, and musl.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.bench import Bench
from dontneed.lab.experiment import Experiment, kib
from dontneed.lab.libraries import library_of, machines_with_each
from dontneed.lab.thread_exit import left_of
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.snapshot import Snapshot
    from dontneed.lab.machine import Thread
    from dontneed.model.libc import Libc
    from dontneed.model.versions import Behaviour

STACK_PAGES = 1000
USED_PAGES = 100
USED = USED_PAGES * PAGE_BYTES


def perform(bench: Bench) -> None:
    """The steps, with the machine's own library, and what must be so with each."""
    library_of(bench.machine)
    _observe(bench)
    for machine in machines_with_each(bench.machine):
        with machine.start() as process:
            guard, left = _observe(Bench(process, bench.kernel))
        library = library_of(machine)
        bench.claim(f"guard ({library})", _guard(library, bench.kernel.behaviour), guard)
        bench.claim(f"left of 400 KiB used ({library})", _left(library), left)


def _observe(bench: Bench) -> tuple[str, str]:
    """What guards a stack while its thread runs, and what is left of it afterwards."""
    thread = bench.start_thread("thread", STACK_PAGES)
    bench.use_stack(thread, USED_PAGES)
    running = bench.look("A thread uses 400 KiB of its stack")
    bench.end_thread(thread)
    ended = bench.look("It has ended").held(thread.stack)
    return _guard_of(thread, running), f"{kib(ended.rss_bytes)}, {'mapped' if ended.size_bytes else 'unmapped'}"


def _guard_of(thread: Thread, seen: Snapshot) -> str:
    """How the pages below a stack are kept from being touched."""
    below = next(each for each in seen.mappings if each.start < thread.stack.start <= each.end)
    return "markers" if below.end > thread.stack.start else f"a mapping {below.perms}"
