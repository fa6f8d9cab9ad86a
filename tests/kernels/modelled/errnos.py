"""What each advice answers on each kind of mapping, in the model: guest/errnos.c once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dontneed.abi.advice import Advice
from dontneed.model.memory.page_cache import KERNELS, REGULAR, RING, SECRET, ZERO_DEVICE, File
from dontneed.model.program.layout import vvar_flags
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import FILE, SHMEM
from modelled.guest import HUGE, PAGE, READ, RW, ModelGuest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dontneed.model.versions import Behaviour

PAGES = 8
_NO_ADVICE = (5, 6, 7, 26, 99)
_NOT_ASKED = ("HWPOISON", "SOFT_OFFLINE")

Place = tuple[int, int]
"""An address and a size."""


def errnos(behaviour: Behaviour) -> Iterator[tuple[str, str]]:
    """Name and answer of every pair, as in `errno.anon.FREE`; none for mappings that the kernel does not have."""
    asked = {advice.name: advice.number for advice in Advice.all() if advice.name not in _NOT_ASKED}
    asked |= {str(number): number for number in _NO_ADVICE}
    for kind, make in KINDS.items():
        for name, number in asked.items():
            guest = ModelGuest(behaviour)
            place = make(guest)
            if place is None:
                break
            yield f"errno.{kind}.{name}", guest.advise(*place, number)


def _anon(guest: ModelGuest) -> Place:
    return guest.touched(PAGES), PAGES * PAGE


def _anon_unpop(guest: ModelGuest) -> Place:
    return guest.map(PAGES * PAGE), PAGES * PAGE


def _protected(access: int) -> Callable[[ModelGuest], Place]:
    def make(guest: ModelGuest) -> Place:
        start, size = _anon(guest)
        guest.process.mprotect(start, size, access)
        return start, size

    return make


def _flagged(flags: int) -> Callable[[ModelGuest], Place]:
    def make(guest: ModelGuest) -> Place:
        start = guest.map(PAGES * PAGE, flags=flags)
        guest.store(start, PAGES)
        return start, PAGES * PAGE

    return make


def _shanon(guest: ModelGuest) -> Place:
    start = guest.map(PAGES * PAGE, shared=True)
    guest.store(start, PAGES)
    return start, PAGES * PAGE


def _of_file(
    access: int = RW, *, kind: int = FILE, nature: str = REGULAR, writable: bool = True, **how: object
) -> Callable[[ModelGuest], Place]:
    def make(guest: ModelGuest) -> Place:
        file = File(guest.system, "/file", PAGES, kind=kind, writable=writable)
        file.nature = nature
        if nature == REGULAR:
            for page in range(PAGES):
                file.write(page, ord("f"))
        start = guest.map(PAGES * PAGE, access, file=file, **how)
        if nature in (REGULAR, ZERO_DEVICE):
            guest.process.touch(start, PAGES * PAGE, write=False)
        return start, PAGES * PAGE

    return make


def _locked(make: Callable[[ModelGuest], Place], *, on_fault: bool = False) -> Callable[[ModelGuest], Place]:
    def make_locked(guest: ModelGuest) -> Place:
        place = make(guest)
        guest.process.mlock(*place, on_fault=on_fault)
        return place

    return make_locked


def _sealed(make: Callable[[ModelGuest], Place]) -> Callable[[ModelGuest], Place | None]:
    def make_sealed(guest: ModelGuest) -> Place | None:
        place = make(guest)
        return None if guest.process.mseal(*place) else place

    return make_sealed


def _since(version: tuple[int, ...], make: Callable[[ModelGuest], Place]) -> Callable[[ModelGuest], Place | None]:
    return lambda guest: make(guest) if guest.system.behaviour.version >= version else None


def _from_pool(*, shared: bool) -> Callable[[ModelGuest], Place]:
    def make(guest: ModelGuest) -> Place:
        start = guest.map(HUGE, shared=shared, flags=vm.HUGETLB, file=_pool_file(guest))
        guest.store(start)
        return start, HUGE

    return make


def _pool_file(guest: ModelGuest) -> File:
    return guest.system.new_file("/anon_hugepage (deleted)", HUGE // PAGE, kind=FILE, cached=False)


def _thp(guest: ModelGuest) -> Place:
    start = guest.map(HUGE, flags=vm.HUGE_PAGE)
    guest.store(start, HUGE // PAGE)
    return start, HUGE


def _unmapped(guest: ModelGuest) -> Place:
    return guest.room(PAGES * PAGE), PAGES * PAGE


def _vvar(guest: ModelGuest) -> Place:
    return guest.map(PAGES * PAGE, READ, flags=vvar_flags(guest.system.behaviour)), PAGES * PAGE


_memfd_shared = _of_file(kind=SHMEM, shared=True)

KINDS: dict[str, Callable[[ModelGuest], Place | None]] = {
    "anon": _anon,
    "anon_unpop": _anon_unpop,
    "none": _protected(0),
    "ro": _protected(vm.READ),
    "wo": _protected(vm.WRITE),
    "shanon": _shanon,
    "memfd_pv": _of_file(kind=SHMEM),
    "memfd_sh": _memfd_shared,
    # The guest's files are on tmpfs.
    "file_pv_rw": _of_file(kind=SHMEM),
    "file_pv_ro": _of_file(READ, kind=SHMEM),
    "file_sh_rw": _memfd_shared,
    "file_sh_ro_rwfd": _of_file(READ, kind=SHMEM, shared=True),
    "file_sh_ro_rofd": _of_file(READ, kind=SHMEM, shared=True, writable=False),
    "devzero_pv": _of_file(nature=ZERO_DEVICE),
    "locked": _locked(_anon),
    "lockonfault": _since((4, 4), _locked(_anon, on_fault=True)),
    "locked_memfd": _locked(_memfd_shared),
    "hugetlb_pv": _from_pool(shared=False),
    "hugetlb_sh": _from_pool(shared=True),
    "thp": _thp,
    # It exists since 5.14, and may be had without a word on the command line since 6.5.
    "secret": _since((6, 5), _of_file(nature=SECRET, shared=True)),
    "sealed_ro": _sealed(_protected(vm.READ)),
    "sealed_rw": _sealed(_anon),
    "droppable": _since((6, 11), _flagged(vm.DROPPABLE)),
    "perf": _of_file(nature=RING, shared=True),
    "stack": _flagged(vm.GROWS_DOWN),
    "vdso": _of_file(READ, nature=KERNELS, flags=vm.DONT_EXPAND),
    "vvar": _vvar,
    "unmapped": _unmapped,
}
