"""What a process of the model shows, in the executor's words: records.py has their form."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from differential import records
from differential.sequences import CONTENTS, COUNTERS, FAULTS, FRAMES, MAPPINGS, SMAPS
from dontneed.abi import pagemap as abi
from dontneed.model import pagemap, procfs
from dontneed.model import vma as vm
from dontneed.model.entries import ANON, FILE, GUARD, HUGE, HUGETLB, KIND, SHMEM, SWAP, ZERO
from dontneed.model.faults import SIGSEGV, may_access
from dontneed.model.hugetlb import is_file_frame

if TYPE_CHECKING:
    import struct
    from collections.abc import Iterable, Iterator

    from differential.sequences import Sequence
    from dontneed.model.process import Process

PAGE_KIB = 4

_STATES = {
    ANON: records.PRESENT,
    FILE: records.PRESENT,
    SHMEM: records.PRESENT,
    HUGETLB: records.PRESENT,
    ZERO: records.PRESENT | records.ZERO,
    SWAP: records.SWAPPED,
    GUARD: records.SWAPPED | records.GUARD,
}
"""Of a page, but for whether it is huge, and whether it is mapped once."""

_COUNTED = frozenset((ANON, FILE, SHMEM, HUGETLB))
"""Kinds of entries whose frames know how often they are mapped."""

_STATES_AS_PRINTED = (
    (abi.PRESENT, records.PRESENT),
    (abi.SWAP, records.SWAPPED),
    (abi.FILE, records.OF_FILE),
    (abi.EXCLUSIVE, records.EXCLUSIVE),
    (abi.GUARD, records.GUARD),
)

_UNSAID_IN_SMAPS = (b"Referenced:", b"LazyFree:")


class Witness:
    """Sees one process, and remembers which frame each page had: a forked child inherits that.

    Attributes:
        process: that is seen.
    """

    def __init__(self, process: Process, sequence: Sequence, first: int) -> None:
        self.process = process
        self._mm = process.mm
        self._parts = sequence.parts
        self._first = first
        self._last = first + sequence.arena.pages
        self._frames = [0] * sequence.arena.pages
        self._counters_at_start = self._counters()

    def of_child(self, child: Process) -> Witness:
        """One for a forked child."""
        twin = object.__new__(Witness)
        vars(twin).update(vars(self), process=child, _mm=child.mm, _frames=self._frames)
        return twin

    def parts(self, faults: int) -> bytes:
        """All that a record has behind its head.

        Args:
            faults: that the operation took.
        """
        parts = self._parts
        said = encode_runs(records.STATE_RUN, self._states_as_printed() if parts & FRAMES else self._states())
        if parts & MAPPINGS:
            said += self._mappings()
        if parts & COUNTERS:
            moved = (now - before for now, before in zip(self._counters(), self._counters_at_start, strict=True))
            said += records.COUNTER_VALUES.pack(*moved)
        if parts & FAULTS:
            said += records.FAULT_COUNT.pack(faults)
        if parts & CONTENTS:
            said += encode_runs(records.CONTENTS_RUN, self._contents())
        if parts & SMAPS:
            text = self._smaps()
            said += records.LENGTH.pack(len(text)) + text
        return said

    def _states(self) -> Iterator[tuple[int, int]]:
        """The state of the arena's pages, as (pages, state), straight from the page table."""
        unsaid = 0 if self._mm.system.behaviour.pagemap_guard else records.GUARD
        page = self._first
        for first, last, code, value in self._mm.table.runs(page, self._last):
            if first > page:
                yield first - page, 0
            page = last
            state = _STATES[code & KIND] & ~unsaid | (records.IS_HUGE if code & HUGE else 0)
            if code & KIND in _COUNTED:
                yield from self._states_of_frames(code, state, range(value, value + last - first))
            else:
                yield last - first, state
        if page < self._last:
            yield self._last - page, 0

    def _states_of_frames(self, code: int, state: int, run: range) -> Iterator[tuple[int, int]]:
        """The same for a run of frames, which are exclusive if mapped once."""
        system = self._mm.system
        kind, frames = code & KIND, system.frames
        cached = kind in (FILE, SHMEM) or (kind == HUGETLB and is_file_frame(system, run.start))
        if cached:
            state |= records.OF_FILE
        map_count = frames.cached_map_count if cached else frames.map_count
        if code & HUGE:
            yield len(run), state | (records.EXCLUSIVE if map_count(run.start) == 1 else 0)
        elif not cached and not frames.is_shared(run.start, len(run)):
            yield len(run), state | records.EXCLUSIVE
        else:
            for frame in run:
                yield 1, state | (records.EXCLUSIVE if map_count(frame) == 1 else 0)

    def _states_as_printed(self) -> Iterator[tuple[int, int]]:
        """The same page by page, as the model's own pagemap says; MOVED are those in another frame than before."""
        entries = array("Q", pagemap.pagemap(self._mm, self._first, self._last))
        codes = dict(self._codes())
        before, self._frames = self._frames, [entry & abi.PFN_MASK if entry & abi.PRESENT else 0 for entry in entries]
        for page, (entry, frame) in enumerate(zip(entries, self._frames, strict=True)):
            code = codes.get(page, 0)
            huge = records.IS_HUGE if code & HUGE else 0
            if code & KIND == ZERO:
                yield 1, records.PRESENT | records.ZERO | huge
                continue
            moved = frame and before[page] and frame != before[page]
            state = sum(state for bit, state in _STATES_AS_PRINTED if entry & bit)
            yield 1, state | huge | (records.MOVED if moved else 0)

    def _codes(self) -> Iterator[tuple[int, int]]:
        """The code of each page that has an entry, by page of the arena."""
        for first, last, code, _ in self._mm.table.runs(self._first, self._last):
            for page in range(first, last):
                yield page - self._first, code

    def _mappings(self) -> bytes:
        inside = self._mm.vmas.within(self._first, self._last)
        said = [records.LENGTH.pack(len(inside))]
        for vma in inside:
            permissions = vma.flags & vm.ACCESS | (8 if vma.flags & vm.MAY_SHARE else 0)
            first, last = max(vma.first, self._first), min(vma.last, self._last)
            offset = vma.offset + (first - vma.first) if vma.file is not None and vma.offset else 0
            said.append(records.MAPPING.pack(first - self._first, last - self._first, permissions, offset))
        return b"".join(said)

    def _counters(self) -> tuple[int, ...]:
        """In the order of COUNTER_NAMES, in kB."""
        mm = self._mm
        resident = mm.resident
        size, locked, data = 0, mm.locked_pages_lost, 0
        for vma in mm.vmas:
            size += vma.pages
            if vma.flags & vm.LOCKED:
                locked += vma.pages
            if vma.flags & (vm.WRITE | vm.SHARED | vm.GROWS_DOWN) == vm.WRITE:
                data += vma.pages
        pages = (size, locked, resident[ANON], resident[FILE], resident[SHMEM], data)
        tables = sum(mm.table.table_bytes()) // 1024
        rest = (resident[SWAP] * PAGE_KIB, mm.hugetlb_pages * PAGE_KIB)
        return (*(count * PAGE_KIB for count in pages), tables, *rest)

    def _contents(self) -> Iterator[tuple[int, int]]:
        """The first byte of each page that is present; the signal where the protection forbids to look."""
        mm, page = self._mm, self._first
        load = mm.system.frames.load
        for first, last, code, value in mm.table.runs(page, self._last):
            if not _STATES[code & KIND] & records.PRESENT:
                continue
            yield first - page, records.NOT_PRESENT
            page = last
            for offset in range(last - first):
                vma = mm.vmas.find(first + offset)
                if vma is None or not may_access(vma, write=False):
                    yield 1, records.SIGNALLED + SIGSEGV
                else:
                    yield 1, 0 if code & KIND == ZERO else load(value + offset)
        yield self._last - page, records.NOT_PRESENT

    def _smaps(self) -> bytes:
        """The entries of the arena in smaps, without their titles and what a sequence does not decide."""
        said, inside = [], False
        for line in procfs.smaps(self.process).splitlines(keepends=True):
            if not line[:1].isupper():
                start, _, end = line.split(b" ", 1)[0].partition(b"-")
                inside = int(end, 16) >> 12 > self._first and int(start, 16) >> 12 < self._last
            elif inside and not line.startswith(_UNSAID_IN_SMAPS):
                said.append(line)
        return b"".join(said)


def encode_runs(form: struct.Struct, runs: Iterable[tuple[int, int]]) -> bytes:
    """Runs of pages, neighbours alike made one."""
    said: list[bytes] = []
    length, of_all = 0, None
    for pages, value in runs:
        if value == of_all:
            length += pages
        elif pages:
            if length:
                said.append(form.pack(length, of_all))
            length, of_all = pages, value
    said.append(form.pack(length, of_all))
    return records.LENGTH.pack(len(said)) + b"".join(said)
