"""Follow the directories to one page's entry, before and after what is done to it: read, written, given back, huge.

It is done in a child of our own on the live kernel, whose page tables are then read through bpf(2), or in the model,
which writes the same entries; frames aside, the two are held against each other flag by flag.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.abi.page_walk import WalkedEntry, decode_path
from dontneed.errors import KernelLacks
from dontneed.lab.live import LiveProcess
from dontneed.lab.modelled_process import ModelProcess
from dontneed.model.views.walk import walk as walk_model
from dontneed.observe.tables.page_tables import walk
from dontneed.records import Record
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.lab.machine import Machine, Process, Region

_SLOT_PAGES = HUGE_PAGE_BYTES // PAGE_BYTES
_BYTE = 0x5A


class Moment(Record):
    """Something that was done, and the way to the page afterwards.

    Attributes:
        title: what was done, in words.
        code: the same in C.
        address: the page's.
        levels: of tables.
        entries: on the way to it.
    """

    title: str
    code: str
    address: int
    levels: int
    entries: tuple[WalkedEntry, ...]


class BeforeAfter(Record):
    """All moments, in order.

    Attributes:
        machine, kernel: what it was done on, and the release of the kernel there.
        note: how far that kernel is to be believed; empty: it ran.
        moments: what was done and seen.
        skipped: what could not be done here, in sentences.
    """

    machine: str
    kernel: str
    note: str
    moments: tuple[Moment, ...]
    skipped: tuple[str, ...] = ()


def before_after(machine: Machine) -> BeforeAfter:
    """Do it in a fresh process of a machine.

    Raises:
        NotPermitted, KernelLacks: its page tables are not to be read, or it cannot be started.
    """
    skipped = []
    with machine.start() as process:
        moments = list(_small(process))
        try:
            moments += _huge(process)
        except KernelLacks as error:
            skipped.append(str(error))
    kernel = machine.kernel
    return BeforeAfter(machine.name, kernel.release, kernel.note, tuple(moments), tuple(skipped))


def _small(process: Process) -> Iterator[Moment]:
    """What happens to a small page, in a slot of 2 MiB that one page table maps."""
    slot = process.map("p", _SLOT_PAGES)
    page = slot.part("p", 0, 1)
    yield _moment(process, slot, "Map 2 MiB: no table, and no frame", "p = mmap(NULL, 2 << 20, …);")
    process.read(page)
    yield _moment(process, slot, "Read the first page: a table, and the zero page", "sum += p[0];")
    process.write(page, _BYTE)
    yield _moment(process, slot, "Write to it: a frame of its own", "p[0] = 1;")
    process.advise(page, Advice.DONTNEED)
    yield _moment(process, slot, "Give the page back: its entry is empty", "madvise(p, 4096, MADV_DONTNEED);")
    process.write(slot, _BYTE)
    yield _moment(process, slot, "Write to all 512 pages of the table", "memset(p, 'Z', 2 << 20);")
    process.advise(slot, Advice.DONTNEED)
    yield _moment(process, slot, "Give all of them back", "madvise(p, 2 << 20, MADV_DONTNEED);")
    process.unmap(slot)


def _huge(process: Process) -> Iterator[Moment]:
    """What happens to a huge page, and to one that a part of was given back."""
    slot = process.map("h", _SLOT_PAGES, huge=True)
    process.write(slot.part("h", 0, 1), _BYTE)
    title = "Write to one page where huge ones are wanted: all 2 MiB, and no table"
    yield _moment(process, slot, title, "madvise(h, 2 << 20, MADV_HUGEPAGE); h[0] = 1;")
    process.advise(slot.part("h", 1, 1), Advice.DONTNEED)
    title = "Give the second page of it back: it becomes a table, and the first page stays"
    yield _moment(process, slot, title, "madvise(h + 4096, 4096, MADV_DONTNEED);")
    process.advise(slot, Advice.DONTNEED)
    yield _moment(process, slot, "Give all of it back", "madvise(h, 2 << 20, MADV_DONTNEED);")
    process.write(slot.part("h", 0, 1), _BYTE)
    yield _moment(process, slot, "Write to one page again: all 2 MiB again", "h[0] = 1;")
    process.advise(slot, Advice.DONTNEED)
    title = "Give the huge page back whole: it goes in one piece"
    yield _moment(process, slot, title, "madvise(h, 2 << 20, MADV_DONTNEED);")
    process.unmap(slot)


def _moment(process: Process, region: Region, title: str, code: str) -> Moment:
    levels, entries = _entries(process, region.start)
    return Moment(title, code, region.start, levels, entries)


def _entries(process: Process, address: int) -> tuple[int, tuple[WalkedEntry, ...]]:
    """How many levels of tables there are, and the way to an address."""
    if isinstance(process, LiveProcess):
        found = walk(process.pid, address)
        return found.levels, found.entries
    if not isinstance(process, ModelProcess):
        raise KernelLacks("the page tables of this machine are not to be read")
    memory, page = process.memory, address // PAGE_BYTES
    raw = tuple(entry.raw for entry in walk_model(memory, page))
    return memory.table.levels, decode_path(page, raw, memory.table.levels, memory.system.behaviour.version)
