"""The live machine's process: it does to its own memory what it is told, a word at a time, and nothing else.

Told by its parent over a socket that keeps packets apart: a packet is a JSON list of the word and its numbers, the
answer `{"value": …}` or `{"error": …}`. Whoever looks on must see what the words did and not the interpreter that did
them, hence: no garbage collection in between; faults are counted tightly around the touch; and the parent rehearses
every word once, so that the heap has grown to its size before anyone looks.

A region lies within a reservation (PROT_NONE) that is aligned to what one page table maps and begins and ends with such
a slot, which fences it off: no neighbour merges with it, and its page tables are its own.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
from functools import cache

from dontneed.abi.advice import Advice
from dontneed.abi.page_table import SLOT_BYTES
from dontneed.errors import DontneedError, KernelLacks
from dontneed.kernel import libc, mappings, threads
from dontneed.kernel.advice_vector import advise_vector
from dontneed.kernel.files import count_cached_pages, create_file, read_file_bytes
from dontneed.kernel.mappings import MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE
from dontneed.kernel.memory import count_faults, fill, read_bytes, touch_pages
from dontneed.kernel.touch import touch_surviving
from dontneed.lab.channel import PACKET_BYTES
from dontneed.lab.machine import HUGETLB, SHARED_ANONYMOUS, SHARED_FILE
from dontneed.units import PAGE_BYTES, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Word = Callable[..., Any]

_PR_SET_PDEATHSIG = 1
_BLANK_PAGES = 512
"""As many as are touched in one step."""
_SHARED_KINDS = (SHARED_ANONYMOUS, SHARED_FILE)
_NO_HUGETLB = (errno.EINVAL, errno.ENODEV, errno.ENOENT)
"""What MAP_HUGETLB is answered by a kernel that has no hugetlb pages of this size."""


def serve(channel_fd: int, parent: str) -> None:
    """Carry out words until the parent closes its end of the channel.

    Args:
        channel_fd: an open SOCK_SEQPACKET socket.
        parent: the pid of the process at its other end.
    """
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, and its end is ours
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forked children are reaped by the kernel
    _die_with(int(parent))
    _stay_on_one_processor()
    _Servant(channel_fd).serve()


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, however it dies. The closed channel says so too, unless we are busy."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), signal.SIGKILL)


def _stay_on_one_processor() -> None:
    """Pages on their way to the LRU lists wait in a queue of each processor, and PAGEOUT empties that of its own."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[os.getpid() % len(allowed)]})


class _Servant:
    """One process, its channel, and the words that it knows: methods of their names, and functions."""

    def __init__(self, channel_fd: int) -> None:
        self._channel = socket.socket(fileno=channel_fd)
        self._regions: dict[int, tuple[int, int, int]] = {}
        self._threads: dict[int, threads.SleepingThread] = {}
        self._words: dict[str, Word] = {
            "map": self._map,
            "unmap": self._unmap,
            "remap": self._remap,
            "protect": _protect,
            "seal": _seal,
            "lock": _lock,
            "unlock": _unlock,
            "advise": _advise,
            "advise_vector": _advise_vector,
            "posix_advise": libc.posix_madvise,
            "write": _write,
            "read": _read,
            "touch": _touch,
            "create_file": _create_file,
            "file_bytes": _file_bytes,
            "cached_pages": count_cached_pages,
            "start_thread": self._start_thread,
            "use_stack": self._use_stack,
            "end_thread": self._end_thread,
            "fork": self._fork,
        }

    def serve(self) -> None:
        self._say({"value": os.getpid()})
        while packet := self._listen():
            word, arguments, fds = packet
            try:
                answer = {"value": self._words[word](*arguments, *fds)}
            except OSError as error:
                answer = {"error": f"{error.filename}: {error.strerror}"}
            except DontneedError as error:
                answer = {"lacks": [error.message, error.hint]}
            self._say(answer)
        self._channel.detach()  # left to the kernel to close, which does so once the memory is given back

    def _listen(self) -> tuple[str, list[Any], list[int]] | None:
        packet, fds, _, _ = socket.recv_fds(self._channel, PACKET_BYTES, 1)
        if not packet:
            return None
        word, *arguments = json.loads(packet)
        return word, arguments, fds

    def _say(self, answer: dict[str, Any]) -> None:
        self._channel.send(json.dumps(answer).encode("ascii"))

    # Addresses and sizes are in bytes. What is refused and may well be is answered by its errno.

    def _map(self, length: int, kind: str, fd: int, protection: str, huge: bool) -> int:  # noqa: FBT001 - it comes in a packet
        flags = MAP_FIXED | (MAP_SHARED if kind in _SHARED_KINDS else MAP_PRIVATE)
        flags |= MAP_ANONYMOUS if fd < 0 else 0
        flags |= mappings.MAP_HUGETLB | mappings.MAP_HUGE_2MB if kind == HUGETLB else 0
        start = self._reserve(length)
        try:
            mappings.map_memory(length, address=start, protection=_protection(protection), flags=flags, fd=fd)
        except OSError as error:
            self._release(start, length)
            if kind == HUGETLB and error.errno in _NO_HUGETLB:
                msg = "the kernel maps no hugetlb pages of 2 MiB"
                raise KernelLacks(msg, hint="it takes CONFIG_HUGETLBFS, and a processor that has such pages") from None
            raise
        if kind != HUGETLB:  # refused by kernels without huge pages, where small ones are all there is
            _advise(start, length, int(Advice.HUGEPAGE if huge else Advice.NOHUGEPAGE))
        return start

    def _unmap(self, start: int, length: int) -> int:
        refused = _answered(mappings.unmap_memory, start, length)
        if not refused:
            self._release(start, length)
        return refused

    def _remap(self, start: int, length: int, new_length: int) -> int:
        if new_length < length:
            mappings.remap_memory(start, length, new_length)
            if start in self._regions:
                self._regions[start] = new_length, *self._regions[start][1:]
            return start
        moved = self._reserve(new_length)
        try:
            mappings.remap_memory(start, length, new_length, new_address=moved)
        except OSError:
            self._release(moved, new_length)
            raise
        self._release(start, length)
        return moved

    def _reserve(self, length: int) -> int:
        """Where a region of this length can be mapped, between fences."""
        reserved = round_up(length, SLOT_BYTES) + 3 * SLOT_BYTES
        base = mappings.map_memory(reserved, protection=PROT_NONE, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
        start = round_up(base, SLOT_BYTES) + SLOT_BYTES
        self._regions[start] = length, base, reserved
        return start

    def _release(self, start: int, length: int) -> None:
        """Unmap the fences of what was moved or unmapped, if it was a whole region."""
        mapped, base, reserved = self._regions.get(start, (0, 0, 0))
        if mapped == length:
            mappings.unmap_memory(base, reserved)
            del self._regions[start]

    def _start_thread(self, stack_bytes: int) -> list[int]:
        thread = threads.start_thread(stack_bytes)
        self._threads[thread.handle] = thread
        return [thread.handle, thread.stack_start, thread.stack_bytes, thread.guard_bytes]

    def _use_stack(self, handle: int, depth_bytes: int) -> None:
        threads.use_stack(self._threads[handle], depth_bytes)

    def _end_thread(self, handle: int) -> None:
        threads.end_thread(self._threads.pop(handle))

    def _fork(self, channel_fd: int) -> int:
        """Fork a child that goes on serving, on the channel that came with the word. Each answers with its own pid."""
        parent = os.getpid()
        if os.fork():
            os.close(channel_fd)
        else:
            _die_with(parent)
            self._channel.close()
            self._channel = socket.socket(fileno=channel_fd)
            self._threads.clear()
        return os.getpid()


def _write(start: int, length: int, byte: int) -> list[int]:
    return _faults_of(fill, rehearsed=(start, 0, byte), performed=(start, length, byte))


def _read(start: int, length: int) -> list[list[int]]:
    pages = length // PAGE_BYTES
    faults = _faults_of(_look_at, rehearsed=(_blank_pages(), min(pages, _BLANK_PAGES)), performed=(start, pages))
    values: set[int] = set()
    for page in range(start, start + length, PAGE_BYTES):
        contents = read_bytes(page, PAGE_BYTES)
        alike = contents.count(contents[0]) == PAGE_BYTES
        values.update(contents[:1] if alike else contents)
    return [faults, sorted(values)]


def _faults_of(act: Callable[..., None], *, rehearsed: tuple[int, ...], performed: tuple[int, ...]) -> list[int]:
    """The faults of what is performed.

    It is rehearsed first, on other memory: after a fork the interpreter copies each page of its own when it writes to
    it, and only where it wrote to just now, it surely does so no more. Twice, since what counts the first time is still
    held while the second is counted.
    """
    before = after = (0, 0)
    for arguments in (rehearsed, rehearsed, performed):
        before = count_faults()
        act(*arguments)
        after = count_faults()
    return [after[0] - before[0], after[1] - before[1]]


def _look_at(start: int, pages: int) -> None:
    touch_pages(start, pages, write=False)


@cache
def _blank_pages() -> int:
    """Memory of our own that can be read."""
    return mappings.map_memory(
        _BLANK_PAGES * PAGE_BYTES, protection=mappings.PROT_READ, flags=MAP_PRIVATE | MAP_ANONYMOUS
    )


def _touch(start: int, length: int, write: bool) -> int:  # noqa: FBT001 - it comes in a packet
    return touch_surviving(start, length // PAGE_BYTES, write=write)


def _protect(start: int, length: int, protection: str) -> int:
    return _answered(mappings.protect_memory, start, length, _protection(protection))


def _protection(letters: str) -> int:
    return (mappings.PROT_READ if "r" in letters else 0) | (mappings.PROT_WRITE if "w" in letters else 0)


def _seal(start: int, length: int) -> int:
    refused = _answered(mappings.seal_memory, start, length)
    if refused == errno.ENOSYS:
        msg = "this kernel does not seal memory"
        raise KernelLacks(msg, hint="mseal came with Linux 6.10, for 64 bits")
    return refused


def _lock(start: int, length: int) -> int:
    return _answered(mappings.lock_memory, start, length)


def _unlock(start: int, length: int) -> int:
    return _answered(mappings.unlock_memory, start, length)


def _advise(start: int, length: int, advice: int) -> int:
    return libc.last_errno() if libc.madvise(start, length, advice) else 0


def _advise_vector(ranges: list[list[int]], advice: int) -> int:
    return advise_vector([(start, length) for start, length in ranges], advice)


def _create_file(pages: int, byte: int, in_memory: bool) -> int:  # noqa: FBT001 - it comes in a packet
    return create_file(pages, byte, in_memory=in_memory)


def _file_bytes(descriptor: int) -> list[int]:
    return sorted(read_file_bytes(descriptor))


def _answered(call: Callable[..., None], *arguments: int) -> int:
    """The errno with which a call was refused, or 0."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno or 0
    return 0
