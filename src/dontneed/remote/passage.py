"""`Passage`: a borrowed thread on its way through our system calls and functions, and home.

    with Stop(process, threads=[thread]) as stop:
        with Passage(stop, thread) as passage:                                  system calls only
            passage.system_call(X86_64.GETPID)
        with Passage(stop, thread, ensure, tail=Tail(release, 1)) as passage:   a function, a stop, another function
            passage.result                                                      what the first one returned
            passage.system_call(X86_64.MADVISE, start, length, 4)               as many as are wanted, in between
                                                                                leaving the block runs the second one

At every instant the thread's stack leads home (see return_path). If we are killed, the thread makes the system call
that it is about to make, returns from the function that it is in, runs the tail if there is one, and is then what it
was before; with a call that it was blocked in made again from the start. In the ordinary course we do not let it walk
through the frame: we put back its registers, which also keeps what is left of a timeout.

What is done in which order matters, since we may die between any two requests:

1. The way home is written: memory below the stack, alive to nobody.
2. The registers are set. From now on the thread, left alone, would walk home.
3. All signals are blocked, so that no handler runs on the way. The frame at the end has the mask as it was.
n. The mask is put back, then the registers. Now the thread is home.

While the thread is on its way, signals for it wait. Those for the process go to another thread, or wait as well.

A function is watched from system call to system call, each of which costs two stops. One that makes more than a few (a
malloc_trim with thousands of madvise) is not watched further, if there is no tail: it runs freely, and so does the
thread until it is home; when the function's result is there, the thread is stopped again wherever it is by then.
"""

from __future__ import annotations

import signal
import time

from dontneed.abi import ptrace as abi
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.abi.x86_64 import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, RESTARTS
from dontneed.errors import ProcessGone, TargetRefused, Unreadable, UsageError
from dontneed.kernel import ptrace
from dontneed.kernel.process_memory import read_memory, write_memory
from dontneed.remote import filters, gadgets, lender, refusals, restart
from dontneed.remote.registers import WORD, Registers
from dontneed.remote.return_path import ReturnPath, Tail, lay_out
from dontneed.remote.tracees import GONE, NOTHING, await_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from dontneed.remote.stop import Stop

__all__ = ["Passage", "Tail"]

_WATCHED_STOPS = 64
_GLANCE_SECONDS = 0.0005
_FAULTS = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS})
_BLOCKED = WORD & ~sum(1 << number - 1 for number in _FAULTS)
"""All signals but those for faults: the kernel would take away a handler of the program's for one that is blocked."""
_NEVER_BLOCKED = 1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1


class Passage:
    """A stopped thread, borrowed. A context manager; `finish` does what leaving the block does.

    Args:
        stop: holds the thread.
        thread: one that `lender.require_lender` accepts, and, for a function, one that holds no lock which the function
            takes (see quiet).
        function: address of a C function to run first; None: only system calls are to be injected.
        arguments: at most six integers or addresses.
        tail: a function to run at the end, whatever happens in between.
        patience_seconds: how long each function may take.
    Attributes:
        thread: its id.
        runs_function: there is a function, and not only system calls.
        result: what the function returned, an unsigned word (rax).
        verdicts: what the thread's seccomp filters make of system calls.
    Raises:
        TargetRefused: the thread cannot be borrowed: nothing was changed. Or the function did not return in time: the
            thread is then let go and finishes the function, and the tail, by itself; it is no longer held.
        ProcessGone: it was killed.
    """

    def __init__(
        self,
        stop: Stop,
        thread: int,
        function: int | None = None,
        arguments: tuple[int, ...] = (),
        *,
        tail: Tail | None = None,
        patience_seconds: float = 10.0,
    ) -> None:
        self._replace(stop.passage)
        self.thread = thread
        self.result = 0
        self._stop = stop
        self._tail = tail
        self._patience_seconds = patience_seconds
        self.runs_function = function is not None
        self._prepare()
        stop.passage = self
        if function is not None:
            self._run_function(function, arguments)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    @property
    def path(self) -> ReturnPath:
        """The way home; below `path.start` the stack is free, down to `lowest_free`."""
        return self._path

    @property
    def lowest_free(self) -> int:
        """The lowest address that may be used as scratch space while the thread is parked."""
        return self._lowest_free

    def system_call(self, number: int, *arguments: int) -> int:
        """Make a system call: its result, or a negative errno.

        Raises:
            ProcessGone: the thread was killed.
            TargetRefused: the call blocks for longer than the patience, or a seccomp filter forbids it.
        """
        self._prepare_again()
        self.verdicts.require(number, *arguments)
        entering = self._home.entering(self._stop.gadgets.address("system_call"), self._path.parked, number, arguments)
        self._set(entering)
        deadline = time.monotonic() + self._patience_seconds
        self._to_system_call_stop(deadline)
        while True:
            self._to_system_call_stop(deadline)
            result = Registers.read(self.thread).result
            if -result not in RESTARTS:
                return result
            self._to_system_call_stop(deadline)  # interrupted by a group-stop, and about to be made again

    def call(self, function: int, *arguments: int) -> int:
        """Run another function, behind the first one: what it returned. Of a Passage that runs functions only.

        Raises:
            TargetRefused, ProcessGone: as for the first.
        """
        self._prepare_again()
        no_result = self._path.no_result.to_bytes(8, "little")
        write_memory(self._stop.pid, self._path.result_address, no_result)
        self._run_function(function, arguments)
        return self.result

    def finish(self) -> None:
        """Run the tail, and bring the thread home; it stays stopped. Once only, however often called.

        Raises:
            TargetRefused: the tail did not return in time; as for the function.
        """
        if self._stop.passage is not self:
            return
        if self._tail is not None:
            try:
                self._run_tail()
            except BaseException:  # whatever it was, the thread is let go, and walks home by itself
                self._let_go()
                raise
        self._stop.passage = None
        self._go_home()

    # On the way

    @staticmethod
    def _replace(other: Passage | None) -> None:
        """Bring home a thread that was borrowed for system calls alone."""
        if other is not None:
            if other.runs_function:
                msg = "a function runs in the process already"
                raise UsageError(msg, hint="finish() that Passage first, or make its system calls by it")
            other.finish()

    def _prepare(self) -> None:
        """Write the way home from where the thread is, which changes nothing that is alive."""
        stop, thread = self._stop, self.thread
        self._home = home = stop.registers[thread].copy()
        self._came_home = self._entered = self._note_lost = False
        names = ["system_call", "restore"]
        if self.runs_function:
            names += ["store", "landing"]
        if self._tail is not None:
            names += ["pop_rdi"]
        gadgets.require(stop.gadgets, *names)
        stop.gadgets.require_unchanged(stop.pid, *names)
        lender.require_lender(stop, thread, runs_function=self.runs_function)
        self.verdicts = filters.verdicts_of(refusals.seccomp_mode(stop.status_of(thread)), thread)
        self._number = restart.number_by_hand(thread, home, lambda *at: read_memory(stop.pid, *at))
        self._mask = ptrace.get_signal_mask(thread)
        self._blocked = (_BLOCKED | self._mask) & ~_NEVER_BLOCKED
        self._vector_state = ptrace.get_vector_state(thread)
        self._path = lay_out(
            restart.by_hand(home, self._number),
            self._mask,
            self._vector_state,
            stop.gadgets,
            lands=self.runs_function,
            tail=self._tail,
        )
        self._lowest_free = self._path.start - lender.room_for(runs_function=self.runs_function)
        try:
            for address, data in self._path.parts:
                write_memory(stop.pid, address, data)
        except Unreadable:
            msg = f"the stack of thread {thread} cannot be written to"
            raise TargetRefused(msg, hint="try again, or with another thread") from None

    def _prepare_again(self) -> None:
        """Borrow the thread once more, if it has come home by itself: it may be somewhere else by now."""
        if self._came_home:
            self._prepare()

    def _set(self, registers: Registers) -> None:
        """Send the thread on its way, or further on it."""
        registers.write(self.thread)
        if not self._entered:
            self._entered = True
            ptrace.set_signal_mask(self.thread, self._blocked)

    def _run_function(self, function: int, arguments: tuple[int, ...]) -> None:
        """Run the function, and stop where getpid has been called behind it."""
        gadgets_ = self._stop.gadgets
        deadline = time.monotonic() + self._patience_seconds
        try:
            calling = self._home.calling(function, self._path.start, arguments)
            store = gadgets.parse_store(gadgets_.pieces["store"].code)
            setattr(calling, store.register, self._path.result_address - store.displacement)
            self._set(calling)
            most = _WATCHED_STOPS if self._tail is None else None
            if self._run_until(gadgets_.after_landing, self._path.parked, deadline, most) is None:
                self._run_freely(deadline)
            else:
                self._to_system_call_stop(deadline)  # from the entry of getpid to its exit
                self.result = self._stored_result()
        except BaseException:  # as in `finish`
            self._let_go()
            raise

    def _stored_result(self) -> int:
        return int.from_bytes(read_memory(self._stop.pid, self._path.result_address, 8), "little")

    def _run_freely(self, deadline: float) -> None:
        """Let the thread run until the function's result is there, and stop it again on its way home or at home."""
        ptrace.resume(self.thread)
        interrupted = False
        while True:
            if not interrupted and self._stored_result() != self._path.no_result:
                ptrace.interrupt(self.thread)
                interrupted = True
            status = await_report(self.thread, min(deadline, time.monotonic() + _GLANCE_SECONDS))
            if status == NOTHING:
                if time.monotonic() >= deadline:
                    self._abandon()
                continue
            event, number = self._understood(status)
            if interrupted and event == abi.EVENT_STOP:
                break
            interrupted = False  # any stop cancels an interrupt
            ptrace.resume(self.thread, 0 if event else number)
        self.result = self._stored_result()
        self._note_lost = True
        registers = Registers.read(self.thread)
        if not self._is_on_the_way(registers):
            self._came_home = True
            self._entered = False
            self._stop.take(self.thread, registers)

    def _is_on_the_way(self, registers: Registers) -> bool:
        """Whether the thread is not home yet. At home, a signal handler may run in the same place on the stack."""
        if not self._path.start <= registers.rsp <= self._path.restoring:
            return False
        pieces = self._stop.gadgets.pieces.values()
        if not any(piece.address <= registers.rip <= piece.end for piece in pieces):
            return False
        return ptrace.get_signal_mask(self.thread) == self._blocked

    def _run_tail(self) -> None:
        """Run the tail, and stop where the thread is about to call rt_sigreturn.

        That call would end the kernel's note of an interrupted one, and with it what is left of its timeout. It becomes
        a getpid, behind which rt_sigreturn is called all the same if we die now.
        """
        restore = self._stop.gadgets.pieces["restore"]
        deadline = time.monotonic() + self._patience_seconds
        registers = self._run_until(restore.end, self._path.restoring, deadline)
        if registers is not None:
            registers.orig_rax = NR.GETPID
            registers.rip = restore.address
            registers.write(self.thread)
            self._to_system_call_stop(deadline)

    def _run_until(self, instruction: int, stack: int, deadline: float, most: int | None = None) -> Registers | None:
        """Let the thread run until it enters a system call here: the registers there; None after `most` other stops."""
        for turn in range(1 << 62):
            if turn == most:
                break
            self._to_system_call_stop(deadline)
            registers = Registers.read(self.thread)
            if registers.rip == instruction and registers.rsp == stack:
                return registers
            if registers.orig_rax in restart.USE_RESTART_BLOCK:
                self._note_lost = True
        return None

    def _to_system_call_stop(self, deadline: float) -> None:
        """Let the thread run to its next entry into a system call, or exit from one."""
        ptrace.resume_to_system_call(self.thread)
        while True:
            status = await_report(self.thread, deadline)
            if status == NOTHING:
                self._abandon()
            event, number = self._understood(status)
            if number == abi.SYSCALL_STOP:
                return
            ptrace.resume_to_system_call(self.thread, 0 if event else number)

    def _understood(self, status: int) -> tuple[int, int]:
        """Event and signal of a report that says that the thread is alive and well.

        Not a stop at a system call, it is a group-stop, which the thread joins at the end; or a signal that somebody
        sent and that is not blocked.
        """
        if status == GONE:
            self._lose()
        event, number = status >> 16, status >> 8 & 0xFF
        if not event and number in _FAULTS and ptrace.get_signal_code(self.thread) > 0:
            self._give_up(number)
        return event, number

    # Ends

    def _go_home(self) -> None:
        if not self._entered:
            return
        home = self._home
        if self._note_lost and home.result == -ERESTART_RESTARTBLOCK:
            home = home.copy()
            home.rax = -ERESTARTNOHAND
            home.orig_rax = self._number if self._number is not None else WORD
        try:
            if self.runs_function:
                ptrace.set_vector_state(self.thread, self._vector_state)
            ptrace.set_signal_mask(self.thread, self._mask)
            home.write(self.thread)
        except ProcessGone:  # killed; or it runs, since something went wrong here, and finds home by itself
            self._stop.release(self.thread)

    def _let_go(self) -> None:
        """Let the thread finish by itself whatever it is in: it may hold a lock, and it knows the way home."""
        if self._stop.passage is self:
            self._stop.passage = None
            self._stop.release(self.thread)

    def _abandon(self) -> None:
        """What the thread is in takes too long."""
        self._let_go()
        msg = f"thread {self.thread} did not return within {self._patience_seconds:g} s; it finishes by itself"
        hint = "it waits for a lock that another thread holds; try again when the process is less busy"
        raise TargetRefused(msg, hint=hint)

    def _lose(self) -> None:
        self._stop.passage = None
        self._stop.forget(self.thread)
        msg = f"thread {self.thread} of process {self._stop.pid} ended while it was borrowed"
        raise ProcessGone(msg)

    def _give_up(self, number: int) -> None:
        """A fault on the way: the thread is taken home from where it is, and the fault never was."""
        self._stop.passage = None
        self._go_home()
        msg = f"thread {self.thread} met with {signal.Signals(number).name} on our way, and was put back"
        hint = "the memory of the process is damaged, or no function is at that address"
        raise TargetRefused(msg, hint=hint)
