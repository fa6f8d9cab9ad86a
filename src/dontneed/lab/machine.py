"""What an experiment runs on: a `Machine` with a kernel, and the `Process` that it starts there.

A machine answers with procfs bytes, whether a live kernel printed them or a model did, and everything above parses the
same bytes. What a kernel refuses is a finding and is returned as its errno; what a machine cannot do at all is raised
as `KernelLacks`, and what this user may not as `NotPermitted`: an experiment that meets one of these is skipped.
"""

from __future__ import annotations

from typing import Protocol

from dontneed.abi.page_table import frees_emptied_tables
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self

    from dontneed.abi.advice import Advice

PRIVATE_ANONYMOUS = "private anonymous"
SHARED_ANONYMOUS = "shared anonymous"


class Kernel(Record):
    """The kernel of a machine, as far as predictions need it.

    Attributes:
        release: as uname -r says it.
        version: its first two numbers.
        architecture: as uname -m says it.
        pt_reclaim: built with CONFIG_PT_RECLAIM; None: its configuration is not to be seen.
    """

    release: str
    version: tuple[int, int]
    architecture: str
    pt_reclaim: bool | None

    @property
    def frees_emptied_tables(self) -> bool | None:
        """Whether a discard of all that a page table maps frees the table too; None: nobody can tell."""
        return frees_emptied_tables(self.version, self.architecture, pt_reclaim=self.pt_reclaim)


class Region(Record):
    """Pages that an experiment has mapped, or a part of them.

    Attributes:
        name: what a program would call the pointer to it.
        start: address of its first byte.
        size_bytes: its length.
    """

    name: str
    start: int
    size_bytes: int

    @property
    def end(self) -> int:
        """Address behind the last byte."""
        return self.start + self.size_bytes

    @property
    def pages(self) -> int:
        """How many pages."""
        return self.size_bytes // PAGE_BYTES

    def part(self, name: str, first: int, pages: int) -> Region:
        """`pages` pages of this region from its page number `first` on, under a name of their own."""
        return Region(name, self.start + first * PAGE_BYTES, pages * PAGE_BYTES)


class Faults(Record):
    """The page faults that one word took, those of its memory and no others."""

    minor: int
    major: int


class Reading(Record):
    """What was found in memory: the distinct byte values, ascending, and the page faults that finding them took."""

    values: tuple[int, ...]
    faults: Faults


class Process(Protocol):
    """A process on a machine: does to its memory what it is told, and is at rest between two words.

    A region is mapped apart from everything else: it merges with no neighbour, no page table serves both, and it is
    made of small pages whatever the system prefers.
    """

    def map(self, name: str, pages: int, *, kind: str = PRIVATE_ANONYMOUS) -> Region:
        """Map fresh memory, readable and writable.

        Raises:
            KernelLacks: this machine has no memory of that kind.
        """

    def unmap(self, region: Region) -> None:
        """munmap(2)."""

    def write(self, region: Region, byte: int) -> Faults:
        """Write `byte` to every byte of `region`."""

    def read(self, region: Region) -> Reading:
        """Read every byte of `region`."""

    def advise(self, region: Region, advice: Advice) -> int:
        """madvise(2); the errno with which it was refused, or 0."""

    def lock(self, region: Region) -> int:
        """mlock(2); the errno with which it was refused, or 0."""

    def unlock(self, region: Region) -> int:
        """munlock(2); the errno with which it was refused, or 0."""

    def fork(self) -> Process:
        """A child of this process, which shares its pages until one of the two writes. End it before its parent."""

    def smaps(self) -> bytes:
        """Its /proc/PID/smaps."""

    def status(self) -> bytes:
        """Its /proc/PID/status."""

    def pagemap(self, region: Region) -> bytes:
        """The entries of /proc/PID/pagemap for `region`, 8 bytes a page."""

    def end(self) -> None:
        """End the process; when this returns, its memory is given back. Ending it twice does nothing."""

    def __enter__(self) -> Self:
        """End with the block."""

    def __exit__(self, *_: object) -> None:
        """End, whatever happened."""


class Machine(Protocol):
    """What an experiment runs on: the live kernel, or a model of one."""

    @property
    def name(self) -> str:
        """What the user calls it: `live`, or the version of the kernel that is modelled."""

    @property
    def kernel(self) -> Kernel:
        """Its kernel."""

    def start(self) -> Process:
        """A fresh process.

        Raises:
            KernelLacks, NotPermitted: none can be had here.
        """
