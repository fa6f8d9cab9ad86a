"""Faults planted in the model are found, and shrunk to the few operations that show them: the comparison can fail."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from differential.engine import Comparison
from differential.generate import KINDS, generate
from differential.modelled import predict
from dontneed.abi.advice import Advice
from dontneed.abi.errnos import ENOMEM
from dontneed.model.calls import advice, fork, heap, mappings, remap, seal, vector
from dontneed.model.paging import faults, lazy, zap
from dontneed.model.space import vma as vm
from dontneed.model.space import vmas
from dontneed.model.space.entries import DIRTY, GUARD, SWAP, WRITE, YOUNG
from dontneed.model.space.page_table import PageTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from differential.generate import Kind
    from differential.sequences import Sequence
    from dontneed.model.space.mm import Mm
    from dontneed.model.space.vma import Vma

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_command("cc"), pytest.mark.needs_kernel("6.18")]

SEED = 1
SEQUENCES = 200
"""So many at most until a fault is found."""
MOST_OPERATIONS = 6
"""So many at most are left of the sequence that shows it."""


def discard_locked_memory(plant: pytest.MonkeyPatch) -> None:
    """DONTNEED takes locked memory."""
    plant.setitem(advice._ACTIONS, int(Advice.DONTNEED), advice._discard_locked)


def discard_guards(plant: pytest.MonkeyPatch) -> None:
    """DONTNEED drops guard markers."""
    plant.setattr(advice, "GUARDS", frozenset())


def free_at_once(plant: pytest.MonkeyPatch) -> None:
    """FREE is DONTNEED."""
    plant.setattr(advice, "free_lazily", zap.zap)


def stop_at_a_hole(plant: pytest.MonkeyPatch) -> None:
    """A hole ends the walk before what lies behind it."""
    walk = advice._walk

    def walk_to_the_hole(mm: Mm, first: int, last: int, number: int) -> int:
        page = first
        while (vma := mm.vmas.find(page)) is not None and page < last:
            page = vma.last
        if page >= last:
            return walk(mm, first, last, number)
        return (walk(mm, first, page, number) if first < page else 0) or ENOMEM

    plant.setattr(advice, "_walk", walk_to_the_hole)


def protect_behind_a_hole(plant: pytest.MonkeyPatch) -> None:
    """Mprotect goes on behind a hole, and says ENOMEM all the same."""
    protect = mappings.mprotect

    def protect_all(mm: Mm, first: int, last: int, access: int) -> int:
        parts = [(max(vma.first, first), min(vma.last, last)) for vma in mm.vmas.within(first, last)]
        whole = sum(end - start for start, end in parts) == last - first
        answers = [protect(mm, start, end, access) for start, end in parts]
        return next(filter(None, answers), 0 if whole else ENOMEM)

    plant.setattr(mappings, "mprotect", protect_all)


def map_nothing_around(plant: pytest.MonkeyPatch) -> None:
    """A read fault of a file maps its page alone."""
    plant.setattr(faults, "_map_around", lambda _mm, _vma, _page: None)


def remove_private_copies(plant: pytest.MonkeyPatch) -> None:
    """REMOVE takes private copies of the file's pages too."""
    plant.setattr(zap, "PRIVATE_COPIES", frozenset((GUARD,)))


def forget_to_wipe(plant: pytest.MonkeyPatch) -> None:
    """WIPEONFORK memory is inherited."""
    plant.setattr(fork, "vm", SimpleNamespace(**{**vars(vm), "WIPE_ON_FORK": 0}))


def copy_every_mapping(plant: pytest.MonkeyPatch) -> None:
    """Fork copies page tables that a fault would fill again."""
    plant.setattr(fork, "_ALWAYS_COPIED", vm.MAY_READ)


def write_to_shared_frames(plant: pytest.MonkeyPatch) -> None:
    """A write after a fork copies nothing."""

    def only_allow(mm: Mm, first: int, last: int, _value: int) -> None:
        mm.table.recode(first, last, 0, WRITE | DIRTY | YOUNG)

    plant.setattr(faults, "reuse_or_copy", only_allow)


def lock_without_bringing_in(plant: pytest.MonkeyPatch) -> None:
    """Mlock sets its flag and no more."""
    plant.setattr(mappings, "populate", lambda _mm, _first, _last: 0)


def keep_tables(plant: pytest.MonkeyPatch) -> None:
    """Munmap frees no page table."""
    plant.setattr(PageTable, "free_tables", lambda *_: 0)


def merge_what_differs(plant: pytest.MonkeyPatch) -> None:
    """Neighbours merge that were given different advice."""
    mergeable = vmas.is_mergeable

    def nearly(lower: Vma, upper: Vma) -> bool:
        twin = upper.copy()
        if (lower.flags ^ upper.flags) == vm.DONT_DUMP:
            twin.flags = lower.flags
        return mergeable(lower, twin)

    plant.setattr(vmas, "is_mergeable", nearly)


# What only other kinds of sequences show


def unmap_what_stays_behind(plant: pytest.MonkeyPatch) -> None:
    """MREMAP_DONTUNMAP unmaps."""
    plant.setattr(remap, "_leave_source", lambda mm, asked, _copy: mappings.munmap(mm, asked.first, asked.last))


def never_lower_the_break(plant: pytest.MonkeyPatch) -> None:
    """The heap grows only."""
    brk = heap.brk
    plant.setattr(heap, "brk", lambda mm, end: mm.brk if end < mm.brk else brk(mm, end))


def page_nothing_out(plant: pytest.MonkeyPatch) -> None:
    """PAGEOUT does nothing."""
    plant.setitem(advice._ACTIONS, int(Advice.PAGEOUT), lambda *_: 0)


def leak_swap(plant: pytest.MonkeyPatch) -> None:
    """DONTNEED leaves swap entries behind, and their slots in use."""
    plant.setattr(advice, "GUARDS", frozenset((GUARD, SWAP)))


def free_parts_of_huge_pages(plant: pytest.MonkeyPatch) -> None:
    """FREE of a part of a huge page does not split it."""
    plant.setattr(lazy, "split_cut_folios", lambda *_: None)


def split_hugetlb_memory(plant: pytest.MonkeyPatch) -> None:
    """Advice takes hugetlb mappings apart within a huge page."""
    plant.setattr(advice, "refuses_split", lambda *_: False)


def count_no_bytes(plant: pytest.MonkeyPatch) -> None:
    """process_madvise answers 0 for what it did."""
    advise = vector.process_madvise
    plant.setattr(vector, "process_madvise", lambda *how: min(0, advise(*how)))


def seal_nothing(plant: pytest.MonkeyPatch) -> None:
    """Mseal succeeds, and seals nothing."""
    plant.setattr(seal, "set_flags", lambda _mm, vma, *_: vma)


PLANTS = {
    discard_locked_memory: "base",
    discard_guards: "base",
    free_at_once: "base",
    stop_at_a_hole: "base",
    protect_behind_a_hole: "base",
    map_nothing_around: "base",
    remove_private_copies: "base",
    forget_to_wipe: "base",
    copy_every_mapping: "base",
    write_to_shared_frames: "base",
    lock_without_bringing_in: "base",
    keep_tables: "base",
    merge_what_differs: "base",
    unmap_what_stays_behind: "remap",
    never_lower_the_break: "brk",
    page_nothing_out: "pageout",
    leak_swap: "swap",
    free_parts_of_huge_pages: "thp",
    split_hugetlb_memory: "hugetlb",
    count_no_bytes: "process_madvise",
    seal_nothing: "seal",
}
"""The faults, and the kind of sequences that each is looked for in."""


@pytest.mark.parametrize("plant_fault", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found_and_shrunk(
    executor, provided, monkeypatch: pytest.MonkeyPatch, plant_fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Within some hundred random sequences, to a handful of operations; without the fault these agree again."""
    kind = KINDS[PLANTS[plant_fault]]
    provided(kind)
    comparison = Comparison(executor, predict)
    with monkeypatch.context() as planted:
        plant_fault(planted)
        found = next(filter(None, (comparison.check(sequence) for sequence in _sequences(kind))), None)
        assert found is not None, f"not found in {SEQUENCES} sequences"
        smallest = comparison.smallest(found)
    assert len(smallest.sequence.operations) <= MOST_OPERATIONS, str(smallest)
    assert comparison.check(smallest.sequence) is None


def _sequences(kind: Kind) -> Iterator[Sequence]:
    """Those that the fault is looked for in."""
    return (generate(kind, SEED, number) for number in range(SEQUENCES))
