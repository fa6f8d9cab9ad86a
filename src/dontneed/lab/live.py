"""The live machine: this computer's kernel, asked through a process of its own that we start, watch and end.

The process is watched from outside, and only while it sleeps in wait of the next word: nothing moves while its procfs
files are read. What it runs is `lab/child.py`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import ExitStack

from dontneed.abi.advice import Advice
from dontneed.errors import DontneedError, KernelLacks, NotPermitted, ProcessGone, UsageError
from dontneed.kernel.build import parse_version, read_build_option
from dontneed.kernel.environment import read_huge_pages
from dontneed.kernel.kpage import read_frame_flags
from dontneed.kernel.pagemap import read_entries
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.kernel.swap import read_swap_used_bytes
from dontneed.lab.channel import PACKET_BYTES, make_channel, say_goodbye, see_out, start_process
from dontneed.lab.child import serve
from dontneed.lab.keeper import kept
from dontneed.lab.machine import (
    KINDS,
    PRIVATE_ANONYMOUS,
    PRIVATE_FILE,
    SHARED_FILE,
    Faults,
    File,
    Kernel,
    Reading,
    Region,
    Thread,
)
from dontneed.lab.snapshot import take_snapshot
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES, round_down, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    from typing_extensions import Self

    from dontneed.abi.advice import PosixAdvice
    from dontneed.lab.machine import Process
    from dontneed.model.views.descent import Stage

_PATIENCE_SECONDS = 60.0
"""No word takes so long; a process that does not answer is stuck."""
_GLANCE_SECONDS = 0.0005
_REHEARSALS = 2
_REHEARSED_PAGES = 1024
_SMALLEST_STACK_PAGES = 4
"""Which a later thread does not get from the C library's cache of stacks, unless it wants no more."""
_KHUGEPAGED_SECONDS = 30.0
_KHUGEPAGED_GLANCE_SECONDS = 0.02
"""khugepaged gives way to everybody (nice 19): on a busy machine it takes seconds, and looking takes its time too."""
_HUGE_PAGES_OFF = (None, "never")


class LiveMachine:
    """This computer, and its kernel."""

    name = "live"

    @property
    def kernel(self) -> Kernel:
        """The kernel that runs."""
        uname = os.uname()
        return Kernel(
            release=uname.release,
            version=parse_version(uname.release),
            architecture=uname.machine,
            pt_reclaim=read_build_option("PT_RECLAIM"),
        )

    @property
    def libc(self) -> str:
        """The C library of this interpreter, which is that of its processes."""
        try:
            return os.confstr("CS_GNU_LIBC_VERSION") or "another C library"
        except ValueError:  # no such name: musl
            return "musl"

    def keep_way(self) -> bool:
        """It cannot: the functions of a running kernel are traced with rights that lockdown takes even from root."""
        return False

    def way(self) -> tuple[Stage, ...]:
        """Nothing."""
        return ()

    def start(self) -> LiveProcess:
        """A fresh process, rehearsed: its own memory has grown to what the words need, and grows no more.

        Raises:
            NotPermitted: this user may not start one.
            ProcessGone: it ended at once; the message says how.
        """
        process = LiveProcess(self, *start_process(serve, os.getpid()))
        try:
            _rehearse(process)
        except BaseException:  # Ctrl-C as well: no process of ours may outlive its making
            process.end()
            raise
        return process

    def swap(self) -> AbstractContextManager[None]:
        """The swap space there is, or a zram disk."""
        return kept("swap")

    def swap_used_bytes(self) -> int:
        """What /proc/swaps counts as used."""
        return read_swap_used_bytes()

    def hugetlb_pool(self, huge_pages: int) -> AbstractContextManager[None]:
        """The pool, enlarged if need be."""
        return kept("hugetlb", huge_pages)

    def frame_flags(self, frames: Sequence[int]) -> list[int]:
        """The words of /proc/kpageflags."""
        import numpy as np

        if not all(frames):
            msg = "frame numbers are hidden from this user"
            raise NotPermitted(msg, hint="they are shown to root only: run as root (sudo)")
        return [int(word) for word in read_frame_flags(np.array(frames, np.uint64))]

    def wait_for_khugepaged(self, process: Process, region: Region) -> bool:
        """Hurry khugepaged until smaps says that all is huge, or for ten seconds."""
        whole = round_down(region.end, HUGE_PAGE_BYTES) - round_up(region.start, HUGE_PAGE_BYTES)
        with kept("khugepaged"):
            deadline = time.monotonic() + _KHUGEPAGED_SECONDS
            while (missing := take_snapshot(process, [region]).held(region).huge_bytes < whole) and (
                time.monotonic() < deadline
            ):
                time.sleep(_KHUGEPAGED_GLANCE_SECONDS)
        return not missing


class LiveProcess:
    """A process of the live machine, whose words are those of `machine.Process`.

    Attributes:
        pid: its process id.
    """

    def __init__(
        self, machine: LiveMachine, channel: socket.socket, child: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.machine = machine
        channel.settimeout(_PATIENCE_SECONDS)
        self._channel = channel
        self._child = child
        self._ended = False
        with ExitStack() as held:  # in the order of use: the end of it comes in the reverse order
            if child is not None:
                held.callback(see_out, child)
            held.callback(say_goodbye, channel)
            self.pid = int(self._hear())
            self._directory = held.enter_context(ProcessDirectory(self.pid))
            self._held = held.pop_all()

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
        if huge and read_huge_pages() in _HUGE_PAGES_OFF:
            msg = "huge pages are switched off, or this kernel has none"
            raise KernelLacks(msg, hint="root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled")
        size_bytes = pages * PAGE_BYTES
        descriptor = file.descriptor if file else -1
        return Region(name, self._tell("map", size_bytes, kind, descriptor, protection, huge), size_bytes)

    def unmap(self, region: Region) -> int:
        """munmap(2); the fences go with a whole region."""
        return int(self._tell("unmap", *_range(region)))

    def protect(self, region: Region, protection: str) -> int:
        """mprotect(2)."""
        return int(self._tell("protect", *_range(region), protection))

    def remap(self, region: Region, pages: int) -> Region:
        """mremap(2), to between new fences unless the region shrinks."""
        size_bytes = pages * PAGE_BYTES
        return Region(region.name, self._tell("remap", *_range(region), size_bytes), size_bytes)

    def seal(self, region: Region) -> int:
        """mseal(2)."""
        return int(self._tell("seal", *_range(region)))

    def lock(self, region: Region) -> int:
        """mlock(2)."""
        return int(self._tell("lock", *_range(region)))

    def unlock(self, region: Region) -> int:
        """munlock(2)."""
        return int(self._tell("unlock", *_range(region)))

    def advise(self, region: Region, advice: Advice) -> int:
        """madvise(2)."""
        return int(self._tell("advise", *_range(region), int(advice)))

    def advise_vector(self, regions: Sequence[Region], advice: Advice) -> int:
        """process_madvise(2), by a pidfd of the process itself."""
        return int(self._tell("advise_vector", [_range(region) for region in regions], int(advice)))

    def posix_advise(self, region: Region, advice: PosixAdvice) -> int:
        """posix_madvise(3)."""
        return int(self._tell("posix_advise", *_range(region), int(advice)))

    # Contents

    def write(self, region: Region, byte: int) -> Faults:
        """memset(3)."""
        return Faults(*self._tell("write", *_range(region), byte))

    def read(self, region: Region) -> Reading:
        """Read every byte."""
        faults, values = self._tell("read", *_range(region))
        return Reading(tuple(values), Faults(*faults))

    def touch(self, region: Region, *, write: bool = False) -> int:
        """Touch by a process that shares this one's memory for the moment, and that the signal kills instead."""
        return int(self._tell("touch", *_range(region), write))

    # Files

    def create_file(self, name: str, pages: int, byte: int, *, in_memory: bool = False) -> File:
        """O_TMPFILE on a disk, or memfd_create(2)."""
        descriptor = self._tell("create_file", pages, byte, in_memory)
        return File(name, descriptor, pages * PAGE_BYTES, in_memory)

    def file_bytes(self, file: File) -> tuple[int, ...]:
        """By pread(2)."""
        return tuple(self._tell("file_bytes", file.descriptor))

    def cached_pages(self, file: File) -> int:
        """By mincore(2)."""
        return int(self._tell("cached_pages", file.descriptor))

    # Threads

    def start_thread(self, name: str, stack_pages: int) -> Thread:
        """A thread of the C library, without Python."""
        handle, start, size_bytes, guard_bytes = self._tell("start_thread", stack_pages * PAGE_BYTES)
        return Thread(name, handle, Region(f"{name}_stack", start, size_bytes), guard_bytes)

    def use_stack(self, thread: Thread, pages: int) -> None:
        """Write to what lies below the thread's frames, from outside; what is in use is written with itself."""
        self._tell("use_stack", thread.handle, pages * PAGE_BYTES)

    def end_thread(self, thread: Thread) -> None:
        """Let it return, and join it."""
        self._tell("end_thread", thread.handle)

    # The process itself

    def fork(self) -> LiveProcess:
        """A child of this process, with a channel of its own."""
        ours, theirs = make_channel()
        with theirs:
            self._tell("fork", fd=theirs.fileno())
        child = LiveProcess(self.machine, ours)
        for process in (self, child):  # the interpreter's own pages are copied on write now, before anyone counts
            _rehearse(process)
        return child

    def smaps(self) -> bytes:
        """Its smaps, while it sleeps."""
        return self._at_rest().read("smaps")

    def status(self) -> bytes:
        """Its status, while it sleeps."""
        return self._at_rest().read("status")

    def pagemap(self, region: Region) -> bytes:
        """Its pagemap entries for `region`, while it sleeps."""
        fd = self._at_rest().open("pagemap")
        try:
            return read_entries(fd, region.start, region.end).tobytes()
        finally:
            os.close(fd)

    def end(self) -> None:
        """Close the channel, upon which the process ends, and see that it does."""
        self._ended = True
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _tell(self, word: str, *arguments: Any, fd: int | None = None) -> Any:
        self._check_alive()
        packet = json.dumps([word, *arguments]).encode("ascii")
        try:
            if fd is None:
                self._channel.send(packet)
            else:
                socket.send_fds(self._channel, [packet], [fd])
        except ConnectionError:
            raise self._gone() from None
        return self._hear()

    def _hear(self) -> Any:
        try:
            packet = self._channel.recv(PACKET_BYTES)
        except ConnectionError:
            packet = b""
        except TimeoutError:
            msg = f"the lab's process has not answered for {_PATIENCE_SECONDS:.0f} s"
            raise DontneedError(msg, hint="was it stopped, or is the machine short of memory?") from None
        if not packet:
            raise self._gone()
        answer = json.loads(packet)
        if "lacks" in answer:
            message, hint = answer["lacks"]
            raise KernelLacks(message, hint=hint)
        if "error" in answer:
            msg = f"the lab's process was refused: {answer['error']}"
            raise DontneedError(msg, hint="memory is limited by `ulimit -v`, vm.overcommit_memory and memory cgroups")
        return answer["value"]

    def _check_alive(self) -> None:
        """Refuse to speak to a process that was ended: its descriptors may be somebody else's by now."""
        if self._ended:
            msg = f"the lab's process {self.pid} has been ended"
            raise ProcessGone(msg)

    def _gone(self) -> ProcessGone:
        """Why the process does not answer any more, as far as its parent can know."""
        if self._child is None:
            return ProcessGone("a forked process of the lab ended before its time")
        code, words = see_out(self._child)
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return ProcessGone(f"the lab's process ended {how}{f': {words}' if words else ''}")

    def _at_rest(self) -> ProcessDirectory:
        """The process's directory, once it sleeps in wait of the next word."""
        self._check_alive()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while read_identity(self._directory).state != "S":
            if time.monotonic() > deadline:
                msg = f"the lab's process {self.pid} does not come to rest"
                raise DontneedError(msg, hint="was it stopped from outside?")
            time.sleep(_GLANCE_SECONDS)
        return self._directory


def _rehearse(process: LiveProcess) -> None:
    """Do every word that needs memory of the interpreter, more than once, on memory that is gone afterwards."""
    for _ in range(_REHEARSALS):
        region = process.map("rehearsal", _REHEARSED_PAGES)
        process.write(region, 1)
        process.advise(region, Advice.DONTNEED)
        process.read(region)
        process.touch(region.part("part", 0, 1))
        process.unmap(region)
    process.end_thread(process.start_thread("rehearsal", _SMALLEST_STACK_PAGES))


def _range(region: Region) -> tuple[int, int]:
    return region.start, region.size_bytes


def _check_kind(kind: str, file: File | None) -> None:
    if kind not in KINDS:
        msg = f"the live machine maps no {kind} memory"
        raise KernelLacks(msg, hint=f"it maps {', '.join(KINDS)}")
    if (file is not None) != (kind in (PRIVATE_FILE, SHARED_FILE)):
        msg = f"{kind} memory is mapped {'without a' if file else 'of a'} file"
        raise UsageError(msg)
