"""perf_event_open(2): tracepoints of some threads and all that come of them, recorded into one ring a CPU.

For each traced thread and each CPU every event is opened once, with `inherit`, so that threads and processes which are
started later are traced by the kernel without our doing. All events of a CPU write into the same ring, which is thus in
the order of time. The rings belong to events of our own that never happen, so that they outlive every traced thread.

Nothing here outlives us: events are file descriptors, gone when we exit, whatever ended us, and the kernel takes them
out of every process that had inherited them.

A record that finds no room in the ring is lost, and counted by the kernel: it says so in the ring as soon as there is
room again, and since 6.0 each event has a count of its own, which we read at the end.

Kernel:
    since 2.6.31; kernel/events/core.c, ring_buffer.c. Raw data of tracepoints need CAP_PERFMON (before 5.8
    CAP_SYS_ADMIN), or kernel.perf_event_paranoid below 0.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import select
import struct
import time

from dontneed.abi import perf_event as abi
from dontneed.kernel import libc
from dontneed.kernel.closing import Closing
from dontneed.units import MIB, PAGE_BYTES, round_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dontneed.kernel.tracefs import Tracepoint

_ALL_RINGS_BYTES = 256 * MIB
_LARGEST_RING_BYTES = 32 * MIB
_SMALLEST_RING_BYTES = 256 * PAGE_BYTES
_WAKE_AT = 16
"""We are woken when a sixteenth of a ring is full; the event that a ring belongs to says so for all."""
_COUNTER = struct.Struct("<Q")
_COUNT_AND_LOST = struct.Struct("<QQ")
_SAMPLE = abi.SAMPLE_THREAD | abi.SAMPLE_TIME | abi.SAMPLE_CPU | abi.SAMPLE_RAW
_SIDE_RECORDS = abi.MAPPINGS | abi.MAPPINGS_2 | abi.DATA_MAPPINGS | abi.COMMANDS | abi.COMMAND_EXEC | abi.TASKS
_ALWAYS = abi.DISABLED | abi.SAMPLE_ID_ALL | abi.USE_CLOCK | abi.WATERMARK


class Recorder(Closing):
    """Records tracepoints, mappings, forks and exits of threads. A context manager.

    Args:
        tracepoints: what is recorded, each with a filter; "" for all of it.
        ring_bytes: of each CPU's ring, a power of two of pages; None: as much as fits well.
    Raises:
        OSError: as perf_event_open(2) and mmap(2).
    """

    def __init__(self, tracepoints: Sequence[tuple[Tracepoint, str]], ring_bytes: int | None = None) -> None:
        self._tracepoints = tracepoints
        self._cpus = online_cpus()
        self.ring_bytes = ring_bytes or default_ring_bytes(len(self._cpus))
        self._rings: list[_Ring] = []
        self._side_events: list[int] = []
        self._events: list[int] = []
        self._read_bits = abi.READ_LOST
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._poll = select.poll()
        watermark = self.ring_bytes // _WAKE_AT
        try:
            for cpu in self._cpus:
                owner = open_event(abi.NOTHING, 0, cpu, options=_ALWAYS, watermark=watermark)
                ring = _Ring(owner, self.ring_bytes)
                self._rings.append(ring)
                self._poll.register(ring.fd, select.POLLIN)
        except BaseException:  # whatever it was, no event goes on recording
            self.close()
            raise

    def close(self) -> None:
        """End all events, and give the rings back."""
        for fd in (*self._events, *self._side_events):
            os.close(fd)
        for ring in self._rings:
            ring.close()
        self._events, self._side_events, self._rings = [], [], []
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(self._limit[0], hard), hard))

    def attach(self, thread: int, *, on_exec: bool = False) -> None:
        """Get ready to record a thread, and all that it will start.

        Its forks are recorded from now on, so that nobody is attached who has inherited already.

        Args:
            thread: whom.
            on_exec: recording begins by itself when the thread replaces its program.
        Raises:
            ProcessLookupError: it has ended.
            OSError: as perf_event_open(2).
        """
        self._make_room_for(len(self._cpus) * (len(self._tracepoints) + 1))
        start = abi.ENABLE_ON_EXEC if on_exec else 0
        for cpu, ring in zip(self._cpus, self._rings, strict=True):
            options = _ALWAYS | abi.INHERIT | _SIDE_RECORDS | start
            side = open_event(abi.NOTHING, thread, cpu, options=options)
            self._side_events.append(side)
            fcntl.ioctl(side, abi.SET_OUTPUT, ring.fd)
            if not on_exec:
                fcntl.ioctl(side, abi.ENABLE, 0)
        for tracepoint, condition in self._tracepoints:
            for cpu, ring in zip(self._cpus, self._rings, strict=True):
                event = self._open_tracepoint(tracepoint, thread, cpu, start)
                self._events.append(event)
                if condition:
                    fcntl.ioctl(event, abi.SET_FILTER, condition.encode("ascii") + b"\0")
                fcntl.ioctl(event, abi.SET_OUTPUT, ring.fd)

    def start(self) -> None:
        """Record from now on; not needed for what starts on exec."""
        for fd in self._events:
            fcntl.ioctl(fd, abi.ENABLE, 0)

    def stop(self) -> None:
        """Record no more; what is in the rings can still be read."""
        for fd in (*self._events, *self._side_events):
            fcntl.ioctl(fd, abi.DISABLE, 0)

    def wait(self, seconds: float) -> None:
        """Wait until a ring has filled a little, but not longer than this."""
        ready = self._poll.poll(seconds * 1000)
        if any(not event & select.POLLIN for _, event in ready):
            time.sleep(seconds)  # a ring whose writers have all gone is always ready

    def read(self) -> Iterator[tuple[int, bytes]]:
        """Whole records, in the order of time, by CPU; the room is free for others as soon as they are returned."""
        for cpu, ring in zip(self._cpus, self._rings, strict=True):
            data = ring.take()
            if data:
                yield cpu, data

    def count_lost(self) -> int | None:
        """How many records of tracepoints found no room; None where the kernel does not count them for each event."""
        if not self._read_bits:
            return None
        counts = (_COUNT_AND_LOST.unpack(os.read(fd, _COUNT_AND_LOST.size)) for fd in self._events)
        return sum(int(lost) for _, lost in counts)

    def _open_tracepoint(self, tracepoint: Tracepoint, thread: int, cpu: int, start: int) -> int:
        """One event; without a count of what is lost where the kernel has none."""
        options = _ALWAYS | abi.INHERIT | start
        event = (abi.TRACEPOINT, tracepoint.number)
        try:
            return open_event(event, thread, cpu, options=options, read_bits=self._read_bits)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._read_bits:
                raise
        self._read_bits = 0
        return open_event(event, thread, cpu, options=options)

    def _make_room_for(self, events: int) -> None:
        """Let us have this many more file descriptors, as far as we may."""
        wanted = len(self._events) + len(self._side_events) + events + 256
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if wanted <= soft:
            return
        if wanted > hard:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
            except (ValueError, OSError):  # not permitted, or more than the system allows: opening will say so
                wanted = hard
            else:
                return
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Ring:
    """The records of one CPU, in memory that the kernel writes into and we read from."""

    __slots__ = ("_bytes", "_memory", "fd")

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self._bytes = size_bytes
        try:
            self._memory = mmap.mmap(fd, PAGE_BYTES + size_bytes, mmap.MAP_SHARED)
        except OSError as error:
            os.close(fd)
            error.filename = f"mmap of a ring of {size_bytes} bytes"
            raise

    def take(self) -> bytes:
        """Everything that is there, in one piece, and its room given free."""
        head = _COUNTER.unpack_from(self._memory, abi.HEAD)[0]
        tail = _COUNTER.unpack_from(self._memory, abi.TAIL)[0]
        if head == tail:
            return b""
        begin, end = PAGE_BYTES + tail % self._bytes, PAGE_BYTES + head % self._bytes
        if begin < end:
            data = self._memory[begin:end]
        else:
            data = self._memory[begin : PAGE_BYTES + self._bytes] + self._memory[PAGE_BYTES:end]
        _COUNTER.pack_into(self._memory, abi.TAIL, head)
        return data

    def close(self) -> None:
        self._memory.close()
        os.close(self.fd)


def open_event(
    event: tuple[int, int], thread: int, cpu: int, *, options: int, watermark: int = 0, read_bits: int = 0
) -> int:
    """One event of a thread while it runs on a CPU; a file descriptor that the caller closes.

    Args:
        event: its kind, and its number among those.
        thread: whose; 0: ours.
        cpu: which; -1: any.
        options: bits, as in `abi.perf_event`.
        watermark: when to wake whoever waits for its ring, in bytes.
        read_bits: what reading it tells.

    Raises:
        OSError: as perf_event_open(2).
    """
    import ctypes

    call_number = abi.SYSCALL_NUMBER.get(os.uname().machine)
    if call_number is None:
        raise OSError(errno.ENOSYS, "its number on this processor is not known here", "perf_event_open")
    unused = (0, 0, 0, 0, 0, 0)
    clock = time.CLOCK_MONOTONIC
    kind, number = event
    values = (kind, abi.ATTRIBUTE.size, number, 1, _SAMPLE, read_bits, options, watermark, *unused, clock)
    attribute = ctypes.create_string_buffer(abi.ATTRIBUTE.pack(*values))
    fd = libc.syscall(call_number, ctypes.addressof(attribute), thread, cpu, -1, abi.CLOSE_ON_EXEC)
    return libc.check(fd, "perf_event_open")


def default_ring_bytes(cpus: int) -> int:
    """The size of one ring where there are so many."""
    size = _LARGEST_RING_BYTES
    while size > _SMALLEST_RING_BYTES and size * cpus > _ALL_RINGS_BYTES:
        size //= 2
    return size


def ring_bytes_for(wanted: int) -> int:
    """The size of a ring that holds at least so many bytes: a power of two of pages."""
    size = PAGE_BYTES
    while size < round_up(wanted):
        size *= 2
    return size


def online_cpus() -> list[int]:
    """The CPUs that are on."""
    with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
        return parse_cpus(file.read())


def parse_cpus(text: str) -> list[int]:
    """The CPUs in a list as `0-3,8`."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus += range(int(first), int(last or first) + 1)
    return cpus
