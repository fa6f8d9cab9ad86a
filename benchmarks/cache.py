"""How long does it take to say what of files is in the page cache, and to evict it, beside vmtouch and fincore?

Few large files and a tree of small ones, all cached; counts are compared first, and must be the same.
"""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

import dontneed
from comparing import Case, Target, at_least_times
from dontneed.units import GIB, MIB, PAGE_BYTES, format_bytes
from look_cold import SCRIPT
from measuring import alternate, command, spawn, timed
from programs import BUILD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from comparing import Comparison
    from measuring import Runner
    from options import Options

QUESTION = "the page cache"
EVICTION = "eviction from the page cache"
HOLDS = ()

CACHE, EVICT, COMMAND = "cache()", "evict()", "dontneed cache"
VMTOUCH, EVICTING, FINCORE = "vmtouch", "vmtouch -e", "fincore"

_LARGE_FILES = 4
_IN_A_DIRECTORY = 100
_CHUNK = bytes(range(256)) * 4096


def run(options: Options) -> list[Comparison]:
    """Look at both, then evict both."""
    size = 256 * MIB if options.quick else 4 * GIB
    count = 2_000 if options.quick else 20_000
    rows: list[Comparison] = []
    with _files(_large, size) as (top, files):
        what = f"{format_bytes(size)} in {_LARGE_FILES} files"
        rows += _look(options, what, top, files, at_least_times(20))
        rows.append(_evict(options.few_rounds, what, top, files))
    with _files(_small, count) as (top, files):
        what = f"{count:,} small files"
        rows += _look(options, what, top, files, at_least_times(1.5))
        rows.append(_evict(options.few_rounds, what, top, files))
    return rows


def _look(options: Options, what: str, top: Path, files: list[Path], target: Target) -> list[Comparison]:
    _load(files)
    _compare_counts(top)
    runners = [
        timed(CACHE, lambda: dontneed.cache(top)),
        command(COMMAND, SCRIPT, "cache", str(top)),
        command(VMTOUCH, _program("vmtouch"), str(top)),
        command(FINCORE, _program("fincore"), *map(str, files)),
    ]
    case = Case(QUESTION, what, alternate(runners, options.rounds))
    return [
        case.compare(CACHE, VMTOUCH, target),
        case.compare(CACHE, FINCORE),
        case.compare(COMMAND, VMTOUCH),
        case.compare(COMMAND, FINCORE),
    ]


def _evict(rounds: int, what: str, top: Path, files: list[Path]) -> Comparison:
    runners = [
        _reloaded(EVICT, lambda: dontneed.evict(top), files),
        _reloaded(EVICTING, lambda: spawn(_program("vmtouch"), "-e", str(top)), files),
    ]
    return Case(EVICTION, what, alternate(runners, rounds)).compare(EVICT, EVICTING, at_least_times(1.2))


def _reloaded(name: str, call: Callable[[], object], files: list[Path]) -> Runner:
    """A runner that caches the files first, outside the time that is taken."""

    def run_once() -> dict[str, float]:
        _load(files)
        began = perf_counter()
        call()
        return {name: perf_counter() - began}

    return run_once


def _compare_counts(top: Path) -> None:
    """Hold our count against that of vmtouch.

    Raises:
        RuntimeError: they differ; a fast wrong answer is no result.
    """
    total = dontneed.cache(top).total
    ours = f"{total.cached_bytes // PAGE_BYTES}/{total.pages}"
    said = subprocess.run([_program("vmtouch"), str(top)], capture_output=True, text=True, check=True).stdout
    theirs = next(line.split()[2] for line in said.splitlines() if "Resident Pages" in line)
    if ours != theirs:
        msg = f"dontneed finds {ours} pages cached, vmtouch {theirs}"
        raise RuntimeError(msg)


@contextmanager
def _files(make: Callable[[Path, int], list[Path]], amount: int) -> Iterator[tuple[Path, list[Path]]]:
    """A directory and the files below it, written back, and removed afterwards."""
    top = BUILD / "cached"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(parents=True)
    try:
        files = make(top, amount)
        subprocess.run(["sync", "--file-system", str(top)], check=True)
        yield top, files
    finally:
        shutil.rmtree(top)


def _large(top: Path, size: int) -> list[Path]:
    files = [top / str(nth) for nth in range(_LARGE_FILES)]
    for path in files:
        with path.open("wb") as file:
            for _ in range(size // _LARGE_FILES // len(_CHUNK)):
                file.write(_CHUNK)
    return files


def _small(top: Path, count: int) -> list[Path]:
    """Files of one to seven pages."""
    files = []
    for nth in range(count):
        path = top / str(nth // _IN_A_DIRECTORY) / str(nth)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_CHUNK[: (1 + nth * 7 % 9) * 3072])
        files.append(path)
    return files


def _load(files: list[Path]) -> None:
    buffer = bytearray(8 * MIB)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _program(name: str) -> str:
    return shutil.which(name) or name
