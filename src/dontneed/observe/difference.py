"""What changed in an address space between two looks."""

from __future__ import annotations

from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.kernel.status import Counters
    from dontneed.observe.mapping import Mapping

_MOVING_KINDS = ("stack",)
"""One in a process, and it grows down: known by kind, not by address. A heap keeps its start, and may be split."""


class Change(Record):
    """A mapping that was there both times, and differs. Signed bytes: after less before."""

    before: Mapping
    after: Mapping

    @property
    def size_bytes(self) -> int:
        """Change of virtual size."""
        return self.after.size_bytes - self.before.size_bytes

    @property
    def rss_bytes(self) -> int:
        """Change of RSS."""
        return self.after.rss_bytes - self.before.rss_bytes

    @property
    def swap_bytes(self) -> int:
        """Change of what is swapped out."""
        return self.after.swap_bytes - self.before.swap_bytes


class Difference(Record):
    """Two looks at one process.

    Attributes:
        gone: mappings that only the first look saw.
        come: mappings that only the second look saw.
        changed: mappings of both with another size, RSS or swap.
        counters: the change of every counter, after less before.
    """

    gone: tuple[Mapping, ...]
    come: tuple[Mapping, ...]
    changed: tuple[Change, ...]
    counters: Counters


def difference_of(
    before: Iterable[Mapping], after: Iterable[Mapping], counters_before: Counters, counters_after: Counters
) -> Difference:
    """Match the mappings of two looks by address and name, and subtract. Pure."""
    old = {_identity(mapping): mapping for mapping in before}
    new = {_identity(mapping): mapping for mapping in after}
    pairs = (Change(old[key], new[key]) for key in old if key in new)
    return Difference(
        gone=tuple(mapping for key, mapping in old.items() if key not in new),
        come=tuple(mapping for key, mapping in new.items() if key not in old),
        changed=tuple(pair for pair in pairs if pair.size_bytes or pair.rss_bytes or pair.swap_bytes),
        counters=subtract(counters_after, counters_before),
    )


def subtract(after: Counters, before: Counters) -> Counters:
    """Every counter's change, after less before."""
    earlier = before.as_dict()
    return type(after)(**{name: value - earlier[name] for name, value in after.as_dict().items()})


def _identity(mapping: Mapping) -> tuple[int, str, str]:
    if mapping.kind in _MOVING_KINDS:
        return 0, mapping.kind, mapping.name
    return mapping.start, mapping.perms, mapping.name
