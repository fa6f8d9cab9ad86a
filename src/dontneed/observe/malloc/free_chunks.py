"""Free memory inside glibc's arenas that the process still holds: found from outside, and looked at again in a stop."""

from __future__ import annotations

import time

from dontneed.errors import Unreadable
from dontneed.kernel.maps import read_maps
from dontneed.observe.malloc.arenas import Places, find_main_arenas, read_arenas
from dontneed.observe.malloc.chunks import proven_spans, walk_chains
from dontneed.observe.malloc.memory import memory_of, places_of_heaps
from dontneed.observe.presence import lie_within, read_presence
from dontneed.observe.resident import find_anonymous
from dontneed.observe.slices import together
from dontneed.records import Record
from dontneed.spans import Spans
from dontneed.units import MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.abi.glibc_malloc import StateLayout
    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.malloc.allocators import Allocators
    from dontneed.observe.malloc.arenas import Arena
    from dontneed.observe.malloc.chunks import Chains
    from dontneed.observe.malloc.memory import MallocMemory
    from dontneed.observe.presence import Presence

_LOOKS = 5
_BETWEEN_LOOKS_SECONDS = 0.002
"""An arena in which a thread is just moving chunks makes no sense; a moment later it does."""
_MOST_STATIC_BYTES = 64 * MIB
"""A program with more static data than this has it for arrays of its own."""


class FreeChunks(Record):
    """What a look at a running process found.

    Attributes:
        places: where the arenas are.
        arenas: all of them, sound or not.
        chains: free chunks, as hints.
        spans: whole pages that are free and present.
        releasable_bytes: how much of them would be free for everyone: of huge pages, only whole ones, and nothing that
            another process maps since a fork.
        memory: the pages of all arenas that are present.
    """

    places: Places
    arenas: tuple[Arena, ...]
    chains: Chains
    spans: Spans
    releasable_bytes: int
    memory: Spans


class Proven(Record):
    """What a look at a process that stands still proved.

    Attributes:
        spans: whole pages that are free.
        faults: what is wrong with the arenas that are left alone, by address.
        locks: how many arenas were locked.
    """

    spans: Spans
    faults: dict[int, str]
    locks: int


def find_free_chunks(
    process: ProcessDirectory, table: MapsTable, allocators: Allocators, left_alone: Spans
) -> FreeChunks | None:
    """Look for free memory in the arenas of a running process; None if no arena is found.

    Args:
        process: whose.
        table: its mappings; read again where they turn out to be old.
        allocators: those that it has.
        left_alone: memory that nobody may touch.
    Raises:
        Unreadable: the arenas changed with every look.
        NotPermitted, ProcessGone, KernelLacks: as `ProcessDirectory.open`.
    """
    arenas: dict[int, Arena] = {}
    mains: tuple[tuple[int, StateLayout], ...] = ()
    for look in range(_LOOKS):
        if look:
            time.sleep(_BETWEEN_LOOKS_SECONDS)
            table = read_maps(process)
        memory = memory_of(process.pid, table)
        presence = read_presence(process, memory.writable)
        try:
            mains = mains or tuple(find_main_arenas(memory, _statics(allocators)))
            places = Places(mains, _heaps(memory, presence, left_alone))
            for arena in read_arenas(memory, places):
                if arena.address not in arenas or arenas[arena.address].fault:
                    arenas[arena.address] = arena
        except Unreadable:
            if look == _LOOKS - 1 and not arenas:
                raise
            continue
        if arenas and not any(arena.fault for arena in arenas.values()):
            break
    return _found(process, memory, presence, places, list(arenas.values()), left_alone) if arenas else None


def prove(memory: MallocMemory, found: FreeChunks) -> Proven:
    """Look again at what was found, while the process stands still.

    Raises:
        Unreadable: the arenas are not where they were.
    """
    arenas = read_arenas(memory, found.places)
    sound = [arena for arena in arenas if arena.is_sound]
    return Proven(
        spans=_free_pages(memory, sound, found.chains),
        faults={arena.address: arena.fault for arena in arenas if arena.fault and not arena.is_locked},
        locks=sum(arena.is_locked for arena in arenas),
    )


def _found(
    process: ProcessDirectory,
    memory: MallocMemory,
    presence: Presence,
    places: Places,
    arenas: list[Arena],
    left_alone: Spans,
) -> FreeChunks:
    sound = [arena for arena in arenas if not arena.fault]
    chains = walk_chains(memory, sound)
    free = _free_pages(memory, sound, chains) - left_alone
    huge = free & presence.huge
    small = free & (presence.present - presence.huge)
    return FreeChunks(
        places=places,
        arenas=tuple(arenas),
        chains=chains,
        spans=small | huge,
        releasable_bytes=find_anonymous(process, small | huge.inward_huge()).alone.size_bytes,
        memory=together(arena.memory for arena in arenas) & presence.present,
    )


def _free_pages(memory: MallocMemory, arenas: list[Arena], chains: Chains) -> Spans:
    tops = Spans(arena.top for arena in arenas)
    return together([tops, *(proven_spans(memory, arena, chains) for arena in arenas)])


def _heaps(memory: MallocMemory, presence: Presence, left_alone: Spans) -> Words:
    places = places_of_heaps(memory.writable)
    return places[presence.has(places) & ~lie_within(left_alone, places)]


def _statics(allocators: Allocators) -> Iterable[tuple[int, int]]:
    """The static data in which a main arena can be."""
    holder = allocators.libc.mapped if allocators.libc is not None else allocators.program
    data = holder.data if holder is not None else Spans()
    return ((span.start, span.end) for span in data if span.size_bytes <= _MOST_STATIC_BYTES)
