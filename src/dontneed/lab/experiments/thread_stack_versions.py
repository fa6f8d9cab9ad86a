"""Start and end a thread with each C library that can be had, and see how its stack is guarded and what is left of it.

On the live kernel that is one library. On the model it is every glibc that did something new, and musl; the steps are
shown for the model's own one only.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.bench import Bench
from dontneed.lab.experiment import Experiment, kib
from dontneed.lab.libraries import library_of, machines_with_each, mapped_bytes, stack_left_bytes
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.machine import Machine, Thread
    from dontneed.lab.snapshot import Snapshot
    from dontneed.model.program.libc import Libc
    from dontneed.model.versions import Behaviour

STACK_PAGES = 1000
USED_PAGES = 100
USED = USED_PAGES * PAGE_BYTES


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them, with each library."""
    own = library_of(bench.machine)
    found = {str(own): _observe(bench)}
    for machine in machines_with_each(bench.machine):
        library = library_of(machine)
        guard, left = found.get(str(library)) or _observe_elsewhere(bench, machine)
        bench.claim(f"guard of a stack ({library})", _guard(library, bench.kernel.behaviour), guard)
        bench.claim(f"left when its thread has ended ({library})", _left(library), left)


def _observe(bench: Bench) -> tuple[str, str]:
    """What guards a stack while its thread runs, and what is left of it afterwards."""
    thread = bench.start_thread("thread", STACK_PAGES)
    bench.use_stack(thread, USED_PAGES)
    running = bench.look("A thread uses 400 KiB of its stack")
    bench.end_thread(thread)
    ended = bench.look("It has ended")
    in_memory = ended.held(thread.stack).present_pages * PAGE_BYTES
    return _guard_below(thread, running), _words(in_memory, is_mapped=mapped_bytes(ended, thread.stack) > 0)


def _observe_elsewhere(bench: Bench, machine: Machine) -> tuple[str, str]:
    """The same in a process of another machine, at a bench whose transcript nobody reads."""
    with machine.start() as process:
        return _observe(Bench(process, bench.kernel))


def _guard_below(thread: Thread, seen: Snapshot) -> str:
    """How the pages below a stack are kept from being touched."""
    stack = thread.stack
    below = next(each for each in seen.mappings if each.start < stack.start <= each.end)
    return "markers" if below.end > stack.start else f"a mapping {below.perms}"


# What must be so


def _guard(library: Libc, behaviour: Behaviour) -> str:
    by_markers = library.guards_by_advice and behaviour.knows(Advice.GUARD_INSTALL)
    return "markers" if by_markers else "a mapping ---p"


def _left(library: Libc) -> str:
    return _words(stack_left_bytes(library, USED), is_mapped=library.cache_bytes > 0)


def _words(in_memory: int, *, is_mapped: bool) -> str:
    return f"{kib(in_memory)}, {'mapped' if is_mapped else 'unmapped'}"


EXPERIMENT = Experiment(
    "thread-stack-versions",
    "Which C libraries give the memory of a thread's stack back when the thread ends, and how do they guard it?",
    perform,
)
