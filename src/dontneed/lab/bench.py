"""The bench that an experiment works at: its process, its words, and the transcript that they write by themselves.

An experiment says what to do, when to look, and what it claims; the bench keeps the calls since the last look, takes
the snapshot, and makes a step of both. So no transcript can say anything but what was done.

A fork gives a bench of its own to the child. Both write into one transcript, where the child's calls bear its name.
"""

from __future__ import annotations

from contextlib import contextmanager

from dontneed.errors import KernelLacks
from dontneed.kernel.smaps import parse_smaps
from dontneed.lab import spelling
from dontneed.lab.machine import PRIVATE_ANONYMOUS, Region
from dontneed.lab.snapshot import take_snapshot
from dontneed.report.pmap import pmap_rows
from dontneed.report.transcript import Claim, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typing_extensions import Self

    from dontneed.abi.advice import Advice, PosixAdvice
    from dontneed.lab.machine import Faults, File, Kernel, Machine, Process, Reading, Thread
    from dontneed.lab.snapshot import Snapshot
    from dontneed.lab.spelling import Spelling

_SAID_IF_ANY = ("swap_bytes", "locked_bytes", "huge_bytes", "hugetlb_bytes")
"""What a region holds that is no ordinary page: said where there is some."""


class Bench:
    """One process of a machine, and what an experiment did with it.

    Attributes:
        kernel: the machine's.
        steps, claims: the transcript so far; a child's is its parent's.
    """

    def __init__(self, process: Process, kernel: Kernel, *, name: str = "", parent: Bench | None = None) -> None:
        self.kernel = kernel
        self.steps: list[Step] = parent.steps if parent else []
        self.claims: list[Claim] = parent.claims if parent else []
        self._calls: list[Spelling] = parent._calls if parent else []  # noqa: SLF001 - a bench too
        self._regions: list[Region] = list(parent._regions) if parent else []  # noqa: SLF001
        self._parts: dict[str, Region] = dict(parent._parts) if parent else {}  # noqa: SLF001
        self._name = name
        self._process = process
        self._minor_faults = 0
        self._major_faults = 0

    # The process and its machine

    @property
    def machine(self) -> Machine:
        """What all this runs on."""
        return self._process.machine

    @property
    def libc(self) -> str:
        """The machine's C library, as `glibc 2.36`."""
        return self.machine.libc

    def fork(self, name: str) -> Bench:
        """Fork a child, to be called `name`; its bench ends it with a `with` block, or by `end`."""
        child = Bench(self._process.fork(), self.kernel, name=name, parent=self)
        self._did(spelling.forking(name))
        return child

    def end(self) -> None:
        """End the process of this bench."""
        self._process.end()
        if self._name:
            self._did(spelling.ending())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # Mappings: the errno with which a word was refused, or 0

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
        """Map memory; the arguments are those of `Process.map`."""
        region = self._process.map(name, pages, kind=kind, file=file, protection=protection, huge=huge)
        self._did(spelling.mapping(region, kind, file, protection, huge=huge))
        self._has(region)
        return region

    def locate(self, name: str) -> Region:
        """The mapping that the kernel made and calls `[name]`: vvar, vdso, heap, stack.

        Raises:
            KernelLacks: there is none.
        """
        table, _ = parse_smaps(self._process.smaps())
        for row, (start, end) in enumerate(zip(table.starts, table.ends, strict=True)):
            if table.words(row)[-1] == f"[{name}]":
                region = Region(name, start, end - start)
                self._did(spelling.locating(region))
                self._has(region)
                return region
        msg = f"the process has no [{name}]"
        raise KernelLacks(msg, hint="kernels and architectures differ in what they map by themselves")

    def unmap(self, region: Region) -> int:
        """Unmap a region, or a part of one."""
        return self._answered(spelling.unmapping(region), self._process.unmap(region), region)

    def protect(self, region: Region, protection: str) -> int:
        """Change what may be done with memory: "rw", "r", "w" or ""."""
        refused = self._process.protect(region, protection)
        return self._answered(spelling.protecting(region, protection), refused, region)

    def remap(self, region: Region, pages: int) -> Region:
        """Give a region another length, and another address unless it shrinks; the region that it is now."""
        moved = self._process.remap(region, pages)
        self._did(spelling.remapping(region, moved), region)
        self._regions = [moved if each == region else each for each in self._regions]
        return moved

    def seal(self, region: Region) -> int:
        """Seal a mapping."""
        return self._answered(spelling.sealing(region), self._process.seal(region), region)

    def lock(self, region: Region) -> int:
        """Lock memory, which brings all of it in."""
        return self._answered(spelling.locking(region), self._process.lock(region), region)

    def unlock(self, region: Region) -> int:
        """Unlock memory."""
        return self._answered(spelling.unlocking(region), self._process.unlock(region), region)

    def advise(self, region: Region, advice: Advice) -> int:
        """Advise the kernel; the errno with which it refused, or 0."""
        return self._answered(spelling.advising(region, advice), self._process.advise(region, advice), region)

    def require(self, advice: Advice) -> None:
        """Have the experiment skipped where the kernel does not know an advice: it is tried on nothing.

        Raises:
            KernelLacks: it does not.
        """
        if self._process.advise(Region("nothing", 0, 0), advice):
            msg = f"Linux {self.kernel.release} has no {advice} (since {advice.since})"
            raise KernelLacks(msg, hint="the models of newer kernels have it: --machine 6.18")

    def advise_vector(self, regions: Sequence[Region], advice: Advice) -> int:
        """Advise the kernel on several regions with one call; bytes advised, or an errno as a negative number."""
        result = self._process.advise_vector(regions, advice)
        self._did(spelling.advising_vector(regions, advice, result), *regions)
        return result

    def posix_advise(self, region: Region, advice: PosixAdvice) -> int:
        """Give the C library POSIX advice; the errno that it returned, or 0."""
        returned = self._process.posix_advise(region, advice)
        return self._answered(spelling.advising_posix(region, advice), returned, region)

    # Contents

    def write(self, region: Region, letter: str) -> Faults:
        """Fill memory with a letter."""
        faults = self._process.write(region, ord(letter))
        self._did(spelling.writing(region, letter), region)
        return self._counted(faults)

    def read(self, region: Region) -> Reading:
        """Read memory, every byte."""
        found = self._process.read(region)
        self._did(spelling.reading(region), region)
        self._counted(found.faults)
        return found

    def touch(self, region: Region, *, write: bool = False) -> int:
        """Touch the first byte of each page; the signal that this raised and that was survived, or 0."""
        raised = self._process.touch(region, write=write)
        self._did(spelling.touching(region, raised, write=write), region)
        return raised

    def create_file(self, name: str, pages: int, letter: str, *, in_memory: bool = False) -> File:
        """A file without a name, full of a letter, all of it in the page cache and clean."""
        file = self._process.create_file(name, pages, ord(letter), in_memory=in_memory)
        self._did(spelling.creating_file(file, letter))
        return file

    def file_bytes(self, file: File) -> tuple[int, ...]:
        """The distinct byte values that pread finds in a file."""
        found = self._process.file_bytes(file)
        self._did(spelling.reading_file(file))
        return found

    def cached_pages(self, file: File) -> int:
        """How many pages of a file are in the page cache; the transcript does not tell of it."""
        return self._process.cached_pages(file)

    # Threads

    def start_thread(self, name: str, stack_pages: int) -> Thread:
        """Start a thread that waits; its stack is a region from now on."""
        thread = self._process.start_thread(name, stack_pages)
        self._did(spelling.starting_thread(thread, stack_pages))
        self._has(thread.stack)
        return thread

    def use_stack(self, thread: Thread, pages: int) -> None:
        """Have the uppermost pages of a thread's stack written to, as a deep call does that returns."""
        self._process.use_stack(thread, pages)
        self._did(spelling.using_stack(thread, pages))

    def end_thread(self, thread: Thread) -> None:
        """Let a thread return, and join it."""
        self._process.end_thread(thread)
        self._did(spelling.ending_thread(thread))

    # The machine

    @contextmanager
    def swap(self) -> Iterator[None]:
        """Swap space, for the time of a `with` block."""
        with self.machine.swap():
            self._did(spelling.swapping_on())
            yield

    def swap_used_bytes(self) -> int:
        """How much of all swap space is in use."""
        return self.machine.swap_used_bytes()

    @contextmanager
    def hugetlb_pool(self, huge_pages: int) -> Iterator[None]:
        """Free hugetlb pages (of 2 MiB), for the time of a `with` block."""
        with self.machine.hugetlb_pool(huge_pages):
            self._did(spelling.reserving_hugetlb(huge_pages))
            yield

    def frame_flags(self, frames: Sequence[int]) -> list[int]:
        """What the kernel says of frames (`Snapshot.frames` has their numbers), as `abi.kpageflags` names it."""
        return self.machine.frame_flags(frames)

    def wait_for_khugepaged(self, region: Region) -> bool:
        """Have khugepaged make huge pages of a region; whether it did."""
        done = self.machine.wait_for_khugepaged(self._process, region)
        self._did(spelling.waiting_for_khugepaged(region), region)
        return done

    # The transcript

    def look(self, title: str) -> Snapshot:
        """See what became of the process, and call what was done since the last look a step with this title."""
        seen = take_snapshot(self._process, self._regions)
        rows = tuple(pmap_rows(seen.mappings))
        regions = tuple(self._region_at(row.address) for row in rows)
        shown = [spelling.showing(name, self._name) for name in dict.fromkeys(filter(None, regions))]
        self.steps.append(
            Step(
                title=f"{self._name}: {title}" if self._name else title,
                code="\n".join(call.c for call in self._calls),
                python="\n".join([*(call.python for call in self._calls), *shown]),
                pmap=rows,
                regions=regions,
                facts=self._facts(seen),
                path=self.machine.way(),
            )
        )
        self._calls.clear()
        self._minor_faults = self._major_faults = 0
        return seen

    def claim(self, text: str, expected: str, observed: str) -> None:
        """Claim that something is so; it holds if both say the same."""
        self.claims.append(Claim(text, expected, observed))

    def _did(self, call: Spelling, *regions: Region) -> None:
        """Write a call into the transcript, and before it what names the parts of regions that it is about."""
        for region in regions:
            self._introduce(region)
        self._calls.append(call.by(self._name) if self._name else call)

    def _answered(self, call: Spelling, refused: int, region: Region) -> int:
        self._did(call.refused(refused), region)
        return refused

    def _has(self, region: Region) -> None:
        """Have a region from now on; one that was unmapped is forgotten when its addresses are mapped again."""
        self._regions = [each for each in self._regions if each.end <= region.start or region.end <= each.start]
        self._regions.append(region)

    def _introduce(self, part: Region) -> None:
        """Write how a part of a region is named, when it is first met."""
        if part in self._regions or self._parts.get(part.name) == part:
            return
        whole = next((each for each in self._regions if each.start <= part.start and part.end <= each.end), None)
        if whole is not None:
            self._did(spelling.naming_part(part, whole))
            self._parts[part.name] = part

    def _counted(self, faults: Faults) -> Faults:
        self._minor_faults += faults.minor
        self._major_faults += faults.major
        return faults

    def _region_at(self, address: int) -> str:
        return next((region.name for region in self._regions if region.start <= address < region.end), "")

    def _facts(self, seen: Snapshot) -> dict[str, int]:
        """What pmap does not show."""
        held = [seen.held(region) for region in self._regions]
        facts = {
            "minor_faults": self._minor_faults,
            "major_faults": self._major_faults,
            "present_pages": sum(each.present_pages for each in held),
            "frames": sum(each.frames for each in held),
            **{name: sum(getattr(each, name) for each in held) for name in _SAID_IF_ANY},
            "rss_bytes": seen.counters.rss_bytes,
            "page_table_bytes": seen.counters.page_table_bytes,
        }
        for name in ("frames", *_SAID_IF_ANY):
            if not facts[name]:
                del facts[name]  # none; frames may be hidden as well
        return facts
