"""How long does it take to say what every process holds, alone and with others, beside smem?

Two hundred Pythons that sleep, and whatever else runs here; what we say of them is compared with the kernel's own count
first, and must be the same. The time is from all processes of the machine.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import dontneed
from comparing import Case, at_least_times
from dontneed.observe.holders.look_all import ROLLUP, STATUS
from dontneed.units import KIB
from look_cold import SCRIPT
from measuring import alternate, command, timed
from programs import Running

if TYPE_CHECKING:
    from comparing import Comparison
    from options import Options

QUESTION = "all processes"
HOLDS = ()

LOOK, COMMAND, SMEM = "look_all()", "dontneed look --all", "smem"
KERNELS, COUNTERS = "look_all(), by smaps_rollup", "look_all(), by status: without shares"

_SLEEPER = "import json, re, sys; print('ready', flush=True); sys.stdin.read()"
_PSS_MAY_DIFFER = 8 * KIB
_TRIES = 20


def run(options: Options) -> list[Comparison]:
    """Look at all, by each way that there is."""
    count = 40 if options.quick else 200
    smem = shutil.which("smem") or "smem"
    with ExitStack() as running:
        pids = {running.enter_context(Running([sys.executable, "-S", "-c", _SLEEPER])).pid for _ in range(count)}
        _compare_shares(pids)
        runners = [
            timed(LOOK, dontneed.look_all),
            timed(KERNELS, lambda: dontneed.look_all(ROLLUP)),
            timed(COUNTERS, lambda: dontneed.look_all(STATUS)),
            command(COMMAND, SCRIPT, "look", "--all"),
            command(SMEM, smem),
        ]
        case = Case(QUESTION, f"{count} sleeping Pythons", alternate(runners, options.rounds))
    return [
        case.compare(COMMAND, SMEM, at_least_times(2.5)),
        case.compare(LOOK, SMEM, at_least_times(2.5)),
        case.compare(KERNELS, SMEM),
        case.compare(COUNTERS, SMEM),
    ]


def _compare_shares(pids: set[int]) -> None:
    """Hold what we say of processes that sleep against what the kernel counts.

    Raises:
        RuntimeError: they differ each time; a fast wrong answer is no result.
    """
    for _ in range(_TRIES):  # whoever starts or ends takes part in what they share
        ours, kernels = ({each.pid: each for each in dontneed.look_all(way).processes} for way in ("auto", ROLLUP))
        wrong = [
            pid
            for pid in pids
            if ours[pid].uss_bytes != kernels[pid].uss_bytes
            or abs((ours[pid].pss_bytes or 0) - (kernels[pid].pss_bytes or 0)) > _PSS_MAY_DIFFER
        ]
        if not wrong:
            return
    msg = f"of {len(wrong)} processes the kernel counts something else: {ours[wrong[0]]}, {kernels[wrong[0]]}"
    raise RuntimeError(msg)
