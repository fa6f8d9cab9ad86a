"""What the model says of a kernel, held against what the kernel did.

The model is asked as the release of kernel.org that the distribution's kernel is made from. Stable releases also take
later changes back, which a table of versions cannot say: those are named here. Nothing else is excused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelled import foretell

from dontneed.model.versions import behaviour_at

if TYPE_CHECKING:
    from measurement import Measurement

    from dontneed.model.versions import Behaviour

TAKEN_BACK: dict[str, dict[str, bool]] = {
    "5.10": {"vector_counts_done": True},  # as 5.18
    "6.1": {"remove_may_write": True},  # as 6.7
}
"""By series: what its stable releases have of later kernels, as fields of `Behaviour`."""


def behaviour_of(measured: Measurement) -> Behaviour:
    """How this kernel behaves, as far as the model knows."""
    return behaviour_at(measured.upstream).replace(**TAKEN_BACK.get(measured.series, {}))


def disagreements(measured: Measurement) -> dict[str, tuple[str, str]]:
    """By probe: what the model says, and what the kernel did."""
    found = dict(measured.items())
    return {
        name: (expected, found[name])
        for name, expected in foretell(behaviour_of(measured))
        if name in found and not _agree(name, expected, found[name])
    }


def _agree(name: str, expected: str, found: str) -> bool:
    if name == "keys.status":
        # The model prints what is about memory; signals, rights and processors come behind it.
        return found.startswith(f"{expected} ")
    if name in ("guard.flags", "guard.flags_after_remove"):
        # Soft-dirty is there or not as a kernel was built, and the model has none.
        return expected == found.removesuffix(" sd")
    return expected == found
