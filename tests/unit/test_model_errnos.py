"""Every advice on every kind of mapping, in the model as 6.18, against the matrix that was measured on Linux 6.18."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from dontneed.abi.advice import Advice
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.mappings import mlock, mmap, mprotect
from dontneed.model.memory.page_cache import KERNELS, REGULAR, RING, SECRET, ZERO_DEVICE, File
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import FILE, SHMEM
from dontneed.model.space.mm import PAGE_SHIFT, Mm
from dontneed.model.system import System

MATRIX: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parents[1] / "data" / "errno-matrix-6.18.json").read_text(encoding="utf-8")
)
READ, RW = vm.READ, vm.READ | vm.WRITE
FIRST, FEW, HUGE = 0x1000_0000, 4, 512


class Made:
    """A mapping of the model, and the range that is advised."""

    def __init__(  # noqa: PLR0913 - so much can be said of a mapping
        self, access=RW, pages=FEW, *, touched=True, file=None, read_only=False, shared=False, flags=0
    ):
        self.mm = Mm(System("6.18"))
        self.pages = pages
        if file:
            file = self.file(*file, writable=not read_only)
        possible = RW & ~_denied(file, shared=shared)
        assert mmap(self.mm, FIRST, FIRST + pages, possible, shared=shared, file=file, flags=flags) == 0
        if touched:
            touch(self.mm, FIRST, FIRST + pages, write=possible == RW)
        if access != RW:
            mprotect(self.mm, FIRST, FIRST + pages, access)

    def file(self, kind, nature=REGULAR, *, writable=True):
        """A file that is `pages` long."""
        file = self.mm.system.new_file("/file", self.pages, kind=kind)
        file.nature, file.writable = nature, writable
        return file

    def locked(self, **how):
        """The same, after mlock."""
        mlock(self.mm, FIRST, FIRST + self.pages, **how)
        return self

    def sealed(self):
        """The same, after mseal."""
        self.mm.vmas.find(FIRST).flags |= vm.SEALED
        return self

    def give(self, advice):
        """The answer to an advice, as the matrix spells it."""
        refused = madvise(self.mm, FIRST << PAGE_SHIFT, self.pages << PAGE_SHIFT, advice.number)
        return errno.errorcode[refused] if refused else "ok"


def _denied(file: File | None, *, shared: bool) -> int:
    return vm.WRITE if shared and file is not None and not file.writable else 0


def _unmapped():
    made = Made()
    made.pages = FEW
    made.mm = Mm(System("6.18"))
    return made


def _huge():
    made = Made(pages=HUGE, touched=False, flags=vm.HUGE_PAGE)
    touch(made.mm, FIRST, FIRST + HUGE, write=True)
    return made


def _hugetlb(*, shared):
    system = System("6.18")
    system.huge_pool = 4
    made = Made(touched=False)
    made.mm, made.pages = Mm(system), HUGE
    file = system.new_file("/anon_hugepage", HUGE, kind=FILE, cached=False)
    assert mmap(made.mm, FIRST, FIRST + HUGE, RW, shared=shared, file=file, flags=vm.HUGETLB) == 0
    touch(made.mm, FIRST, FIRST + HUGE, write=True)
    return made


KINDS = {
    "anon": Made,
    "anon_unpop": lambda: Made(touched=False),
    "none": lambda: Made(0),
    "ro": lambda: Made(READ),
    "stack": lambda: Made(flags=vm.GROWS_DOWN),
    "thp": _huge,
    "locked": lambda: Made().locked(),
    "lockonfault": lambda: Made().locked(on_fault=True),
    "sealed_ro": lambda: Made(READ).sealed(),
    "sealed_rw": lambda: Made().sealed(),
    "droppable": lambda: Made(flags=vm.DROPPABLE),
    "devzero_pv": lambda: Made(file=(FILE, ZERO_DEVICE)),
    "shanon": lambda: Made(file=(SHMEM,), shared=True),
    "memfd_sh": lambda: Made(file=(SHMEM,), shared=True),
    "memfd_pv": lambda: Made(file=(SHMEM,)),
    "locked_memfd": lambda: Made(file=(SHMEM,), shared=True).locked(),
    "secret": lambda: Made(file=(FILE, SECRET), shared=True, flags=vm.LOCKED),
    "file_sh_rw": lambda: Made(file=(FILE,), shared=True),
    "file_sh_ro_rwfd": lambda: Made(READ, file=(FILE,), shared=True),
    "file_sh_ro_rofd": lambda: Made(READ, file=(FILE,), read_only=True, shared=True),
    "file_pv_rw": lambda: Made(file=(FILE,)),
    "file_pv_ro": lambda: Made(READ, touched=False, file=(FILE,)),
    "hugetlb_sh": lambda: _hugetlb(shared=True),
    "hugetlb_pv": lambda: _hugetlb(shared=False),
    "vdso": lambda: Made(READ, touched=False, file=(FILE, KERNELS), flags=vm.DONT_EXPAND),
    "vvar": lambda: Made(READ, touched=False, flags=vm.PFNMAP | vm.IO | vm.DONT_EXPAND),
    "perf": lambda: Made(touched=False, file=(FILE, RING), shared=True, flags=vm.PFNMAP | vm.IO | vm.DONT_EXPAND),
    "unmapped": _unmapped,
}


def test_the_model_is_asked_of_every_kind_in_the_matrix() -> None:
    """No row of the measured matrix is left out."""
    assert set(KINDS) == set(MATRIX)


@pytest.mark.parametrize("kind", MATRIX)
def test_the_model_answers_as_the_kernel_did(kind: str) -> None:
    """Errno by errno, over all advices."""
    answers = {advice.name: KINDS[kind]().give(advice) for advice in Advice.all()}
    # The machine of the matrix has no handling of failed memory; neither has the model.
    assert answers == MATRIX[kind]
