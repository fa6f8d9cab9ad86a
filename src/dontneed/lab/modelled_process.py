"""A process of the modelled machine: the words of the lab, as system calls of a `model.Process`.

Regions are placed and fenced off as those of the live machine are (`lab/child.py`): within a reservation without access
that begins and ends with a whole slot of a page table.
"""

from __future__ import annotations

from errno import ENOSYS, errorcode

from dontneed.abi.advice import Advice
from dontneed.abi.page_table import SLOT_BYTES
from dontneed.errors import DontneedError, KernelLacks, ProcessGone, UsageError
from dontneed.lab.machine import (
    HUGETLB,
    KINDS,
    PRIVATE_ANONYMOUS,
    PRIVATE_FILE,
    SHARED_ANONYMOUS,
    SHARED_FILE,
    Faults,
    File,
    Reading,
    Region,
    Thread,
)
from dontneed.model.calls import remap
from dontneed.model.paging import collapse
from dontneed.model.process import PAGE_BYTES, Process
from dontneed.model.program import libc
from dontneed.model.program.nptl import Stack, Stacks
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import HUGE, LEAF_PAGES
from dontneed.model.space.mm import PAGE_SHIFT
from dontneed.model.views import pagemap, procfs
from dontneed.units import round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.abi.advice import PosixAdvice
    from dontneed.lab.modelled import ModelMachine
    from dontneed.model.memory import page_cache
    from dontneed.model.space.mm import Mm

_SHARED_KINDS = (SHARED_ANONYMOUS, SHARED_FILE)
_FILE_KINDS = (PRIVATE_FILE, SHARED_FILE)
_FIRST_DESCRIPTOR = 3


class ModelProcess:
    """A process of a modelled machine, whose words are those of `machine.Process`."""

    def __init__(self, machine: ModelMachine, process: Process, parent: ModelProcess | None = None) -> None:
        self.machine = machine
        self._process = process
        self._libc = libc.libc_at(machine.libc)
        self._regions: dict[int, tuple[int, int, int]] = {}
        self._files: dict[int, page_cache.File] = {}
        self._stacks = Stacks(process.mm, self._libc)
        self._threads: dict[int, Stack] = {}
        self._ended = False
        if parent is not None:
            self._regions.update(parent._regions)  # noqa: SLF001 - a process of this kind
            self._files.update(parent._files)  # noqa: SLF001
            self._stacks = parent._stacks.forked(process.mm)  # noqa: SLF001

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def memory(self) -> Mm:
        """The model's own view of its memory."""
        return self._process.mm

    # Memory

    def map(
        self,
        name: str,
        pages: int,
        *,
        kind: str = PRIVATE_ANONYMOUS,
        file: File | None = None,
        protection: str = "rw",
        huge: bool = False,
    ) -> Region:
        """Map fresh memory between fences."""
        _check_kind(kind, file)
        if huge and not self.machine.system.behaviour.huge_pages:
            msg = f"Linux {self.machine.name} has no transparent huge pages"
            raise KernelLacks(msg, hint="they came with 2.6.38")
        size_bytes = pages * PAGE_BYTES
        start = self._reserve(size_bytes)
        answer = self._process.mmap(
            size_bytes,
            _access(protection),
            address=start,
            shared=kind in _SHARED_KINDS,
            file=self._files[file.descriptor] if file else None,
            flags=vm.HUGETLB if kind == HUGETLB else 0,
        )
        if answer < 0:
            self._release(start)
            raise _refused("mmap", -answer)
        if kind != HUGETLB:  # refused by kernels without huge pages, where small ones are all there is
            self._process.madvise(start, size_bytes, int(Advice.HUGEPAGE if huge else Advice.NOHUGEPAGE))
        return Region(name, start, size_bytes)

    def unmap(self, region: Region) -> int:
        """munmap(2); the fences go with a whole region."""
        refused = self._process.munmap(region.start, region.size_bytes)
        if not refused and self._regions.get(region.start, (0, 0, 0))[0] == region.size_bytes:
            self._release(region.start)
        return refused

    def protect(self, region: Region, protection: str) -> int:
        """mprotect(2)."""
        return self._process.mprotect(region.start, region.size_bytes, _access(protection))

    def remap(self, region: Region, pages: int) -> Region:
        """mremap(2), to between new fences unless the region shrinks."""
        size_bytes = pages * PAGE_BYTES
        shrinks = size_bytes < region.size_bytes
        start = region.start if shrinks else self._reserve(size_bytes)
        flags = 0 if shrinks else remap.MAY_MOVE | remap.FIXED
        answer = self._process.mremap(region.start, region.size_bytes, size_bytes, flags=flags, new_address=start)
        if answer < 0:
            if not shrinks:
                self._release(start)
            raise _refused("mremap", -answer)
        if not shrinks:
            self._release(region.start)
        return Region(region.name, start, size_bytes)

    def seal(self, region: Region) -> int:
        """mseal(2)."""
        refused = self._process.mseal(region.start, region.size_bytes)
        if refused == ENOSYS:
            msg = f"Linux {self.machine.name} does not seal memory"
            raise KernelLacks(msg, hint="mseal came with 6.10")
        return refused

    def lock(self, region: Region) -> int:
        """mlock(2)."""
        return self._process.mlock(region.start, region.size_bytes)

    def unlock(self, region: Region) -> int:
        """munlock(2)."""
        return self._process.munlock(region.start, region.size_bytes)

    def advise(self, region: Region, advice: Advice) -> int:
        """madvise(2)."""
        return self._process.madvise(region.start, region.size_bytes, int(advice))

    def advise_vector(self, regions: Sequence[Region], advice: Advice) -> int:
        """process_madvise(2)."""
        result = self._process.process_madvise([(each.start, each.size_bytes) for each in regions], int(advice))
        if result == -ENOSYS:
            msg = f"Linux {self.machine.name} has no process_madvise"
            raise KernelLacks(msg, hint="it came with 5.10")
        return result

    def posix_advise(self, region: Region, advice: PosixAdvice) -> int:
        """posix_madvise(3), as this machine's C library has it."""
        return libc.posix_madvise(self.memory, self._libc, region.start, region.size_bytes, int(advice))

    # Contents

    def write(self, region: Region, byte: int) -> Faults:
        """Fill every page with a byte."""
        before = self._faults()
        self._survive(self._process.write(region.start, region.size_bytes, byte))
        return self._faults_since(before)

    def read(self, region: Region) -> Reading:
        """Read every page."""
        before = self._faults()
        found = self._process.read(region.start, region.size_bytes)
        if isinstance(found, int):
            self._survive(-found)
            found = frozenset()
        return Reading(tuple(sorted(found)), self._faults_since(before))

    def touch(self, region: Region, *, write: bool = False) -> int:
        """Touch every page up to one that cannot be; contents stay, for a page of the model holds one byte value."""
        return self._process.touch(region.start, region.size_bytes, write=write)

    # Files

    def create_file(self, name: str, pages: int, byte: int, *, in_memory: bool = False) -> File:
        """A file of the model."""
        descriptor = max(self._files, default=_FIRST_DESCRIPTOR - 1) + 1
        self._files[descriptor] = self.machine.new_file(pages, byte, in_memory=in_memory)
        return File(name, descriptor, pages * PAGE_BYTES, in_memory)

    def file_bytes(self, file: File) -> tuple[int, ...]:
        """What its pages are filled with."""
        modelled = self._files[file.descriptor]
        return tuple(sorted({modelled.read(page) for page in range(modelled.pages)}))

    def cached_pages(self, file: File) -> int:
        """How many have a frame."""
        return len(self._files[file.descriptor].cache)

    # Threads

    def start_thread(self, name: str, stack_pages: int) -> Thread:
        """A thread, as far as memory is concerned: its stack."""
        refused, stack = self._stacks.create(stack_pages * PAGE_BYTES)
        if stack is None:
            raise _refused("pthread_create", refused)
        handle = stack.last << PAGE_SHIFT
        self._threads[handle] = stack
        self._process.threads += 1
        start = stack.usable_first << PAGE_SHIFT
        return Thread(name, handle, Region(f"{name}_stack", start, handle - start), stack.guard_pages * PAGE_BYTES)

    def use_stack(self, thread: Thread, pages: int) -> None:
        """Write to its uppermost pages."""
        self._survive(self._stacks.use(self._threads[thread.handle], pages))

    def end_thread(self, thread: Thread) -> None:
        """What the C library does with the stack of a thread that ends."""
        self._stacks.end(self._threads.pop(thread.handle))
        self._process.threads -= 1

    # The process itself

    def fork(self) -> ModelProcess:
        """A child."""
        return self.machine.adopt(self._process.fork(), self)

    def smaps(self) -> bytes:
        """/proc/PID/smaps."""
        return procfs.smaps(self._process)

    def status(self) -> bytes:
        """/proc/PID/status."""
        return procfs.status(self._process)

    def pagemap(self, region: Region) -> bytes:
        """The entries of /proc/PID/pagemap."""
        return pagemap.pagemap(self.memory, region.start >> PAGE_SHIFT, region.end >> PAGE_SHIFT)

    def end(self) -> None:
        """Give the memory back."""
        if not self._ended:
            self._ended = True
            self._process.exit()
            self.machine.forget(self)

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def scan_for_huge_pages(self, region: Region) -> bool:
        """Let khugepaged scan a region once; whether every whole huge page of it is one then."""
        first, last = region.start >> PAGE_SHIFT, region.end >> PAGE_SHIFT
        collapse.khugepaged(self.memory, first, last)
        whole = range(-(-first // LEAF_PAGES) * LEAF_PAGES, last // LEAF_PAGES * LEAF_PAGES, LEAF_PAGES)
        return all(self.memory.table.get(page)[0] & HUGE for page in whole)

    # Places

    def _reserve(self, size_bytes: int) -> int:
        """Where a region of this length can be mapped, between fences."""
        reserved = round_up(size_bytes, SLOT_BYTES) + 3 * SLOT_BYTES
        base = self._process.mmap(reserved, 0, flags=vm.NO_RESERVE)
        if base < 0:
            raise _refused("mmap", -base)
        start = round_up(base, SLOT_BYTES) + SLOT_BYTES
        self._regions[start] = size_bytes, base, reserved
        return start

    def _release(self, start: int) -> None:
        """Unmap a region that was moved or unmapped, which leaves its fences to unmap."""
        if start in self._regions:
            _, base, reserved = self._regions.pop(start)
            self._process.munmap(base, reserved)

    # What became of a word

    def _faults(self) -> tuple[int, int]:
        return self.memory.minor_faults, self.memory.major_faults

    def _faults_since(self, before: tuple[int, int]) -> Faults:
        minor, major = self._faults()
        return Faults(minor - before[0], major - before[1])

    def _survive(self, signal: int) -> None:
        """End the process if it was sent a signal, as it would."""
        if signal:
            self.end()
            msg = f"the modelled process ended by signal {signal}"
            raise ProcessGone(msg)


def _check_kind(kind: str, file: File | None) -> None:
    if kind not in KINDS:
        msg = f"the model maps no {kind} memory"
        raise KernelLacks(msg, hint=f"it maps {', '.join(KINDS)}")
    if (file is not None) != (kind in _FILE_KINDS):
        msg = f"{kind} memory is mapped {'without a' if file is None else 'of a'} file"
        raise UsageError(msg)


def _access(protection: str) -> int:
    return (vm.READ if "r" in protection else 0) | (vm.WRITE if "w" in protection else 0)


def _refused(call: str, number: int) -> DontneedError:
    return DontneedError(f"the modelled process was refused: {call}: {errorcode.get(number, number)}")
