"""What happened to the memory of a process, in one order: its system calls, faults, RSS, frames and TLB flushes.

The kernel records it (`kernel/perf.py`); we fetch what it has recorded, often enough that no ring is ever full, and
turn it into events at once. Nothing is stopped. The threads of the process are traced, and whatever they start.

What is not seen: frames that others free for it, as kswapd does; pages that are populated without a fault
(MAP_POPULATE, MADV_POPULATE_*, direct I/O) show in RSS only; processes that it had started before.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager

from dontneed.abi import trace_kinds as kinds
from dontneed.errors import DontneedError, KernelLacks, NoAddressSpace, NotPermitted, ProcessGone, UsageError, WrongType
from dontneed.kernel.environment import read_huge_pages
from dontneed.kernel.launch import WaitingCommand
from dontneed.kernel.perf import Recorder, ring_bytes_for
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import parse_status, read_identity
from dontneed.kernel.tracefs import read_tracepoints
from dontneed.observe.trace.decode import FILTERS, Decoder
from dontneed.records import Record
from dontneed.units import PAGE_BYTES, WEEK_SECONDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

MOST_EVENTS = 20_000_000
"""Where a trace ends by itself unless it is told otherwise: 48 bytes of memory each."""
_LEAST_RING_BYTES, _LARGEST_RING_BYTES = 1 << 16, 1 << 30
_WAIT_SECONDS = 0.05
_FIRST = -20
_ENDED = ("Z", "X")
_PASSES = 100
_MACHINE = "x86_64"
"""Faults are tracepoints of this architecture, and the numbers of system calls are those of it."""
_FEATURES = ("perf_event_open", "tracefs", "tracepoints")


class Timeline(Record):
    """What happened to the memory of a process while it was traced.

    Attributes:
        pid, command: whose.
        kernel, machine: release and architecture.
        page_bytes: of a page.
        huge_pages: the word chosen for transparent huge pages; None where the kernel has none.
        started, ended: in nanoseconds of CLOCK_MONOTONIC.
        threads: of each thread that was there at the start its process; forks among the events tell of the others.
        maps: /proc/PID/maps at the start; nothing where the trace begins with a program.
        rss: bytes at the start by counter: file, anonymous, swap, shmem.
        names: of mappings and programs.
        lost: how many records the kernel had no room for.
        notes: what is to be known of it, in sentences.
        exit_code: of a command, negative for a signal; None: not known, or it still ran.
        events: one array, in the order of time; `abi.trace_kinds` says what their fields hold.
    """

    pid: int
    command: str
    kernel: str
    machine: str
    page_bytes: int
    huge_pages: str | None
    started: int
    ended: int
    threads: dict[int, int]
    maps: str
    rss: dict[str, int]
    names: list[str]
    lost: int
    notes: tuple[str, ...]
    exit_code: int | None
    events: NDArray[Any]

    @property
    def seconds(self) -> float:
        """How long it was traced."""
        return (self.ended - self.started) / 1e9


class Limits(Record):
    """When a trace ends, besides with the process.

    Attributes:
        seconds: after so long; None: never.
        most_events: after so many events.
        ring_bytes: memory for each CPU's records; None: as fits.
        is_over: asked every 50 ms.
    """

    seconds: float | None = None
    most_events: int = MOST_EVENTS
    ring_bytes: int | None = None
    is_over: Callable[[], bool] = bool


def trace(
    pid: int, seconds: float | None = None, *, most_events: int = MOST_EVENTS, ring_bytes: int | None = None
) -> Timeline:
    """Trace what happens to the memory of a process, its threads and what they start, until it ends or time is up.

    Args:
        pid: a process id, not ours.
        seconds: how long; None: until the process ends.
        most_events: it ends by itself after so many.
        ring_bytes: memory for the records of each CPU; None: up to 32 MiB each and 256 MiB in all.
    Returns:
        A `Timeline`. Whatever the kernel had no room for is counted in `lost`.
    Raises:
        WrongType, UsageError: no pid, ours, or numbers that make no sense.
        ProcessGone: no such process.
        NoAddressSpace: a kernel thread.
        NotPermitted: for want of rights, or forbidden by perf_event_paranoid, lockdown, seccomp, a container.
        KernelLacks: without perf events, tracefs or one of its tracepoints, or on another processor than x86-64.
    Kernel:
        since 5.5, for kmem:rss_stat; perf_event_open(2).
    """
    return trace_process(pid, Limits(seconds, most_events, ring_bytes))


def trace_command(
    words: Sequence[str], *, most_events: int = MOST_EVENTS, ring_bytes: int | None = None, output: int | None = None
) -> Timeline:
    """Run a command, and trace it from the first instruction of its program to its end.

    Args:
        words: the program and its arguments.
        most_events: as `trace`; the command runs on to its end.
        ring_bytes: as `trace`.
        output: a file descriptor for its standard output; None: ours.
    Returns, Raises:
        As `trace`; WrongType, UsageError also: no list of words, or there is no such program.
    """
    return trace_new_process(words, Limits(None, most_events, ring_bytes), output)


def trace_process(pid: int, limits: Limits) -> Timeline:
    """`trace`, ended by whatever `limits` say."""
    _check(limits)
    with ProcessDirectory(pid) as process:
        if process.pid == os.getpid():
            msg = "a process that traces itself would record how it records"
            raise UsageError(msg, hint="trace it from another process: dontneed trace PID")
        identity = read_identity(process)
        if identity.kernel_thread:
            msg = f"process {process.pid} ({identity.command}) is a kernel thread and has no memory of its own"
            raise NoAddressSpace(msg)
        with _Session(limits) as session:
            notes = session.attach_all(process)
            session.recorder.start()
            started = time.monotonic_ns()
            subject = _Subject(
                process.pid,
                identity.command,
                started,
                process.read("maps").decode("utf-8", "surrogateescape"),
                _rss(parse_status(process.read("status"))),
            )
            notes += session.record(lambda: _has_ended(process))
            return session.timeline(subject, session.threads, notes)


def trace_new_process(words: Sequence[str], limits: Limits, output: int | None = None) -> Timeline:
    """`trace_command`, ended by whatever `limits` say."""
    _check(limits)
    _check_words(words)
    with WaitingCommand(words, output) as command, _Session(limits) as session:
        session.recorder.attach(command.pid, on_exec=True)
        subject = _Subject(command.pid, os.path.basename(words[0]), time.monotonic_ns(), "", _rss({}))
        command.begin()
        notes = session.record(lambda: command.exit_code is not None)
        if limits.is_over():
            command.end()
        timeline = session.timeline(subject, {command.pid: command.pid}, notes)
    return timeline.replace(exit_code=command.exit_code)


class _Subject(Record):
    """What is known of a process when it begins to be traced."""

    pid: int
    command: str
    started: int
    maps: str
    rss: dict[str, int]


class _Session:
    """A recorder, its decoder, and what they have brought so far."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_cpu: dict[int, list[NDArray[Any]]] = {}
        self._count = 0
        self.threads: dict[int, int] = {}
        try:
            if os.uname().machine != _MACHINE:
                msg = f"a timeline needs tracepoints of faults as {_MACHINE} has them; this is {os.uname().machine}"
                raise KernelLacks(msg, hint="`dontneed look PID` works here")
            found = read_tracepoints(FILTERS)
            missing = [name for name in FILTERS if name not in found]
            if missing:
                msg = f"this kernel has no tracepoint {missing[0]}"
                raise KernelLacks(msg, hint="Linux 5.5 or newer, with CONFIG_FTRACE_SYSCALLS and CONFIG_TRACEPOINTS")
            self._decoder = Decoder(found)
            wanted = [(found[name], condition) for name, condition in FILTERS.items()]
            ring_bytes = limits.ring_bytes and ring_bytes_for(limits.ring_bytes)
            self.recorder = Recorder(wanted, ring_bytes)
        except OSError as refusal:
            raise _explained(refusal) from None

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.close()

    def attach_all(self, process: ProcessDirectory) -> tuple[str, ...]:
        """Attach every thread, also those that are started meanwhile; sentences about what may be missing.

        A thread that one of the attached has started is traced already: its fork is in the ring. If it was started
        while that one was only half attached, a part of its events is missing.
        """
        windows: dict[int, tuple[int, int]] = {}
        halves = 0
        for _ in range(_PASSES):
            new = set(process.threads()) - self.threads.keys()
            if not new:
                return (f"of {halves} threads that were started meanwhile some events are missing",) if halves else ()
            halves += self._take_born(windows)
            for thread in sorted(new - self.threads.keys()):
                began = time.monotonic_ns()
                if self._attach(process, thread):
                    self.threads[thread] = process.pid
                    windows[thread] = (began, time.monotonic_ns())
            halves += self._take_born(windows)
        return (f"process {process.pid} starts threads faster than they can be attached: some are not traced",)

    def _attach(self, process: ProcessDirectory, thread: int) -> bool:
        """Whether it was still there."""
        try:
            self.recorder.attach(thread)
        except ProcessLookupError:
            return False
        except OSError as refusal:
            raise _explained(refusal, process.pid) from None
        return True

    def _take_born(self, windows: dict[int, tuple[int, int]]) -> int:
        """Note the threads that attached ones have started; how many new ones while that one was being attached."""
        self._fetch()
        halves = 0
        for events in (events for pieces in self._by_cpu.values() for events in pieces):
            forks = events[events["kind"] == kinds.FORK]
            for time_ns, thread, pid, parent in forks[["time", "a", "b", "d"]].tolist():
                if thread not in self.threads:
                    self.threads[thread] = pid
                    began, ended = windows.get(parent, (0, 0))
                    halves += began <= time_ns <= ended
        return halves

    def record(self, has_ended: Callable[[], bool]) -> tuple[str, ...]:
        """Fetch what is recorded until the end, whichever comes first; why it ended, where that is to be told."""
        with _first_in_line():
            return self._record(has_ended)

    def _record(self, has_ended: Callable[[], bool]) -> tuple[str, ...]:
        limits = self._limits
        deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
        notes: tuple[str, ...] = ()
        while not limits.is_over():
            left = _WAIT_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            if has_ended():
                notes = ("it ended",) if deadline is not None else ()
                break
            self.recorder.wait(min(left, _WAIT_SECONDS))
            self._fetch()
            if self._count >= limits.most_events:
                notes = (f"tracing ended after {self._count:,} events: that many were wanted at most",)
                break
        self.recorder.stop()
        self._fetch()
        return notes

    def _fetch(self) -> None:
        for cpu, data in self.recorder.read():
            events = self._decoder.decode(data, cpu)
            self._count += len(events)
            self._by_cpu.setdefault(cpu, []).append(events)

    def timeline(self, subject: _Subject, threads: dict[int, int], notes: tuple[str, ...]) -> Timeline:
        """All events in the order of time, from the start on."""
        ended = time.monotonic_ns()
        told, counted = self._decoder.lost, self.recorder.count_lost()
        return Timeline(
            pid=subject.pid,
            command=subject.command,
            kernel=os.uname().release,
            machine=os.uname().machine,
            page_bytes=PAGE_BYTES,
            huge_pages=read_huge_pages(),
            started=subject.started,
            ended=ended,
            threads=threads,
            maps=subject.maps,
            rss=subject.rss,
            names=self._decoder.names,
            lost=max(told, counted or 0),
            notes=notes,
            exit_code=None,
            events=_in_order([piece for pieces in self._by_cpu.values() for piece in pieces], subject.started),
        )


@contextmanager
def _first_in_line() -> Iterator[None]:
    """Within it we come before others for a CPU, as far as we may: a ring that nobody empties loses what comes next."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, _FIRST)
    except PermissionError:  # then we wait for our turn, and what is lost meanwhile is counted
        yield
        return
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def _in_order(pieces: list[NDArray[Any]], started: int) -> NDArray[Any]:
    """One array by time; what has the same time stays as it was, so that a call keeps its further arguments."""
    import numpy as np

    if not pieces:
        return np.zeros(0, np.dtype(list(kinds.EVENT_FIELDS)))
    events = np.concatenate(pieces)
    events = events[events["time"] >= started]
    ordered: NDArray[Any] = events[np.argsort(events["time"], kind="stable")]
    return ordered


def _rss(counted: dict[str, int]) -> dict[str, int]:
    """The counters of a status file, by the names that events have for them."""
    fields = ("rss_file_bytes", "rss_anon_bytes", "swap_bytes", "rss_shmem_bytes")
    return {name: counted.get(field, 0) for name, field in zip(kinds.COUNTERS, fields, strict=True)}


def _has_ended(process: ProcessDirectory) -> bool:
    try:
        return read_identity(process).state in _ENDED
    except ProcessGone:
        return True


def _check(limits: Limits) -> None:
    if limits.seconds is not None and not 0 < limits.seconds <= WEEK_SECONDS:
        msg = f"a process cannot be traced for {limits.seconds} seconds"
        raise UsageError(msg, hint="some seconds, up to a week; without a number it lasts until the process ends")
    if limits.most_events <= 0:
        msg = f"at most {limits.most_events} events is none at all"
        raise UsageError(msg, hint="a positive number")
    if limits.ring_bytes is not None and not _LEAST_RING_BYTES <= limits.ring_bytes <= _LARGEST_RING_BYTES:
        msg = f"a ring of {limits.ring_bytes} bytes is none that the kernel can fill and we can empty"
        raise UsageError(msg, hint="64 KiB to 1 GiB a CPU")


def _check_words(words: Sequence[str]) -> None:
    if isinstance(words, str | bytes):
        msg = f"a command is a list of words, and {words!r} is one text"
        raise WrongType(msg, hint="the program and its arguments apart, as shlex.split makes them")
    if not words or not words[0]:
        msg = "a command begins with the name of its program, and there is none"
        raise UsageError(msg, hint="its path, or a name that is on PATH")


def _explained(refusal: OSError, pid: int | None = None) -> DontneedError:
    """Why there is no trace, by the first feature that is missing for it."""
    import errno

    from dontneed.kernel.features import why_missing

    missing = why_missing(_FEATURES, "nothing can be traced")
    if missing is not None:
        return missing
    if refusal.errno == errno.EMFILE:
        msg = "too many threads and CPUs: an event for each takes more open files than one process may have"
        return DontneedError(msg, hint="raise the limit: ulimit -n, LimitNOFILE=")
    if refusal.errno == errno.ENOMEM or (refusal.errno == errno.EPERM and "ring" in str(refusal.filename)):
        msg = f"the kernel has no memory for the records ({refusal})"
        return DontneedError(msg, hint="smaller rings: --buffer 4M; or raise kernel.perf_event_mlock_kb")
    if isinstance(refusal, PermissionError):
        msg = f"not permitted to trace process {pid}" if pid else f"not permitted to trace: {refusal}"
        return NotPermitted(msg, hint="run as root (sudo); in a container, add CAP_PERFMON and CAP_SYS_PTRACE")
    msg = f"nothing can be traced: {refusal}"
    return DontneedError(msg, hint="please report it, with what `dontneed doctor` says")
