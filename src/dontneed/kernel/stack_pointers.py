"""/proc/PID/task/TID/syscall: where the stack pointer of a sleeping thread is.

A thread on a processor is reported as `running`, without addresses; asking does not stop it.

Kernel:
    since 2.6.27; fs/proc/base.c proc_pid_syscall(); needs CONFIG_HAVE_ARCH_TRACEHOOK and PTRACE_MODE_ATTACH.
"""

from __future__ import annotations

from dontneed.errors import KernelLacks, NotPermitted, ProcessGone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory

_WORDS_OF_A_SLEEPER = 3
"""At least: the system call's number (-1 outside of one), the stack pointer, the program counter."""


def read_stack_pointers(process: ProcessDirectory) -> tuple[dict[int, int], list[int]]:
    """The stack pointers of the sleeping threads, and which threads could not be seen.

    Returns:
        Thread id to address; and the ids of threads that ran, or that we may not see.
    """
    pointers = {}
    unseen = []
    for thread in process.threads():
        try:
            words = process.read(f"task/{thread}/syscall").split()
        except ProcessGone:  # one thread ended; the process goes on, and later reads would notice if it did not
            continue
        except (NotPermitted, KernelLacks):
            unseen.append(thread)
            continue
        if len(words) < _WORDS_OF_A_SLEEPER:
            unseen.append(thread)
        else:
            pointers[thread] = int(words[-2], 16)
    return pointers, unseen
