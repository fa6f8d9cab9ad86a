"""The zoo, and how to hold `look` against another tool of the same moment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ZOO = Path(__file__).parent / "zoo.py"
NR_HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
ZRAM_CONTROL = Path("/sys/class/zram-control")

HUGE_PAGES_OF_THE_ZOO = 4
SWAP_BYTES = 64 << 20
ATTEMPTS = 50
"""To find a moment in which nothing moves; a child at rest needs one, a loaded machine a few."""

Told = TypeVar("Told")
Seen = TypeVar("Seen")


@pytest.fixture
def at_one_moment() -> Callable[[Callable[[], Told], Callable[[], Seen]], tuple[Told, Seen]]:
    """Read an oracle, then `look`, then the oracle again, until the oracle says the same twice.

    Then nothing that the oracle tells has changed in between, and what `look` saw is of that moment. A child at rest
    does not move, but the machine moves under it: dirty files are written back, khugepaged and reclaim walk by.
    """

    def read(oracle: Callable[[], Told], subject: Callable[[], Seen]) -> tuple[Told, Seen]:
        for _ in range(ATTEMPTS):
            told = oracle()
            seen = subject()
            if oracle() == told:
                return told, seen
        pytest.fail(f"the child did not stand still for {ATTEMPTS} looks")

    return read


@pytest.fixture
def agreed() -> Callable[[Callable[[], Told], Callable[[], Told]], Told]:
    """Read an oracle and `look_all`, until both say the same; a failure if they never do.

    For what depends on all processes of the machine: whoever starts or ends takes part in the shares of the others.
    """

    def read(oracle: Callable[[], Told], subject: Callable[[], Told]) -> Told:
        for _ in range(ATTEMPTS):
            told, seen = oracle(), subject()
            if seen == told:
                break
        assert seen == told
        return seen

    return read


@pytest.fixture(scope="module")
def huge_page_pool() -> Iterator[None]:
    """Huge pages for hugetlb, as long as these tests run, where we may have them."""
    if not os.access(NR_HUGEPAGES, os.W_OK):
        yield
        return
    _enlarge_pool(HUGE_PAGES_OF_THE_ZOO)
    yield
    _enlarge_pool(-HUGE_PAGES_OF_THE_ZOO)


def _enlarge_pool(pages: int) -> None:
    """By a difference, so that others who do the same at the same time get back what was there before us all."""
    NR_HUGEPAGES.write_text(str(int(NR_HUGEPAGES.read_text()) + pages))


@pytest.fixture(scope="module")
def swap_space() -> Iterator[None]:
    """Swap on compressed memory, on a device of its own, as long as these tests run; a skip by name without."""
    if not os.access(ZRAM_CONTROL / "hot_add", os.R_OK):
        missing("swap on zram")
    number = (ZRAM_CONTROL / "hot_add").read_text().strip()
    device = Path(f"/dev/zram{number}")
    settings = Path(f"/sys/block/zram{number}")
    try:
        (settings / "disksize").write_text(str(SWAP_BYTES))
        subprocess.run(["mkswap", device], check=True, capture_output=True)
        subprocess.run(["swapon", "--priority", "100", device], check=True, capture_output=True)
        yield
        subprocess.run(["swapoff", device], check=True, capture_output=True)
    finally:
        (settings / "reset").write_text("1")
        (ZRAM_CONTROL / "hot_remove").write_text(number)


def missing(what: str) -> None:
    """Skip by name; or fail, where the machine is promised to have everything."""
    (pytest.fail if os.environ.get("DONTNEED_REQUIRE_ALL") == "1" else pytest.skip)(f"needs {what}")


class Zoo:
    """A quiet child with one of every kind of memory.

    Attributes:
        pid: its process id.
    """

    def __init__(self, pid: int, said: list[str]) -> None:
        lines = [line.split(None, 2) for line in said]
        self.pid = pid
        self._missing = {name: why for state, name, why in lines if state == "missing"}
        self._places = {name: (int(start), int(end)) for name, start, end in lines if name != "missing"}

    def start_of(self, animal: str) -> int:
        """Where an animal begins; a skip by name where this machine cannot keep it."""
        if animal in self._missing:
            pytest.skip(f"needs a mapping of kind {animal!r}: {self._missing[animal]}")
        return self._places[animal][0]

    def animal_at(self, address: int) -> str:
        """Whose address it is; empty between the animals, and in Python's own memory."""
        found = (name for name, (start, end) in self._places.items() if start <= address < end)
        return next(found, "")


@pytest.fixture
def zoo(child, huge_page_pool, tmp_path, monkeypatch) -> Zoo:  # noqa: ARG001 - the pool is there while we are
    """The zoo, open; one visitor each."""
    monkeypatch.setenv("ZOO_DIRECTORY", str(tmp_path))
    started = child(f"exec(open({str(ZOO)!r}).read())")
    return Zoo(started.pid, started.said)


@pytest.fixture
def crowd(child) -> int:
    """The pid of a child with 20,000 mappings, every second one of them touched."""
    return child(
        """if True:
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        held = mmap.mmap(-1, 20_000 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(held))
        for page in range(0, 20_000, 2):
            held[page * 4096] = 1
            libc.mprotect(start + page * 4096, 4096, mmap.PROT_READ)
        """
    ).pid
