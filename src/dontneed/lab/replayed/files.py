"""The files that a traced process maps, as the model has them: known by name, with everything of them cached.

A trace does not tell how large a file is, nor what of it is in the page cache. Most of what programs map is cached when
they are started a second time, so files are taken to be: all pages, however far a mapping reaches. What is a file in
memory (a memfd, shared anonymous memory) is taken to be empty when it is mapped first.
"""

from __future__ import annotations

from dontneed.model.memory.page_cache import KERNELS, RING, ZERO_DEVICE, CachedPages, File
from dontneed.model.process import SHARED_ANONYMOUS_NAME
from dontneed.model.program.layout import vvar_flags
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import FILE, SHMEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.model.system import System

_ENDLESS = 1 << 40
"""Pages: more than any file has."""
_IN_MEMORY = ("/memfd:", "/dev/shm/", "/SYSV")  # noqa: S108 - nothing is opened there
_ZERO_DEVICE = "/dev/zero"
_VVAR = ("[vvar]", "[vvar_vclock]")
_VDSO = "[vdso]"
_NO_FILES = ("", "[heap]", "[stack]", "[uprobes]")
_ANONYMOUS = ("[anon:", "[stack:")
_PERF_RING = "anon_inode:[perf_event]"
_BY_NUMBER = ("/dev/", "anon_inode:")


class ReplayedFiles:
    """Every file of a replay, by name.

    Args:
        system: the modelled machine.
    """

    def __init__(self, system: System) -> None:
        self._system = system
        self._files: dict[str, File] = {}

    def named(self, name: str) -> File | None:
        """The file that a mapping of that name is of; None: of none."""
        if name in _NO_FILES or name in _VVAR or name.startswith(_ANONYMOUS):
            return None
        if name == SHARED_ANONYMOUS_NAME:
            return self.shared()
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = self._new(name)
        return file

    def shared(self) -> File:
        """A fresh piece of shared anonymous memory."""
        return File(self._system, SHARED_ANONYMOUS_NAME, _ENDLESS, kind=SHMEM)

    def flags(self, name: str) -> int:
        """The flags that mappings of that name have besides."""
        if name in _VVAR:
            return vvar_flags(self._system.behaviour)
        if name == _VDSO:
            return vm.DONT_EXPAND
        if name.startswith(_BY_NUMBER) and name != _ZERO_DEVICE and not name.startswith(_IN_MEMORY):
            return vm.IO | vm.PFNMAP | vm.DONT_EXPAND | vm.DONT_DUMP
        return 0

    def _new(self, name: str) -> File:
        kind = SHMEM if name.startswith(_IN_MEMORY) else FILE
        file = File(self._system, name, _ENDLESS, kind=kind)
        if kind == FILE:
            file.cache = CachedPages(self._system.frames)
        if name == _VDSO:
            file.nature = KERNELS
        elif name == _ZERO_DEVICE:
            file.nature = ZERO_DEVICE
        elif name == _PERF_RING:
            file.nature = RING
        return file
