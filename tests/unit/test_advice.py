"""The table of advices: held against the measured errno matrix, the standard library's numbers, and its own docs."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from dontneed.abi.advice import CONDITIONS, Advice, PosixAdvice
from dontneed.abi.advice_effects import EFFECTS, MEMORY_KINDS
from dontneed.errors import UsageError

TESTS = Path(__file__).parent.parent
MATRIX: dict[str, dict[str, str]] = json.loads((TESTS / "data" / "errno-matrix-6.18.json").read_text())
CELLS = [(mapping, advice) for mapping, row in MATRIX.items() for advice in row]

# What holds for the machine on which the matrix was measured, whatever the mapping.
MACHINE = {"no-memory-failure"}

_ANONYMOUS = {"no-file", "small"}
_SHARED = {"file", "backed", "small"}
_PRIVATE = _SHARED | {"unwritable-file"}
_KERNEL = {"no-file", "backed", "special", "no-write", "small"}
_FRAMES = {"pfnmap", "io"}

CONDITIONS_OF: dict[str, set[str]] = {
    "anon": _ANONYMOUS,
    "anon_unpop": _ANONYMOUS,
    "none": _ANONYMOUS | {"no-read", "no-write"},
    "ro": _ANONYMOUS | {"no-write"},
    "stack": _ANONYMOUS,
    "thp": _ANONYMOUS - {"small"},
    "locked": _ANONYMOUS | {"locked"},
    "lockonfault": _ANONYMOUS | {"locked"},
    "sealed_ro": _ANONYMOUS | {"sealed", "no-write"},
    "sealed_rw": _ANONYMOUS,  # what can be written can as well be discarded
    "droppable": _ANONYMOUS | {"droppable"},
    "devzero_pv": {"file", "unwritable-file", "small"},  # its faults are those of anonymous memory
    "shanon": _SHARED,
    "memfd_sh": _SHARED,
    "memfd_pv": _PRIVATE,
    "locked_memfd": _SHARED | {"locked"},
    "secret": _SHARED | {"locked", "secret"},
    "file_sh_rw": _SHARED,
    "file_sh_ro_rwfd": _SHARED | {"no-write"},
    "file_sh_ro_rofd": _SHARED | {"unwritable-file", "no-write"},
    "file_pv_rw": _PRIVATE,
    "file_pv_ro": _PRIVATE | {"no-write"},
    "hugetlb_sh": (_SHARED - {"small"}) | {"hugetlb"},
    "hugetlb_pv": (_PRIVATE - {"small"}) | {"hugetlb"},
    "vdso": _KERNEL,
    "vvar": _KERNEL | _FRAMES,
    "perf": _SHARED | _FRAMES | {"special", "not-regular"},
    "unmapped": {"unmapped"},
}


def refusal(mapping: str, advice: str):
    """What the table says of a cell of the matrix."""
    return Advice.named(advice).refusal(CONDITIONS_OF[mapping] | MACHINE)


def test_the_table_and_the_matrix_speak_of_the_same_mappings_and_advices() -> None:
    """No row or column of the measurement is left out, and none is invented."""
    assert set(CONDITIONS_OF) == set(MATRIX)
    for row in MATRIX.values():
        assert set(row) == {advice.name for advice in Advice.all()}


@pytest.mark.parametrize("mapping", MATRIX)
def test_the_table_gives_every_errno_that_was_measured(mapping: str) -> None:
    """From the conditions of a mapping, `Advice.refusal` derives the whole row that 6.18 answered."""
    derived = {name: getattr(refusal(mapping, name), "errno", "ok") for name in MATRIX[mapping]}
    assert derived == MATRIX[mapping]


def test_a_refusal_said_to_be_in_the_matrix_decides_a_cell_of_it() -> None:
    """`known="matrix"` is neither claimed without a measured cell nor withheld where there is one."""
    deciding = {(advice, reason) for mapping, advice in CELLS if (reason := refusal(mapping, advice)) is not None}
    claimed = {(advice.name, said) for advice in Advice.all() for said in advice.refusals if said.known == "matrix"}
    assert claimed == deciding


def test_every_refusal_names_an_errno_and_a_condition_that_exist() -> None:
    """Both are words, and a misspelt one would never match anything."""
    for advice in Advice.all():
        for said in advice.refusals:
            assert hasattr(errno, said.errno), (advice, said)
            assert said.condition in CONDITIONS, (advice, said)
            assert said.known in {"matrix", "live", "source"}, (advice, said)


def test_every_condition_is_refused_by_some_advice() -> None:
    """A condition that nothing minds has no place in the vocabulary."""
    minded = {said.condition for advice in Advice.all() for said in advice.refusals}
    assert minded == set(CONDITIONS)


def test_numbers_are_those_of_the_standard_library() -> None:
    """`mmap.MADV_*` was compiled from the C headers; it need not know the newest advices."""
    compiled = {name.removeprefix("MADV_"): value for name, value in vars(mmap).items() if name.startswith("MADV_")}
    assert len(compiled) > 15  # or else this would compare nothing
    known = {advice.name: int(advice) for advice in Advice.all()}
    assert {name: known.get(name) for name in compiled} == compiled


def test_every_advice_is_an_attribute_of_its_class_and_found_by_name_and_number() -> None:
    """`Advice.FREE`, "free", "MADV_FREE" and 8 are the same object."""
    assert len(Advice.all()) == 27
    for advice in Advice.all():
        assert getattr(Advice, advice.name) is advice
        for key in (advice.name, advice.name.lower().replace("_", "-"), f"MADV_{advice.name}", advice.number):
            assert Advice.named(key) is advice


@pytest.mark.parametrize("key", ["WONTNEED", "", 5, -1, "POSIX_MADV_DONTNEED"])
def test_an_unknown_advice_is_a_usage_error_that_lists_the_known_ones(key: str | int) -> None:
    """The hint names what would have been right."""
    with pytest.raises(UsageError, match="no Advice is called") as caught:
        Advice.named(key)
    for advice in Advice.all():
        assert advice.name in caught.value.hint


def test_an_unknown_condition_is_a_usage_error() -> None:
    """A misspelt condition must not read as 'the kernel would not refuse'."""
    with pytest.raises(UsageError, match="'lokced' is no condition"):
        Advice.DONTNEED.refusal({"lokced"})


def test_an_advice_is_taken_as_a_number_by_c() -> None:
    """`int()`, `__index__` and ctypes' argument conversion all see the number."""
    assert int(Advice.PAGEOUT) == 21
    assert range(200)[Advice.PAGEOUT] == 21
    assert ctypes.c_int(Advice.PAGEOUT).value == 21


def test_an_advice_reads_well_and_survives_pickling() -> None:
    """`repr` is what one would type, `str` what the kernel's manual says."""
    assert repr(Advice.COLD) == "Advice.COLD"
    assert str(Advice.COLD) == "MADV_COLD"
    assert str(PosixAdvice.NORMAL) == "POSIX_MADV_NORMAL"
    assert pickle.loads(pickle.dumps(Advice.COLD)) == Advice.COLD  # noqa: S301 - our own bytes


def test_another_process_can_be_advised_only_without_loss() -> None:
    """The kernel lets process_madvise do to others only what never discards."""
    assert {advice.name for advice in Advice.all() if advice.remote} == {"WILLNEED", "COLD", "PAGEOUT", "COLLAPSE"}
    assert not any(advice.remote and advice.destructive for advice in Advice.all())


@pytest.mark.parametrize("advice", Advice.all(), ids=lambda advice: advice.name)
def test_effects_are_told_for_just_the_kinds_of_memory_that_are_not_refused(advice: Advice) -> None:
    """Prose and refusals agree: an empty text is a refusal, and a refusal has no text."""
    silent = {kind for kind, text in advice.effects.as_dict().items() if not text}
    refused = {kind for kind, conditions in MEMORY_KINDS.items() if advice.refusal(conditions)}
    assert silent == refused


def test_effects_know_every_advice_and_every_kind() -> None:
    """The two halves of the table have the same rows."""
    assert list(EFFECTS) == [advice.name for advice in Advice.all()]
    assert list(Advice.DONTNEED.effects.as_dict()) == list(MEMORY_KINDS)


def test_posix_advices_are_the_five_that_posix_has() -> None:
    """They pass on the kernel's advice of the same name and number; only DONTNEED passes on nothing."""
    assert [(advice.name, int(advice)) for advice in PosixAdvice.all()] == [
        ("NORMAL", 0),
        ("RANDOM", 1),
        ("SEQUENTIAL", 2),
        ("WILLNEED", 3),
        ("DONTNEED", 4),
    ]
    assert PosixAdvice.DONTNEED.passes is None
    for advice in PosixAdvice.all()[:4]:
        assert advice.passes is Advice.named(advice.name)
    assert PosixAdvice.named("posix_madv_random") is PosixAdvice.RANDOM


def test_importing_the_table_loads_no_expensive_module() -> None:
    """The cold `look` must not pay for it: nothing that it may not import comes in with the table."""
    code = "import sys; import dontneed.abi.advice; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(sys.modules["dontneed"].__path__[0]).parent)},
    ).stdout.split()
    heavy = {"re", "typing", "enum", "dataclasses", "ctypes", "numpy", "dontneed.abi.advice_effects"}
    assert heavy.isdisjoint(loaded)


def test_the_reference_page_is_what_the_table_generates() -> None:
    """docs/reference/advice.md was not edited by hand, nor the table without it."""
    generator = TESTS.parent / "tools" / "generate_advice_table.py"
    checked = subprocess.run([sys.executable, str(generator), "--check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
