"""The C libraries that an experiment on them can be done with: the machine's own, and on the model all there were."""

from __future__ import annotations

from dontneed.errors import KernelLacks, UsageError
from dontneed.lab.modelled import ModelMachine
from dontneed.model.libc import GLIBC_STEPS, OLDEST_GLIBC, Libc, libc_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.lab.machine import Machine

LIBRARIES = (f"glibc {OLDEST_GLIBC}", *(f"glibc {step.since}" for step in GLIBC_STEPS), "musl")
"""One for each thing that changed, oldest first."""


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
    """The same kernel with every C library that it can be had with: a model's all, in the order of time."""
    if isinstance(machine, ModelMachine):
        yield from (ModelMachine(machine.name, libc=library) for library in LIBRARIES)
    else:
        yield machine
