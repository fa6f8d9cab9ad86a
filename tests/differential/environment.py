"""What a kind of sequence needs of the machine: set up for its time, and put back.

Everything here needs root. A need that cannot be met is a `Missing`, which says by name what. The locks are those of
the lab, which changes the same settings.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dontneed.errors import DontneedError
from dontneed.kernel.settings import held_lock
from dontneed.lab.keeper import kept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from differential.generate import Kind

ZRAM_CONTROL = Path("/sys/class/zram-control")
PAGE_CLUSTER = Path("/proc/sys/vm/page-cluster")
SWAPS = "/proc/swaps"
"""Whose lock keeps those apart who change what swap there is."""

SWAP_BYTES = 64 << 20
POOL_PAGES = 40
"""Enough for two executors at once, each with a few processes that copied what they wrote to."""


class Missing(Exception):
    """This machine, or this user's rights, lack something that a kind of sequence needs."""


@contextmanager
def environment(kind: Kind) -> Iterator[None]:
    """Give a kind all that it needs.

    Raises:
        Missing: something cannot be had.
    """
    with ExitStack() as stack:
        try:
            for need in kind.needs:
                stack.enter_context(_PROVIDERS[need]())
        except (OSError, subprocess.CalledProcessError, DontneedError) as error:
            msg = f"{kind.name} sequences need {' and '.join(kind.needs)}: {error}"
            raise Missing(msg) from error
        yield


@contextmanager
def _swap() -> Iterator[None]:
    """Swap on compressed memory, on a device of its own; without reading ahead, so that each page comes alone."""
    with ExitStack() as stack:
        stack.enter_context(held_lock(SWAPS))
        number = (ZRAM_CONTROL / "hot_add").read_text().strip()
        device, settings = Path(f"/dev/zram{number}"), Path(f"/sys/block/zram{number}")
        stack.callback((ZRAM_CONTROL / "hot_remove").write_text, number)
        stack.callback((settings / "reset").write_text, "1")
        (settings / "disksize").write_text(str(SWAP_BYTES))
        stack.enter_context(_setting(PAGE_CLUSTER, "0"))
        subprocess.run(["mkswap", device], check=True, capture_output=True)
        subprocess.run(["swapon", "--priority", "100", device], check=True, capture_output=True)
        stack.callback(subprocess.run, ["swapoff", device], check=True, capture_output=True)
        yield


@contextmanager
def _setting(path: Path, value: str) -> Iterator[None]:
    before = path.read_text()
    path.write_text(value)
    try:
        yield
    finally:
        with suppress(OSError):
            path.write_text(before)


_PROVIDERS = {"swap": _swap, "hugetlb": lambda: kept("hugetlb", POOL_PAGES)}
