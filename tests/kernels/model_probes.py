"""What the probes would find in the model: the groups of guest/*.c once more, for all that the model speaks of.

Each function takes a fresh `ModelGuest` and yields names and values as the guest says them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_guest import GIB, HUGE, PAGE, READ, RW, ModelGuest, answer_of, outcome

from dontneed.abi.advice import Advice
from dontneed.model import procfs
from dontneed.model import vma as vm
from dontneed.model.remap import DONT_UNMAP, FIXED, MAY_MOVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Said = Iterator[tuple[str, str]]

BAD_ADVICE = 99


def probes(version: str) -> Said:
    """Name and value of every probe that the model answers."""
    for group in GROUPS:
        yield from group(ModelGuest(version))


# guest/calls.c


def _arguments(guest: ModelGuest) -> Said:
    start, gone = guest.touched(16), guest.room(16 * PAGE)
    last = (1 << 64) - PAGE
    for name, address, size, advice in (
        ("bad_advice_len0", start, 0, BAD_ADVICE),
        ("bad_advice_unmapped", gone, PAGE, BAD_ADVICE),
        ("unaligned_len0", start + 1, 0, Advice.DONTNEED),
        ("len0_unmapped", gone, 0, Advice.DONTNEED),
        ("len0_null", 0, 0, Advice.DONTNEED),
        ("all_but_a_page", 0, last, Advice.NORMAL),
        ("wraps", start, last, Advice.NORMAL),
        ("rounds_to_0", start, (1 << 64) - 1, Advice.NORMAL),
        ("ends_at_0", last, PAGE, Advice.NORMAL),
        ("kernel_address", 0xFFFF_FFFF_8100_0000, PAGE, Advice.DONTNEED),
    ):
        yield f"arguments.{name}", guest.advise(address, size, advice)
    guest.advise(start, 1, Advice.DONTNEED)
    yield "arguments.len1", guest.letters(start, 4)
    guest.advise(start, 2 * PAGE + 1, Advice.DONTNEED)
    yield "arguments.len_two_pages_and_1", guest.letters(start, 4)


def _five(guest: ModelGuest, middle: str = "") -> int:
    start = guest.touched(5)
    if middle == "locked":
        guest.process.mlock(start + 2 * PAGE, PAGE)
    if middle == "hole":
        guest.process.munmap(start + 2 * PAGE, PAGE)
    return start


def _walk(guest: ModelGuest) -> Said:
    for advice, middle in (
        (Advice.DONTNEED, "hole"),
        (Advice.DONTNEED, "locked"),
        (Advice.DONTNEED_LOCKED, "locked"),
        (Advice.GUARD_INSTALL, "locked"),
        (Advice.GUARD_INSTALL, "hole"),
        (Advice.FREE, "hole"),
        (Advice.COLD, "locked"),
    ):
        name = f"walk.{advice.name.lower()}.{middle}"
        yield name, _advised(guest, _five(guest, middle), 5, advice)
    start = _five(guest, "locked")
    guest.process.munmap(start + PAGE, PAGE)
    yield "walk.dontneed.hole_then_locked", _advised(guest, start, 5, Advice.DONTNEED)
    start = guest.map(5 * PAGE)
    guest.process.munmap(start + 2 * PAGE, PAGE)
    yield "walk.populate_write.hole", _advised(guest, start, 5, Advice.POPULATE_WRITE)
    start = _five(guest, "hole")
    answer = guest.advise(start, 5 * PAGE, Advice.DONTFORK)
    yield "walk.dontfork.hole", f"{answer} {guest.mappings(start, 5 * PAGE)}"
    start = _five(guest)
    guest.advise(start + 2 * PAGE, PAGE, Advice.RANDOM)
    yield "walk.random.splits", str(guest.mappings(start, 5 * PAGE))
    guest.advise(start + 2 * PAGE, PAGE, Advice.NORMAL)
    yield "walk.normal.merges", str(guest.mappings(start, 5 * PAGE))
    guest.advise(start + PAGE, 3 * PAGE, Advice.DONTNEED)
    yield "walk.dontneed.splits_nothing", str(guest.mappings(start, 5 * PAGE))


def _advised(guest: ModelGuest, start: int, pages: int, advice: Advice) -> str:
    """The answer, and what the pages are then."""
    return f"{guest.advise(start, pages * PAGE, advice)} {guest.letters(start, pages)}"


_VECTOR_ADVICES = (
    *(Advice.NORMAL, Advice.WILLNEED, Advice.DONTNEED, Advice.FREE, Advice.DONTFORK, Advice.HUGEPAGE, Advice.COLD),
    *(Advice.PAGEOUT, Advice.POPULATE_WRITE, Advice.DONTNEED_LOCKED, Advice.COLLAPSE),
    *(Advice.GUARD_INSTALL, Advice.GUARD_REMOVE),
)


def _process_madvise(guest: ModelGuest) -> Said:
    start, holed = guest.touched(16), _five(guest, "hole")
    asked = {advice.name: int(advice) for advice in _VECTOR_ADVICES} | {str(BAD_ADVICE): BAD_ADVICE}
    answers = {name: guest.process.process_madvise([(start, PAGE)], number) for name, number in asked.items()}
    yield "process_madvise.self", " ".join(f"{name}={answer_of(result)}" for name, result in answers.items())
    cold = int(Advice.COLD)
    three = [(start, PAGE), (holed, 5 * PAGE), (start + PAGE, PAGE)]
    for name, ranges, advice in (
        ("good_then_hole", three, cold),
        ("only_hole", three[1:2], cold),
        ("len1", [(start, 1)], cold),
        ("no_parts", [], cold),
        ("no_parts_bad_advice", [], BAD_ADVICE),
    ):
        result = guest.process.process_madvise(ranges, advice)
        yield f"process_madvise.{name}", answer_of(result) if result < 0 else str(result)


def _seal(guest: ModelGuest) -> Said:
    start = _five(guest)
    answer = outcome(guest.process.mseal(start + 2 * PAGE, PAGE))
    yield "seal.mseal", answer
    if answer != "ok":
        return
    yield "seal.writable.dontneed", _advised(guest, start, 5, Advice.DONTNEED)
    start = _five(guest)
    guest.process.mprotect(start + 2 * PAGE, PAGE, READ)
    guest.process.mseal(start + 2 * PAGE, PAGE)
    yield "seal.read_only.dontneed", _advised(guest, start, 5, Advice.DONTNEED)
    answer = outcome(guest.process.munmap(start, 5 * PAGE))
    yield "seal.munmap", f"{answer} {guest.letters(start, 5)}"
    yield "seal.mprotect", outcome(guest.process.mprotect(start, 5 * PAGE, 0))
    yield "seal.mremap", answer_of(guest.process.mremap(start + 2 * PAGE, PAGE, 2 * PAGE, flags=MAY_MOVE))
    yield "seal.mmap_over", answer_of(guest.process.mmap(5 * PAGE, RW, address=start))
    yield "seal.random", guest.advise(start, 5 * PAGE, Advice.RANDOM)
    file = guest.map_file(2, shared=False)
    guest.store(file, 2)
    guest.process.mprotect(file, 2 * PAGE, READ)
    guest.process.mseal(file, 2 * PAGE)
    yield "seal.private_file_read_only.dontneed", _advised(guest, file, 2, Advice.DONTNEED)


# guest/entries.c


def _guard(guest: ModelGuest) -> Said:
    start = guest.touched(8)
    answer = guest.advise(start + 2 * PAGE, 2 * PAGE, Advice.GUARD_INSTALL)
    yield "guard.install", answer
    if answer != "ok":
        return
    yield "guard.pages", guest.letters(start, 8)
    yield "guard.mappings", str(guest.mappings(start, 8 * PAGE))
    yield "guard.populate", _advised(guest, start, 8, Advice.POPULATE_WRITE)
    yield "guard.mlock", outcome(guest.process.mlock(start, 8 * PAGE))
    guest.process.munlock(start, 8 * PAGE)
    yield "guard.dontneed", _advised(guest, start, 8, Advice.DONTNEED)
    yield "guard.remove", _advised(guest, start, 8, Advice.GUARD_REMOVE)
    alone = _warm_room(guest) + HUGE
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


def _zero_page(guest: ModelGuest) -> Said:
    start = guest.map(4 * PAGE)
    guest.load(start)
    yield "zero_page.rss_kib", str(guest.smaps_kib(start, "Rss"))
    yield "zero_page.pss_kib", str(guest.smaps_kib(start, "Pss"))
    guest.advise(start, PAGE, Advice.DONTNEED)
    yield "zero_page.dontneed", guest.letters(start, 4)
    yield "zero_page.populate_read", _advised(guest, start, 4, Advice.POPULATE_READ)
    guest.store(start)
    yield "zero_page.written", guest.letters(start, 4)
    yield "zero_page.free", _advised(guest, start, 4, Advice.FREE)
    guest.process.mlock(start, 4 * PAGE)
    yield "zero_page.mlock", guest.letters(start, 4)


def _warm_room(guest: ModelGuest) -> int:
    start = guest.map(GIB, flags=vm.NO_RESERVE)
    guest.store(start)
    return start


def _page_tables(guest: ModelGuest) -> Said:
    def since(before: int) -> int:
        return guest.status_kib("VmPTE") - before

    room = _warm_room(guest)
    before = guest.status_kib("VmPTE")
    for offset in range(HUGE, GIB, HUGE):
        guest.store(room + offset)
    touched = since(before)
    guest.advise(room + HUGE, GIB - HUGE, Advice.DONTNEED)
    yield "page_tables.sparse_gib_kib", f"touched {touched} after_dontneed {since(before)}"
    piece = _warm_room(guest) + HUGE
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
    _warm_room(guest)
    yield "page_tables.fresh_gib_kib", str(since(before))
    before = guest.status_kib("VmPTE")
    far = guest.map_at(77 << 39, PAGE)
    guest.store(far)
    yield "page_tables.fresh_512_gib_kib", str(since(before))
    guest.process.munmap(far, PAGE)
    yield "page_tables.fresh_512_gib_munmap_kib", str(since(before))


def _free(guest: ModelGuest) -> Said:
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


# guest/sharing.c


def _frame(guest: ModelGuest, address: int) -> int:
    return guest.entries(address)[0] & (1 << 55) - 1


def _fork(guest: ModelGuest) -> Said:
    anonymous = guest.touched(4)
    file, shared_file = guest.map_file(4, shared=False), guest.map_file(4, shared=True)
    shared = guest.map(PAGE, shared=True)
    guest.store(shared)
    failed = guest.map(4 * PAGE, file=guest.new_file(2))
    for each in (file, shared_file, failed):
        guest.load(each)
    yield "fork.store_beyond_end", f"signal {guest.store(failed + 3 * PAGE)}"
    for name, start in (
        ("anonymous", anonymous),
        ("private_file_read", file),
        ("shared_file_read", shared_file),
        ("shared_anonymous", shared),
        ("private_file_after_failed_store", failed),
    ):
        before, child = guest.letters(start, 1), guest.fork()
        yield f"fork.{name}", f"parent {before} child {child.letters(start, 1)}"
        child.process.exit()
    child = guest.fork()
    child.advise(anonymous, PAGE, Advice.DONTNEED)
    yield "fork.child_dontneed", str(child.load(anonymous))
    child.process.exit()
    yield "fork.parent_after_it", str(guest.load(anonymous))
    yield "fork.child_gone_then_store", _keeps(guest, anonymous)
    alone = guest.touched(1)
    child = guest.fork()
    yield "fork.first_writer", _keeps(guest, alone)
    yield "fork.last_writer", _keeps(child, alone)


def _keeps(guest: ModelGuest, address: int) -> str:
    before = _frame(guest, address)
    guest.store(address)
    return "keeps" if _frame(guest, address) == before else "copies"


def _faults(guest: ModelGuest) -> Said:
    def taken(act: Callable[[], object]) -> str:
        before = guest.process.mm.minor_faults
        act()
        return str(guest.process.mm.minor_faults - before)

    start = guest.map(4 * PAGE)
    first = taken(lambda: guest.load(start))
    yield "faults.load_then_store", f"{first} {taken(lambda: guest.store(start))}"
    for name, access in (("read_only", READ), ("none", 0)):
        guest.process.mprotect(start, PAGE, access)
        guest.process.mprotect(start, PAGE, RW)
        yield f"faults.store_after_{name}_and_back", taken(lambda: guest.store(start))
    child = guest.fork()
    child.process.exit()
    yield "faults.store_after_fork", taken(lambda: guest.store(start))
    guest.advise(start, PAGE, Advice.FREE)
    yield "faults.store_after_free", taken(lambda: guest.store(start))
    guest.advise(start, PAGE, Advice.COLD)
    yield "faults.load_after_cold", taken(lambda: guest.load(start))
    for name, shared, advice, write in (
        ("shared_file", True, Advice.NORMAL, False),
        ("private_file", False, Advice.NORMAL, False),
        ("random", True, Advice.RANDOM, False),
        ("shared_store", True, Advice.NORMAL, True),
        ("private_store", False, Advice.NORMAL, True),
    ):
        file = guest.map_file(64, shared=shared)
        guest.advise(file, 64 * PAGE, advice)
        guest.process.touch(file + 20 * PAGE, PAGE, write=write)
        yield f"faults.around_{name}", guest.letters(file, 64)


def _lock(guest: ModelGuest) -> Said:
    lock = guest.process.mlock
    start = guest.map(8 * PAGE)
    answer = outcome(lock(start + 2 * PAGE, 2 * PAGE))
    yield "lock.mlock", f"{answer} {guest.letters(start, 8)} mappings {guest.mappings(start, 8 * PAGE)}"
    locked = guest.smaps_kib(start + 2 * PAGE, "Locked")
    yield "lock.smaps_kib", f"locked {locked} vmlck {guest.status_kib('VmLck')}"
    answer = guest.advise(start + 2 * PAGE, 2 * PAGE, Advice.DONTNEED_LOCKED)
    yield "lock.dontneed_locked", f"{answer} {guest.letters(start, 8)}"
    guest.load(start + 2 * PAGE)
    yield "lock.load_after_it", f"{guest.letters(start, 8)} locked {guest.smaps_kib(start + 2 * PAGE, 'Locked')}"
    guest.process.munlock(start, 8 * PAGE)
    yield "lock.munlock", f"{guest.letters(start, 8)} mappings {guest.mappings(start, 8 * PAGE)}"
    answer = outcome(lock(start + 4 * PAGE, 2 * PAGE, on_fault=True))
    yield "lock.on_fault", f"{answer} {guest.letters(start, 8)}"
    for name, access in (("read_only", READ), ("none", 0)):
        start = guest.map(4 * PAGE, access)
        answer = outcome(lock(start, 4 * PAGE))
        yield f"lock.{name}", f"{answer} {guest.letters(start, 4)}"
    for name, shared in (("shared_file", True), ("private_file", False)):
        start = guest.map_file(4, shared=shared)
        answer = outcome(lock(start, 2 * PAGE))
        yield f"lock.{name}", f"{answer} {guest.letters(start, 4)}"


def _files(guest: ModelGuest) -> Said:
    file = guest.new_file(4)
    shared = guest.map(4 * PAGE, shared=True, file=file)
    private = guest.map(4 * PAGE, file=file)
    guest.store(private, byte=8)
    yield "files.private_dontneed", _advised(guest, private, 4, Advice.DONTNEED)
    yield "files.private_after_it", chr(guest.load(private))
    guest.store(shared, byte=9)
    guest.advise(shared, 4 * PAGE, Advice.DONTNEED)
    yield "files.shared_dontneed", guest.letters(shared, 4)
    yield "files.shared_after_it", str(guest.load(shared))
    guest.store(private, 2)
    yield "files.remove", guest.advise(shared + PAGE, PAGE, Advice.REMOVE)
    blocks = len(file.cache) * PAGE // 512
    yield "files.after_remove", f"shared {guest.letters(shared, 4)} private {guest.letters(private, 4)} blocks {blocks}"
    guest.store(shared, 4)
    yield "files.pageout_shared", _advised(guest, shared, 4, Advice.PAGEOUT)
    yield "files.willneed", _advised(guest, shared, 4, Advice.WILLNEED)


# guest/mappings.c


def _mappings(guest: ModelGuest) -> Said:
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
    start, target = _five(guest), guest.map(5 * PAGE, 0)
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
    start = _warm_room(guest)
    guest.advise(start + HUGE, HUGE, Advice.HUGEPAGE)
    return start + HUGE


def _huge(guest: ModelGuest) -> Said:
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


def _keys(guest: ModelGuest) -> Said:
    guest.touched(1)
    yield "keys.status", guest.keys(procfs.status(guest.process))
    yield "keys.smaps", guest.keys(procfs.smaps(guest.process))


GROUPS: tuple[Callable[[ModelGuest], Said], ...] = (
    _arguments,
    _walk,
    _process_madvise,
    _seal,
    _guard,
    _zero_page,
    _page_tables,
    _free,
    _fork,
    _faults,
    _lock,
    _files,
    _mappings,
    _huge,
    _keys,
)
