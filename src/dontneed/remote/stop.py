"""`Stop`: hold threads of another process for a moment, see their registers, and let them go as they were.

# Facts, and what they mean for us

- A thread may be created while the others are being stopped. The list is read again until it holds no new one; a
  stopped thread creates none, so that this ends.
- A thread that ends, or vanishes because another one calls exec, is none of ours any more. If there was an exec,
  nothing that was known of the process holds: it is let go, and refused.
- Real signals come in between. They are reported to us first, and passed on at once; our own stop follows.
- A process that is stopped by SIGSTOP reports a group-stop instead of our interrupt. It is as good for us, and after
  the end of tracing it is still stopped.
- A signal that the process ignores (SIGCHLD, as a rule) is thrown away when it is sent, but not if the thread that it
  is sent to is traced: then any other thread is woken for it. Nearly every system call is made again after that; those
  that return EINTR (see restart) are so only if their thread is traced too. Therefore the threads that wait in such
  calls are seized first and let go last, and the main thread, which most signals are sent to, the other way round.
- A thread in an uninterruptible sleep (the disk; the parent of a vfork) does not stop. We wait for it as long as the
  patience lasts, then let go of the others and refuse. The sleeper cannot be let go of while it sleeps: it is as soon
  as it reports, or when our own thread ends. Therefore the helper process ends after a refusal.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from dontneed.abi import ptrace as abi
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.abi.x86_64 import ERESTART_RESTARTBLOCK, ERESTARTNOHAND
from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, TargetRefused
from dontneed.kernel import ptrace
from dontneed.remote import filters, refusals, restart
from dontneed.remote.gadgets import find_gadgets
from dontneed.remote.registers import Registers, require_known_architecture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.remote.gadgets import Gadgets
    from dontneed.remote.passage import Passage

_TURNS_WITHOUT_SLEEP = 100
_GLANCE_SECONDS = 0.0001
_ENDED = (b"Z", b"X")


class Stop:
    """Some or all threads of a process, stopped within a `with` block and going on after it.

    Args:
        process: held by its directory; not the calling process itself.
        threads: thread ids; None: all threads, also those that are created meanwhile.
        patience_seconds: how long all of them together may take to stop.
    Attributes:
        process, pid: whose threads.
        registers: those of every stopped thread, by thread id, as the thread will go on with.
        group_stopped: the threads that SIGSTOP, or another signal like it, had stopped already.
        pause_seconds: after the block: from the first interrupt until the last thread went on.
        gadgets: code of the target to go by, see there.
        passage: the borrowed thread, if there is one: what is injected goes through it.
    Raises:
        TargetRefused: it cannot be stopped, or not now; it goes on as before.
        NotPermitted: with what would permit it.
        ProcessGone: it has ended, before or while it was being stopped.
        KernelLacks: no x86-64, no ptrace.
    """

    def __init__(
        self, process: ProcessDirectory, threads: Iterable[int] | None = None, patience_seconds: float = 2.0
    ) -> None:
        self.process = process
        self.pid = process.pid
        self.registers: dict[int, Registers] = {}
        self.group_stopped: set[int] = set()
        self.pause_seconds = 0.0
        self.gadgets: Gadgets
        self.passage: Passage | None = None
        self._only = None if threads is None else list(threads)
        self._patience_seconds = patience_seconds
        self._seized: set[int] = set()
        self._ended: set[int] = set()
        self._sensitive: set[int] = set()
        self._vanished = False
        self._begun: float | None = None

    def __enter__(self) -> Self:
        require_known_architecture()
        _let_go_of_sleepers()
        refusals.before_stop(self.process)
        self.gadgets = find_gadgets(self.process)
        try:
            self._stop_all(time.monotonic() + self._patience_seconds)
        except BaseException:
            self._resume_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.passage is not None:
                self.passage.finish()
        finally:
            self._resume_all()

    def take(self, thread: int, registers: Registers) -> None:
        """Hold a thread that has stopped with these registers; a call that was interrupted is made again at the end."""
        if thread not in self.group_stopped and _make_restartable(thread, registers):
            registers.write(thread)
            self._sensitive.add(thread)
        restart.seen.note(thread, registers)
        self.registers[thread] = registers

    def release(self, thread: int) -> None:
        """Let one thread go on, before the others."""
        _release(thread, self._patience_seconds)
        self.forget(thread)

    def forget(self, thread: int) -> None:
        """No longer hold a thread: it has ended, or was let go otherwise."""
        self.registers.pop(thread, None)
        self._seized.discard(thread)

    # Stopping

    def _stop_all(self, deadline: float) -> None:
        while new := [thread for thread in self._listed() if thread not in self._seized | self._ended]:
            seized = [thread for thread in self._in_order(new, deadline) if self._seize(thread)]
            self._begun = self._begun or time.perf_counter()
            for thread in seized:
                self._interrupt(thread)
            for thread in seized:
                self._await_stop(thread, deadline)
        if self._vanished:
            self._look_again()
        self._drop_strangers()
        if not self.registers:
            msg = f"process {self.pid}, or the thread that was wanted of it, has ended"
            raise ProcessGone(msg)

    def _in_order(self, threads: list[int], deadline: float) -> list[int]:
        """Those first that an ignored signal could disturb, as far as can be seen; the main thread last."""
        calls = {thread: self._call_of(thread, deadline) for thread in threads}
        return sorted(threads, key=lambda thread: (calls[thread] not in restart.RETURNS_EINTR, thread == self.pid))

    def _call_of(self, thread: int, deadline: float) -> int | None:
        """Which system call a thread sleeps in."""
        try:
            word = refusals.read_call(self.process, thread)
            if self._begun is None:
                refusals.await_end_of_vfork(self.process, thread, word, deadline)
        except (ProcessGone, NotPermitted, KernelLacks):  # it only is of help; seizing tells what is wrong
            return None
        return int(word) if word.isdigit() else None

    def _listed(self) -> list[int]:
        return self.process.threads() if self._only is None else self._only

    def _seize(self, thread: int) -> bool:
        """Whether the thread is traced by us from now on; False if it has ended."""
        try:
            ptrace.seize(thread)
        except ProcessGone:
            self._ended.add(thread)
            return False
        except OSError as error:
            if self._has_ended(thread):  # a main thread that ended before the others stays in the list
                self._ended.add(thread)
                return False
            raise refusals.of_seize(self.process, thread, error) from None
        self._seized.add(thread)
        return True

    def _has_ended(self, thread: int) -> bool:
        try:
            return self.process.read(f"task/{thread}/stat").rpartition(b") ")[2][:1] in _ENDED
        except ProcessGone:
            return True

    def _interrupt(self, thread: int) -> None:
        try:
            ptrace.interrupt(thread)
        except ProcessGone:  # its end will be reported where its stop is waited for
            return

    def _await_stop(self, thread: int, deadline: float) -> None:
        """Wait until the thread has stopped, passing on the signals that come first."""
        while True:
            status = await_report(thread, deadline)
            if status == NOTHING:
                msg = f"thread {thread} of process {self.pid} did not stop within {self._patience_seconds:g} s"
                raise TargetRefused(
                    msg,
                    hint="it sleeps uninterruptibly: it waits for a disk, or for a child that it has just made (vfork)",
                )
            if status == GONE:
                self._vanished = True
                self.forget(thread)
                self._ended.add(thread)
                return
            try:
                if self._takes(thread, status):
                    return
            except ProcessGone:  # killed while it was stopped: the report of its end follows
                continue

    def _takes(self, thread: int, status: int) -> bool:
        """Whether this report is the stop that we wanted."""
        event, number = status >> 16, status >> 8 & 0xFF
        if event == abi.EVENT_EXEC:
            raise _started_another(self.pid)
        if event != abi.EVENT_STOP:
            ptrace.resume(thread, number)
            return False
        if number != signal.SIGTRAP:
            self.group_stopped.add(thread)
        self.take(thread, Registers.read(thread))
        return True

    def _look_again(self) -> None:
        """Some thread has vanished: by an exec, which ends the stopped ones too, or by the end of the process?"""
        for thread in list(self.registers):
            status = await_report(thread, 0)
            if status == NOTHING:
                continue
            if status != GONE and status >> 16 == abi.EVENT_EXEC:
                raise _started_another(self.pid)
            self.forget(thread)

    def _drop_strangers(self) -> None:
        """Let go of a thread whose number belonged to someone else by the time that we seized it."""
        listed = set(self.process.threads()) if self._only is None else self._own(self._only)
        for thread in [thread for thread in self.registers if thread not in listed]:
            self.release(thread)

    def _own(self, threads: list[int]) -> set[int]:
        own = set()
        for thread in threads:
            try:
                self.process.read(f"task/{thread}/comm")
            except ProcessGone:
                continue
            own.add(thread)
        return own

    # Resuming

    def _resume_all(self) -> None:
        for thread in sorted(self._seized, key=lambda thread: (thread in self._sensitive, thread != self.pid)):
            _release(thread, self._patience_seconds)
        ended = time.perf_counter()
        self._seized.clear()
        self.pause_seconds = ended - self._begun if self._begun else 0.0


NOTHING = -1
"""No report yet: no wait status is negative."""
GONE = -2
"""The thread has ended."""


def await_report(thread: int, deadline: float) -> int:
    """The wait status that a traced thread reports.

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
        time.sleep(_GLANCE_SECONDS)
    return NOTHING


def _release(thread: int, patience_seconds: float) -> None:
    """Let go of a thread, wherever it is; one that has not stopped is stopped first."""
    try:
        ptrace.detach(thread)
    except ProcessGone:
        _release_runner(thread, time.monotonic() + patience_seconds)


def _release_runner(thread: int, deadline: float) -> None:
    """Stop a thread, to let go of it."""
    try:
        ptrace.interrupt(thread)
        status = await_report(thread, deadline)
        if status == NOTHING:
            _sleepers.setdefault(threading.get_native_id(), set()).add(thread)
        elif status != GONE:
            ptrace.detach(thread, _signal_due(thread, status))
    except ProcessGone:
        return


def _make_restartable(thread: int, registers: Registers) -> bool:
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


def _signal_due(thread: int, status: int) -> int:
    """The signal that a thread has stopped for, if that was why; a call that our interrupt ended is made again."""
    event, number = status >> 16, status >> 8 & 0xFF
    if not event:
        return 0 if number == abi.SYSCALL_STOP else number
    registers = Registers.read(thread)
    if number == signal.SIGTRAP and _make_restartable(thread, registers):
        registers.write(thread)
    return 0


_sleepers: dict[int, set[int]] = {}
"""Threads that did not stop in time and are traced still, by the thread of ours that traces them."""


def _let_go_of_sleepers() -> None:
    for thread in _sleepers.pop(threading.get_native_id(), set()):
        _release_runner(thread, 0)


def _started_another(pid: int) -> TargetRefused:
    return TargetRefused(
        f"process {pid} started another program while it was being stopped",
        hint="look at what it is now, and try again",
    )
