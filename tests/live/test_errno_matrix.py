"""Every advice on every kind of mapping, given for real, against the errno matrix and the table of advices.

The unit tests hold the table against the matrix; here the running kernel is held against both, so that the docs, the
code and the kernel tell one truth. errno_matrix_child.py does the asking, in processes of its own.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dontneed.abi.advice import Advice

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Answers = dict[str, dict[str, str]]
    """By advice: its "answer" (ok, or the errno) and what became of the "contents" (kept, lost or unread)."""

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_kernel("6.18"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the matrix was measured on x86-64"),
    pytest.mark.usefixtures("huge_page_pool"),
]

HERE = Path(__file__).parent
MATRIX: dict[str, dict[str, str]] = json.loads((HERE.parent / "data" / "errno-matrix-6.18.json").read_text())

NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
HUGETLB = {"hugetlb_sh", "hugetlb_pv", "hugetlb_unaligned"}

MAY_BE_MISSING = HUGETLB | {"secret", "perf", "sealed_ro", "sealed_rw", "droppable", "at_the_limit"}
"""Kinds that a kernel may be built or configured without; all others can be made anywhere."""

BUILT_IN = {
    "MERGEABLE": "/sys/kernel/mm/ksm",
    "UNMERGEABLE": "/sys/kernel/mm/ksm",
    "HUGEPAGE": "/sys/kernel/mm/transparent_hugepage",
    "NOHUGEPAGE": "/sys/kernel/mm/transparent_hugepage",
    "COLLAPSE": "/sys/kernel/mm/transparent_hugepage",
}
"""Advices that a kernel may be built without, and what shows that it has them; the matrix was measured with all."""

ASKED = [advice.name for advice in Advice.all() if Path(BUILT_IN.get(advice.name, "/")).exists()]
POISON = ("HWPOISON", "SOFT_OFFLINE")

_ANONYMOUS = {"no-file", "small"}
_SETS_A_FLAG = ("RANDOM", "SEQUENTIAL", "DONTFORK", "HUGEPAGE", "NOHUGEPAGE", "DONTDUMP")
_DROPS = ("DONTNEED", "DONTNEED_LOCKED")
_POPULATES = ("POPULATE_READ", "POPULATE_WRITE")

BEYOND_THE_MATRIX = [
    ("write_only", _ANONYMOUS | {"no-read"}, ASKED),
    ("guarded", _ANONYMOUS | {"guarded"}, ASKED),
    ("beyond_end", {"file", "backed", "small", "beyond-end"}, ASKED),
    ("hugetlb_unaligned", {"file", "backed", "hugetlb", "hugetlb-unaligned"}, [*_DROPS, *_POPULATES, "FREE", "COLD"]),
    ("hugetlb_unaligned", {"no-split"}, _SETS_A_FLAG),
    ("vdso_part", {"no-split"}, [*_SETS_A_FLAG, "WIPEONFORK"]),
    ("thp_empty", {"no-file", "empty"}, ASKED),
    ("thp_told_not", {"no-file", "no-huge"}, ASKED),
    ("at_the_limit", {"no-file", "map-count"}, [*_SETS_A_FLAG, "MERGEABLE", "WIPEONFORK", *_DROPS]),
]
"""Kinds that show the refusals no cell of the matrix shows, with their conditions and the advices that meet them."""


@pytest.fixture(scope="module")
def huge_page_pool() -> Iterator[None]:
    """A few huge pages in the pool, as long as these tests run; where it cannot be filled, they cannot be mapped."""
    try:
        before = NR_HUGEPAGES.read_text()
        NR_HUGEPAGES.write_text(str(int(before) + 4))
    except OSError:  # no hugetlb, or a container's read-only sysctls
        yield
        return
    yield
    NR_HUGEPAGES.write_text(before)


class Kernel:
    """The child that asks the kernel; each question is asked once."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self._answers: dict[str, Answers] = {}

    def ask(self, kind: str, advices: Iterable[str] = ASKED) -> Answers:
        """The kernel's answers, or a skip by name where this machine has no such memory."""
        question = " ".join([kind, *advices])
        if question not in self._answers:
            self._child.stdin.write(f"{question}\n")
            self._child.stdin.flush()
            self._answers[question] = json.loads(self._child.stdout.readline())
        answers = self._answers[question]
        if "missing" in answers:
            _do_without(kind, *answers["missing"])
        return answers


def _do_without(kind: str, number: int, why: str) -> None:
    assert kind in MAY_BE_MISSING, why
    # E2BIG is ours: a limit that takes long to reach, which no right would lower.
    required = os.environ.get("DONTNEED_REQUIRE_ALL") == "1" and number != errno.E2BIG
    (pytest.fail if required else pytest.skip)(f"needs a mapping of kind {kind!r}: {why}")


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """The running kernel, through a child that lives as long as these tests."""
    command = [sys.executable, str(HERE / "errno_matrix_child.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        yield Kernel(child)


@pytest.mark.parametrize("kind", MATRIX)
def test_the_kernel_answers_every_advice_as_the_matrix_says(kernel: Kernel, kind: str) -> None:
    """A fresh mapping for each advice; what disagrees is listed as {advice: (kernel, matrix)}."""
    told = {name: reply["answer"] for name, reply in kernel.ask(kind).items()}
    assert {name: (answer, MATRIX[kind][name]) for name, answer in told.items() if answer != MATRIX[kind][name]} == {}


@pytest.mark.parametrize(
    ("kind", "conditions", "advices"),
    BEYOND_THE_MATRIX,
    ids=[f"{kind}-{'+'.join(sorted(conditions)[:1])}" for kind, conditions, _ in BEYOND_THE_MATRIX],
)
def test_the_kernel_refuses_as_the_table_says(
    kernel: Kernel, kind: str, conditions: set[str], advices: list[str]
) -> None:
    """The refusals marked `live`; what disagrees is listed as {advice: (kernel, table)}."""
    conditions = conditions | {"no-memory-failure"}
    told = {name: reply["answer"] for name, reply in kernel.ask(kind, advices).items()}
    table = {name: getattr(Advice.named(name).refusal(conditions), "errno", "ok") for name in told}
    assert {name: (answer, table[name]) for name, answer in told.items() if answer != table[name]} == {}


def test_every_refusal_said_to_be_live_is_provoked_here() -> None:
    """`known="live"` is not claimed for a condition that no mapping above shows."""
    shown = set().union(*(conditions for _, conditions, _ in BEYOND_THE_MATRIX))
    claimed = {said.condition for advice in Advice.all() for said in advice.refusals if said.known == "live"}
    assert claimed <= shown


def test_poisoning_is_asked_for_where_it_can_do_no_harm(kernel: Kernel) -> None:
    """The two advices that destroy frames for good were among the answers, from a kernel that cannot carry them out."""
    answers = kernel.ask("anon")
    if not set(POISON) <= set(answers):
        pytest.skip("HWPOISON and SOFT_OFFLINE: this kernel can carry them out, or hides whether it can")
    assert {answers[name]["answer"] for name in POISON} == {"EINVAL"}


@pytest.mark.parametrize("kind", MATRIX)
def test_only_advices_called_destructive_lose_contents(kernel: Kernel, kind: str) -> None:
    """Memory is read before and after each advice; droppable memory may be lost by any reclaim, as its name says."""
    lost = {name for name, reply in kernel.ask(kind).items() if reply["contents"] == "lost"}
    may_lose = {advice.name for advice in Advice.all() if advice.destructive}
    assert lost - may_lose <= ({"PAGEOUT"} if kind == "droppable" else set())


def test_dontneed_loses_private_contents_and_no_shared_ones(kernel: Kernel) -> None:
    """What `discard` rests on: shared memory survives DONTNEED, and REMOVE is what frees it."""
    shared = ("shanon", "memfd_sh", "file_sh_rw")
    private = ("anon", "thp", "memfd_pv", "file_pv_rw", "devzero_pv")
    expected = dict.fromkeys(private, ("lost", "kept")) | dict.fromkeys(shared, ("kept", "lost"))
    contents = {
        kind: (kernel.ask(kind)["DONTNEED"]["contents"], kernel.ask(kind)["REMOVE"]["contents"]) for kind in expected
    }
    assert contents == expected


def test_locked_memory_loses_contents_by_dontneed_locked_alone(kernel: Kernel) -> None:
    """DONTNEED is refused and changes nothing; DONTNEED_LOCKED drops the pages."""
    answers = kernel.ask("locked")
    assert answers["DONTNEED"] == {"answer": "EINVAL", "contents": "kept"}
    assert answers["DONTNEED_LOCKED"] == {"answer": "ok", "contents": "lost"}
