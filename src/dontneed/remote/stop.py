"""`Stop`: hold threads of another process for a moment, see their registers, and let them go as they were.

# Facts, and what they mean for us

- A thread may be created while the others are being stopped. The list is read again until it holds no new one; a
  stopped thread creates none, so that this ends.
- A thread that ends, or vanishes because another one calls exec, is none of ours any more. If there was an exec,
  nothing that was known of the process holds: it is let go, and refused.
- Real signals come in between. They are reported to us first, and passed on at once; our own stop follows, if we ask
  for it again: any stop cancels an interrupt that has not been met yet.
- A process that is stopped by SIGSTOP reports a group-stop instead of our interrupt. It is as good for us, and after
  the end of tracing it is still stopped.
- A signal that the process ignores (SIGCHLD, as a rule) is thrown away when it is sent, but not if the thread that it
  is sent to is traced: then any other thread is woken for it. Nearly every system call is made again after that; those
  that return EINTR (see restart) are so only if their thread is traced too. Therefore the threads that wait in such
  calls are seized first and let go last, and the main thread, which most signals are sent to, the other way round.
  While only some threads are stopped nothing helps: should a child of one of them end just then, another thread may see
  EINTR from such a call, as it may under any debugger.
- A thread in an uninterruptible sleep (the disk; the parent of a vfork) does not stop. We wait for it as long as the
  patience lasts, then let go of the others and refuse. The sleeper cannot be let go of while it sleeps: it is as soon
  as it reports, or when our own thread ends. Therefore the helper process ends after a refusal.
"""

from __future__ import annotations

import signal
import threading
import time

from dontneed.abi import ptrace as abi
from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, TargetRefused
from dontneed.kernel import ptrace
from dontneed.remote import refusals, restart
from dontneed.remote.gadgets import find_gadgets, identify_program
from dontneed.remote.registers import Registers, require_known_architecture
from dontneed.remote.scheduling import Scheduling, go_first
from dontneed.remote.tracees import GONE, NOTHING, Reaper, await_report, let_go, let_go_of_sleepers, make_restartable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

    from dontneed.errors import DontneedError
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.remote.gadgets import Gadgets
    from dontneed.remote.passage import Passage

_GLANCE_SECONDS = 0.001
_ATTEMPTS = 10
_LOOK_AGAIN_SECONDS = 0.02
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
        fit: what has been found out by `lender.why_not`.
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
        self.fit: dict[tuple[int, bool], Registers] = {}
        self.passage: Passage | None = None
        self._statuses: dict[int, dict[bytes, bytes]] = {}
        self._only = None if threads is None else list(threads)
        self._patience_seconds = patience_seconds
        self._seized: set[int] = set()
        self._ended: set[int] = set()
        self._sensitive: set[int] = set()
        self._reaper: Reaper | None = None
        self._vanished = False
        self._begun: float | None = None
        self._usual: Scheduling | None = None

    def __enter__(self) -> Self:
        require_known_architecture()
        let_go_of_sleepers()
        refusals.before_stop(self.process)
        try:
            self.gadgets = find_gadgets(self.process)
            self._usual = go_first()
            self._stop_all(time.monotonic() + self._patience_seconds)
            self._require_same_program()
        except ProcessGone as error:
            self._resume_all()
            raise self._what_has_gone() from error
        except BaseException:  # whatever it was, no thread stays stopped
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

    def status_of(self, thread: int) -> dict[bytes, bytes]:
        """The status of a stopped thread, read once: what it says of rights and filters does not change."""
        if thread not in self._statuses:
            self._statuses[thread] = refusals.read_words(self.process, f"task/{thread}/status")
        return self._statuses[thread]

    def take(self, thread: int, registers: Registers) -> None:
        """Hold a thread that has stopped with these registers; a call that was interrupted is made again at the end."""
        if thread not in self.group_stopped and make_restartable(thread, registers):
            registers.write(thread)
            self._sensitive.add(thread)
        restart.seen.note(thread, registers)
        self.registers[thread] = registers

    def release(self, thread: int) -> None:
        """Let one thread go on, before the others."""
        let_go([thread], self._patience_seconds)
        self.forget(thread)

    def forget(self, thread: int) -> None:
        """No longer hold a thread: it has ended, or was let go otherwise."""
        self.registers.pop(thread, None)
        self._seized.discard(thread)

    # Stopping

    def _stop_all(self, deadline: float) -> None:
        while new := [thread for thread in self._listed() if thread not in self._seized | self._ended]:
            if self._reaper is None and len(self._seized) + len(new) > 1:
                self._reaper = Reaper(self._seized)
            seized = [thread for thread in self._in_order(new, deadline) if self._seize(thread)]
            self._begun = self._begun or time.perf_counter()
            for thread in seized:
                self._interrupt(thread)
            for thread in seized:
                self._await_stop(thread, deadline)
        if self._reaper:
            self._reaper.rest()
        if self._vanished:
            self._look_again()
        self._drop_strangers()
        if not self.registers:
            raise ProcessGone(f"process {self.pid} has ended")  # noqa: EM102 - as it is understood at once

    def _what_has_gone(self) -> DontneedError:
        """The process, a thread of it, or only the program that it was: in the middle of an exec all looks gone."""
        try:
            refusals.before_stop(self.process)
        except (ProcessGone, TargetRefused) as error:
            return error
        if self._only is None:
            return _started_another(self.pid)
        return ProcessGone(f"thread {', '.join(map(str, self._only))} of process {self.pid} has ended")

    def _require_same_program(self) -> None:
        """An exec before our first request is not reported to us."""
        if identify_program(self.process) != self.gadgets.program:
            raise _started_another(self.pid)

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
        for attempt in range(1, _ATTEMPTS + 1):
            refused = self._refusal_to_seize(thread)
            if refused is None:
                break
            self._vanished = True
            if self._traces(thread):  # one that we had seized, and that has got the main thread's number by exec
                raise _started_another(self.pid)
            if attempt == _ATTEMPTS:
                self._require_same_program()
                raise refusals.of_seize(self.process, thread, refused)
            time.sleep(_GLANCE_SECONDS)  # within an exec it is refused for a moment
        return thread in self._seized

    def _refusal_to_seize(self, thread: int) -> OSError | None:
        """None if the thread is seized now, or has ended."""
        try:
            ptrace.seize(thread)
        except ProcessGone:
            self._ended.add(thread)
        except OSError as error:
            if not self._has_ended(thread):  # a main thread that ended before the others stays in the list
                return error
            self._ended.add(thread)
        else:
            self._seized.add(thread)
        return None

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
            status = await_report(thread, min(deadline, time.monotonic() + _LOOK_AGAIN_SECONDS))
            if status == NOTHING:
                if self._has_ended(thread):  # a main thread: its end is reported when the last of the others ends
                    self._vanished = True
                    self._ended.add(thread)
                    return
                if time.monotonic() >= deadline:
                    msg = f"thread {thread} of process {self.pid} did not stop within {self._patience_seconds:g} s"
                    hint = (
                        "it sleeps uninterruptibly: it waits for a disk, or for a child that it has just made (vfork)"
                    )
                    raise TargetRefused(msg, hint=hint)
                self._look_again()
                continue
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
            ptrace.interrupt(thread)  # again: whatever stops a thread first cancels an interrupt that it has not met
            ptrace.resume(thread, number)
            return False
        if number != signal.SIGTRAP:
            self.group_stopped.add(thread)
        self.take(thread, Registers.read(thread))
        return True

    def _look_again(self) -> None:
        """Some thread has vanished: by an exec, which ends the stopped ones too, or by the end of the process?"""
        for thread in [*self.registers, *(self._ended & self._seized)]:
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
        try:
            let_go(sorted(self._seized, key=self._late), self._patience_seconds)
            if self._vanished and self._traces(self.pid):
                let_go([self.pid], self._patience_seconds)  # by number a successor: a thread of ours has called exec
        finally:
            self._become_ordinary(time.perf_counter())

    def _become_ordinary(self, ended: float) -> None:
        """Nobody stands still for us any more: be scheduled as before, and without a second thread."""
        if self._reaper:
            self._reaper.end()
            self._reaper = None
        if self._usual:
            self._usual.restore()
            self._usual = None
        self._seized.clear()
        self.pause_seconds = ended - self._begun if self._begun else 0.0

    def _traces(self, thread: int) -> bool:
        try:
            return refusals.tracer_of(self.process, thread) == threading.get_native_id()
        except (ProcessGone, NotPermitted, KernelLacks):  # it is ending
            return False

    def _late(self, thread: int) -> tuple[bool, bool, bool]:
        """The order of letting go; see the facts above."""
        return thread in self._ended, thread in self._sensitive, thread != self.pid


def _started_another(pid: int) -> TargetRefused:
    return TargetRefused(
        f"process {pid} started another program while it was being stopped",
        hint="look at what it is now, and try again",
    )
