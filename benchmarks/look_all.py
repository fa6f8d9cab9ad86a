"""How long does it take to say what every process holds, alone and with others, beside smem?

Two hundred Pythons that sleep; the same and one large process, which waits while smem reads it, and hardly while we do;
and whatever else runs here. What we say of them is compared with the kernel's own count first, and must be the same.
"""

from __future__ import annotations

import select
import shutil
import sys
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import dontneed
from comparing import Case, at_least_times, at_most
from dontneed.observe.holders.look_all import ROLLUP, STATUS, TABLES
from dontneed.units import KIB, format_bytes
from look_cold import SCRIPT
from measuring import alternate, command, spawn, timed
from programs import Program, Running
from stall import NOBODY, stall_samples

if TYPE_CHECKING:
    from comparing import Comparison
    from dontneed import Holder
    from options import Options

QUESTION = "all processes"
STALL = "stall of a large process while all are looked at"
HOLDS = ()

LOOK, COMMAND, SMEM = "look_all()", "dontneed look --all", "smem"
WAYS = {f"look_all({way!r})": way for way in (TABLES, ROLLUP, STATUS)}

_SLEEPER = "import json, re, sys; print('ready', flush=True); sys.stdin.read()"
_PSS_MAY_DIFFER = 8 * KIB
_TRIES = 20


def run(options: Options) -> list[Comparison]:
    """Look at all, without a large process and with one."""
    count = 40 if options.quick else 200
    with ExitStack() as running:
        pids = {running.enter_context(Running([sys.executable, "-S", "-c", _SLEEPER])).pid for _ in range(count)}
        what = f"{count} sleeping Pythons"
        rows = _compare(options, what, pids)
        pids.add(running.enter_context(Program("hold", "pages", options.decoded_bytes)).pid)
        rows += _compare(options, f"{what}, and {format_bytes(options.decoded_bytes)} of 4 KiB pages", pids)
    return rows + _stall(options)


def _compare(options: Options, what: str, pids: set[int]) -> list[Comparison]:
    _compare_shares(pids)
    runners = [
        timed(LOOK, dontneed.look_all),
        *(timed(name, partial(dontneed.look_all, way)) for name, way in WAYS.items()),
        command(COMMAND, SCRIPT, "look", "--all"),
        command(SMEM, shutil.which("smem") or "smem"),
    ]
    case = Case(QUESTION, what, alternate(runners, options.rounds))
    return [
        case.compare(COMMAND, SMEM, at_least_times(2.5)),
        case.compare(LOOK, SMEM, at_least_times(2.5)),
        *(case.compare(name, SMEM) for name in WAYS),
    ]


def _stall(options: Options) -> list[Comparison]:
    """How long a large process waits for its own mmap and munmap while all are looked at over and over."""
    with Program("latency", options.stalled_bytes) as program:
        readers = {
            NOBODY: lambda: select.select([program.answer_file], [], []),
            LOOK: dontneed.look_all,
            SMEM: lambda: spawn(shutil.which("smem") or "smem"),
        }
        samples = stall_samples(program, readers, options)
    rows = []
    for statistic, target in (("p50", at_most(50e-6)), ("p99", at_most(10e-3)), ("longest", None)):
        what = f"{statistic} of mmap + munmap, {format_bytes(options.stalled_bytes)}"
        case = Case(STALL, what, samples[statistic])
        rows += [case.compare(LOOK, NOBODY, target), case.compare(LOOK, SMEM)]
    return rows


def _compare_shares(pids: set[int]) -> None:
    """Hold what we say of processes that sleep against what the kernel counts.

    Raises:
        RuntimeError: they differ each time; a fast wrong answer is no result.
    """
    for _ in range(_TRIES):  # whoever starts or ends takes part in what they share
        ways = ("auto", TABLES, ROLLUP)
        *ours, kernels = ({each.pid: each for each in dontneed.look_all(way).processes} for way in ways)
        wrong = [(found[pid], kernels[pid]) for found in ours for pid in pids if not _alike(found[pid], kernels[pid])]
        if not wrong:
            return
    msg = f"of {len(wrong)} processes the kernel counts something else, as of this one: {wrong[0]}"
    raise RuntimeError(msg)


def _alike(ours: Holder, kernels: Holder) -> bool:
    """RSS and USS to the byte; PSS but for what the kernel rounds, and moves while we look."""
    if ours.pss_bytes is None or kernels.pss_bytes is None:
        return False
    same = (ours.rss_bytes, ours.uss_bytes) == (kernels.rss_bytes, kernels.uss_bytes)
    return same and abs(ours.pss_bytes - kernels.pss_bytes) <= _PSS_MAY_DIFFER
