"""Advise several mappings with one call, of which one refuses, and see which of the others were given up."""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.errors import KernelLacks, NotPermitted
from dontneed.lab.experiment import Experiment, answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.lab.bench import Bench
    from dontneed.lab.machine import Region

LETTER = "Z"
LOCKED, HOLE, SEALED = "L-S"
LOCK_IN_THE_MIDDLE = "..L..."
"""Six pages, a letter each: what is in the way of a discard, and `.` for what is not."""


def perform(bench: Bench) -> None:
    """The steps, and what must be so after them."""
    _meet_lock(bench, "p", LOCK_IN_THE_MIDDLE, "a lock", left="--PPPP")
    _meet_lock(bench, "q", ".-.L..", "a hole, then a lock", left="---PPP")
    _meet_lock(bench, "r", "..L.-.", "a lock, then a hole", left="--PP-P")
    _pass_lock(bench)
    _meet_seal(bench)


def _meet_lock(bench: Bench, name: str, layout: str, what: str, *, left: str) -> None:
    p = _lay_out(bench, name, layout)
    before = bench.look(f"Six pages, {what}: {layout}")
    refused = bench.advise(p, Advice.DONTNEED)
    after = bench.look("Give all up: mapping by mapping, until one refuses")
    full = layout.replace(".", "P").replace(LOCKED, "P")
    bench.claim(f"answer ({what})", "EINVAL", answer(refused))
    bench.claim(f"pages ({what})", f"{full} → {left}", f"{before.held(p).pages} → {after.held(p).pages}")
    bench.unmap(p)


def _pass_lock(bench: Bench) -> None:
    p = _lay_out(bench, "s", LOCK_IN_THE_MIDDLE)
    refused = bench.advise(p, Advice.DONTNEED_LOCKED)
    seen = bench.look("Give all up by DONTNEED_LOCKED, where the kernel knows that advice")
    knows = bench.kernel.behaviour.knows(Advice.DONTNEED_LOCKED)
    bench.claim("answer to DONTNEED_LOCKED", "accepted" if knows else "EINVAL", answer(refused))
    bench.claim("pages after it", "------" if knows else "PPPPPP", seen.held(p).pages)
    bench.unmap(p)


def _meet_seal(bench: Bench) -> None:
    try:
        p = _lay_out(bench, "t", "..S...")
    except KernelLacks:
        return
    bench.look("Six pages, one sealed that must not be written to: ..S...")
    refused = bench.advise(p, Advice.DONTNEED)
    seen = bench.look("Give all up: the seal refuses, and says so in another word")
    left = "--PPPP" if bench.kernel.behaviour.seal_per_mapping else "PPPPPP"
    bench.claim("answer (a seal)", "EPERM", answer(refused))
    bench.claim("pages (a seal)", left, seen.held(p).pages)


def _lay_out(bench: Bench, name: str, layout: str) -> Region:
    """Map pages, write to all of them, and put obstacles in the way.

    Raises:
        KernelLacks: it does not seal memory.
        NotPermitted: this user may lock none.
    """
    p = bench.map(name, len(layout))
    bench.write(p, LETTER)
    for number, obstacle in enumerate(layout):
        page = p.part(f"{name}{number}", number, 1)
        if obstacle == LOCKED and bench.lock(page):
            msg = "this user may lock no memory"
            raise NotPermitted(msg, hint="raise the limit: ulimit -l")
        if obstacle == HOLE:
            bench.unmap(page)
        if obstacle == SEALED:
            bench.protect(page, "r")
            bench.seal(page)
    return p


EXPERIMENT = Experiment(
    "error-order",
    "When one of several mappings refuses, which of the others were given up, and which error is told?",
    perform,
)
