"""`call`: run a C function inside a stopped process, from beginning to end."""

from __future__ import annotations

from dontneed.errors import TargetRefused
from dontneed.remote.lender import choose_lender
from dontneed.remote.passage import Passage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.remote.stop import Stop


def call(stop: Stop, function: int, *arguments: int, patience_seconds: float = 10.0) -> int:
    """Run a C function on the stopped thread.

    The thread keeps every register, vector registers and signal mask included; all signals are blocked meanwhile. If we
    die, it finishes the function and is then back where it was.

    Args:
        stop: holds one thread, which must not be inside anything that the function needs (see quiet). Other threads run
            on, so that a lock which one of them holds is given back. Of several stopped threads one is chosen.
        function: its address in the process.
        arguments: at most six integers or addresses; no floating-point numbers.
        patience_seconds: how long it may take. The thread is not torn out of it then: it is let go, finishes the
            function by itself, and goes on with its own work. The stop no longer holds it.
    Returns:
        What it returned: an unsigned word (rax). An `int` is the lower half of it.
    Raises:
        TargetRefused: the thread cannot be borrowed, and nothing was changed; or the function took too long (above), or
            crashed: the thread is put back, but what the function had begun is not undone.
        ProcessGone: the process was killed.
    """
    if not function:
        raise TargetRefused("there is no function at address 0", hint="was its symbol found?")
    thread = next(iter(stop.registers)) if len(stop.registers) == 1 else choose_lender(stop, runs_function=True)
    with Passage(stop, thread, function, arguments, patience_seconds=patience_seconds) as passage:
        return passage.result
