"""The guest, in the model: memory to try things on, and what the kernel tells of it, in the words of guest/probe.h."""

from __future__ import annotations

import errno
import re
from array import array
from typing import TYPE_CHECKING

from dontneed.model.process import Process
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import KIND, SHMEM, ZERO
from dontneed.model.space.mm import PAGE_SHIFT
from dontneed.model.system import System
from dontneed.model.views import procfs
from dontneed.model.views.pagemap import pagemap

if TYPE_CHECKING:
    from dontneed.abi.advice import Advice
    from dontneed.model.memory.page_cache import File
    from dontneed.model.versions import Behaviour

PAGE = 4096
HUGE = 2 << 20
GIB = 1 << 30
READ = vm.READ
RW = vm.READ | vm.WRITE

FILE_BIT, SWAP_BIT, PRESENT_BIT, EXCLUSIVE_BIT, GUARD_BIT = 61, 62, 63, 56, 58


class ModelGuest:
    """One process on a modelled kernel."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.system = System(behaviour)
        self.system.huge_pool = 8
        self.process = Process(self.system)
        self._next_room = 1 << 40

    # Memory

    def room(self, size: int) -> int:
        """Where nothing is mapped, nor beside it; 1 GiB begins there."""
        start = self._next_room
        self._next_room += -(-size // GIB) * GIB + GIB
        return start

    def map(self, size: int, access: int = RW, **how: object) -> int:
        """A mapping with nothing beside it that it could merge with."""
        return self.map_at(self.room(size), size, access, **how)

    def map_at(self, address: int, size: int, access: int = RW, **how: object) -> int:
        """A mapping at an address, whatever is there."""
        got = self.process.mmap(size, access, address=address, **how)
        assert got == address, f"mmap: {outcome(-got)}"
        return got

    def touched(self, pages: int) -> int:
        """Private anonymous pages, all written to."""
        start = self.map(pages * PAGE)
        self.store(start, pages)
        return start

    def five(self, middle: str = "") -> int:
        """Five pages, all written to; the middle one `locked`, or a `hole`."""
        start = self.touched(5)
        if middle == "locked":
            self.process.mlock(start + 2 * PAGE, PAGE)
        if middle == "hole":
            self.process.munmap(start + 2 * PAGE, PAGE)
        return start

    def warm_room(self) -> int:
        """A GiB whose upper tables are there, as is the table of its first 2 MiB."""
        start = self.map(GIB, flags=vm.NO_RESERVE)
        self.store(start)
        return start

    def new_file(self, pages: int) -> File:
        """A file in memory whose pages are all there."""
        return self.system.new_file("/memfd:probe (deleted)", pages, kind=SHMEM, byte=ord("f"))

    def map_file(self, pages: int, *, shared: bool, access: int = RW) -> int:
        """A mapping of such a file."""
        return self.map(pages * PAGE, access, shared=shared, file=self.new_file(pages))

    def store(self, address: int, pages: int = 1, byte: int = 7) -> int:
        """Write to each of the pages; the signal that ends this, or 0."""
        return self.process.write(address, pages * PAGE, byte)

    def load(self, address: int) -> int:
        """Read a byte; minus the signal."""
        got = self.process.read(address, PAGE)
        return got if isinstance(got, int) else next(iter(got))

    def advise(self, address: int, size: int, advice: int) -> str:
        """What madvise answers."""
        return outcome(self.process.madvise(address, size, int(advice)))

    def advised(self, start: int, pages: int, advice: Advice) -> str:
        """The same, and what the pages are then."""
        return f"{self.advise(start, pages * PAGE, advice)} {self.letters(start, pages)}"

    # What is told of it

    def entries(self, address: int, pages: int = 1) -> array[int]:
        """Entries of /proc/PID/pagemap."""
        first = address >> PAGE_SHIFT
        return array("Q", pagemap(self.process.mm, first, first + pages))

    def letters(self, address: int, pages: int) -> str:
        """One letter a page, as in guest/probe.h."""
        first = address >> PAGE_SHIFT
        kinds = [self.process.mm.table.get(page)[0] & KIND for page in range(first, first + pages)]
        return "".join(map(_letter, self.entries(address, pages), kinds))

    def mappings(self, address: int, size: int) -> int:
        """How many mappings the range meets."""
        return len(self.process.mm.vmas.within(address >> PAGE_SHIFT, (address + size) >> PAGE_SHIFT))

    def status_kib(self, key: str) -> int:
        """A line of status; -1 where there is none."""
        return _kib(procfs.status(self.process).decode(), key)

    def smaps_kib(self, address: int, key: str) -> int:
        """A line of the mapping in smaps; -1 where there is none."""
        return _kib(self._smaps(address), key)

    def smaps_flags(self, address: int) -> str:
        """The mapping's VmFlags."""
        found = re.search(r"^VmFlags: (.*?) *$", self._smaps(address), re.MULTILINE)
        return found[1] if found else "none"

    def status_keys(self) -> str:
        """The keys of all lines, in order."""
        return _keys(procfs.status(self.process).decode())

    def smaps_keys(self) -> str:
        """The keys of the lines of the first mapping."""
        return _keys(self._smaps_blocks()[0].partition("\n")[2])

    def _smaps(self, address: int) -> str:
        for block in self._smaps_blocks():
            start, end = (int(number, 16) for number in block.split(" ", 1)[0].split("-"))
            if start <= address < end:
                return block
        return ""

    def _smaps_blocks(self) -> list[str]:
        return re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", procfs.smaps(self.process).decode(errors="replace"))

    # Another process

    def fork(self) -> ModelGuest:
        """A guest that sees the forked child."""
        child = object.__new__(ModelGuest)
        vars(child).update(vars(self), process=self.process.fork())
        return child


def outcome(error: int) -> str:
    """The name of an error; `ok` for none."""
    return errno.errorcode.get(error, f"E{error}").replace("ENOTSUP", "EOPNOTSUPP") if error else "ok"


def answer_of(result: int) -> str:
    """The same of a call that returns a number, or a negative errno."""
    return outcome(-result if result < 0 else 0)


def _letter(entry: int, kind: int) -> str:
    if entry >> SWAP_BIT & 1:
        return "G" if entry >> GUARD_BIT & 1 else "S"
    if not entry >> PRESENT_BIT & 1:
        return "-"
    if kind == ZERO:
        return "Z"
    if entry >> FILE_BIT & 1:
        return "F"
    return "X" if entry >> EXCLUSIVE_BIT & 1 else "P"


def _kib(text: str, key: str) -> int:
    found = re.search(rf"^{key}:\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else -1


def _keys(text: str) -> str:
    return " ".join(line.partition(":")[0] for line in text.splitlines())
