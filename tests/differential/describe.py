"""What a process of the model shows, in the executor's words: records.py has their form."""

from __future__ import annotations

import struct
from array import array
from functools import lru_cache
from itertools import repeat
from operator import sub
from typing import TYPE_CHECKING

from differential import records
from differential.sequences import CONTENTS, COUNTERS, FAULTS, FRAMES, MAPPINGS, SMAPS
from dontneed.abi import pagemap as abi
from dontneed.model.paging.faults import SIGSEGV, may_access
from dontneed.model.paging.hugetlb import is_file_frame
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, FILE, GUARD, HUGE, HUGETLB, KIND, LEAF_PAGES, SHMEM, SWAP, ZERO
from dontneed.model.views import pagemap, procfs
from dontneed.model.views.smaps_counts import count_pages

if TYPE_CHECKING:
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

_STATES_OF_CODES = [_STATES.get(code & KIND, 0) | (records.IS_HUGE if code & HUGE else 0) for code in range(256)]

_COUNTED = frozenset((ANON, FILE, SHMEM, HUGETLB))
"""Kinds of entries whose frames know how often they are mapped."""

_STATES_AS_PRINTED = (
    (abi.PRESENT, records.PRESENT),
    (abi.SWAP, records.SWAPPED),
    (abi.FILE, records.OF_FILE),
    (abi.EXCLUSIVE, records.EXCLUSIVE),
    (abi.GUARD, records.GUARD),
)

_UNSAID_IN_SMAPS = ("Referenced:", "LazyFree:")
_packed = lru_cache(1 << 14)(records.MAPPING.pack)
_SHARED_BIT = 4
"""Between MAY_SHARE and its bit in a record."""


_FRAME_BITS = abi.PFN_MASK.bit_length()


@lru_cache
def _printed_state(flags: int, code: int) -> int:
    """The state of a page by the flags of its entry in pagemap, shifted down; whether it is huge is not in there."""
    huge = records.IS_HUGE if code & HUGE else 0
    if code & KIND == ZERO:
        return records.PRESENT | records.ZERO | huge
    return sum(state for bit, state in _STATES_AS_PRINTED if flags << _FRAME_BITS & bit) | huge


class Witness:
    """Sees one process, and remembers which frame each page had: a forked child inherits that.

    Attributes:
        process: that is seen.
    """

    def __init__(self, process: Process, sequence: Sequence, first: int) -> None:
        self.process = process
        self._mm = process.mm
        self._parts = sequence.parts
        self._kind = (process.system.behaviour.version, sequence.arena.setup)
        self._first = first
        self._last = first + sequence.arena.pages
        self._frames = [0] * sequence.arena.pages
        self._seen: list[tuple[object, ...]] | None = None
        self._look_at_mappings()
        self._counters_at_start = self._counters()

    def of_child(self, child: Process) -> Witness:
        """One for a forked child."""
        twin = object.__new__(Witness)
        vars(twin).update(vars(self), process=child, _mm=child.mm, _frames=self._frames)
        return twin

    def parts(self, faults: int) -> bytes:
        """All that a record has behind its head; `faults` is how many the operation took."""
        parts = self._parts
        self._look_at_mappings()
        said = [encode_runs("HB", self._states_as_printed() if parts & FRAMES else self._states())]
        if parts & MAPPINGS:
            said.append(self._mappings)
        if parts & COUNTERS:
            said.append(records.COUNTER_VALUES.pack(*map(sub, self._counters(), self._counters_at_start)))
        if parts & FAULTS:
            said.append(records.FAULT_COUNT.pack(faults))
        if parts & CONTENTS:
            said.append(encode_runs("HH", self._contents()))
        if parts & SMAPS:
            text = self._smaps()
            said += records.LENGTH.pack(len(text)), text
        return b"".join(said)

    def _states(self) -> list[tuple[int, int]]:
        """The state of the arena's pages, as (pages, state), straight from the page table."""
        page = self._first
        states = []
        for first, last, code, value in self._mm.table.runs(page, self._last):
            if first > page:
                states.append((first - page, 0))
            page = last
            state = _STATES_OF_CODES[code]
            if code & KIND in _COUNTED:
                states += self._states_of_frames(code, state, value, last - first)
            else:
                states.append((last - first, state))
        states.append((self._last - page, 0))
        return states

    def _states_of_frames(self, code: int, state: int, first: int, pages: int) -> Iterable[tuple[int, int]]:
        """The same for a run of frames, which are exclusive if mapped once."""
        system = self._mm.system
        kind, frames = code & KIND, system.frames
        if kind in (FILE, SHMEM) or (kind == HUGETLB and is_file_frame(system, first)):
            state |= records.OF_FILE
            map_count = frames.cached_map_count
        elif frames.is_exclusive(first, pages):
            return ((pages, state | records.EXCLUSIVE),)
        else:
            map_count = frames.map_count
        exclusive = state | records.EXCLUSIVE
        if pages == 1 or code & HUGE:
            return ((pages, exclusive if map_count(first) == 1 else state),)
        return [(1, exclusive if count == 1 else state) for count in map(map_count, range(first, first + pages))]

    def _states_as_printed(self) -> Iterable[tuple[int, int]]:
        """The same page by page, as the model's own pagemap says; MOVED are those in another frame than before."""
        entries = array("Q", pagemap.pagemap(self._mm, self._first, self._last))
        states = list(map(_printed_state, [entry >> _FRAME_BITS for entry in entries], self._codes()))
        before, self._frames = self._frames, [entry & abi.PFN_MASK if entry & abi.PRESENT else 0 for entry in entries]
        if self._frames != before:
            for page, (frame, former) in enumerate(zip(self._frames, before, strict=True)):
                if frame and former and frame != former and not states[page] & records.ZERO:
                    states[page] |= records.MOVED
        return zip(repeat(1), states)

    def _codes(self) -> list[int]:
        """The code of each page of the arena; 0 where there is no entry."""
        codes = [0] * (self._last - self._first)
        for first, last, code, _ in self._mm.table.runs(self._first, self._last):
            codes[first - self._first : last - self._first] = repeat(code, last - first)
        return codes

    def _look_at_mappings(self) -> None:
        """Note what mappings there are in the arena, and what counters tell of all of them."""
        vmas = self._mm.vmas.within(0, self._mm.top)
        seen = [(vma.first, vma.last, vma.flags, vma.offset, vma.file) for vma in vmas]
        if seen != self._seen:
            self._seen = seen
            self._describe_mappings(vmas)

    def _describe_mappings(self, vmas: list[vm.Vma]) -> None:
        start, end = self._first, self._last
        size, locked, data = 0, 0, 0
        said = []
        for vma in vmas:
            flags, first, last = vma.flags, vma.first, vma.last
            pages = last - first
            size += pages
            if flags & vm.LOCKED:
                locked += pages
            if flags & (vm.WRITE | vm.SHARED | vm.GROWS_DOWN) == vm.WRITE:
                data += pages
            if first < end and start < last:
                seen = max(first, start)
                offset = vma.offset + seen - first if vma.offset and vma.file is not None else 0
                permissions = flags & vm.ACCESS | (flags & vm.MAY_SHARE) >> _SHARED_BIT
                said.append(_packed(seen - start, min(last, end) - start, permissions, offset))
        self._mappings = records.LENGTH.pack(len(said)) + b"".join(said)
        self._sizes = size, locked, data

    def _counters(self) -> tuple[int, ...]:
        """In the order of COUNTER_NAMES, in kB."""
        mm = self._mm
        resident = mm.resident
        size, locked, data = self._sizes
        return (
            size * PAGE_KIB,
            (locked + mm.locked_pages_lost) * PAGE_KIB,
            resident[ANON] * PAGE_KIB,
            resident[FILE] * PAGE_KIB,
            resident[SHMEM] * PAGE_KIB,
            data * PAGE_KIB,
            sum(mm.table.table_bytes()) // 1024,
            resident[SWAP] * PAGE_KIB,
            mm.hugetlb_pages * PAGE_KIB,
        )

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
        mm, said = self._mm, []
        for vma in mm.vmas.within(self._first, self._last):
            decided_by = (
                *self._kind,
                vma.pages,
                vma.first % LEAF_PAGES,
                vma.flags,
                vma.is_anonymous,
                count_pages(mm, vma).all,
            )
            if decided_by not in _smaps_entries:
                lines = (line for line in procfs.smaps_lines(mm, vma) if not line.startswith(_UNSAID_IN_SMAPS))
                _smaps_entries[decided_by] = "".join(f"{line}\n" for line in lines).encode()
            said.append(_smaps_entries[decided_by])
        return b"".join(said)


_smaps_entries: dict[tuple[object, ...], bytes] = {}
"""By all that decides what an entry says: to print one takes longer than to find it, and many are alike."""


def encode_runs(form: str, runs: Iterable[tuple[int, int]]) -> bytes:
    """Runs of pages, neighbours alike made one; `form` is that of the pages and of what is said of them."""
    numbers: list[int] = []
    length, of_all = 0, -1
    for pages, value in runs:
        if value == of_all:
            length += pages
        elif pages:
            numbers += length, of_all
            length, of_all = pages, value
    numbers += length, of_all
    count = len(numbers) // 2 - 1  # the first pair is of no page
    return _list_of(form, count).pack(count, *numbers[2:])


@lru_cache
def _list_of(form: str, count: int) -> struct.Struct:
    return struct.Struct(f"<H{form * count}")
