"""What stands in page tables, in the model: guest/entries.c once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dontneed.abi.advice import Advice
from modelled.guest import GIB, HUGE, PAGE, READ, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelled.guest import ModelGuest

    Said = Iterator[tuple[str, str]]


def guard(guest: ModelGuest) -> Said:
    start = guest.touched(8)
    answer = guest.advise(start + 2 * PAGE, 2 * PAGE, Advice.GUARD_INSTALL)
    yield "guard.install", answer
    if answer != "ok":
        return
    yield "guard.pages", guest.letters(start, 8)
    yield "guard.flags", guest.smaps_flags(start)
    yield "guard.mappings", str(guest.mappings(start, 8 * PAGE))
    yield "guard.populate", guest.advised(start, 8, Advice.POPULATE_WRITE)
    yield "guard.mlock", outcome(guest.process.mlock(start, 8 * PAGE))
    guest.process.munlock(start, 8 * PAGE)
    yield "guard.dontneed", guest.advised(start, 8, Advice.DONTNEED)
    yield "guard.remove", guest.advised(start, 8, Advice.GUARD_REMOVE)
    yield "guard.flags_after_remove", guest.smaps_flags(start)
    alone = guest.warm_room() + HUGE
    tables = guest.status_kib("VmPTE")
    guest.advise(alone, PAGE, Advice.GUARD_INSTALL)
    yield "guard.tables_kib", str(guest.status_kib("VmPTE") - tables)
    guest.advise(alone, HUGE, Advice.DONTNEED)
    yield "guard.tables_after_dontneed_kib", str(guest.status_kib("VmPTE") - tables)
    file = guest.map_file(4, shared=True)
    guest.load(file)
    answer = guest.advise(file + PAGE, PAGE, Advice.GUARD_INSTALL)
    yield "guard.shared_file", f"{answer} {guest.letters(file, 4)}"
    guest.process.mprotect(start, 8 * PAGE, READ)
    yield "guard.read_only", guest.advise(start + PAGE, PAGE, Advice.GUARD_INSTALL)


def zero_page(guest: ModelGuest) -> Said:
    start = guest.map(4 * PAGE)
    guest.load(start)
    yield "zero_page.rss_kib", str(guest.smaps_kib(start, "Rss"))
    yield "zero_page.pss_kib", str(guest.smaps_kib(start, "Pss"))
    guest.advise(start, PAGE, Advice.DONTNEED)
    yield "zero_page.dontneed", guest.letters(start, 4)
    yield "zero_page.populate_read", guest.advised(start, 4, Advice.POPULATE_READ)
    guest.store(start)
    yield "zero_page.written", guest.letters(start, 4)
    yield "zero_page.free", guest.advised(start, 4, Advice.FREE)
    guest.process.mlock(start, 4 * PAGE)
    yield "zero_page.mlock", guest.letters(start, 4)


def page_tables(guest: ModelGuest) -> Said:
    def since(before: int) -> int:
        return guest.status_kib("VmPTE") - before

    room = guest.warm_room()
    before = guest.status_kib("VmPTE")
    for offset in range(HUGE, GIB, HUGE):
        guest.store(room + offset)
    touched = since(before)
    guest.advise(room + HUGE, GIB - HUGE, Advice.DONTNEED)
    yield "page_tables.sparse_gib_kib", f"touched {touched} after_dontneed {since(before)}"
    piece = guest.warm_room() + HUGE
    before = guest.status_kib("VmPTE")
    guest.store(piece, HUGE // PAGE)
    touched = since(before)
    guest.advise(piece, HUGE - PAGE, Advice.DONTNEED)
    yield "page_tables.slice_kib", f"touched {touched} all_but_one {since(before)}"
    guest.advise(piece + HUGE - PAGE, PAGE, Advice.DONTNEED)
    touched = since(before)
    guest.advise(piece, HUGE, Advice.DONTNEED)
    yield "page_tables.slice_emptied_kib", f"last_page {touched} whole_again {since(before)}"
    guest.store(piece, HUGE // PAGE)
    guest.advise(piece, HUGE, Advice.FREE)
    yield "page_tables.slice_free_kib", str(since(before))
    guest.process.munmap(piece, HUGE)
    yield "page_tables.slice_munmap_kib", str(since(before))
    file = guest.map_at(piece, 2 * HUGE, shared=True, file=guest.new_file(2 * HUGE // PAGE))
    guest.store(file, 2 * HUGE // PAGE)
    touched = since(before)
    guest.advise(file, 2 * HUGE, Advice.DONTNEED)
    yield "page_tables.file_kib", f"touched {touched} after_dontneed {since(before)}"
    before = guest.status_kib("VmPTE")
    guest.warm_room()
    yield "page_tables.fresh_gib_kib", str(since(before))
    before = guest.status_kib("VmPTE")
    far = guest.map_at(77 << 39, PAGE)
    guest.store(far)
    yield "page_tables.fresh_512_gib_kib", str(since(before))
    guest.process.munmap(far, PAGE)
    yield "page_tables.fresh_512_gib_munmap_kib", str(since(before))


def free(guest: ModelGuest) -> Said:
    start = guest.touched(64)
    yield "free.advice", guest.advise(start, 64 * PAGE, Advice.FREE)
    yield "free.pages", guest.letters(start, 4)
    yield "free.byte", str(guest.load(start))
    guest.store(start + PAGE)
    answer = guest.advise(start, 64 * PAGE, Advice.PAGEOUT)
    yield "free.then_pageout", f"{answer} {guest.letters(start, 4)}"
    guest.store(start, 64)
    answer = guest.advise(start, 64 * PAGE, Advice.PAGEOUT)
    yield "free.pageout_without_swap", f"{answer} {guest.letters(start, 4)}"
