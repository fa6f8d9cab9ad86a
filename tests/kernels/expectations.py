"""What the model says of a kernel, held against what the kernel did.

The model is asked as the release of kernel.org that the distribution's kernel is made from. Distributions and stable
releases also take later changes back: those are named here, each with where it is from. Nothing else is excused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelled import foretell

if TYPE_CHECKING:
    from measurement import Measurement

TAKEN_BACK: dict[tuple[str, str], str] = {
    ("5.10", "process_madvise.good_then_hole"): "5.10.y counts what was done, as 5.18 does",
    ("6.1", "errno.file_sh_ro_rwfd.REMOVE"): "6.1.y asks whether the mapping might be written to, as 6.7 does",
}
"""By series and probe: why a kernel is ahead of its version."""


def disagreements(measured: Measurement) -> dict[str, tuple[str, str]]:
    """By probe: what the model says, and what the kernel did."""
    found = dict(measured.items())
    return {
        name: (expected, found[name])
        for name, expected in foretell(measured.upstream)
        if name in found and not _agree(name, expected, found[name]) and (measured.series, name) not in TAKEN_BACK
    }


def _agree(name: str, expected: str, found: str) -> bool:
    if name == "keys.status":
        # The model prints what is about memory; signals, rights and processors come behind it.
        return found.startswith(f"{expected} ")
    return expected == found
