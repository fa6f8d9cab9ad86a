"""Fork, faults, locks and files, in the model: guest/sharing.c once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dontneed.abi.advice import Advice
from modelled.guest import PAGE, READ, RW, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modelled.guest import ModelGuest

    Said = Iterator[tuple[str, str]]


def _frame(guest: ModelGuest, address: int) -> int:
    return guest.entries(address)[0] & (1 << 55) - 1


def fork(guest: ModelGuest) -> Said:
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


def faults(guest: ModelGuest) -> Said:
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


def lock(guest: ModelGuest) -> Said:
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


def files(guest: ModelGuest) -> Said:
    file = guest.new_file(4)
    shared = guest.map(4 * PAGE, shared=True, file=file)
    private = guest.map(4 * PAGE, file=file)
    guest.store(private, byte=8)
    yield "files.private_dontneed", guest.advised(private, 4, Advice.DONTNEED)
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
    yield "files.pageout_shared", guest.advised(shared, 4, Advice.PAGEOUT)
    yield "files.willneed", guest.advised(shared, 4, Advice.WILLNEED)
