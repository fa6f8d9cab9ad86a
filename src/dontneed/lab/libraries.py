"""The C libraries that an experiment can be done with: the machine's own, and on the model those that people met.

What they do with the stacks of threads is looked at page by page: a stack whose guard is made of markers is one mapping
with its guard, and may be merged with what lies above.
"""

from __future__ import annotations

from dontneed.errors import KernelLacks, UsageError
from dontneed.lab.modelled import ModelMachine
from dontneed.model.program.libc import Libc, libc_at
from dontneed.units import KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.lab.machine import Machine, Region
    from dontneed.lab.snapshot import Snapshot

LIBRARIES = (
    "glibc 2.3.4",
    "glibc 2.5",
    "glibc 2.6",
    "glibc 2.11",
    "glibc 2.12",
    "glibc 2.26",
    "glibc 2.32",
    "glibc 2.36",
    "glibc 2.42",
    "musl",
)
"""Those where something changed, those of CentOS 4, 5 and 6 (2.3.4, 2.5, 2.12), and the one measured (2.36)."""

STACK_KEPT_BYTES = 24 * KIB
"""What glibc keeps if it discards: 16 KiB (PTHREAD_STACK_MIN) below where the thread stands, and the two top pages."""


def library_of(machine: Machine) -> Libc:
    """What is known of a machine's C library.

    Raises:
        KernelLacks: nothing.
    """
    try:
        return libc_at(machine.libc)
    except UsageError as error:
        msg = f"nothing is known of this machine's C library, {machine.libc}"
        raise KernelLacks(msg, hint=error.hint) from None


def machines_with_each(machine: Machine) -> Iterator[Machine]:
    """The same kernel with every C library that it can be had with."""
    if isinstance(machine, ModelMachine):
        for library in dict.fromkeys((*LIBRARIES, machine.libc)):
            yield ModelMachine(machine.name, libc=library)
    else:
        yield machine


def stack_left_bytes(library: Libc, used_bytes: int) -> int:
    """How much of a stack is in memory when its thread has ended, which used so much (24 KiB or more)."""
    if not library.cache_bytes:
        return 0
    return STACK_KEPT_BYTES if library.discards_at_exit else used_bytes


def mapped_bytes(seen: Snapshot, region: Region) -> int:
    """How much of a region is mapped, whatever else its mappings span."""
    overlaps = (min(each.end, region.end) - max(each.start, region.start) for each in seen.mappings)
    return sum(overlap for overlap in overlaps if overlap > 0)
