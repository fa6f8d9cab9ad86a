"""Which mappings are thread stacks: those in which a thread's stack pointer lies. Seen, not guessed from shapes."""

from __future__ import annotations

from bisect import bisect_right

from dontneed.kernel.stack_pointers import read_stack_pointers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.mapping import Kinds


def mark_thread_stacks(process: ProcessDirectory, table: MapsTable, kinds: Kinds | list[str], notes: list[str]) -> None:
    """Rename the anonymous mappings that a thread's stack pointer lies in.

    Args:
        process: whose they are.
        table: its mappings.
        kinds: the kind of each mapping, changed in place.
        notes: says how many threads' stacks could not be found.
    """
    pointers, unseen = read_stack_pointers(process)
    for pointer in pointers.values():
        row = bisect_right(table.starts, pointer) - 1
        if row >= 0 and pointer < table.ends[row] and kinds[row] == "anonymous":
            kinds[row] = "thread stack"
    unseen = [thread for thread in unseen if thread != process.pid]  # the main thread's stack has a name
    if unseen:
        notes.append(f"{len(unseen)} running or hidden threads: their stacks are listed as anonymous memory")
