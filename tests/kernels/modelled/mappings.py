"""What merges, splits and moves, and huge pages, in the model: guest/mappings.c once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dontneed.abi.advice import Advice
from dontneed.model.calls.remap import DONT_UNMAP, FIXED, MAY_MOVE
from dontneed.model.space import vma as vm
from modelled.guest import HUGE, PAGE, READ, RW, answer_of, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelled.guest import ModelGuest

    Said = Iterator[tuple[str, str]]


def mappings(guest: ModelGuest) -> Said:
    process = guest.process
    yield "mappings.alike_both_touched", str(_made_alike(guest, second_touched=True))
    yield "mappings.alike_one_touched", str(_made_alike(guest, second_touched=False))
    start = guest.touched(1)
    guest.map_at(start + 2 * PAGE, PAGE)
    guest.store(start + 2 * PAGE)
    guest.map_at(start + PAGE, PAGE)
    yield "mappings.between_strangers", str(guest.mappings(start, 3 * PAGE))
    yield from _merges_after_fork(guest)
    start = guest.touched(4)
    moved = process.mremap(start, 4 * PAGE, 4 * PAGE, flags=MAY_MOVE | DONT_UNMAP)
    yield "mappings.dontunmap", answer_of(moved)
    if moved > 0:
        yield "mappings.dontunmap_pages", f"left {guest.letters(start, 4)} moved {guest.letters(moved, 4)}"
    start = guest.touched(4)
    moved = process.mremap(start + PAGE, PAGE, 3 * PAGE, flags=MAY_MOVE)
    said = f"{answer_of(moved)} left {guest.letters(start, 4)} moved {guest.letters(moved, 3)}"
    yield "mappings.grow_and_move", said
    yield "mappings.grow_in_place", answer_of(process.mremap(start, PAGE, 2 * PAGE))
    yield "mappings.copy_private", answer_of(process.mremap(start, 0, PAGE, flags=MAY_MOVE))
    file = guest.map_file(4, shared=True)
    yield "mappings.dontunmap_shared", answer_of(process.mremap(file, 4 * PAGE, 4 * PAGE, flags=MAY_MOVE | DONT_UNMAP))
    start, target = guest.five(), guest.map(5 * PAGE, 0)
    process.mprotect(start + 2 * PAGE, PAGE, READ)
    result = process.mremap(start, 5 * PAGE, 5 * PAGE, flags=MAY_MOVE | FIXED, new_address=target)
    yield "mappings.move_of_several", answer_of(result)
    yield "mappings.left_of_several", guest.letters(start, 5)
    start = guest.map(2 * PAGE)
    answer = outcome(process.mprotect(start, 4 * PAGE, READ))
    yield "mappings.mprotect_over_end", f"{answer} {guest.mappings(start, 2 * PAGE)}"


def _made_alike(guest: ModelGuest, *, second_touched: bool) -> int:
    start = guest.map(2 * PAGE)
    guest.process.mprotect(start + PAGE, PAGE, RW | vm.EXEC)
    guest.store(start)
    if second_touched:
        guest.store(start + PAGE)
    guest.process.mprotect(start + PAGE, PAGE, RW)
    return guest.mappings(start, 2 * PAGE)


def _merges_after_fork(guest: ModelGuest) -> Said:
    start = guest.touched(2)
    guest.advise(start + PAGE, PAGE, Advice.RANDOM)
    guest.fork().process.exit()
    child = guest.fork()
    child.advise(start + PAGE, PAGE, Advice.NORMAL)
    yield "mappings.merge_in_child", str(child.mappings(start, 2 * PAGE))
    child.process.exit()
    guest.advise(start + PAGE, PAGE, Advice.NORMAL)
    yield "mappings.merge_after_fork", str(guest.mappings(start, 2 * PAGE))


def _huge_area(guest: ModelGuest) -> int:
    start = guest.warm_room()
    guest.advise(start + HUGE, HUGE, Advice.HUGEPAGE)
    return start + HUGE


def huge(guest: ModelGuest) -> Said:
    def seen(start: int, said: str) -> str:
        return f"{said} rss {guest.smaps_kib(start, 'Rss')} huge {guest.smaps_kib(start, 'AnonHugePages')}"

    start = _huge_area(guest)
    tables = guest.status_kib("VmPTE")
    guest.store(start)
    yield "huge.store", seen(start, "ok")
    yield "huge.tables_kib", str(guest.status_kib("VmPTE") - tables)
    yield "huge.dontneed_a_page", seen(start, guest.advise(start + PAGE, PAGE, Advice.DONTNEED))
    yield "huge.dontneed_all", seen(start, guest.advise(start, HUGE, Advice.DONTNEED))
    yield "huge.tables_after_it_kib", str(guest.status_kib("VmPTE") - tables)
    guest.store(start)
    yield "huge.store_again", seen(start, "ok")
    start = _huge_area(guest)
    guest.store(start)
    guest.advise(start, HUGE, Advice.DONTNEED)
    guest.store(start)
    yield "huge.whole_then_store", seen(start, "ok")
    yield "huge.free_a_page", seen(start, guest.advise(start + PAGE, PAGE, Advice.FREE))
    start = _huge_area(guest)
    guest.load(start)
    yield "huge.load", seen(start, guest.letters(start, 2))
    start = _huge_area(guest)
    guest.store(start)
    guest.process.mprotect(start, PAGE, READ)
    yield "huge.mprotect_a_page", seen(start + PAGE, guest.letters(start, 2))
    start = guest.map(HUGE)
    yield "huge.collapse_empty", guest.advise(start, HUGE, Advice.COLLAPSE)
    guest.store(start)
    yield "huge.collapse_one_page", seen(start, guest.advise(start, HUGE, Advice.COLLAPSE))
    yield "huge.collapse_within", guest.advise(start + PAGE, PAGE, Advice.COLLAPSE)
    yield "huge.collapse_around_a_border", guest.advise(start + HUGE - PAGE, PAGE, Advice.COLLAPSE)
