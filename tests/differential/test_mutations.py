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
from dontneed.model import advice, faults, fork, mappings, vmas, zap
from dontneed.model import vma as vm
from dontneed.model.entries import DIRTY, GUARD, WRITE, YOUNG
from dontneed.model.page_table import PageTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.model.mm import Mm
    from dontneed.model.vma import Vma

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


PLANTS = (
    discard_locked_memory,
    discard_guards,
    free_at_once,
    stop_at_a_hole,
    protect_behind_a_hole,
    map_nothing_around,
    remove_private_copies,
    forget_to_wipe,
    copy_every_mapping,
    write_to_shared_frames,
    lock_without_bringing_in,
    keep_tables,
    merge_what_differs,
)


@pytest.mark.parametrize("plant_fault", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_found_and_shrunk(
    executor, provided, monkeypatch: pytest.MonkeyPatch, plant_fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """Within some hundred random sequences, to a handful of operations; without the fault these agree again."""
    kind = KINDS["base"]
    provided(kind)
    comparison = Comparison(executor, predict)
    with monkeypatch.context() as planted:
        plant_fault(planted)
        found = next(filter(None, (comparison.check(sequence) for sequence in _sequences())), None)
        assert found is not None, f"not found in {SEQUENCES} sequences"
        smallest = comparison.smallest(found)
    assert len(smallest.sequence.operations) <= MOST_OPERATIONS, str(smallest)
    assert comparison.check(smallest.sequence) is None


def _sequences():
    """Those that the fault is looked for in."""
    return (generate(KINDS["base"], SEED, number) for number in range(SEQUENCES))
