"""Delta debugging finds the least that shows what is looked for."""

from __future__ import annotations

from differential.generate import KINDS, STRADDLING, generate
from differential.sequences import ADVISE, FORK, MAP, READ, UNMAP, WRITE, Operation, Sequence
from differential.shrink import fewest, plainest, shrink
from dontneed.units import PAGE_BYTES


def wrong_after(*names: str):
    """Whether these operations occur in this order, whatever is between them."""

    def still(sequence: Sequence) -> bool:
        left = iter(operation.form.name for operation in sequence.operations)
        return all(name in left for name in names)

    return still


def test_only_what_is_needed_is_left() -> None:
    """Of twenty numbers the two that matter remain, in their order."""
    assert fewest(tuple(range(20)), lambda items: 3 in items and 17 in items) == (3, 17)


def test_nothing_is_lost_where_all_matters() -> None:
    """What cannot be shrunk comes back as it is."""
    items = tuple(range(7))
    assert fewest(items, lambda left: left == items) == items


def test_a_long_sequence_shrinks_to_what_its_oracle_names() -> None:
    """Sixty random operations come down to the three that the synthetic fault is made of."""
    sequence = generate(KINDS["base"], seed=1, number=4)
    still = wrong_after("map", "write", "advise")
    assert still(sequence)
    assert [operation.form.name for operation in shrink(sequence, still).operations] == ["map", "write", "advise"]


def test_numbers_become_plain() -> None:
    """An address goes to the start of the arena, a length to one page, unless the fault is in the number."""
    sequence = Sequence(STRADDLING, (UNMAP(7 * PAGE_BYTES, 9 * PAGE_BYTES), WRITE(31 * PAGE_BYTES + 5, 77)))

    def still(sequence: Sequence) -> bool:
        return len(sequence.operations) == 2 and sequence.operations[0].arguments[1] >= 3 * PAGE_BYTES

    assert shrink(sequence, still).operations == (UNMAP(0, 3 * PAGE_BYTES), WRITE(0, 0))


def test_a_thread_that_does_not_matter_is_the_first() -> None:
    """Operations move to thread 0 where the fault allows it."""
    operations = (READ(0, thread=2), READ(0, thread=3))
    assert plainest(operations, lambda left: left[1].thread == 3) == (READ(0), READ(0, thread=3))


def test_a_shrunk_sequence_still_shows_the_fault() -> None:
    """Whatever shrink returns satisfies the oracle, and no single operation of it can be missed."""
    sequence = generate(KINDS["base"], seed=2, number=11)
    still = wrong_after("fork", "write", "advise", "read")
    assert still(sequence)
    smallest = shrink(sequence, still)
    assert still(smallest)
    for place in range(len(smallest.operations)):
        left = smallest.operations[:place] + smallest.operations[place + 1 :]
        assert not still(smallest.replace(operations=left))


def test_a_sequence_reads_as_calls() -> None:
    """People see names and pages; numbers that are 0 and say nothing are left out."""
    operations: tuple[Operation, ...] = (
        MAP(0, 4 * PAGE_BYTES, 3),
        ADVISE(PAGE_BYTES, 2 * PAGE_BYTES + 1, 4),
        FORK(1),
        WRITE(0, 7, thread=1),
    )
    assert str(Sequence(STRADDLING, operations)).splitlines() == [
        "   0  map(start=arena, length=4 * PAGE, protection=PROT_READ | PROT_WRITE, backing=private anonymous)",
        "   1  advise(start=arena + 1 * PAGE, length=2 * PAGE + 1, advice=MADV_DONTNEED)",
        "   2  fork(operations=1)",
        "   3  write(at=arena, value=7) on thread 1",
    ]


def test_the_same_seed_is_the_same_sequence() -> None:
    """A disagreement can be looked at again by its kind, seed and number alone; other numbers are other sequences."""
    for kind in KINDS.values():
        assert generate(kind, 3, 5) == generate(kind, 3, 5)
        assert generate(kind, 3, 5).operations != generate(kind, 3, 6).operations
