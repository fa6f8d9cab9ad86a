"""How the words of an experiment are spelled in C, for its transcript, and in Python, for who wants to try it."""

from __future__ import annotations

import errno

from dontneed.records import Record
from dontneed.units import GIB, KIB, MIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.abi.advice import Advice
    from dontneed.lab.machine import Region
    from dontneed.report.transcript import Run

_UNITS = ((GIB, "GiB", 30), (MIB, "MiB", 20), (KIB, "KiB", 10))

_HEAD = '''\
"""{question}

What `dontneed lab run {experiment}` does, here in the interpreter's own process.
"""

import ctypes
import mmap

import dontneed
from dontneed import Advice


def show(name, memory):
    """Print the sizes of the mapping that `memory` lies in; the kernel may have merged it with its neighbours."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for row in dontneed.look(smaps=True).mappings:
        if row.start <= start < row.end:
            sizes = {{"mapped": row.size_bytes, "RSS": row.rss_bytes, "dirty": row.smaps.dirty_bytes}}
            print(name, *(f"{{word}} {{size >> 10}} KiB" for word, size in sizes.items()))

'''


class Spelling(Record):
    """One call in both languages."""

    c: str
    python: str


def mapping(region: Region) -> Spelling:
    """Map private anonymous memory."""
    name = region.name
    return Spelling(
        f"{name} = mmap(NULL, {_size(region)}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0);",
        f"{name} = mmap.mmap(-1, {_size_in_python(region)}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)",
    )


def writing(region: Region, letter: str) -> Spelling:
    """Fill memory with a letter."""
    return Spelling(
        f"memset({region.name}, '{letter}', {_size(region)});",
        f'{region.name}[:] = b"{letter}" * ({_size_in_python(region)})',
    )


def reading(region: Region) -> Spelling:
    """Read memory, every byte."""
    return Spelling(
        f"for (i = 0; i < {_size(region)}; i++) seen[{region.name}[i]] = 1;",
        f'print("bytes read:", set({region.name}[:]))',
    )


def advising(region: Region, advice: Advice, refused: int) -> Spelling:
    """Advise the kernel; `refused` is the errno, or 0."""
    answer = f"  /* {errno.errorcode.get(refused, refused)} */" if refused else ""
    return Spelling(
        f"madvise({region.name}, {_size(region)}, {advice});{answer}",
        f"dontneed.advise({region.name}, Advice.{advice.name})",
    )


def program(run: Run) -> list[str]:
    """A Python program that does what the steps of `run` did, and shows the experiment's memory after each."""
    lines = _HEAD.format(question=run.question, experiment=run.experiment).splitlines()
    for step in run.steps:
        regions = dict.fromkeys(region for region in step.regions if region)
        lines += ["", f"# {step.title}", *step.python.splitlines()]
        lines += [f'show("{name}", {name})' for name in regions]
    return lines


def _size(region: Region) -> str:
    unit, name, _ = _unit(region)
    return f"{region.size_bytes // unit} {name}"


def _size_in_python(region: Region) -> str:
    unit, _, shift = _unit(region)
    return f"{region.size_bytes // unit} << {shift}"


def _unit(region: Region) -> tuple[int, str, int]:
    """The largest unit that a region is a whole number of; a page is so many KiB."""
    return next(unit for unit in _UNITS if region.size_bytes % unit[0] == 0)
