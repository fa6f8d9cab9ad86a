"""How fast is the executable kernel, beside the simplest page table there is, and beside the kernel that it models?

The simplest one keeps a dict of entries for each page table, and knows nothing of mappings, frames or counters; the
running kernel is asked for the same calls through ctypes, one by one, and has real pages to move.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from comparing import Case, at_most
from dontneed.abi.advice import Advice
from dontneed.kernel import libc
from dontneed.kernel.mappings import MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, map_memory, unmap_memory
from dontneed.kernel.memory import touch_pages
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.mappings import mmap, mprotect, munmap
from dontneed.model.paging.faults import touch
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import LEAF_PAGES
from dontneed.model.space.mm import PAGE_SHIFT, Mm
from dontneed.model.system import System
from measuring import alternate, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from comparing import Comparison
    from options import Options

QUESTION = "the executable kernel"
HOLDS = ()

MODEL, DICTS, KERNEL = "the model", "dicts of entries", "the running kernel"
COMPARED, ITSELF = "the model held against the kernel", "the kernel held against itself"

_FIRST = 0x1000_0000
_READ_WRITE = vm.READ | vm.WRITE
_PAGES_A_MAPPING = 8
_TEBIBYTE_TABLES = 1 << 19


def run(options: Options) -> list[Comparison]:
    """A bulk of touches, a sparse zap, many calls over many mappings, and sequences held against the kernel."""
    return [*_bulk(options), *_sparse(options), *_calls(options), *_sequences(options)]


def _bulk(options: Options) -> list[Comparison]:
    pages = options.modelled_pages
    runners = [
        timed(MODEL, lambda: _touch_all(pages)),
        timed(DICTS, lambda: _Dicts().touch(0, pages)),
    ]
    samples = alternate(runners, options.few_rounds)
    # A hundred million a second is promised.
    return [Case(QUESTION, f"{pages:,} pages touched in order", samples).compare(MODEL, DICTS, at_most(pages / 1e8))]


def _sparse(options: Options) -> list[Comparison]:
    tables = _TEBIBYTE_TABLES // (8 if options.quick else 1)
    runners = [
        _prepared(MODEL, lambda: _sparse_mm(tables), lambda mm: _discard(mm, tables)),
        _prepared(DICTS, lambda: _Dicts().sparse(tables), lambda dicts: dicts.zap(0, tables * LEAF_PAGES)),
    ]
    samples = alternate(runners, options.few_rounds)
    case = Case(QUESTION, f"a page in each of {tables:,} page tables zapped", samples)
    return [case.compare(MODEL, DICTS, at_most(0.5))]


def _calls(options: Options) -> list[Comparison]:
    calls, mappings = options.modelled_calls, options.modelled_mappings
    wanted = list(_random_calls(calls, mappings))
    runners = [
        _prepared(MODEL, lambda: _many_mappings(mappings), lambda mm: _perform(mm, wanted)),
        _prepared(KERNEL, lambda: _LiveMappings(mappings), lambda live: live.perform(wanted)),
    ]
    samples = alternate(runners, 1 if options.quick else 3)
    case = Case(QUESTION, f"{calls:,} calls over {mappings:,} mappings", samples)
    return [case.compare(MODEL, KERNEL, at_most(20 * calls / 1e6))]


def _sequences(options: Options) -> list[Comparison]:
    """Sequences of sixty operations, done in the model and on the kernel and compared after each operation."""
    if os.geteuid() != 0:
        return []  # frame numbers are for root
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from differential.environment import environment
    from differential.generate import KINDS
    from differential.soak import Soak

    count, kind = options.compared_sequences, KINDS["base"]

    def compare(*, itself: bool) -> None:
        tally = Soak(seed=1, first=0, count=count, length=60, jobs=2, itself=itself).run(kind)
        assert not tally.disagreements

    with environment(kind):
        runners = [
            timed(COMPARED, lambda: compare(itself=False)),
            timed(ITSELF, lambda: compare(itself=True)),
        ]
        samples = alternate(runners, 1 if options.quick else 3)
    case = Case(QUESTION, f"{count:,} sequences of 60 operations", samples)
    return [case.compare(COMPARED, ITSELF, at_most(count / 250))]


def _prepared(name: str, prepare: Callable[[], object], call: Callable[..., object]) -> Callable[[], dict[str, float]]:
    """A runner that times `call` of what `prepare` makes, and not the making."""

    def measure() -> dict[str, float]:
        made = prepare()
        taken = timed(name, lambda: call(made))()
        if isinstance(made, _LiveMappings):
            made.end()
        return taken

    return measure


class _Dicts:
    """The simplest page table: a dict of entries for each table."""

    def __init__(self) -> None:
        self.tables: dict[int, dict[int, int]] = {}
        self.frame = 1

    def touch(self, first: int, last: int) -> None:
        """Give every page a frame."""
        for number in range(first // LEAF_PAGES, (last - 1) // LEAF_PAGES + 1):
            start, end = max(first, number * LEAF_PAGES), min(last, (number + 1) * LEAF_PAGES)
            inside = range(start % LEAF_PAGES, start % LEAF_PAGES + end - start)
            self.tables.setdefault(number, {}).update(
                zip(inside, range(self.frame, self.frame + end - start), strict=True)
            )
            self.frame += end - start

    def sparse(self, tables: int) -> _Dicts:
        """One page in each table."""
        for number in range(tables):
            self.touch(number * LEAF_PAGES, number * LEAF_PAGES + 1)
        return self

    def zap(self, first: int, last: int) -> int:
        """Take all entries of whole tables away; how many frames that freed."""
        freed = 0
        for number in range(first // LEAF_PAGES, last // LEAF_PAGES):
            freed += len(self.tables.pop(number, ()))
        return freed


def _touch_all(pages: int) -> None:
    mm = Mm(System("6.18"))
    mmap(mm, _FIRST, _FIRST + pages, _READ_WRITE)
    touch(mm, _FIRST, _FIRST + pages, write=True)
    assert mm.rss_pages == pages


def _sparse_mm(tables: int) -> Mm:
    mm = Mm(System("6.18"))
    mmap(mm, _FIRST, _FIRST + tables * LEAF_PAGES, _READ_WRITE)
    for page in range(_FIRST, _FIRST + tables * LEAF_PAGES, LEAF_PAGES):
        touch(mm, page, page + 1, write=True)
    return mm


def _discard(mm: Mm, tables: int) -> None:
    madvise(mm, _FIRST << PAGE_SHIFT, tables * LEAF_PAGES << PAGE_SHIFT, int(Advice.DONTNEED))
    assert mm.rss_pages == mm.system.frames.in_use == 0


# Calls over many mappings, which do not merge: their protections alternate

_MAP, _UNMAP, _PROTECT, _DISCARD, _RANDOM, _NORMAL, _TOUCH = range(7)


def _random_calls(count: int, mappings: int) -> Iterator[tuple[int, int, int]]:
    """What to do, with pages [first, last) of the arena; the same in every run."""
    rng = random.Random(1)  # noqa: S311 - no secret depends on it
    for _ in range(count):
        call = rng.randrange(7)
        start = rng.randrange(mappings) * _PAGES_A_MAPPING
        if call in (_RANDOM, _NORMAL):  # of whole mappings, lest they become too many for the running kernel
            yield call, start, start + _PAGES_A_MAPPING
        else:
            first = start + rng.randrange(_PAGES_A_MAPPING)
            yield call, first, min(first + rng.randrange(1, 5), start + _PAGES_A_MAPPING)


def _access(page: int) -> int:
    """Of the mapping that a page is in when all is new."""
    return _READ_WRITE if page // _PAGES_A_MAPPING % 2 else vm.READ


def _many_mappings(mappings: int) -> Mm:
    mm = Mm(System("6.18"))
    for number in range(mappings):
        first = _FIRST + number * _PAGES_A_MAPPING
        mmap(mm, first, first + _PAGES_A_MAPPING, _access(first - _FIRST))
    assert len(mm.vmas) == mappings
    return mm


def _perform(mm: Mm, calls: list[tuple[int, int, int]]) -> None:
    advices = {_DISCARD: int(Advice.DONTNEED), _RANDOM: int(Advice.RANDOM), _NORMAL: int(Advice.NORMAL)}
    for call, offset, end in calls:
        first, last = _FIRST + offset, _FIRST + end
        if call == _MAP:
            mmap(mm, first, last, _access(offset))
        elif call == _UNMAP:
            munmap(mm, first, last)
        elif call == _PROTECT:
            mprotect(mm, first, last, _READ_WRITE)
        elif call == _TOUCH:
            touch(mm, first, last, write=False)
        else:
            madvise(mm, first << PAGE_SHIFT, last - first << PAGE_SHIFT, advices[call])


class _LiveMappings:
    """The same mappings, in this process."""

    def __init__(self, mappings: int) -> None:
        self._bytes = mappings * _PAGES_A_MAPPING << PAGE_SHIFT
        self._flags = MAP_PRIVATE | MAP_ANONYMOUS
        self._mapped = bytearray(b"\1" * (self._bytes >> PAGE_SHIFT))
        self._base = map_memory(self._bytes, protection=0, flags=self._flags | MAP_NORESERVE)
        for number in range(mappings):
            self._map(number * _PAGES_A_MAPPING, (number + 1) * _PAGES_A_MAPPING)

    def end(self) -> None:
        """Unmap all of it."""
        unmap_memory(self._base, self._bytes)

    def perform(self, calls: list[tuple[int, int, int]]) -> None:
        """The calls, one by one."""
        advices = {_DISCARD: int(Advice.DONTNEED), _RANDOM: int(Advice.RANDOM), _NORMAL: int(Advice.NORMAL)}
        mapped = self._mapped
        for call, first, last in calls:
            address, length = self._base + (first << PAGE_SHIFT), last - first << PAGE_SHIFT
            if call == _MAP:
                self._map(first, last)
                mapped[first:last] = b"\1" * (last - first)
            elif call == _UNMAP:
                unmap_memory(address, length)
                mapped[first:last] = bytes(last - first)
            elif call == _PROTECT:
                libc.mprotect(address, length, _READ_WRITE)
            elif call == _TOUCH:
                if all(mapped[first:last]):
                    touch_pages(address, last - first, write=False)
            else:
                libc.madvise(address, length, advices[call])

    def _map(self, first: int, last: int) -> None:
        access = _access(first)
        map_memory(
            last - first << PAGE_SHIFT,
            address=self._base + (first << PAGE_SHIFT),
            protection=access,
            flags=self._flags | MAP_FIXED,
        )
