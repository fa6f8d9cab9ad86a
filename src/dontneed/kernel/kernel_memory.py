"""The kernel's own memory, read page by page through programs of bpf(2): page tables, and what tasks say of them.

# What is read, and what is believed

Two small programs are loaded. One finds the task_struct of a process id; the other copies pages of kernel memory, up to
`PAGES_A_CALL` at one system call, into an array that is mapped here. Both only read, by a helper that answers with an
error where nothing is mapped: no address can harm the kernel.

Where things are in a struct comes from the kernel's BTF, by name (`btf`); where physical memory is, by trial
(`direct_map`), on page tables of our own that must lead to the frames that pagemap says. So offsets, levels and direct
map are proven together, on this kernel, before anything is believed; if they are not, nothing is read. The address
found is one of the kernel's secrets and is never written anywhere.

# Whose memory it is

A process is held by its /proc directory, and its task_struct is known by what both say of it (`tasks`). A `Task` then
names the words that change when the process ends or replaces its program; whoever reads pages reads these again, behind
them, in the same call.

# How the programs go

They are descriptors of this process. Nothing is attached or pinned, so whatever ends us ends them.

Kernel:
    PROG_TYPE_SYSCALL since 5.14; kernel/trace/bpf_trace.c bpf_probe_read_kernel(), which lockdown=confidentiality takes
    away even from root.
"""

from __future__ import annotations

import os
import struct
from array import array
from contextlib import ExitStack, contextmanager

from dontneed.abi import bpf as abi
from dontneed.abi.page_entry import FRAME_SHIFT
from dontneed.abi.pagemap import ENTRY_BYTES
from dontneed.errors import DontneedError, KernelLacks
from dontneed.kernel.bpf import R0, R1, R2, R3, R6, R7, R8, R9, Assembler, Program, SharedArray
from dontneed.kernel.btf import read_layout
from dontneed.kernel.closing import Closing
from dontneed.kernel.direct_map import find_direct_map
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.tasks import FUNCTIONS, MEMBERS, TaskFinder
from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dontneed.kernel.pagemap import Words
    from dontneed.kernel.tasks import Task

PAGES_A_CALL = 1024
TABLE_ENTRIES = PAGE_BYTES // ENTRY_BYTES

_WORD = struct.Struct("<Q")
FEW_PAGES = 64
"""Pages a call of what is asked for often; a program for these is loaded in a tenth of the time."""
_FOUR_LEVELS_END = 1 << 48
"""Addresses of user space that end above have five levels of tables."""


class KernelMemory(Closing):
    """The way to the kernel's memory, proven.

    Args:
        anew: look up where things are in the kernel's own description, and not in what was kept of it.

    Attributes:
        levels: of page tables on this machine, 4 or 5.
        base: where the kernel sees the first byte of physical memory; not to be told to anyone.
        zero_frame: the frame of the shared zero page.
    Raises:
        OSError: as bpf(2); or there is no BTF; or frame numbers are hidden from this user.
        KernelLacks: this kernel or processor is not one that we can read.
    """

    __slots__ = ("_held", "_last", "_many", "_some", "_tasks", "base", "levels", "zero_frame")

    def __init__(self, *, anew: bool = False) -> None:
        if os.uname().machine != "x86_64" or PAGE_BYTES != 1 << FRAME_SHIFT:
            raise KernelLacks("page tables are decoded on x86-64 only", hint="`dontneed look` reads pagemap anywhere")
        layout = read_layout(MEMBERS, FUNCTIONS, anew=anew)
        with ExitStack() as held:
            self._held = held
            self._last = self._some = held.enter_context(_Reader(FEW_PAGES))
            self._many: _Reader | None = None
            self._tasks = held.enter_context(TaskFinder(layout, self.read_words))
            with ProcessDirectory() as process:
                own = self.task(process)
            self.levels = 5 if self._tasks.address_space_end(own) > _FOUR_LEVELS_END else 4
            self.base, self.zero_frame = find_direct_map(self, own.root)
            self._held = held.pop_all()

    def close(self) -> None:
        """Unload the programs."""
        self._held.close()

    def task(self, process: ProcessDirectory) -> Task:
        """The task of a process.

        Raises:
            ProcessGone: it has ended.
            NoAddressSpace: it has no memory of its own: a kernel thread.
            NotPermitted: /proc does not say where its memory lies.
            KernelLacks: it is not among the tasks of this kernel.
        """
        return self._tasks.find(process)

    def everyone(self) -> list[Task]:
        """Every process of the machine that has memory of its own, those too that /proc does not show to us.

        Their numbers are 0: only /proc gives them those that we know.

        Raises:
            DontneedError: the list changed while it was read; try again.
        """
        return self._tasks.everyone()

    def read(self, addresses: Sequence[int]) -> list[int]:
        """Read whole pages, in this order; `word` then says what is in them, until the next call.

        Args:
            addresses: of the kernel, page-aligned, at most `PAGES_A_CALL`.
        Returns:
            Which of them could not be read, by their places.
        Raises:
            OSError: as bpf(2).
        """
        self._last = self._some if len(addresses) <= FEW_PAGES else self._for_many()
        return self._last.read(addresses)

    def word(self, place: int, address: int) -> int:
        """The word at `address`, whose page was the one at `place` of the last call of `read`."""
        word: int = _WORD.unpack_from(self._last.pages, place * PAGE_BYTES + address % PAGE_BYTES)[0]
        return word

    def pages(self, first: int, last: int) -> memoryview:
        """What is in the pages at some places of the last call of `read`; the next call writes over it."""
        return memoryview(self._last.pages)[first * PAGE_BYTES : last * PAGE_BYTES]

    def read_words(self, addresses: Sequence[int]) -> list[int]:
        """Words of 64 bits, anywhere.

        Raises:
            DontneedError: one is at an address where nothing is mapped.
        """
        if self.read([address & -PAGE_BYTES for address in addresses]):
            raise DontneedError("kernel memory went away while it was read", hint="try again")
        return [self.word(place, address) for place, address in enumerate(addresses)]

    def read_array(self, addresses: Words) -> tuple[Words, Words]:
        """Read whole pages as `read` does, for arrays.

        Args:
            addresses: uint64, page-aligned, at most `PAGES_A_CALL`.
        Returns:
            A row of 512 words for each, where the next call will write; and 0 for each, or else why it was not read.
        """
        return (self._some if len(addresses) <= FEW_PAGES else self._for_many()).read_array(addresses)

    def _for_many(self) -> _Reader:
        """The reader for `PAGES_A_CALL` pages, from when it is first needed: the verifier takes its time for it."""
        if self._many is None:
            self._many = self._held.enter_context(_Reader(PAGES_A_CALL))
        return self._many


class _Reader(Closing):
    """A program that copies pages, and what it shares with us.

    Attributes:
        pages: what was read, one page behind the other.
    """

    __slots__ = ("_answers", "_held", "_program", "_requests", "pages")

    def __init__(self, most_pages: int) -> None:
        with ExitStack() as held:
            requests = held.enter_context(SharedArray((1 + most_pages) * _WORD.size))
            self._requests = requests.memory
            self._answers = held.enter_context(memoryview(requests.memory).cast("Q"))
            pages = held.enter_context(SharedArray(most_pages * PAGE_BYTES))
            self.pages = pages.memory
            self._program = held.enter_context(Program("dontneed_read", _reading(requests, pages, most_pages)))
            self._held = held.pop_all()

    def close(self) -> None:
        """Unload it."""
        self._held.close()

    def read(self, addresses: Sequence[int]) -> list[int]:
        """Read pages; the places of those that cannot be read."""
        answers, count = self._answers, len(addresses)
        answers[0] = count
        answers[1 : count + 1] = array("Q", addresses)
        (self._program.run_held if count <= FEW_PAGES else self._program.run)()
        given = answers[1 : count + 1].tolist()
        return [place for place, answer in enumerate(given) if answer] if any(given) else []

    def read_array(self, addresses: Words) -> tuple[Words, Words]:
        """Read pages, for arrays."""
        import numpy as np

        requests = np.frombuffer(self._requests, np.uint64)
        requests[0] = len(addresses)
        requests[1 : 1 + len(addresses)] = addresses
        self._program.run()
        pages = np.frombuffer(self.pages, np.uint64).reshape(-1, TABLE_ENTRIES)
        return pages[: len(addresses)], requests[1 : 1 + len(addresses)].copy()


def _reading(requests: SharedArray, pages: SharedArray, most_pages: int) -> Assembler:
    """The program that copies pages: requests are a count and addresses, and each address becomes an errno or 0."""
    code = Assembler()
    code.map_value(R6, requests)
    code.map_value(R8, pages)
    code.move(R7, 0)
    code.label("next")
    code.jump_if_at_least(R7, most_pages, "done")
    code.load(R1, R6, 0)
    code.jump_if_at_least(R7, R1, "done")
    code.move(R9, R7)
    code.shift_left(R9, 3)
    code.add(R9, R6)
    code.load(R3, R9, _WORD.size)
    code.move(R1, R7)
    code.shift_left(R1, FRAME_SHIFT)
    code.add(R1, R8)
    code.move(R2, PAGE_BYTES)
    code.call(abi.PROBE_READ_KERNEL)
    code.store(R9, _WORD.size, R0)
    code.add(R7, 1)
    code.jump("next")
    code.label("done")
    code.exit(0)
    return code


# A way for everybody in this process

_idle: list[KernelMemory] = []
"""Set up, and used by nobody now; one at most, since each has 4 MiB."""


@contextmanager
def kernel_memory() -> Iterator[KernelMemory]:
    """The way to the kernel's memory, for the time of a `with` block and for this user of it alone.

    One is kept for the next block, so that only the first sets it up.

    Raises:
        NotPermitted, KernelLacks: it cannot be had; the message says why, and the hint how.
    """
    memory = _idle.pop() if _idle else open_kernel_memory()
    try:
        yield memory
    finally:
        if _idle:
            memory.close()
        else:
            _idle.append(memory)


def is_kernel_memory_open() -> bool:
    """Whether there is a way that was used before and is kept."""
    return bool(_idle)


def open_kernel_memory() -> KernelMemory:
    """A way of one's own; the caller closes it.

    Raises:
        NotPermitted, KernelLacks: as `kernel_memory`.
    """
    try:
        return KernelMemory()
    except (
        DontneedError
    ) as doubt:  # what was kept of this kernel may be wrong; of a kernel that cannot be read it is not
        first = doubt
    except OSError as refusal:
        raise _explained(refusal) from None
    try:
        return KernelMemory(anew=True)
    except OSError:  # it has been let in a moment ago
        raise first from None


def _explained(refusal: OSError) -> DontneedError:
    """Why there is no way, by the first feature that is missing on it."""
    from dontneed.kernel.features import why_missing

    missing = why_missing(("bpf", "BTF", "kernel memory", "frame numbers"), "page tables cannot be read")
    if missing is not None:
        return missing
    msg = f"page tables cannot be read: {refusal}"
    return KernelLacks(msg, hint="please report it, with what `dontneed doctor` says")


def _forget() -> None:
    """In a forked child: what lies in the arrays is the parent's, and so are the programs."""
    while _idle:
        _idle.pop().close()


os.register_at_fork(after_in_child=_forget)
