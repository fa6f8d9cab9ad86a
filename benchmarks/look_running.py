"""How fast does a running Python see the mappings of a process with `look`, beside `pmap -x` and psutil?

`look()` alone, and with every row read: its rows are made when they are asked for. Page tables are counted with numpy
where it is loaded, as it is here, and bytewise where it is not: that has a row of its own.
"""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import numpy as np
import psutil  # type: ignore[import-untyped]

import dontneed
from comparing import Case, Target, at_least_times
from dontneed.units import format_bytes
from measuring import alternate, command, timed

if TYPE_CHECKING:
    from comparing import Comparison
    from dontneed.observe.address_space import AddressSpace
    from options import Options

QUESTION = "look, in a running interpreter"
HOLDS = ("mappings", "pages", "huge", "nothing")

LOOK, ROWS, PLAIN = "look()", "look() and every row", "look(), numpy not loaded"
PMAP, PSUTIL = "pmap -x", "psutil memory_maps(grouped=False)"


def run(options: Options) -> list[Comparison]:
    """Look at each process by each means."""
    held = options.held
    many_mappings = {PMAP: at_least_times(20), PSUTIL: at_least_times(10)}
    many_pages = {PMAP: at_least_times(8), PSUTIL: at_least_times(2)}
    return [
        *_compare(options, held.pid("mappings", options.mappings), many_mappings),
        *_compare(options, held.pid("pages", options.resident_bytes), many_pages),
        *_compare(options, held.pid("huge", options.resident_bytes), {}),
        *_compare(options, held.pid("nothing"), {}),
    ]


def described(space: AddressSpace) -> str:
    """What a process holds, by what was seen of it: where huge pages were short, the table shows it."""
    huge = space.total.huge_bytes or 0
    small = space.total.rss_bytes - huge
    if len(space.mappings) > 1000:
        return f"{len(space.mappings):,} mappings"
    if space.total.rss_bytes < 16 << 20:
        return f"a small process, {len(space.mappings)} mappings"
    return f"{format_bytes(huge)} of huge pages" if huge > small else f"{format_bytes(small)} of 4 KiB pages"


def _compare(options: Options, pid: int, targets: dict[str, Target]) -> list[Comparison]:
    process = psutil.Process(pid)
    runners = [
        timed(LOOK, lambda: dontneed.look(pid)),
        timed(PLAIN, lambda: _without_numpy(pid)),
        timed(ROWS, lambda: sum(mapping.rss_bytes for mapping in dontneed.look(pid).mappings)),
        command(PMAP, shutil.which("pmap") or "pmap", "-x", str(pid)),
        timed(PSUTIL, lambda: process.memory_maps(grouped=False)),
    ]
    case = Case(QUESTION, described(dontneed.look(pid)), alternate(runners, options.rounds))
    return [
        case.compare(subject, peer, targets.get(peer)) for subject in (LOOK, ROWS, PLAIN) for peer in (PMAP, PSUTIL)
    ]


def _without_numpy(pid: int) -> None:
    """Look as a program does that has not imported it."""
    loaded = sys.modules.pop(np.__name__)
    try:
        dontneed.look(pid)
    finally:
        sys.modules[np.__name__] = loaded
