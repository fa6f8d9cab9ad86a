"""ptrace(2): hold a thread of another process, see and change its registers. Every request, each with one errno check.

# What a caller must know

Only the *thread* that seized a tracee may act on it, and only while the tracee is stopped; INTERRUPT alone may come at
any time. DETACH needs a stop too: a tracee that runs is only let go by the end of its tracer's thread. That end,
however it comes (SIGKILL too), detaches everything: each tracee runs on from where it was, by the way of its signals,
and a system call that was interrupted is made again if its registers say so.

SEIZE sends no signal and stops nothing; INTERRUPT has the thread report a PTRACE_EVENT_STOP on its way out of the
kernel. A thread in an uninterruptible sleep does that when the sleep is over.

Kernel:
    SEIZE since 3.4; kernel/ptrace.c; ptrace(2). Needs PTRACE_MODE_ATTACH_REALCREDS, and the consent of the security
    modules, of which Yama is the usual one.
"""

from __future__ import annotations

import ctypes
import errno
import os
from ctypes import c_long, c_void_p

from dontneed.abi import ptrace as abi
from dontneed.abi.seccomp import INSTRUCTION_BYTES
from dontneed.errors import KernelLacks, NotPermitted, ProcessGone
from dontneed.kernel.libc import foreign, last_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory

_ptrace = foreign("ptrace", c_long, c_long, c_long, c_void_p, c_void_p)

_SIGSET_BYTES = 8
_SIGINFO_BYTES = 128
_VECTOR_STATE_BYTES = 1 << 14
"""More than any XSAVE area: 11,008 bytes with AVX-512 and AMX."""
_WAITED_FOR = abi.WALL | os.WNOHANG
_GENERAL_BYTES = 512
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_CAPABILITY = "CAP_SYS_PTRACE"


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", c_void_p), ("length", ctypes.c_size_t))


def seize(thread: int, options: int = abi.O_TRACESYSGOOD | abi.O_TRACEEXEC) -> None:
    """Become the tracer of a thread, which runs on and notices nothing.

    Raises:
        ProcessGone: ESRCH.
        PermissionError: EPERM; `why_not_permitted` finds out why. A thread that has ended, and is not yet waited for,
            answers so too.
    """
    _request(abi.SEIZE, thread, 0, options)


def interrupt(thread: int) -> None:
    """Have a seized thread stop as soon as it can; `wait` tells when it has.

    Raises:
        ProcessGone: it has ended.
    """
    _request(abi.INTERRUPT, thread)


def wait(thread: int) -> int | None:
    """What the thread reports, as waitpid(2) has it; None: nothing yet.

    Raises:
        ProcessGone: it has vanished without a report: another thread of the process has called exec.
    """
    try:
        found, status = os.waitpid(thread, _WAITED_FOR)
    except ChildProcessError:
        raise _gone(thread) from None
    return status if found else None


def resume(thread: int, signal: int = 0) -> None:
    """Let a stopped thread run on, delivering `signal` if it has stopped for one."""
    _request(abi.CONT, thread, 0, signal)


def resume_to_system_call(thread: int, signal: int = 0) -> None:
    """Let a stopped thread run to the next entry into a system call, or exit from one."""
    _request(abi.SYSCALL, thread, 0, signal)


def detach(thread: int, signal: int = 0) -> None:
    """Let a stopped thread go, delivering `signal` if it has stopped for one; in a group-stop, it stays stopped.

    Raises:
        ProcessGone: ESRCH; it has ended, or has not stopped.
    """
    _request(abi.DETACH, thread, 0, signal)


def get_registers(thread: int) -> bytes:
    """The general registers of a stopped thread, as its architecture has them; the length tells 32 bits from 64."""
    return _get_set(thread, abi.NT_PRSTATUS, _GENERAL_BYTES)


def set_registers(thread: int, registers: bytes) -> None:
    """Set the general registers of a stopped thread, all at once."""
    _set_set(thread, abi.NT_PRSTATUS, registers)


def get_vector_state(thread: int) -> bytes:
    """The floating-point and vector registers of a stopped thread: an XSAVE area, or 512 bytes of FXSAVE without it."""
    try:
        return _get_set(thread, abi.NT_X86_XSTATE, _VECTOR_STATE_BYTES)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENODEV):
            raise
        return _get_set(thread, abi.NT_PRFPREG, _VECTOR_STATE_BYTES)


def set_vector_state(thread: int, state: bytes) -> None:
    """Set what `get_vector_state` gave."""
    _set_set(thread, abi.NT_X86_XSTATE if len(state) > _GENERAL_BYTES else abi.NT_PRFPREG, state)


def get_signal_mask(thread: int) -> int:
    """Which signals a stopped thread blocks: bit n is signal n + 1.

    Of a thread in sigsuspend, ppoll and their kin it is the mask that they will restore (since 5.2).
    """
    mask = ctypes.c_uint64()
    _request(abi.GETSIGMASK, thread, _SIGSET_BYTES, ctypes.addressof(mask))
    return mask.value


def set_signal_mask(thread: int, mask: int) -> None:
    """Set which signals a stopped thread blocks; the kernel leaves SIGKILL and SIGSTOP out."""
    word = ctypes.c_uint64(mask)
    _request(abi.SETSIGMASK, thread, _SIGSET_BYTES, ctypes.addressof(word))


def get_signal_code(thread: int) -> int:
    """The si_code of the signal that a thread has stopped for: above 0 if the kernel made it, for a fault as a rule."""
    information = (ctypes.c_int * (_SIGINFO_BYTES // 4))()
    _request(abi.GETSIGINFO, thread, 0, ctypes.addressof(information))
    return information[2]


def get_rseq_address(thread: int) -> int:
    """Where a stopped thread has its struct rseq; 0: none. Its word at 8 is not 0 within a critical section.

    Raises:
        KernelLacks: before 5.13 nobody tells.
    """
    configuration = (ctypes.c_uint64 * 3)()
    size = ctypes.sizeof(configuration)
    try:
        _request(abi.GET_RSEQ_CONFIGURATION, thread, size, ctypes.addressof(configuration))
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EINVAL):
            raise
        raise KernelLacks(
            "this kernel does not tell where a thread has its rseq area", hint="it does since 5.13"
        ) from None
    return int(configuration[0])


def dispatches_system_calls(thread: int) -> bool:
    """Whether the program answers its system calls itself (prctl PR_SET_SYSCALL_USER_DISPATCH, as Wine does)."""
    configuration = (ctypes.c_uint64 * 4)()
    size = ctypes.sizeof(configuration)
    try:
        _request(abi.GET_SYSCALL_USER_DISPATCH_CONFIG, thread, size, ctypes.addressof(configuration))
    except OSError as error:
        if error.errno not in (errno.EIO, errno.EINVAL):
            raise
        return False  # before 6.4 it could be so, and nobody tells
    return configuration[0] != 0


def get_seccomp_filters(thread: int) -> list[bytes]:
    """The seccomp filters of a stopped thread, each an array of struct sock_filter, as the program installed it.

    All of them have their say in every system call. The oldest comes first (ptrace(2) says the newest), so that one
    that another thread adds meanwhile does not shift the others.

    Raises:
        NotPermitted: EACCES; it takes CAP_SYS_ADMIN in the first user namespace, and to be under no seccomp oneself.
        KernelLacks: EIO before 4.4; EINVAL without CONFIG_CHECKPOINT_RESTORE, or of a thread under no filter;
            EMEDIUMTYPE for a filter of another sort.
        ProcessGone: it has ended.
    Kernel:
        kernel/seccomp.c seccomp_get_filter(), get_nth_filter().
    """
    filters: list[bytes] = []
    try:
        while True:
            length = _request(abi.SECCOMP_GET_FILTER, thread, len(filters))
            program = ctypes.create_string_buffer(length * INSTRUCTION_BYTES)
            _request(abi.SECCOMP_GET_FILTER, thread, len(filters), ctypes.addressof(program))
            filters.append(program.raw)
    except OSError as error:
        if error.errno == errno.ENOENT and filters:
            return filters
        if error.errno in (errno.EACCES, errno.EPERM):
            msg = f"the seccomp filter of thread {thread} may not be read"
            raise NotPermitted(
                msg,
                hint="run dontneed as root outside of the container: that takes CAP_SYS_ADMIN in the first user "
                "namespace, and to be under no seccomp filter oneself",
            ) from None
        msg = f"this kernel does not show the seccomp filter of thread {thread} ({error.strerror})"
        raise KernelLacks(msg, hint="it does since 4.4, with CONFIG_CHECKPOINT_RESTORE") from None


def why_not_permitted(process: ProcessDirectory) -> NotPermitted:
    """What EPERM from SEIZE means to a person: who traces it, what Yama allows, whose it is, what we lack."""
    status = dict(line.split(b":", 1) for line in process.read("status").splitlines() if b":" in line)
    owner = int(status.get(b"Uid", b"0").split()[0])
    why, hint = explain_refusal(owner, os.geteuid(), _yama_scope(), privileged=_holds_trace_capability())
    return NotPermitted(f"process {process.pid} may not be traced: {why}", hint=hint)


def explain_refusal(owner: int, uid: int, yama: int, *, privileged: bool) -> tuple[str, str]:
    """Why tracing was refused, and what to try.

    Args:
        owner: the user id of the process.
        uid: our own.
        yama: kernel.yama.ptrace_scope; 0 where there is no Yama.
        privileged: we hold CAP_SYS_PTRACE, if only in our own user namespace.
    """
    sudo = "run as root (sudo); in a container, add CAP_SYS_PTRACE"
    if yama == _YAMA_NOBODY:
        why = "the security module Yama lets nobody trace anything (kernel.yama.ptrace_scope is 3)"
        return why, "only a reboot changes that: 3 cannot be lowered"
    if privileged:
        why = f"we hold {_CAPABILITY}, and it does not reach this process"
        hint = (
            "it is outside of our user namespace, or a container's seccomp or AppArmor profile forbids ptrace: "
            "run dontneed outside of the container, or start that with --cap-add SYS_PTRACE"
        )
        return why, hint
    if owner != uid:
        return f"it belongs to uid {owner}, and you are uid {uid}, without {_CAPABILITY}", sudo
    if yama == _YAMA_ADMINS:
        why = f"the security module Yama leaves tracing to those with {_CAPABILITY} (kernel.yama.ptrace_scope is 2)"
        return why, "run as root (sudo)"
    if yama == _YAMA_CHILDREN:
        return (
            "the security module Yama lets a process trace its own children only (kernel.yama.ptrace_scope is 1)",
            "run as root (sudo); sysctl kernel.yama.ptrace_scope=0 allows it to every process of the same user",
        )
    return "it is not dumpable: it changed its user, holds capabilities that you lack, or asked for it (prctl)", sudo


_YAMA_CHILDREN, _YAMA_ADMINS, _YAMA_NOBODY = 1, 2, 3
"""Documentation/admin-guide/LSM/Yama.rst."""


def _yama_scope() -> int:
    """What Yama allows; 0 where it is not there, or hidden."""
    try:
        with open(_YAMA, "rb") as file:
            return int(file.read())
    except OSError:  # no Yama, or a container that hides it: then it explains nothing
        return 0


def _holds_trace_capability() -> bool:
    from dontneed.kernel.capabilities import read_privileges

    return read_privileges().holds(_CAPABILITY)


def _get_set(thread: int, kind: int, room: int) -> bytes:
    buffer = ctypes.create_string_buffer(room)
    vector = _Vector(ctypes.addressof(buffer), room)
    _request(abi.GETREGSET, thread, kind, ctypes.addressof(vector))
    return buffer.raw[: vector.length]


def _set_set(thread: int, kind: int, data: bytes) -> None:
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = _Vector(ctypes.addressof(buffer), len(data))
    _request(abi.SETREGSET, thread, kind, ctypes.addressof(vector))


def _request(request: int, thread: int, address: int = 0, data: int = 0) -> int:
    """One ptrace request; what it returns.

    Raises:
        ProcessGone: ESRCH.
        OSError: any other errno, with the request as its file name.
    """
    result: int = _ptrace(request, thread, address, data)
    if result != -1:
        return result
    number = last_errno()
    if number == errno.ESRCH:
        raise _gone(thread)
    raise OSError(number, os.strerror(number), f"ptrace({request:#x}, {thread})")


def _gone(thread: int) -> ProcessGone:
    return ProcessGone(f"thread {thread} has ended")
