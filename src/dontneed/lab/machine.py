"""What an experiment runs on: a `Machine` with a kernel, and the `Process` that it starts there.

A machine answers with procfs bytes, whether a live kernel printed them or a model did, and everything above parses the
same bytes. What a kernel refuses is a finding and is returned as its errno; what a machine cannot do at all is raised
as `KernelLacks`, and what this user may not as `NotPermitted`: an experiment that meets one of these is skipped.

Sizes and addresses are in bytes where a name says so or is `start` and `end`; `pages` are always of 4 KiB, huge or not.
"""

from __future__ import annotations

from typing import Protocol

from dontneed.abi.page_table import frees_emptied_tables
from dontneed.model.versions import behaviour_at
from dontneed.records import Record
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from typing_extensions import Self

    from dontneed.abi.advice import Advice, PosixAdvice
    from dontneed.model.versions import Behaviour
    from dontneed.model.views.descent import Stage

PRIVATE_ANONYMOUS = "private anonymous"
SHARED_ANONYMOUS = "shared anonymous"
PRIVATE_FILE = "private file"
SHARED_FILE = "shared file"
HUGETLB = "hugetlb"

KINDS = (PRIVATE_ANONYMOUS, SHARED_ANONYMOUS, PRIVATE_FILE, SHARED_FILE, HUGETLB)
"""The kinds of memory that a process can map; hugetlb is private, and its size a whole number of huge pages."""


class Kernel(Record):
    """The kernel of a machine, as far as predictions need it.

    Attributes:
        release: as uname -r says it.
        version: its first two numbers.
        architecture: as uname -m says it.
        pt_reclaim: built with CONFIG_PT_RECLAIM; None: its configuration is not to be seen.
        note: how far it is to be believed, where it is shown; empty: it runs.
    """

    release: str
    version: tuple[int, int]
    architecture: str
    pt_reclaim: bool | None
    note: str = ""

    @property
    def behaviour(self) -> Behaviour:
        """How it behaves where kernels differ, by the table of versions; what is known of its build comes first."""
        known = behaviour_at(self.release)
        freed = self.frees_emptied_tables
        return known if freed is None else known.replace(frees_tables=freed)

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


class File(Record):
    """A file that an experiment has made, and that has no name in any directory.

    Attributes:
        name: what a program would call its descriptor.
        descriptor: the number of that in the process that made it, and in the children it forks afterwards.
        size_bytes: its length, a whole number of pages.
        in_memory: it lives in shared memory (memfd_create) and on no disk.
    """

    name: str
    descriptor: int
    size_bytes: int
    in_memory: bool = False

    @property
    def pages(self) -> int:
        """How many pages."""
        return self.size_bytes // PAGE_BYTES


class Thread(Record):
    """A thread that the C library started, and the stack that it mapped for it.

    Attributes:
        name: what a program would call it.
        handle: by which the process knows it.
        stack: what the thread may use, highest page first; its name says whose it is.
        guard_bytes: the length of the guard, which adjoins the stack below.
    """

    name: str
    handle: int
    stack: Region
    guard_bytes: int


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
    made of small pages whatever the system prefers, unless huge ones are asked for.
    """

    @property
    def machine(self) -> Machine:
        """What it runs on."""

    # Memory: what can be refused and may well be answers with the errno of the refusal, or 0

    def map(
        self,
        name: str,
        pages: int,
        *,
        kind: str = PRIVATE_ANONYMOUS,
        file: File | None = None,
        protection: str = "rw",
        huge: bool = False,
    ) -> Region:
        """Map fresh memory, at an address that is a multiple of what a page table maps (2 MiB).

        Args:
            name: what the region is called.
            pages: its length; behind the end of `file` too.
            kind: one of `KINDS`.
            file: what is mapped, from its beginning, for the kinds that need one.
            protection: of "rw", "r", "w" and "": what may be done with it.
            huge: made of transparent huge pages (MADV_HUGEPAGE) wherever a whole one fits.

        Raises:
            KernelLacks: this machine has no memory of that kind, or no huge pages.
        """

    def unmap(self, region: Region) -> int:
        """munmap(2), of a whole region or of a part."""

    def protect(self, region: Region, protection: str) -> int:
        """mprotect(2); the words of `map`."""

    def remap(self, region: Region, pages: int) -> Region:
        """mremap(2): to fewer pages where it is, to as many or more at another address, fenced off as a new one.

        Raises:
            DontneedError: the kernel refused.
        """

    def seal(self, region: Region) -> int:
        """mseal(2).

        Raises:
            KernelLacks: this kernel has no such call (it came with 6.10).
        """

    def lock(self, region: Region) -> int:
        """mlock(2)."""

    def unlock(self, region: Region) -> int:
        """munlock(2)."""

    def advise(self, region: Region, advice: Advice) -> int:
        """madvise(2)."""

    def advise_vector(self, regions: Sequence[Region], advice: Advice) -> int:
        """process_madvise(2) of this process on itself, one call.

        Returns:
            Bytes advised; or the errno with which all was refused, as a negative number.
        Raises:
            KernelLacks: this kernel has no such call (it came with 5.10).
        """

    def posix_advise(self, region: Region, advice: PosixAdvice) -> int:
        """posix_madvise(3), of this machine's C library; the errno that it returned, or 0."""

    # Contents: a touch of what cannot be touched ends the process, but for the word `touch`

    def write(self, region: Region, byte: int) -> Faults:
        """Write `byte` to every byte of `region`."""

    def read(self, region: Region) -> Reading:
        """Read every byte of `region`."""

    def touch(self, region: Region, *, write: bool = False) -> int:
        """Touch each page of `region`, in ascending order, and survive the signal that ends this.

        Args:
            region: what is touched.
            write: write a few zeros to the beginning of each page, instead of reading there.
        Returns:
            The number of the signal that the first page which cannot be touched raised (SIGSEGV, SIGBUS); 0: none did.
        """

    # Files

    def create_file(self, name: str, pages: int, byte: int, *, in_memory: bool = False) -> File:
        """A file without a name, filled with `byte`.

        All of it is in the page cache, clean and in small folios, and stays there: a fault finds it, and as much around
        it as the kernel maps at once. With `in_memory` it is shared memory, where the cache is all there is.
        """

    def file_bytes(self, file: File) -> tuple[int, ...]:
        """The distinct byte values that pread(2) finds in `file`, ascending."""

    def cached_pages(self, file: File) -> int:
        """How many pages of `file` are in the page cache."""

    # Threads

    def start_thread(self, name: str, stack_pages: int) -> Thread:
        """pthread_create(3) of a thread that waits to be ended, with a stack of so many pages."""

    def use_stack(self, thread: Thread, pages: int) -> None:
        """What a deep call does: the uppermost `pages` pages of the stack have been written to when it returned."""

    def end_thread(self, thread: Thread) -> None:
        """The thread returns, and is joined; what becomes of its stack is up to the C library."""

    # The process itself

    def fork(self) -> Process:
        """A child of this process, which shares its pages until one of the two writes. End it before its parent.

        It knows the regions and files of its parent, and none of its threads.
        """

    def smaps(self) -> bytes:
        """Its /proc/PID/smaps."""

    def status(self) -> bytes:
        """Its /proc/PID/status."""

    def pagemap(self, region: Region) -> bytes:
        """The entries of /proc/PID/pagemap for `region`, 8 bytes a page; zeros where nothing is mapped."""

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

    @property
    def libc(self) -> str:
        """Its C library, as `glibc 2.36`."""

    def keep_way(self) -> bool:
        """Keep the way of every discard through the kernel from now on; whether this machine can."""

    def way(self) -> tuple[Stage, ...]:
        """The way of the discards since this was last asked; nothing where it is not kept."""

    def start(self) -> Process:
        """A fresh process.

        Raises:
            KernelLacks, NotPermitted: none can be had here.
        """

    def swap(self) -> AbstractContextManager[None]:
        """Swap space for the time of a `with` block: what is there already, or some that goes with the block.

        Raises:
            KernelLacks, NotPermitted: there is none, and none can be made here.
        """

    def swap_used_bytes(self) -> int:
        """How much of all swap space is in use."""

    def hugetlb_pool(self, huge_pages: int) -> AbstractContextManager[None]:
        """A pool with so many free huge pages (of 2 MiB) for the time of a `with` block, and as it was afterwards.

        Raises:
            KernelLacks, NotPermitted: there are too few, and no more can be had here.
        """

    def frame_flags(self, frames: Sequence[int]) -> list[int]:
        """What /proc/kpageflags says of frames, as `abi.kpageflags` names it.

        Raises:
            KernelLacks, NotPermitted: it is not shown here.
        """

    def wait_for_khugepaged(self, process: Process, region: Region) -> bool:
        """Have khugepaged scan, for some seconds at most.

        Returns:
            Whether every whole huge page of `region` has become one.
        Raises:
            KernelLacks, NotPermitted: there is none here, or it cannot be hurried.
        """
