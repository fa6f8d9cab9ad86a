"""The other side: plays a sequence in the model of the kernel, and says what the executor would have said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from differential import sequences as seq
from differential.describe import Witness, encode_runs
from differential.environment import POOL_PAGES
from differential.records import HEAD, LAST, SIGNALLED
from dontneed.model.paging import hugetlb
from dontneed.model.paging.faults import SIGSEGV, may_access, touch
from dontneed.model.process import Process
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import HUGETLB, KIND, LEAF_PAGES, SHMEM, ZERO
from dontneed.model.system import System
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from differential.sequences import Operation, Sequence
    from dontneed.model.memory.page_cache import File
    from dontneed.model.space.mm import Mm

ADDRESSES = 1 << 64
FIRST_FILE_BYTE = 0x40
FILE_NAME = "/memfd:file (deleted)"
PROGRAM = 0x400000
"""Where the executor lies; its heap begins within the next 4 MiB."""

_MAP_FLAGS = {0x2000: vm.LOCKED, 0x4000: vm.NO_RESERVE, 0x40000: vm.HUGETLB}

Outcome = tuple[int, int]
"""An errno, or SIGNALLED plus a signal; and what was returned."""


def predict(sequence: Sequence, kernel: str = "6.18") -> bytes:
    """What the executor answers to a sequence, if the model of this kernel is right."""
    return Play(sequence, kernel).answer()


class Play:
    """One sequence, played in a machine of its own."""

    def __init__(self, sequence: Sequence, kernel: str) -> None:
        self._sequence = sequence
        self._base = sequence.arena.base or PROGRAM + 2 * HUGE_PAGE_BYTES - sequence.arena.pages // 2 * PAGE_BYTES
        self._system = System(kernel)
        self._system.swap.enabled = bool(sequence.arena.setup & seq.SWAP)
        self._system.huge_pool = POOL_PAGES
        self._file = self._create_file(sequence.arena.file_pages)
        self._said: list[bytes] = []

    def answer(self) -> bytes:
        """Every record."""
        process = self._start()
        witness = Witness(process, self._sequence, self._base // PAGE_BYTES)
        self._carry_out(witness, 0, len(self._sequence.operations), depth=0)
        contents = list(self._contents_of_all(process))
        self._said += HEAD.pack(LAST, 0, 0, 0), encode_runs("HH", contents), witness.parts(0)
        return b"".join(self._said)

    def _start(self) -> Process:
        """A process with nothing in its memory, or, for an arena at the program break, the program below that."""
        process = Process(self._system)
        process.mm.huge_disabled = not self._sequence.arena.setup & seq.HUGE_PAGES_ALLOWED
        if not self._sequence.arena.base:
            process.mmap(PAGE_BYTES, vm.READ, address=PROGRAM)
            process.mm.brk_first, process.mm.brk = self._base // PAGE_BYTES, self._base
        self._settle(process)
        return process

    def _settle(self, process: Process) -> None:
        """A program has page tables, which the arena at its break shares."""
        if not self._sequence.arena.base:
            process.touch(PROGRAM, PAGE_BYTES, write=False)

    def _create_file(self, pages: int) -> File:
        """Every page, or huge page, tells its number."""
        if self._sequence.arena.setup & seq.FILE_OF_HUGE_PAGES:
            file = hugetlb.new_file(self._system, pages, name=FILE_NAME)
            self._fill_by_mapping(file, pages)
            return file
        file = self._system.new_file(FILE_NAME, pages, kind=SHMEM, cached=False)
        frames = range(first := self._system.frames.allocate(pages), first + pages)
        file.cache.update(enumerate(frames))
        file.dirty.update(frames)
        file.mark_used(first, pages)
        for page, frame in enumerate(frames):
            self._system.frames.store(frame, 1, (FIRST_FILE_BYTE + page) % 256)
        return file

    def _fill_by_mapping(self, file: File, pages: int) -> None:
        """Hugetlbfs cannot be written to, only mapped."""
        process = Process(self._system)
        process.mmap(pages * PAGE_BYTES, vm.READ | vm.WRITE, address=PROGRAM, shared=True, file=file, flags=vm.HUGETLB)
        for page in range(0, pages, LEAF_PAGES):
            first = PROGRAM // PAGE_BYTES + page
            touch(process.mm, first, first + 1, write=True)
            self._system.frames.store(process.mm.table.get(first)[1], 1, FIRST_FILE_BYTE + page // LEAF_PAGES)
        process.exit()

    def _contents_of_all(self, process: Process) -> Iterator[tuple[int, int]]:
        """Read every page in turn: (pages, first byte, or signal)."""
        mm = process.mm
        page = self._base // PAGE_BYTES
        last = page + self._sequence.arena.pages
        while page < last:
            vma = mm.vmas.find_from(page)
            if vma is None or vma.first > page or not may_access(vma, write=False):
                end = last if vma is None else min(last, vma.last if vma.first <= page else vma.first)
                yield end - page, SIGNALLED + SIGSEGV
            else:
                end = min(last, vma.last)
                if not touch(mm, page, end, write=False):
                    yield from self._contents(mm, page, end)
                else:  # page by page, to see which of them cannot be read
                    for each in range(page, end):
                        if signal := touch(mm, each, each + 1, write=False):
                            yield 1, SIGNALLED + signal
                        else:
                            yield from self._contents(mm, each, each + 1)
            page = end

    def _contents(self, mm: Mm, first: int, last: int) -> Iterator[tuple[int, int]]:
        """What pages hold that were touched."""
        load = self._system.frames.load
        for start, end, code, value in mm.table.runs(first, last):
            if code & KIND == ZERO:
                yield end - start, 0
            else:
                yield from ((1, load(frame)) for frame in range(value, value + end - start))

    # The course of a sequence

    def _carry_out(self, witness: Witness, first: int, last: int, depth: int) -> None:
        number = first
        while number < last:
            operation = self._sequence.operations[number]
            if operation.code == seq.FORK.code:
                number += self._fork_and_go_on(witness, number, depth)
            else:
                faults = witness.process.mm.minor_faults
                error, value = self._perform(witness.process, operation)
                faults = witness.process.mm.minor_faults - faults
                if operation.code == seq.WRITE.code and self._sequence.parts & seq.HUGE:
                    faults = 0  # not decided by the sequence: see decides_faults() of the executor
                self._record(witness, (number, depth, error, value), faults)
            number += 1

    def _fork_and_go_on(self, witness: Witness, number: int, depth: int) -> int:
        """The operations after a fork are the child's; how many they were."""
        count = min(self._sequence.operations[number].arguments[0], len(self._sequence.operations) - number - 1)
        child = witness.of_child(witness.process.fork())
        self._settle(child.process)
        self._record(child, (number, depth + 1, 0, 0), 0)
        self._carry_out(child, number + 1, number + 1 + count, depth + 1)
        child.process.exit()
        self._record(witness, (number, depth, 0, count), 0)
        return count

    def _record(self, witness: Witness, head: tuple[int, int, int, int], faults: int) -> None:
        self._said += HEAD.pack(*head), witness.parts(faults)

    # The operations

    def _perform(self, process: Process, operation: Operation) -> Outcome:
        return _OPERATIONS[operation.code](self, process, *operation.arguments)

    def _address(self, offset: int) -> int:
        return (self._base + offset) % ADDRESSES

    def _read(self, process: Process, at: int) -> Outcome:
        page = self._address(at) // PAGE_BYTES
        if signal := touch(process.mm, page, page + 1, write=False):
            return SIGNALLED + signal, 0
        code, value = process.mm.table.get(page)
        return 0, 0 if code & KIND == ZERO else self._system.frames.load(value)

    def _write(self, process: Process, at: int, byte: int) -> Outcome:
        page = self._address(at) // PAGE_BYTES
        if signal := touch(process.mm, page, page + 1, write=True):
            return SIGNALLED + signal, 0
        self._system.frames.store(process.mm.table.get(page)[1], 1, byte)
        return 0, 0

    def _map(self, process: Process, start: int, length: int, *how: int) -> Outcome:
        access, backing, file_page, bits = how
        of_file = backing >= seq.PRIVATE_FILE
        flags = sum(flag for bit, flag in _MAP_FLAGS.items() if bits & bit)
        if of_file and self._file.kind == HUGETLB:
            flags |= vm.HUGETLB
        got = process.mmap(
            length % ADDRESSES,
            access,
            address=self._address(start),
            shared=bool(backing & 1),
            file=self._file if of_file else None,
            offset=file_page * PAGE_BYTES if of_file else 0,
            flags=flags,
        )
        return max(-got, 0), 0

    def _unmap(self, process: Process, start: int, length: int) -> Outcome:
        return process.munmap(self._address(start), length % ADDRESSES), 0

    def _protect(self, process: Process, start: int, length: int, access: int) -> Outcome:
        return process.mprotect(self._address(start), length % ADDRESSES, access), 0

    def _advise(self, process: Process, start: int, length: int, advice: int) -> Outcome:
        return process.madvise(self._address(start), length % ADDRESSES, advice), 0

    def _lock(self, process: Process, start: int, length: int, flags: int) -> Outcome:
        return process.mlock(self._address(start), length % ADDRESSES, on_fault=bool(flags)), 0

    def _unlock(self, process: Process, start: int, length: int) -> Outcome:
        return process.munlock(self._address(start), length % ADDRESSES), 0

    def _remap(self, process: Process, start: int, length: int, new_length: int, flags: int, to: int) -> Outcome:
        """What moves out of the arena is of no further interest."""
        old_bytes, new_bytes = length % ADDRESSES, new_length % ADDRESSES
        got = process.mremap(self._address(start), old_bytes, new_bytes, flags=flags, new_address=self._address(to))
        if got < 0:
            return -got, 0
        if 0 <= got - self._base < self._sequence.arena.pages * PAGE_BYTES:
            return 0, got - self._base
        process.munmap(got, new_bytes)
        return 0, -1

    def _break(self, process: Process, end: int) -> Outcome:
        return 0, process.brk(self._address(end)) - self._base

    def _process_advise(self, process: Process, advice: int, count: int, *numbers: int) -> Outcome:
        ranges = [
            (self._address(start), length % ADDRESSES)
            for start, length in zip(numbers[::2], numbers[1::2], strict=True)
        ]
        got = process.process_madvise(ranges[:count], advice)
        return (0, got) if got >= 0 else (-got, 0)

    def _seal(self, process: Process, start: int, length: int) -> Outcome:
        return process.mseal(self._address(start), length % ADDRESSES), 0


_OPERATIONS = {
    seq.MAP.code: Play._map,
    seq.UNMAP.code: Play._unmap,
    seq.PROTECT.code: Play._protect,
    seq.ADVISE.code: Play._advise,
    seq.LOCK.code: Play._lock,
    seq.UNLOCK.code: Play._unlock,
    seq.READ.code: Play._read,
    seq.WRITE.code: Play._write,
    seq.REMAP.code: Play._remap,
    seq.BREAK.code: Play._break,
    seq.PROCESS_ADVISE.code: Play._process_advise,
    seq.SEAL.code: Play._seal,
}
