"""Advise ranges with a hole in them, where nothing is mapped, and see how much was done before the call failed."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.lab.experiment import Experiment, answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench

PAGES = 5
HOLES = (("p", 2, "in the middle"), ("q", 0, "at the beginning"), ("r", PAGES - 1, "at the end"))
LETTER = "Z"


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    for name, page, where in HOLES:
        _discard_around(bench, name, page, where)
    _populate_up_to(bench)


def _discard_around(bench: Bench, name: str, page: int, where: str) -> None:
    p = bench.map(name, PAGES)
    bench.write(p, LETTER)
    bench.unmap(p.part(f"{name}{page}", page, 1))
    before = bench.look(f"Five pages, a hole {where}")
    failed = bench.advise(p, Advice.DONTNEED)
    after = bench.look("Give all up: the call fails, and has done what it could")

    full = "P" * page + "-" + "P" * (PAGES - page - 1)
    bench.claim(f"answer with the hole {where}", "ENOMEM", answer(failed))
    pages = f"{before.held(p).pages} → {after.held(p).pages}"
    bench.claim(f"pages with the hole {where}", f"{full} → {'-' * PAGES}", pages)
    bench.unmap(p)


def _populate_up_to(bench: Bench) -> None:
    """The contrast: an advice that does stop, since it is no longer given mapping by mapping."""
    p = bench.map("s", PAGES)
    bench.unmap(p.part("s2", 2, 1))
    failed = bench.advise(p, Advice.POPULATE_WRITE)
    seen = bench.look("Have memory with a hole brought in: since 6.10 this advice stops there")
    knows = bench.kernel.behaviour.knows(Advice.POPULATE_WRITE)
    populated = "PP---" if bench.kernel.behaviour.populate_ends_at_holes else "PP-PP"
    bench.claim("answer to POPULATE_WRITE", "ENOMEM" if knows else "EINVAL", answer(failed))
    bench.claim("pages after it", populated if knows else "-----", seen.held(p).pages)


EXPERIMENT = Experiment(
    "hole",
    "What has madvise done when it fails with ENOMEM, because part of the range is not mapped?",
    perform,
)
