"""What the probes would find in the model: guest/*.c once more, file by file, for all that the model speaks of.

Each group takes a fresh `ModelGuest` and yields names and values as the guest says them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelled import calls, entries, mappings, sharing
from modelled.errnos import errnos
from modelled.guest import ModelGuest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dontneed.model.versions import Behaviour

    Said = Iterator[tuple[str, str]]


def foretell(behaviour: Behaviour) -> Said:
    """Name and value of every probe that the model of a kernel answers."""
    yield from errnos(behaviour)
    for group in GROUPS:
        yield from group(ModelGuest(behaviour))


def _keys(guest: ModelGuest) -> Said:
    guest.touched(1)
    yield "keys.status", guest.status_keys()
    yield "keys.smaps", guest.smaps_keys()


GROUPS: tuple[Callable[[ModelGuest], Said], ...] = (
    _keys,
    calls.arguments,
    calls.walk,
    calls.process_madvise,
    calls.seal,
    entries.guard,
    entries.zero_page,
    entries.page_tables,
    entries.free,
    sharing.fork,
    sharing.faults,
    sharing.lock,
    sharing.files,
    mappings.mappings,
    mappings.huge,
)
