"""What a machine answered about a process at one moment, parsed: its mappings, its counters, the pages of regions."""

from __future__ import annotations

from dontneed.abi import pagemap as abi
from dontneed.kernel.smaps import parse_smaps
from dontneed.kernel.status import Counters, parse_status
from dontneed.observe.mapping import Mappings, kind_of
from dontneed.observe.residency import count_by_smaps
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy

    from dontneed.kernel.smaps import SmapsCounters
    from dontneed.lab.machine import Process, Region

_STATES = ((abi.PRESENT, "P"), (abi.GUARD, "G"), (abi.SWAP, "S"))
"""What is looked for first: a guard marker reads as swapped too."""


class Held(Record):
    """What a region holds.

    What smaps counts is summed over the mappings that lie wholly inside, so a part of a mapping has none of it; what
    pagemap says is known of every page.

    Attributes:
        mappings: its address ranges and permissions, as /proc/PID/maps prints them.
        size_bytes, rss_bytes, dirty_bytes, referenced_bytes, anonymous_bytes, lazyfree_bytes, huge_bytes,
            hugetlb_bytes, swap_bytes, locked_bytes: the sums over its mappings, from smaps.
        flags: the words of VmFlags that some mapping of it has, sorted; none where the kernel prints no such line.
        pages: a letter a page, from pagemap: `P`resent, `S`wapped, `G`uarded, `-` nothing.
        present_pages: pages that are mapped to a frame, the zero page's too.
        swapped_pages, guarded_pages: pages whose contents are in swap; pages that must not be touched.
        exclusive_pages: present pages that no other process maps.
        file_pages: present or swapped pages of a file or of shared memory.
        frames: how many different frames those are; 0 where frame numbers are hidden from this user.
    """

    mappings: tuple[str, ...]
    size_bytes: int
    rss_bytes: int
    dirty_bytes: int
    referenced_bytes: int
    anonymous_bytes: int
    lazyfree_bytes: int
    huge_bytes: int
    hugetlb_bytes: int
    swap_bytes: int
    locked_bytes: int
    flags: tuple[str, ...]
    pages: str
    present_pages: int
    swapped_pages: int
    guarded_pages: int
    exclusive_pages: int
    file_pages: int
    frames: int

    @property
    def uncounted_pages(self) -> int:
        """Present pages that are in no counter: on the zero page, or frames mapped by number.

        Only for whole mappings, and only since 2.6.33 or so: before that smaps counted the zero page too.
        """
        return self.present_pages - (self.rss_bytes + self.hugetlb_bytes) // PAGE_BYTES


class Snapshot(Record):
    """A process at one moment.

    Attributes:
        mappings: in address order, each with its smaps.
        counters: what the kernel counts for the whole process, from its status; without faults, which no status has.
        entries: the pagemap entries of each region that was asked for.
    """

    mappings: Mappings
    counters: Counters
    entries: dict[Region, numpy.ndarray]

    def held(self, region: Region) -> Held:
        """What `region` holds; one of those that were asked for, or a part of one."""
        import numpy as np

        inside = [each for each in self.mappings if region.start <= each.start and each.end <= region.end]
        counted = [each.smaps for each in inside if each.smaps is not None]
        letters = _letters(self._entries_of(region))
        return Held(
            mappings=tuple(f"{each.start:x}-{each.end:x} {each.perms}" for each in inside),
            size_bytes=sum(each.size_bytes for each in inside),
            **_sums(counted),
            flags=tuple(sorted({flag for each in counted for flag in each.flags})),
            pages=letters,
            present_pages=letters.count("P"),
            swapped_pages=letters.count("S"),
            guarded_pages=letters.count("G"),
            exclusive_pages=self._count(region, abi.PRESENT | abi.EXCLUSIVE),
            file_pages=self._count(region, abi.FILE),
            frames=int(np.count_nonzero(np.unique(self._frames_of(region)))),
        )

    def frames(self, region: Region) -> list[int]:
        """The frame numbers of the present pages of `region`, in order; zeros where they are hidden from this user."""
        return [int(frame) for frame in self._frames_of(region)]

    def _entries_of(self, region: Region) -> numpy.ndarray:
        for known, entries in self.entries.items():
            if known.start <= region.start and region.end <= known.end:
                first = (region.start - known.start) // PAGE_BYTES
                return entries[first : first + region.pages]
        msg = f"{region.name} is no region of this snapshot, nor a part of one"
        raise KeyError(msg)

    def _count(self, region: Region, bits: int) -> int:
        import numpy as np

        mask = np.uint64(bits)
        return int(np.count_nonzero(self._entries_of(region) & mask == mask))

    def _frames_of(self, region: Region) -> numpy.ndarray:
        import numpy as np

        entries = self._entries_of(region)
        frames: numpy.ndarray = entries[entries >= np.uint64(abi.PRESENT)] & np.uint64(abi.PFN_MASK)
        return frames


def take_snapshot(process: Process, regions: Iterable[Region]) -> Snapshot:
    """Ask `process` for its procfs bytes, and parse them.

    Args:
        process: at rest.
        regions: whose pages are wanted as well.
    """
    table, smaps = parse_smaps(process.smaps())
    kinds = table.classify(kind_of)
    return Snapshot(
        mappings=Mappings(table, kinds, count_by_smaps(smaps), smaps),
        counters=Counters(**parse_status(process.status())),
        entries={region: _entries(process.pagemap(region)) for region in regions},
    )


def _sums(counted: Sequence[SmapsCounters]) -> dict[str, int]:
    names = ("rss", "dirty", "referenced", "anonymous", "lazyfree", "huge", "hugetlb", "swap", "locked")
    return {f"{name}_bytes": sum(getattr(each, f"{name}_bytes") for each in counted) for name in names}


def _entries(text: bytes) -> numpy.ndarray:
    """The entries of a page map, without the size of a page that they bore until 4.2."""
    import numpy as np

    entries: numpy.ndarray = np.frombuffer(text, np.uint64).copy()
    entries[entries & np.uint64(abi.SIZE_MASK) == np.uint64(abi.SIZE_4_KIB)] &= ~np.uint64(abi.SIZE_MASK)
    return entries


def _letters(entries: numpy.ndarray) -> str:
    """What each entry says, in a letter."""
    import numpy as np

    letters = np.full(len(entries), ord("-"), np.uint8)
    for bit, letter in reversed(_STATES):
        letters[(entries & np.uint64(bit)) != 0] = ord(letter)
    return letters.tobytes().decode("ascii")
