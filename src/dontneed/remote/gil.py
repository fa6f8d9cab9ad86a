"""The GIL of another process, held by one of its own threads while we read and write that process's objects.

    gil = Gil(process, runtime)
    with gil.held() as held:            no Python thread of the process runs in here
        advise_inside(held.stop, spans, Advice.DONTNEED)

A thread that waits in a system call, without the GIL, is borrowed: it calls PyGILState_Ensure, and is parked behind it.
Its way home leads through PyGILState_Release (see passage), so that the GIL is given back whatever becomes of us. All
other threads run on; those that want the GIL wait, as they would for any other holder.

# Which thread

- It is in a system call in which it can hold no lock of malloc's (see quiet). An idle one, by preference the main
  thread: while that waits, no interpreter can begin to shut down, and a thread that asks for the GIL of an interpreter
  which does is ended on the spot.
- It has a thread state of the main interpreter, and does not hold the GIL: a thread may wait with it.
- It does not wait for the GIL itself. Such a wait is a condition variable in the interpreter's own data; a release
  within it waits for the waiter to leave, and that is the thread itself: it hung for ever.
- A process with sub-interpreters is refused: CPython then no longer tells whether a thread holds the GIL
  (PyGILState_Check always says that it does), and since 3.12 each may have a GIL and pools of its own.

Once begun, taking the GIL is never broken off: a thread that does not get it in time is let go, and takes and releases
it by itself.

Source:
    CPython: Python/pystate.c PyGILState_Ensure(), PyGILState_Check(); Python/ceval_gil.c take_gil().
"""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import ProcessGone, TargetRefused
from dontneed.remote.passage import Passage, Tail
from dontneed.remote.quiet import quiet_threads, still_quiet
from dontneed.remote.stop import Stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.python.runtime import PythonRuntime
    from dontneed.remote.registers import Registers

_PATIENCE_SECONDS = 2.0
_BETWEEN_ROUNDS_SECONDS = 0.003
_INT = (1 << 32) - 1
"""What of a result is an `int`."""
_UNLOCKED = 1
"""PyGILState_UNLOCKED: what Ensure returns, and Release is given, where the thread did not hold the GIL before."""


class HeldGil:
    """A GIL that is held.

    Attributes:
        stop: holds the thread that holds it; system calls injected there are made by that thread.
        thread: its id.
        waited_seconds: how long the process took to hand over the GIL.
        held_seconds: for how long it was held; known afterwards.
    """

    def __init__(self, stop: Stop, thread: int) -> None:
        self.stop = stop
        self.thread = thread
        self.waited_seconds = 0.0
        self.held_seconds = 0.0


class _InterpreterRefused(TargetRefused):
    """Its state forbids to borrow any thread."""


class Gil:
    """The GIL of a process, to be held as often as is wanted.

    Args:
        process: whose; not the calling process itself.
        runtime: its CPython.
    """

    def __init__(self, process: ProcessDirectory, runtime: PythonRuntime) -> None:
        self._process = process
        self._runtime = runtime
        self._unfit: set[int] = set()
        self._why = "all of them are busy, or wait for the GIL"

    @contextmanager
    def held(self, patience_seconds: float = _PATIENCE_SECONDS) -> Iterator[HeldGil]:
        """Hold the GIL as long as the block runs.

        Args:
            patience_seconds: how long to look for a thread to borrow.
        Raises:
            TargetRefused: there is no thread to borrow, or the interpreter is in a state in which none may be.
            NotPermitted, ProcessGone, KernelLacks: as `Stop`.
        """
        deadline = time.monotonic() + patience_seconds
        while True:
            for thread in self._candidates():
                held = self._borrowed(thread)
                if held is None:
                    continue
                try:
                    yield held
                finally:
                    _let_go(held)
                return
            if time.monotonic() >= deadline:
                msg = f"no thread of process {self._process.pid} can hold the GIL for us: {self._why}"
                hint = "try again: a Python thread is needed that waits for something, such as input or a timeout"
                raise TargetRefused(msg, hint=hint)
            time.sleep(_BETWEEN_ROUNDS_SECONDS)

    def _candidates(self) -> list[int]:
        """Threads that may be borrowed, as far as can be seen without stopping them; the main thread first."""
        quiet = [
            each.thread
            for each in quiet_threads(self._process)
            if each.thread not in self._unfit and not self._waits_for_gil(each.number, each.arguments)
        ]
        return sorted(quiet, key=lambda thread: thread != self._process.pid)

    def _borrowed(self, thread: int) -> HeldGil | None:
        """Stop this thread and have it take the GIL; None if it is not one that can.

        Raises:
            _InterpreterRefused: no thread of the process may.
        """
        try:
            with ExitStack() as unless_held:
                stop = unless_held.enter_context(Stop(self._process, [thread]))
                if not self._may_borrow(stop, thread):
                    return None
                held = self._take(stop, thread)
                unless_held.pop_all()
                return held
        except _InterpreterRefused:
            raise
        except (TargetRefused, ProcessGone) as error:
            self._process.read("stat")  # raises if it is the process that has gone
            self._why = str(error)
            return None

    def _may_borrow(self, stop: Stop, thread: int) -> bool:
        registers = stop.registers[thread]
        if self._is_in_gil_wait(registers) or not still_quiet(stop, thread):
            return False
        return self._is_fit(stop, thread)

    def _is_fit(self, stop: Stop, thread: int) -> bool:
        """Whether the thread is one of the main interpreter's, without the GIL.

        Raises:
            _InterpreterRefused: it is shutting down, or is not the only one.
        """
        symbols = self._runtime.symbols
        with Passage(stop, thread, self._runtime.finalizing) as passage:
            if passage.result & _INT:
                raise _InterpreterRefused("its interpreter is shutting down", hint="its memory is about to go anyway")
            state = passage.call(symbols["PyGILState_GetThisThreadState"])
            if not state:
                self._unfit.add(thread)
                self._why = "those that wait are none of Python's"
                return False
            main = passage.call(symbols["PyInterpreterState_Main"])
            if passage.call(symbols["PyInterpreterState_Head"]) != main:
                raise _InterpreterRefused(
                    "it has sub-interpreters, and CPython then does not tell which thread holds the GIL",
                    hint="their pools go with them when they end",
                )
            if passage.call(symbols["PyThreadState_GetInterpreter"], state) != main:
                return False
            return not passage.call(symbols["PyGILState_Check"]) & _INT

    def _take(self, stop: Stop, thread: int) -> HeldGil:
        held = HeldGil(stop, thread)
        begun = time.perf_counter()
        release = Tail(self._runtime.symbols["PyGILState_Release"], _UNLOCKED)
        Passage(stop, thread, self._runtime.symbols["PyGILState_Ensure"], tail=release)
        held.held_seconds = time.perf_counter()  # from when on; until it is let go
        held.waited_seconds = held.held_seconds - begun
        return held

    def _is_in_gil_wait(self, registers: Registers) -> bool:
        number = registers.system_call
        return number is not None and self._waits_for_gil(number, registers.system_call_arguments)

    def _waits_for_gil(self, number: int, arguments: tuple[int, ...]) -> bool:
        """Whether this is a wait for something in the interpreter's own data."""
        waits = number in (NR.FUTEX, NR.RESTART_SYSCALL)
        return waits and self._runtime.mapped.contains(arguments[0])


def _let_go(held: HeldGil) -> None:
    """Release the GIL, and let the thread go on as it was."""
    try:
        if held.stop.passage is not None:
            held.stop.passage.finish()
        held.held_seconds = time.perf_counter() - held.held_seconds
    finally:
        held.stop.__exit__(None, None, None)
