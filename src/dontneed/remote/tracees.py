"""Threads that we trace: what they report, and how they are let go of, wherever they are.

# Facts, and what they mean for us

- Only a stopped thread can be let go of. One that runs is stopped for it; one in an uninterruptible sleep is left for
  later: the next time that anybody asks, or the end of our own thread, which lets go of everything.
- A thread that was killed is reported too, and until its report is fetched an exec or the end of its process waits for
  it. So nobody is waited for alone.
- SEIZE waits while any thread of the process is within exec. If that exec waits for a thread whose end we have not
  fetched, the two wait for each other for ever, and no signal of ours would help: the call is made again after it.
  Therefore a second thread of ours fetches what has ended, should the first be kept for too long (`Reaper`).
"""

from __future__ import annotations

import os
import signal
import threading
import time

from dontneed.abi import ptrace as abi
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.abi.x86_64 import ERESTART_RESTARTBLOCK, ERESTARTNOHAND
from dontneed.errors import ProcessGone
from dontneed.kernel import ptrace
from dontneed.remote import filters, restart
from dontneed.remote.registers import Registers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NOTHING = -1
"""No report yet: no wait status is negative."""
GONE = -2
"""The thread has ended."""

_TURNS_WITHOUT_SLEEP = 20
_TURNS_OF_GLANCES = 200
_GLANCE_SECONDS = 0.00002
"""Brief, and soon: whoever goes first (see scheduling) would keep the processor from the thread that is waited for."""
_LONGER_GLANCE_SECONDS = 0.0002
_ENDS = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)
_REAPER_PATIENCE_SECONDS = 0.05
_REAPER_GLANCE_SECONDS = 0.005

_sleepers: dict[int, set[int]] = {}
"""Threads that could not be let go of, by the thread of ours that traces them."""


class Reaper:
    """A thread of ours that fetches the ends of traced threads, if the thread that traces them is kept from it.

    Args:
        threads: the ids of those that are traced; may change meanwhile.
    """

    def __init__(self, threads: set[int]) -> None:
        self._threads = threads
        self._rests = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def rest(self) -> None:
        """Nothing is to be done any more. It is not woken for that: others wait for us just now."""
        self._rests = True

    def end(self) -> None:
        """End the thread, and wait for it."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        pause_seconds = _REAPER_PATIENCE_SECONDS
        while not self._ended.wait(pause_seconds):
            if self._rests:
                pause_seconds = _REAPER_PATIENCE_SECONDS
                continue
            for thread in tuple(self._threads):
                self._fetch_end(thread)
            pause_seconds = _REAPER_GLANCE_SECONDS

    @staticmethod
    def _fetch_end(thread: int) -> None:
        """Fetch a report, if it is that of an end: stops are for the thread that traces."""
        options = os.WEXITED | os.WNOHANG | abi.WALL
        try:
            report = os.waitid(os.P_PID, thread, options | os.WNOWAIT)
            if report and report.si_code in _ENDS:
                os.waitid(os.P_PID, thread, options)
        except ChildProcessError:  # fetched already
            return


def await_report(thread: int, deadline: float) -> int:
    """The wait status that a traced thread reports.

    Args:
        thread: its id.
        deadline: until when to wait, by the monotonic clock; 0: not at all.
    Returns:
        The status of a stop; `GONE` if it has ended; `NOTHING` if it has reported nothing by the deadline.
    """
    for turn in range(1 << 62):
        try:
            status = ptrace.wait(thread)
        except ProcessGone:
            return GONE
        if status is not None:
            return GONE if os.WIFEXITED(status) or os.WIFSIGNALED(status) else status
        if turn < _TURNS_WITHOUT_SLEEP and deadline:
            os.sched_yield()
            continue
        if time.monotonic() >= deadline:
            break
        time.sleep(_GLANCE_SECONDS if turn < _TURNS_OF_GLANCES else _LONGER_GLANCE_SECONDS)
    return NOTHING


def make_restartable(thread: int, registers: Registers) -> bool:
    """Have an interrupted call made again where that would not happen by itself; whether `registers` changed.

    The kernel goes on with some calls by restart_syscall. A seccomp filter may end the process for that one: then the
    call is made again as it was, and what is left of its timeout is lost.
    """
    if restart.make_restartable(registers):
        return True
    if registers.result != -ERESTART_RESTARTBLOCK or registers.orig_rax == NR.RESTART_SYSCALL:
        return False
    if not filters.may_forbid_restart(thread):
        return False
    registers.rax = -ERESTARTNOHAND
    return True


def let_go(threads: Iterable[int], patience_seconds: float) -> None:
    """Let go of traced threads, in this order as far as they are stopped.

    Args:
        threads: their ids; some may run, or have ended.
        patience_seconds: how long to wait for those that run.
    """
    left = [thread for thread in threads if not _detach(thread)]
    waited_for = [thread for thread in left if _interrupt(thread)]
    deadline = time.monotonic() + patience_seconds
    while waited_for:
        waited_for = [thread for thread in waited_for if not _let_go_if_stopped(thread)]
        if not waited_for or time.monotonic() >= deadline:
            break
        time.sleep(_GLANCE_SECONDS)
    if waited_for:
        _sleepers.setdefault(threading.get_native_id(), set()).update(waited_for)


def let_go_of_sleepers() -> None:
    """Let go of those for whom it was too early, as far as they have stopped meanwhile."""
    let_go(_sleepers.pop(threading.get_native_id(), ()), 0)


def _let_go_if_stopped(thread: int) -> bool:
    """Whether there is nothing left to do for this thread."""
    status = await_report(thread, 0)
    if status == NOTHING:
        return False
    if status != GONE:
        _detach(thread, _signal_due(thread, status))
    return True


def _signal_due(thread: int, status: int) -> int:
    """The signal that a thread has stopped for, if that was why; a call that our interrupt ended is made again."""
    event, number = status >> 16, status >> 8 & 0xFF
    if not event:
        return 0 if number == abi.SYSCALL_STOP else number
    if event == abi.EVENT_STOP and number == signal.SIGTRAP:
        try:
            registers = Registers.read(thread)
            if make_restartable(thread, registers):
                registers.write(thread)
        except ProcessGone:  # killed meanwhile: no signal is due
            return 0
    return 0


def _detach(thread: int, number: int = 0) -> bool:
    """Whether the thread is let go of: it was stopped."""
    try:
        ptrace.detach(thread, number)
    except ProcessGone:
        return False
    return True


def _interrupt(thread: int) -> bool:
    """Whether the thread is ours, and will report something."""
    try:
        ptrace.interrupt(thread)
    except ProcessGone:
        return False
    return True
