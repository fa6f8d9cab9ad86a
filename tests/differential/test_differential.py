"""The model says of random sequences what the running kernel does, after every operation of every one."""

from __future__ import annotations

import pytest

from differential.engine import Comparison
from differential.executor import Executor, build
from differential.generate import KINDS, generate
from differential.modelled import predict
from differential.records import LAST, decode

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_command("cc"), pytest.mark.needs_kernel("6.18")]

FIXED_SEED = 1
COUNTS = {"thp": 40, "hugetlb": 80}
"""Of kinds whose sequences are slow."""
COUNT = 200
FRESH_COUNT = 20


def differences(executor: Executor, name: str, seed: int, count: int) -> str:
    """Where model and kernel disagree in sequences of a kind: the first one shrunk and explained, or nothing."""
    comparison = Comparison(executor, predict)
    tally = comparison.run(KINDS[name], seed, range(count))
    if not tally.disagreements:
        return ""
    number, found = tally.disagreements[0]
    again = f"python -m differential.soak --kind {name} --seed {seed} --first {number} --count 1"
    return f"{len(tally.disagreements)} of {count}; {again}\n{comparison.smallest(found)}"


@pytest.mark.parametrize("name", KINDS)
def test_the_model_does_what_the_kernel_does(executor, provided, name: str) -> None:
    """Errors, page states, mappings and counters are those of the kernel, in sequences that are the same each time."""
    provided(KINDS[name])
    assert differences(executor, name, FIXED_SEED, COUNTS.get(name, COUNT)) == ""


@pytest.mark.parametrize("name", KINDS)
def test_the_model_does_what_the_kernel_does_in_sequences_never_seen(executor, provided, fresh_seed, name: str) -> None:
    """The same with a seed of this run, which the summary prints."""
    provided(KINDS[name])
    assert differences(executor, name, fresh_seed, FRESH_COUNT) == ""


@pytest.mark.parametrize("name", KINDS)
def test_the_kernel_answers_alike_twice(executor, provided, name: str) -> None:
    """What is compared is decided by the sequence alone: another process, on another CPU, shows the same."""
    provided(KINDS[name])
    with Executor(build()) as other:
        tally = Comparison(executor, other.run).run(KINDS[name], FIXED_SEED, range(16))
    assert [str(found) for _, found in tally.disagreements] == []


def test_every_operation_is_followed_by_a_record(executor) -> None:
    """Nothing is left out: a record for each operation, two for a fork, and the last after all pages were read."""
    sequence = generate(KINDS["base"], FIXED_SEED, 0)
    steps = decode(executor.run(sequence), sequence.parts)
    forks = [number for number, operation in enumerate(sequence.operations) if operation.form.name == "fork"]
    expected = sorted([*range(len(sequence.operations)), *forks])
    assert sorted(step.operation for step in steps[:-1]) == expected
    assert steps[-1].operation == LAST


def test_an_executor_that_dies_is_replaced(executor) -> None:
    """The sequence under way is lost and says so; those after it are answered as if nothing had happened."""
    sequences = [generate(KINDS["base"], FIXED_SEED, number) for number in range(3)]
    whole = [executor.run(sequence) for sequence in sequences]
    with Executor(build()) as mortal:
        mortal._process.kill()
        mortal._process.wait()
        for sequence in sequences:
            mortal.submit(sequence)
        assert [mortal.answer() for _ in sequences] == [None, *whole[1:]]
