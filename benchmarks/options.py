"""How much a run measures: the sizes that the promises are made for, or small ones that show that everything works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dontneed.records import Record
from dontneed.units import GIB, MIB

if TYPE_CHECKING:
    from programs import HeldProcesses


class Options(Record):
    """What every question is asked with.

    Attributes:
        held: the processes to look at.
        quick: small sizes, few rounds: the promises are made for the others.
        rounds: samples of what takes up to a second.
        few_rounds: samples of what has to fill gigabytes each time.
        mappings: of the process that has many.
        resident_bytes: of each process that holds much, one of 4 KiB pages and one of huge pages.
        stalled_bytes, stalled_seconds: of the process whose waiting is measured, and for how long in each round.
        decoded_bytes: whose page map is decoded.
        discarded_bytes: of the one large range that is discarded.
        waiting_bytes: of the discard during which another thread is watched.
        scattered_pages: how many single pages are dropped.
        modelled_pages: touched in the model at one go.
        compared_sequences: of operations, done in the model and on the kernel.
        modelled_calls, modelled_mappings: how many calls it serves, over how many mappings.
        released_rounds: samples of a release, each of a process that was started for it.
        released_objects: small objects, most of which are freed before the release.
        arena_bytes: that each of 14 threads frees at the top of its arena.
        idle_threads, dead_stack_bytes: threads that wait, and what each of them has left on its stack.
        warm_units: units of work that a service has done before it is released.
        planned_bytes: of the process that is planned over and over.
        requested_seconds: for which a service is asked while it is released.
    """

    held: HeldProcesses
    quick: bool
    rounds: int
    few_rounds: int
    mappings: int
    resident_bytes: int
    stalled_bytes: int
    stalled_seconds: float
    decoded_bytes: int
    discarded_bytes: int
    waiting_bytes: int
    scattered_pages: int
    modelled_pages: int
    modelled_calls: int
    modelled_mappings: int
    compared_sequences: int
    released_rounds: int
    released_objects: int
    arena_bytes: int
    idle_threads: int
    dead_stack_bytes: int
    warm_units: int
    planned_bytes: int
    requested_seconds: float


def quick_options(held: HeldProcesses) -> Options:
    """Sizes that show that everything works, within some minutes and 2 GiB."""
    return Options(
        held=held,
        quick=True,
        rounds=3,
        few_rounds=3,
        mappings=4_000,
        resident_bytes=512 * MIB,
        stalled_bytes=512 * MIB,
        stalled_seconds=0.5,
        decoded_bytes=256 * MIB,
        discarded_bytes=256 * MIB,
        waiting_bytes=256 * MIB,
        scattered_pages=20_000,
        modelled_pages=1_000_000,
        modelled_calls=20_000,
        modelled_mappings=2_000,
        compared_sequences=100,
        released_rounds=1,
        released_objects=300_000,
        arena_bytes=6 * MIB,
        idle_threads=16,
        dead_stack_bytes=MIB,
        warm_units=2,
        planned_bytes=256 * MIB,
        requested_seconds=1.5,
    )


def full_options(held: HeldProcesses, available_bytes: int) -> Options:
    """The sizes that the promises are made for, or halves of them that fit into the memory that is free.

    Args:
        held: the processes to look at.
        available_bytes: memory that processes could still take.
    """
    return Options(
        held=held,
        quick=False,
        rounds=9,
        few_rounds=5,
        mappings=20_000,
        resident_bytes=_fitting(8 * GIB, available_bytes // 2),
        stalled_bytes=_fitting(4 * GIB, available_bytes),
        stalled_seconds=1.0,
        decoded_bytes=_fitting(GIB, available_bytes),
        discarded_bytes=_fitting(4 * GIB, available_bytes),
        waiting_bytes=_fitting(GIB, available_bytes),
        scattered_pages=100_000,
        modelled_pages=20_000_000,
        modelled_calls=1_000_000,
        modelled_mappings=18_000,
        compared_sequences=2_000,
        released_rounds=3,
        released_objects=2_000_000,
        arena_bytes=34 * MIB,
        idle_threads=64,
        dead_stack_bytes=4 * MIB,
        warm_units=5,
        planned_bytes=GIB,
        requested_seconds=4.0,
    )


def _fitting(size: int, available_bytes: int) -> int:
    """`size`, halved until it leaves a tenth of the memory to everyone else."""
    while size > available_bytes * 0.9:
        size //= 2
    return size
