"""The live machine's process: it does to its own memory what it is told, a word at a time, and nothing else.

Told by its parent over a socket that keeps packets apart: a packet is a JSON list of the word and its numbers, the
answer `{"value": …}` or `{"error": …}`. Whoever looks on must see what the words did and not the interpreter that did
them, hence: no garbage collection in between; faults are counted tightly around the touch; and the parent rehearses
every word once, so that the heap has grown to its size before anyone looks.

A region lies within a reservation (PROT_NONE) that is aligned to what one page table maps and begins and ends with such
a slot, which fences it off: no neighbour merges with it, and its page tables are its own.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket

from dontneed.abi.advice import Advice
from dontneed.abi.page_table import SLOT_BYTES
from dontneed.kernel import libc
from dontneed.kernel.mappings import (
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    map_memory,
    unmap_memory,
)
from dontneed.kernel.memory import count_faults, fill, read_bytes, touch_pages
from dontneed.units import PAGE_BYTES, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Word = Callable[..., Any]

PACKET_BYTES = 1 << 16
"""More than any packet holds: memory never travels, only what was found in it."""

_PR_SET_PDEATHSIG = 1


def serve(channel_fd: int, parent: int) -> None:
    """Carry out words until the parent closes its end of the channel.

    Args:
        channel_fd: an open SOCK_SEQPACKET socket.
        parent: the pid of the process at its other end.
    """
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, and its end is ours
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forked children are reaped by the kernel
    _die_with(parent)
    _Servant(channel_fd).serve()


def _die_with(parent: int) -> None:
    """Be killed when the parent dies, however it dies. The closed channel says so too, unless we are busy."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we could ask
        os.kill(os.getpid(), signal.SIGKILL)


class _Servant:
    """One process, its channel, and the words that it knows: methods of their names."""

    def __init__(self, channel_fd: int) -> None:
        self._channel = socket.socket(fileno=channel_fd)
        self._regions: dict[int, tuple[int, int, int]] = {}
        self._words: dict[str, Word] = {
            "map": self._map,
            "unmap": self._unmap,
            "write": _write,
            "read": _read,
            "advise": _advise,
            "lock": _lock,
            "unlock": _unlock,
            "fork": self._fork,
        }

    def serve(self) -> None:
        self._say({"value": os.getpid()})
        while packet := self._listen():
            word, numbers, fds = packet
            try:
                answer = {"value": self._words[word](*numbers, *fds)}
            except OSError as error:
                answer = {"error": f"{error.filename}: {error.strerror}"}
            self._say(answer)

    def _listen(self) -> tuple[str, list[int], list[int]] | None:
        packet, fds, _, _ = socket.recv_fds(self._channel, PACKET_BYTES, 1)
        if not packet:
            return None
        word, *numbers = json.loads(packet)
        return word, numbers, fds

    def _say(self, answer: dict[str, Any]) -> None:
        self._channel.send(json.dumps(answer).encode("ascii"))

    # Addresses and sizes are in bytes. What is refused and may well be is answered by its errno.

    def _map(self, length: int, shared: bool) -> int:  # noqa: FBT001 - it comes as one of the numbers of a packet
        reserved = round_up(length, SLOT_BYTES) + 3 * SLOT_BYTES
        base = map_memory(reserved, protection=PROT_NONE, flags=MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)
        start = round_up(base, SLOT_BYTES) + SLOT_BYTES
        sharing = MAP_SHARED if shared else MAP_PRIVATE
        map_memory(length, address=start, flags=sharing | MAP_ANONYMOUS | MAP_FIXED)
        _advise(start, length, int(Advice.NOHUGEPAGE))  # refused by kernels without huge pages, where it is so anyway
        self._regions[start] = length, base, reserved
        return start

    def _unmap(self, start: int, length: int) -> None:
        unmap_memory(start, length)
        mapped, base, reserved = self._regions.get(start, (0, 0, 0))
        if length == mapped:
            unmap_memory(base, reserved)  # its fences
            del self._regions[start]

    def _fork(self, channel_fd: int) -> int:
        """Fork a child that goes on serving, on the channel that came with the word. Each answers with its own pid."""
        parent = os.getpid()
        if os.fork():
            os.close(channel_fd)
        else:
            _die_with(parent)
            self._channel.close()
            self._channel = socket.socket(fileno=channel_fd)
        return os.getpid()


def _write(start: int, length: int, byte: int) -> list[int]:
    before = count_faults()
    fill(start, length, byte)
    return _faults_since(before)


def _read(start: int, length: int) -> list[list[int]]:
    before = count_faults()
    touch_pages(start, length // PAGE_BYTES, write=False)
    faults = _faults_since(before)
    values: set[int] = set()
    for page in range(start, start + length, PAGE_BYTES):
        contents = read_bytes(page, PAGE_BYTES)
        alike = contents.count(contents[0]) == PAGE_BYTES
        values.update(contents[:1] if alike else contents)
    return [faults, sorted(values)]


def _faults_since(before: tuple[int, int]) -> list[int]:
    after = count_faults()
    return [after[0] - before[0], after[1] - before[1]]


def _advise(start: int, length: int, advice: int) -> int:
    return _errno_of(libc.madvise(start, length, advice))


def _lock(start: int, length: int) -> int:
    return _errno_of(libc.mlock(start, length))


def _unlock(start: int, length: int) -> int:
    return _errno_of(libc.munlock(start, length))


def _errno_of(result: int) -> int:
    return libc.last_errno() if result else 0
