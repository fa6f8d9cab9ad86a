"""What a machine answered about a process at one moment, parsed: its mappings, its counters, the pages of regions."""

from __future__ import annotations

from dontneed.abi import pagemap as abi
from dontneed.kernel.smaps import parse_smaps
from dontneed.kernel.status import Counters, parse_status
from dontneed.observe.mapping import Mappings, kind_of
from dontneed.observe.residency import count_by_smaps
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy

    from dontneed.lab.machine import Process, Region


class Held(Record):
    """What a region holds.

    Attributes:
        mappings: its address ranges and permissions, as /proc/PID/maps prints them.
        size_bytes, rss_bytes, dirty_bytes, swap_bytes: the sums over its mappings, from smaps.
        present_pages: pages that are mapped to a frame, the zero page's too, from pagemap.
        frames: how many different frames those are; 0 where frame numbers are hidden from this user.
    """

    mappings: tuple[str, ...]
    size_bytes: int
    rss_bytes: int
    dirty_bytes: int
    swap_bytes: int
    present_pages: int
    frames: int


class Snapshot(Record):
    """A process at one moment.

    Attributes:
        mappings: in address order, each with its smaps.
        counters: what the kernel counts for the whole process, from its status; without faults, which no status has.
        entries: the pagemap entries of each region that was asked for, by its name.
    """

    mappings: Mappings
    counters: Counters
    entries: dict[str, numpy.ndarray]

    def held(self, region: Region) -> Held:
        """What `region` holds; one of those that were asked for, whole."""
        import numpy as np

        inside = [each for each in self.mappings if region.start <= each.start and each.end <= region.end]
        counted = [each.smaps for each in inside if each.smaps is not None]
        entries = self.entries[region.name]
        present = entries[entries >= np.uint64(abi.PRESENT)]
        frames = np.unique(present & np.uint64(abi.PFN_MASK))
        return Held(
            mappings=tuple(f"{each.start:x}-{each.end:x} {each.perms}" for each in inside),
            size_bytes=sum(each.size_bytes for each in inside),
            rss_bytes=sum(each.rss_bytes for each in counted),
            dirty_bytes=sum(each.dirty_bytes for each in counted),
            swap_bytes=sum(each.swap_bytes for each in counted),
            present_pages=len(present),
            frames=int(np.count_nonzero(frames)),
        )


def take_snapshot(process: Process, regions: Iterable[Region]) -> Snapshot:
    """Ask `process` for its procfs bytes, and parse them.

    Args:
        process: at rest.
        regions: whose pages are wanted as well.
    """
    import numpy as np

    table, smaps = parse_smaps(process.smaps())
    kinds = table.classify(kind_of)
    return Snapshot(
        mappings=Mappings(table, kinds, count_by_smaps(smaps), smaps),
        counters=Counters(**parse_status(process.status())),
        entries={region.name: np.frombuffer(process.pagemap(region), np.uint64) for region in regions},
    )
