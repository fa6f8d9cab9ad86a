"""The system calls, in the model: guest/calls.c once more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dontneed.abi.advice import Advice
from dontneed.model.calls.remap import MAY_MOVE
from modelled.guest import PAGE, READ, RW, answer_of, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from modelled.guest import ModelGuest

    Said = Iterator[tuple[str, str]]

BAD_ADVICE = 99


def arguments(guest: ModelGuest) -> Said:
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


def walk(guest: ModelGuest) -> Said:
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
        yield name, guest.advised(guest.five(middle), 5, advice)
    start = guest.five("locked")
    guest.process.munmap(start + PAGE, PAGE)
    yield "walk.dontneed.hole_then_locked", guest.advised(start, 5, Advice.DONTNEED)
    start = guest.map(5 * PAGE)
    guest.process.munmap(start + 2 * PAGE, PAGE)
    yield "walk.populate_write.hole", guest.advised(start, 5, Advice.POPULATE_WRITE)
    start = guest.five("hole")
    answer = guest.advise(start, 5 * PAGE, Advice.DONTFORK)
    yield "walk.dontfork.hole", f"{answer} {guest.mappings(start, 5 * PAGE)}"
    start = guest.five()
    guest.advise(start + 2 * PAGE, PAGE, Advice.RANDOM)
    yield "walk.random.splits", str(guest.mappings(start, 5 * PAGE))
    guest.advise(start + 2 * PAGE, PAGE, Advice.NORMAL)
    yield "walk.normal.merges", str(guest.mappings(start, 5 * PAGE))
    guest.advise(start + PAGE, 3 * PAGE, Advice.DONTNEED)
    yield "walk.dontneed.splits_nothing", str(guest.mappings(start, 5 * PAGE))


_VECTOR_ADVICES = (
    *(Advice.NORMAL, Advice.WILLNEED, Advice.DONTNEED, Advice.FREE, Advice.DONTFORK, Advice.HUGEPAGE, Advice.COLD),
    *(Advice.PAGEOUT, Advice.POPULATE_WRITE, Advice.DONTNEED_LOCKED, Advice.COLLAPSE),
    *(Advice.GUARD_INSTALL, Advice.GUARD_REMOVE),
)


def process_madvise(guest: ModelGuest) -> Said:
    start, holed = guest.touched(16), guest.five("hole")
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


def seal(guest: ModelGuest) -> Said:
    start = guest.five()
    answer = outcome(guest.process.mseal(start + 2 * PAGE, PAGE))
    yield "seal.mseal", answer
    if answer != "ok":
        return
    yield "seal.writable.dontneed", guest.advised(start, 5, Advice.DONTNEED)
    start = guest.five()
    guest.process.mprotect(start + 2 * PAGE, PAGE, READ)
    guest.process.mseal(start + 2 * PAGE, PAGE)
    yield "seal.read_only.dontneed", guest.advised(start, 5, Advice.DONTNEED)
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
    yield "seal.private_file_read_only.dontneed", guest.advised(file, 2, Advice.DONTNEED)
