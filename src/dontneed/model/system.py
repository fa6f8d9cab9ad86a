"""A modelled machine: one kernel, its frames, its files, its swap, and what its administrator has set."""

from __future__ import annotations

from functools import cache

from dontneed.abi.advice import Advice
from dontneed.model.memory.frames import Frames
from dontneed.model.memory.page_cache import File
from dontneed.model.memory.swap import Swap
from dontneed.model.versions import behaviour_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.space.mm import Mm
    from dontneed.model.versions import Behaviour
    from dontneed.model.views.path import Path


_POISONING = {int(Advice.HWPOISON), int(Advice.SOFT_OFFLINE)}


@cache
def _advices_of(version: tuple[int, ...]) -> frozenset[int]:
    """The numbers of the advices that a kernel handles."""
    behaviour = behaviour_at(".".join(map(str, version)))
    return frozenset(each.number for each in Advice.all() if behaviour.knows(each)) - _POISONING


class System:
    """One machine.

    Attributes:
        behaviour: how its kernel behaves.
        advices: numbers of the advices that it knows; the modelled machine has no handling of failed memory.
        page_table_levels: four, or five (la57): then a process may map 56 bits of addresses, where it asks for them.
        frames, swap: all there are of them.
        huge_pool: free huge pages of the hugetlb pool.
        huge_reserved: how many of these are reserved for mappings that have not touched them.
        hugetlb_sharers: first frame of a page of that pool → who got it by a fork: address space, page.
        huge_enabled: /sys/kernel/mm/transparent_hugepage/enabled: always, madvise or never.
        max_map_count: vm.max_map_count.
        path: what records the way through the kernel, for --explain; None: nobody asks.
    """

    def __init__(self, behaviour: Behaviour | str = "6.18", *, levels: int = 4) -> None:
        self.behaviour = behaviour_at(behaviour) if isinstance(behaviour, str) else behaviour
        self.advices = _advices_of(self.behaviour.version)
        self.page_table_levels = levels
        self.frames = Frames()
        self.swap = Swap()
        self.huge_pool = 0
        self.huge_reserved = 0
        self.hugetlb_sharers: dict[int, list[tuple[Mm, int]]] = {}
        self.huge_enabled = "madvise"
        self.max_map_count = 65530
        self.path: Path | None = None
        self._inode = 1000
        self._pid = 100

    def new_inode(self) -> int:
        """The number of a fresh file."""
        self._inode += 1
        return self._inode

    def new_pid(self) -> int:
        """The number of a fresh process or thread."""
        self._pid += 1
        return self._pid

    def new_file(self, name: str, pages: int, *, kind: int, byte: int = 0, cached: bool = True) -> File:
        """A file whose pages are all filled with `byte`, and in the page cache if `cached`."""
        file = File(self, name, pages, kind=kind)
        if cached or byte:
            for page in range(pages):
                file.write(page, byte)
            file.write_back()
        if not cached and not file.in_memory:
            for page in list(file.cache):
                file.drop(page)
        return file
