"""Which processes are not acted on, and why: looked at before anything is changed.

What concerns memory (locked, registered with userfaultfd, pinned for devices) is `observe.protected`'s matter.
"""

from __future__ import annotations

import os
import time

from dontneed.abi.seccomp import MODE_FILTER, MODE_NONE
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, TargetRefused
from dontneed.kernel import ptrace
from dontneed.remote import filters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory

_WAITS_FOR_VFORK = frozenset({NR.VFORK, NR.CLONE, NR.CLONE3})
"""No thread sleeps in one of these for another reason."""
_GLANCE_SECONDS = 0.001
_GLANCES = 3
_ELF_64 = b"\x7fELF\x02"
_ENDED = (b"Z", b"X")
_LOOK = "`dontneed look` and `dontneed plan` work on it all the same"


def before_stop(process: ProcessDirectory) -> None:
    """Raise unless the process can be stopped and looked at.

    Raises:
        TargetRefused: ourselves, traced already, ending, a kernel thread, 32-bit.
        NotPermitted: this /proc is not that of our own pid namespace, so that its numbers are not ours.
        ProcessGone: it has ended.
    """
    _require_own_proc()
    if process.pid == os.getpid():
        raise TargetRefused(
            "a process cannot stop itself", hint="release() starts a helper process, which acts on its parent"
        )
    status = _settled_status(process)
    if status[b"State"][:1] in _ENDED:
        if int(status.get(b"Threads", b"1")) > 1:
            msg = f"the main thread of process {process.pid} has ended, and with it nobody sees what the others have"
            raise TargetRefused(msg, hint="it is not to be helped until it ends")
        msg = f"process {process.pid} has ended and waits for its parent to notice"
        raise ProcessGone(msg)
    if b"VmSize" not in status:
        msg = f"process {process.pid} has no memory of its own: a kernel thread, or one that is ending"
        raise TargetRefused(
            msg,
            hint="there is nothing to give back",
        )
    _require_untraced(process.pid, status)
    _require_64_bit(process)


def why_not_inside(process: ProcessDirectory) -> str:
    """Why nothing can be done inside this process, with what to try; nothing if it can. Stops nothing.

    Of the calling process: whether a helper could.

    Raises:
        ProcessGone: it has ended.
    """
    try:
        if process.pid != os.getpid():
            before_stop(process)
    except (TargetRefused, NotPermitted) as refusal:
        return refusal.in_words
    return of_injection(process)


def of_injection(process: ProcessDirectory) -> str:
    """Why nothing can be run in this process; nothing if it can. Without stopping it: what its main thread says.

    A seccomp filter that we may read is judged when its thread is stopped, and forbids nothing until then.
    """
    return of_injection_by(process, process.pid)


def of_injection_by(process: ProcessDirectory, thread: int) -> str:
    """Why this thread must not run anything for us, its seccomp filters aside if we may read them; nothing if it may.

    Raises:
        ProcessGone: it has ended.
    """
    return of_injection_by_one_that_says(read_words(process, f"task/{thread}/status"))


def of_injection_by_one_that_says(status: dict[bytes, bytes]) -> str:
    """The same, of a thread with this status."""
    mode = seccomp_mode(status)
    if mode not in (MODE_NONE, MODE_FILTER):
        return filters.STRICT
    if mode == MODE_FILTER and (why := filters.why_unreadable()):
        return why
    if b"shstk" in status.get(b"x86_Thread_features", b"").split():
        return "it runs with a shadow stack, which ends it for a return that its program never made"
    return ""


def seccomp_mode(status: dict[bytes, bytes]) -> int:
    """Which mode of seccomp a thread with this status is in, as abi.seccomp has them."""
    return int(status.get(b"Seccomp", b"0"))


def _settled_status(process: ProcessDirectory) -> dict[bytes, bytes]:
    """The status of a process; within an exec the main thread looks for a moment as if it had ended."""
    for _ in range(_GLANCES):
        status = read_words(process, "status")
        if status[b"State"][:1] not in _ENDED:
            break
        time.sleep(_GLANCE_SECONDS)
    return status


def read_words(process: ProcessDirectory, name: str) -> dict[bytes, bytes]:
    """The lines of a status file."""
    lines = process.read(name).split(b"\n")
    return {key: value.strip() for key, colon, value in (line.partition(b":") for line in lines) if colon}


def of_seize(process: ProcessDirectory, thread: int, error: OSError) -> Exception:
    """What a refusal to trace a thread means: who traces it already, or which right is missing."""
    if isinstance(error, PermissionError):
        try:
            _require_untraced(thread, read_words(process, f"task/{thread}/status"))
        except (TargetRefused, ProcessGone) as found:
            return found
        return ptrace.why_not_permitted(process)
    return KernelLacks(f"ptrace does not work here: {error.strerror}", hint="PTRACE_SEIZE is there since Linux 3.4")


def await_end_of_vfork(process: ProcessDirectory, thread: int, word: bytes, deadline: float) -> None:
    """Wait, as long as a thread waits for a child that it has made by vfork: it cannot be stopped meanwhile.

    Args:
        process: whose thread.
        thread: its id.
        word: the first of /proc/PID/task/TID/syscall.
        deadline: until when to wait.
    Raises:
        TargetRefused: it waited still.
        ProcessGone, NotPermitted, KernelLacks: as `ProcessDirectory.read`.
    """
    while word.isdigit() and int(word) in _WAITS_FOR_VFORK:
        if time.monotonic() >= deadline:
            msg = (
                f"thread {thread} waits for a child that it has made by vfork, and cannot be stopped until that goes on"
            )
            raise TargetRefused(msg, hint="try again later; starting a program takes a moment as a rule")
        time.sleep(_GLANCE_SECONDS)
        word = read_call(process, thread)


def read_call(process: ProcessDirectory, thread: int) -> bytes:
    """The number of the system call that a thread sleeps in, as text; `running` if it does not sleep."""
    return process.read(f"task/{thread}/syscall").partition(b" ")[0]


def tracer_of(process: ProcessDirectory, thread: int) -> int:
    """Which thread traces a thread; 0: none.

    Raises:
        ProcessGone: it has ended.
    """
    return int(read_words(process, f"task/{thread}/status").get(b"TracerPid", b"0"))


def _require_untraced(thread: int, status: dict[bytes, bytes]) -> None:
    tracer = int(status.get(b"TracerPid", b"0"))
    if tracer:
        msg = f"process {thread} is traced by process {tracer}{_called(tracer)}, and nobody can be traced twice"
        raise TargetRefused(msg, hint="end or detach that debugger, and try again")


def _require_own_proc() -> None:
    """The numbers in /proc are those that ptrace takes only if both are of one pid namespace."""
    try:
        own = os.readlink("/proc/self")
    except OSError:  # it belongs to a namespace in which we are not
        own = ""
    if own != str(os.getpid()):
        raise NotPermitted(
            "this /proc shows the processes of another pid namespace, and their numbers are not ours",
            hint="mount a /proc of this namespace (unshare --mount-proc), or run dontneed outside of it",
        )


def _require_64_bit(process: ProcessDirectory) -> None:
    try:
        fd = process.open("exe")
    except NotPermitted:
        raise ptrace.why_not_permitted(process) from None
    except (KernelLacks, ProcessGone):  # it has no program for a moment: it exchanges it, or ends
        process.read("stat")
        msg = f"process {process.pid} is starting another program, or ending"
        raise TargetRefused(msg, hint="try again") from None
    try:
        head = os.read(fd, len(_ELF_64))
    finally:
        os.close(fd)
    if head != _ELF_64:
        msg = f"process {process.pid} is no 64-bit program, and only those can be acted in"
        raise TargetRefused(msg, hint=_LOOK)


def _called(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return f" ({file.read().strip()})"
    except OSError:  # it has ended, or is hidden: its number says enough
        return ""
