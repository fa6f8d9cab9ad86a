"""How long does a process wait for its own mmap and munmap while someone looks at its gigabytes over and over?

A walk of page tables holds the lock that mmap and munmap need. The process maps and unmaps a page every 200 µs, and a
call that is late because another one waits counts from the moment when it was due.
"""

from __future__ import annotations

import select
import shutil
from array import array
from fcntl import ioctl
from typing import TYPE_CHECKING

import dontneed
from comparing import Case, Target, at_most
from dontneed.abi import pagemap as abi
from dontneed.observe.residency import USER_SPACE_END
from dontneed.units import format_bytes
from measuring import alternate, spawn
from programs import Program

if TYPE_CHECKING:
    from collections.abc import Callable

    from comparing import Comparison
    from measuring import Runner, Samples
    from options import Options

QUESTION = "stall of the process that is looked at"
HOLDS = ()

LOOK = "look()"
NOBODY = "nobody looks"
ROLLUP, PMAP, ONE_SCAN = "smaps_rollup", "pmap -x", "PAGEMAP_SCAN in one call"

_TARGETS: dict[str, Target | None] = {"p50": at_most(50e-6), "p99": at_most(10e-3), "longest": None}


def run(options: Options) -> list[Comparison]:
    """Let each reader look in a loop while the process measures itself."""
    with Program("latency", options.stalled_bytes) as program:
        pid = str(program.pid)
        start, end = _user_space(program.pid)
        pmap = shutil.which("pmap") or "pmap"
        readers: dict[str, Callable[[], object]] = {
            NOBODY: lambda: select.select([program.answer_file], [], []),
            LOOK: lambda: dontneed.look(program.pid),
            ROLLUP: lambda: _read_rollup(pid),
            PMAP: lambda: spawn(pmap, "-x", pid),
            ONE_SCAN: lambda: _scan_in_one_call(pid, start, end),
        }
        samples = stall_samples(program, readers, options)
    return [
        comparison
        for statistic, target in _TARGETS.items()
        for comparison in _compare(options, statistic, target, samples[statistic])
    ]


def stall_samples(program: Program, readers: dict[str, Callable[[], object]], options: Options) -> dict[str, Samples]:
    """What the process measures while each reader is called again and again: for each statistic, samples by reader."""
    runners = [_stall(program, name, reader, options.stalled_seconds) for name, reader in readers.items()]
    samples = alternate(runners, options.few_rounds)
    return {
        statistic: {name: samples[f"{statistic} {name}"] for name in readers} for statistic in ("p50", "p99", "longest")
    }


def _compare(options: Options, statistic: str, target: Target | None, samples: Samples) -> list[Comparison]:
    """The rows of one statistic; what was promised is promised once, beside a process that nobody looks at."""
    case = Case(QUESTION, f"{statistic} of mmap + munmap, {format_bytes(options.stalled_bytes)}", samples)
    return [
        case.compare(LOOK, NOBODY, target),
        *(case.compare(LOOK, peer) for peer in (ROLLUP, PMAP, ONE_SCAN)),
    ]


def _stall(program: Program, name: str, reader: Callable[[], object], seconds: float) -> Runner:
    """A runner for what the process measures while `reader` is called again and again."""

    def run() -> dict[str, float]:
        program.tell(str(seconds))
        while not select.select([program.answer_file], [], [], 0)[0]:
            reader()
        _, p50, p99, longest = (int(field) * 1e-9 for field in program.answer().split())
        return {f"p50 {name}": p50, f"p99 {name}": p99, f"longest {name}": longest}

    return run


def _read_rollup(pid: str) -> None:
    with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
        rollup.read()


def _user_space(pid: int) -> tuple[int, int]:
    """From the first mapping to the last, but for the kernel's own at the very top."""
    mappings = [mapping for mapping in dontneed.look(pid).mappings if mapping.end <= USER_SPACE_END]
    return mappings[0].start, mappings[-1].end


def _scan_in_one_call(pid: str, start: int, end: int) -> None:
    """Walk all of it under one lock, as PAGEMAP_SCAN lets anyone do."""
    rows = array("Q", bytes(3 * 8 * 1024))
    call = array("Q", bytes(abi.SCAN_ARG_BYTES))
    call[abi.SCAN_SIZE] = abi.SCAN_ARG_BYTES
    call[abi.SCAN_START], call[abi.SCAN_END] = start, end
    call[abi.SCAN_VEC] = rows.buffer_info()[0]
    call[abi.SCAN_VEC_LEN] = 1024
    call[abi.SCAN_ANYOF] = call[abi.SCAN_RETURN] = abi.IS_PRESENT | abi.IS_SWAPPED
    with open(f"/proc/{pid}/pagemap", "rb") as pagemap:
        ioctl(pagemap, abi.PAGEMAP_SCAN, call)
