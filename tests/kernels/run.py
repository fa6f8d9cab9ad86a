"""Boot kernels of distributions, probe each, and hold what is known of them against what they do.

    python tests/kernels/run.py                   all of them, oldest first
    python tests/kernels/run.py --only 5.10       one; may be given more than once
    python tests/kernels/run.py --list            which there are, and which are here
    python tests/kernels/run.py --keep            write what was found to measured/, as the new truth
    python tests/kernels/run.py --steps           boot nothing: what changed from each kept kernel to the next
    python tests/kernels/run.py --kept            boot nothing: hold what was kept against the model
    python tests/kernels/run.py --sequences 200   and so many sequences of the differential engine, of each --kind

The exit code is 1 when a kernel did otherwise than it did before, or than the model's table of versions says, and 2
when a kernel could not be had or did not boot.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from boot import GuestFailed, boot, compile_init
from expectations import disagreements
from measurement import differences, keep, kept, measurement_of
from packages import KERNELS, PackagesUnreachable, Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from measurement import Measurement
    from packages import Kernel

CACHE = Path("~/.cache/dontneed/kernels")

_SHOWN = 3
"""Of sequences that disagree; the first differences are most often the same one."""


@dataclass
class Result:
    """How it went with one kernel."""

    kernel: Kernel
    seconds: float = 0
    measured: Measurement | None = None
    failure: str = ""
    changed: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    """By probe: what it found before, and now."""
    against_model: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By probe: what the model's table of versions says, and what the kernel did."""
    replayed: dict[str, list[str]] = field(default_factory=dict)
    """By kind of sequences: where kernel and model disagree."""


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = _parser()
    arguments = parser.parse_args()
    chosen = [kernel for kernel in KERNELS if not arguments.only or kernel.series in arguments.only]
    if unknown := set(arguments.only) - {kernel.series for kernel in KERNELS}:
        parser.error(f"no kernel {', '.join(sorted(unknown))}; there are {', '.join(each.series for each in KERNELS)}")
    store = Store(arguments.cache.expanduser())
    if arguments.list:
        _list(chosen, store)
        return 0
    if arguments.steps:
        _print_steps(chosen)
        return 0
    if arguments.kept:
        results = [_remembered(kernel) for kernel in chosen]
    else:
        results = list(_measure_all(chosen, store, arguments.jobs))
    for result in results:
        if arguments.sequences and result.measured:
            _replay(result, store, arguments)
        _print_details(result)
        if arguments.keep and result.measured:
            keep(result.measured)
    return _exit_code(results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], metavar="SERIES", help="one kernel, as in 5.10")
    parser.add_argument("--list", action="store_true", help="say which kernels there are, and boot none")
    parser.add_argument("--steps", action="store_true", help="say what changed between kernels, from what was kept")
    parser.add_argument("--kept", action="store_true", help="hold the model against what was kept, and boot nothing")
    parser.add_argument("--cache", type=Path, default=CACHE, metavar="DIR", help=f"where kernels are kept ({CACHE})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="machines at a time (1)")
    parser.add_argument("--sequences", type=int, default=0, metavar="N", help="replay N sequences of each kind (0)")
    parser.add_argument("--kind", action="append", default=[], help="of sequences; may be given more than once (base)")
    parser.add_argument("--seed", type=int, default=1, help="of sequences (1)")
    parser.add_argument("--keep", action="store_true", help="write what was found to measured/")
    return parser


def _list(kernels: Sequence[Kernel], store: Store) -> None:
    for kernel in kernels:
        package = store.package_of(kernel) or "not here yet"
        print(f"{kernel.series:6} {kernel.archive:7} {kernel.suite:18} {package}")


def _measure_all(kernels: Sequence[Kernel], store: Store, jobs: int) -> Iterator[Result]:
    with tempfile.TemporaryDirectory(prefix="dontneed-init-") as scratch:
        init = compile_init(Path(scratch, "init"))
    print(f"{'series':8}{'release':30}{'seconds':>8}{'probes':>8}{'changed':>9}{'model':>7}")
    with ThreadPoolExecutor(jobs) as pool:
        for result in pool.map(lambda kernel: _measure(kernel, store, init), kernels):
            _print_row(result)
            yield result


def _measure(kernel: Kernel, store: Store, init: bytes) -> Result:
    result = Result(kernel)
    try:
        place = store.fetch(kernel)
        started = time.monotonic()
        guest = boot(place / "vmlinuz", {"init": init})
        result.seconds = time.monotonic() - started
    except (PackagesUnreachable, GuestFailed) as error:
        result.failure = str(error)
        return result
    result.measured = measurement_of(kernel.series, store.package_of(kernel), guest.console)
    if before := kept(kernel.series):
        result.changed = differences(before, result.measured)
    result.against_model = disagreements(result.measured)
    return result


def _remembered(kernel: Kernel) -> Result:
    result = Result(kernel, measured=kept(kernel.series))
    if result.measured is None:
        result.failure = "nothing was kept"
    else:
        result.against_model = disagreements(result.measured)
    return result


def _replay(result: Result, store: Store, arguments: argparse.Namespace) -> None:
    from replay import replay  # needs the engine, which the probes can do without

    image = store.fetch(result.kernel) / "vmlinuz"
    for kind in arguments.kind or ["base"]:
        try:
            found = replay(image, result.measured, kind, arguments.seed, arguments.sequences)
        except GuestFailed as error:
            result.failure = str(error)
            return
        result.replayed[kind] = [str(each) for each in found]
        print(f"{result.kernel.series}: {kind}: {len(found)} of {arguments.sequences} sequences disagree", flush=True)


def _print_row(result: Result) -> None:
    if result.measured is None:
        print(f"{result.kernel.series:8}not measured")
        return
    count = len(list(result.measured.items()))
    print(
        f"{result.kernel.series:8}{result.measured.release:30}{result.seconds:>8.1f}{count:>8}"
        f"{len(result.changed):>9}{len(result.against_model):>7}",
        flush=True,
    )


def _print_details(result: Result) -> None:
    series = result.kernel.series
    if result.failure:
        print(f"{series}: {result.failure}", file=sys.stderr)
    for name, (before, now) in result.changed.items():
        print(f"{series}: {name}: was {before}, is {now}")
    for name, (expected, found) in result.against_model.items():
        print(f"{series}: {name}: the model says {expected}, the kernel {found}")
    for kind, disagreements_of_kind in result.replayed.items():
        for each in disagreements_of_kind[:_SHOWN]:
            print(f"\n{series}: {kind}:\n{each}")


def _print_steps(kernels: Sequence[Kernel]) -> None:
    known = [measured for kernel in kernels if (measured := kept(kernel.series))]
    for before, after in itertools.pairwise(known):
        print(f"\n{before.series} → {after.series}")
        for name, (was, became) in differences(before, after).items():
            print(f"  {name}: {was} → {became}")


def _exit_code(results: Sequence[Result]) -> int:
    if any(result.failure for result in results):
        return 2
    disagrees = any(result.changed or result.against_model or any(result.replayed.values()) for result in results)
    return 1 if disagrees else 0


if __name__ == "__main__":
    sys.exit(main())
