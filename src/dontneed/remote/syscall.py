"""`inject`: make a system call inside a stopped process."""

from __future__ import annotations

from dontneed.remote.lender import choose_lender
from dontneed.remote.passage import Passage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.remote.stop import Stop


def inject(stop: Stop, number: int, *arguments: int) -> int:
    """Make a system call inside the stopped process.

    It is made by a thread that can lend itself, the same one each time until the stop ends; by the one that is borrowed
    already, if there is a Passage.

    Args:
        stop: holds the process, or one thread of it.
        number: of the system call, as abi.syscalls has it.
        arguments: at most six integers or addresses.
    Returns:
        What it returned: a negative errno where it failed.
    Raises:
        TargetRefused: no stopped thread can lend itself, or system calls are filtered (seccomp). Nothing was changed.
        ProcessGone: the process was killed.
    """
    return borrowed(stop).system_call(number, *arguments)


def borrowed(stop: Stop) -> Passage:
    """The thread that is borrowed, or one that is from now on.

    Raises:
        TargetRefused: no stopped thread can lend itself.
    """
    return stop.passage or Passage(stop, choose_lender(stop))
