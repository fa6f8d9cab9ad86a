"""The model as a machine: experiments run on the executable kernel as they do on the live one.

Nothing here makes a system call, and nothing waits.
"""

from __future__ import annotations

from contextlib import contextmanager

from dontneed.errors import KernelLacks, UsageError
from dontneed.lab.machine import Kernel
from dontneed.lab.modelled_process import ModelProcess
from dontneed.model.paging.hugetlb import unreserved
from dontneed.model.process import Process
from dontneed.model.program.layout import Program
from dontneed.model.space.entries import FILE, SHMEM
from dontneed.model.space.mm import PAGE_SHIFT
from dontneed.model.system import System
from dontneed.model.versions import NEWEST, OLDEST
from dontneed.model.views import pagemap
from dontneed.model.views.path import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dontneed.lab import machine as lab
    from dontneed.lab.machine import Region
    from dontneed.model.memory import page_cache
    from dontneed.model.views.descent import Stage

_ARCHITECTURE = "x86_64"
_NOTES = {OLDEST: "a model, read and never run"}
_NOTE = "a model"
_LIBCS = {OLDEST: "glibc 2.12"}
_LIBC = "glibc 2.36"
"""The C library that goes with a kernel unless another is asked for: that of RHEL 6, and the one that was measured."""


class ModelMachine:
    """A modelled machine.

    Args:
        version: of its kernel.
        libc: its C library, as "glibc 2.36" or "musl"; empty: one of that kernel's time.

    Attributes:
        name: the version.
        libc: the C library.
        system: the model's own view of it.
    """

    def __init__(self, version: str = NEWEST, *, libc: str = "") -> None:
        self.name = version
        self.libc = libc or _LIBCS.get(version, _LIBC)
        self.system = System(version)
        self._program = Program(self.system)
        self._processes: list[ModelProcess] = []
        self._files: list[page_cache.File] = []

    @property
    def kernel(self) -> Kernel:
        """The kernel that is modelled."""
        behaviour = self.system.behaviour
        major, minor = behaviour.version[:2]
        return Kernel(
            release=behaviour.release,
            version=(major, minor),
            architecture=_ARCHITECTURE,
            pt_reclaim=behaviour.frees_tables,
            note=_NOTES.get(self.name, _NOTE),
        )

    def keep_way(self) -> bool:
        """Keep the way of every discard through the kernel from now on: the model can."""
        self.system.path = Path(self.system.behaviour)
        return True

    def way(self) -> tuple[Stage, ...]:
        """The way of the discards since this was last asked."""
        return self.system.path.taken() if self.system.path is not None else ()

    def start(self) -> ModelProcess:
        """A fresh process, which runs a small program."""
        return self.adopt(Process(self.system, self._program))

    def adopt(self, process: Process, parent: ModelProcess | None = None) -> ModelProcess:
        """Give a process of the model the words of the lab.

        Args:
            process: of this machine's system.
            parent: whose regions, files and C library it has inherited.
        """
        adopted = ModelProcess(self, process, parent)
        self._processes.append(adopted)
        return adopted

    def forget(self, process: ModelProcess) -> None:
        """A process has ended."""
        self._processes.remove(process)

    def new_file(self, pages: int, byte: int, *, in_memory: bool) -> page_cache.File:
        """A file that has no name in any directory, all in the page cache, and clean if it is on a disk."""
        name = "/memfd:file (deleted)" if in_memory else "/var/tmp/file (deleted)"  # noqa: S108 - there is no such file
        file = self.system.new_file(name, pages, kind=SHMEM if in_memory else FILE, byte=byte)
        self._files.append(file)
        return file

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Swap space on a disk as fast as memory."""
        space = self.system.swap
        before = space.enabled
        space.enabled = True
        try:
            yield
        finally:
            space.enabled = before

    def swap_used_bytes(self) -> int:
        """What its slots in use take."""
        return self.system.swap.used << PAGE_SHIFT

    @contextmanager
    def hugetlb_pool(self, huge_pages: int) -> Iterator[None]:
        """A pool that has so many free huge pages."""
        system = self.system
        missing = max(0, huge_pages - unreserved(system))
        system.huge_pool += missing
        try:
            yield
        finally:
            system.huge_pool = max(system.huge_reserved, system.huge_pool - missing)

    def frame_flags(self, frames: Sequence[int]) -> list[int]:
        """What the model knows of its frames."""
        spaces = [process.memory for process in self._processes]
        mapped = [vma.file for space in spaces for vma in space.vmas if vma.file is not None]
        return pagemap.kpageflags(self.system, spaces, {*self._files, *mapped}, frames)

    def wait_for_khugepaged(self, process: lab.Process, region: Region) -> bool:
        """Have it scan once, which is as often as it takes."""
        if not self.system.behaviour.huge_pages:
            msg = f"Linux {self.name} has no khugepaged"
            raise KernelLacks(msg, hint="it came with 2.6.38")
        if not isinstance(process, ModelProcess):
            raise UsageError("the process is of another machine")
        return process.scan_for_huge_pages(region)
