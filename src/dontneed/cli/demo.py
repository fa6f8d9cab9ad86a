"""The story so far, on this machine, in under half a minute.

A Python process that holds memory is started and looked at. Then the experiment that this project grew from runs on the
live kernel: map 4 MiB, touch them, pmap, madvise(MADV_DONTNEED), pmap. Last, a 1 GiB numpy array is discarded, and the
receipt says what became of every frame.
"""

from __future__ import annotations

import os
import subprocess
import sys

from dontneed.units import GIB, MIB, format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable

    from dontneed.observe.address_space import AddressSpace
    from dontneed.reclaim.receipt import Receipt
    from dontneed.report.transcript import Run

_TOP = 6
_LARGEST_SHARE = 4
"""The array takes no more than a quarter of what is available."""

_HOLDER = """
import json, sys
cache = [json.loads('{"user": %d, "tags": ["a", "b", "c"], "score": 0.5}' % number) for number in range(200_000)]
blob = bytearray(64 << 20)
blob[:] = b"x" * len(blob)
print("ready", flush=True)
sys.stdin.read()
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed demo`."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the look, the experiment and the receipt, for programs")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed demo`; the exit code."""
    if arguments.show_code:
        _tell([_CODE])
        return 0
    if arguments.json:
        return _as_json()
    return _as_story()


def _as_story() -> int:
    _chapter(1, "A process that holds memory", "dontneed look PID")
    _tell(_indented(_look_lines(_look_at_holder())))
    _chapter(2, "The seed's experiment, on the live kernel", "dontneed lab run anonymous")
    outcome = _experiment()
    from dontneed.report.transcript import format_run

    _tell(_indented(format_run(outcome, ascii_only=not _unicode())))
    size = _array_bytes()
    _chapter(3, f"Give up {format_bytes(size)} of numpy array, with a receipt", "dontneed.discard(array)")
    receipt = _discard_array(size)
    from dontneed.report.text import format_receipt

    _tell(_indented(format_receipt(receipt)))
    _tell(["", _closing(receipt)])
    return 0 if outcome.passed or outcome.skipped else 1


def _as_json() -> int:
    from dontneed.report.json import address_space_document, format_json
    from dontneed.report.transcript import run_document

    space, outcome = _look_at_holder(), _experiment()
    receipt = _discard_array(_array_bytes())
    document = {
        "look": address_space_document(space, space.mappings),
        "experiment": run_document(outcome),
        "receipt": receipt,
    }
    _tell([format_json(document)])
    return 0 if outcome.passed or outcome.skipped else 1


def _look_at_holder() -> AddressSpace:
    """Start a process of our own, look at it, end it."""
    from dontneed.observe.address_space import look

    command = [sys.executable, "-c", _HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:  # noqa: S603 - our own code
        try:
            if holder.stdout is not None:
                holder.stdout.readline()
            return look(holder.pid)
        finally:
            if holder.stdin is not None:
                holder.stdin.close()


def _look_lines(space: AddressSpace) -> list[str]:
    from dontneed.report.text import format_address_space

    return format_address_space(space, top=_TOP)


def _experiment() -> Run:
    from dontneed.lab.catalogue import experiment_named, machine_named, run_experiment

    return run_experiment(experiment_named("anonymous"), machine_named("live"))


def _array_bytes() -> int:
    """1 GiB, or less on a machine that has not four times as much to spare."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(16 * MIB, min(GIB, available // _LARGEST_SHARE // MIB * MIB))


def _discard_array(size: int) -> Receipt:
    import numpy as np

    from dontneed.reclaim.discard import discard

    return discard(np.ones(size, np.uint8))


def _closing(receipt: Receipt) -> str:
    if receipt.evidence == "frames":
        return f"{format_bytes(receipt.freed)} came back to the system, proven frame by frame."
    return f"At most {format_bytes(receipt.freed)} came back: as root, every frame would be looked up."


def _chapter(number: int, title: str, call: str) -> None:
    rule = "─" if _unicode() else "-"
    _tell(["", f"{number}. {title}", rule * 72, f"   {call}", ""][number == 1 :])


def _unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"   {line}".rstrip() for line in lines]


def _tell(lines: Iterable[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


_CODE = """\
import dontneed
import numpy as np
from dontneed.lab.catalogue import experiment_named, machine_named, run_experiment

print(dontneed.look().total)
print(run_experiment(experiment_named("anonymous"), machine_named("live")).claims)
print(dontneed.discard(np.ones(1 << 30, np.uint8)))"""
