"""Seccomp filters of a thread that is to be borrowed: read, and run in our head, before a call is made in it.

A filter may end the process for a call that its program never makes. Most allow what we need: those of Docker, Podman,
containerd and systemd are lists of what a service may do, with madvise and getpid among it. So every filter of the
thread is read (ptrace), and each call that we would have it make is run through all of them, as the kernel would do it:
the most restrictive action of all filters counts.

# What is asked for

- What we inject: with the arguments that it will have, just before it is made (`Verdicts.require`).
- What a passage takes in any case: getpid, where the thread is parked; rt_sigreturn, its way home if we die; the call
  that it waits in, which is made again by hand then; restart_syscall, by which the kernel goes on with one.
- What functions of allocators and of CPython call (`FUNCTION_CALLS`), if one is to be run.

Each must be allowed, for every value of what we don't know beforehand: an address, a length, where the instruction is.
A program that the kernel would not have taken, or that has too many ways, could do anything: then nothing is allowed.

What is not seen: a filter that another thread gives to this one (SECCOMP_FILTER_FLAG_TSYNC) while this one alone is
held.

Kernel:
    kernel/seccomp.c seccomp_run_filters(), __seccomp_filter().
"""

from __future__ import annotations

from dontneed.abi import seccomp as abi
from dontneed.abi.advice import Advice
from dontneed.abi.syscalls import FUTEX_CLOCK_REALTIME, FUTEX_PRIVATE, FUTEX_WAIT, FUTEX_WAIT_BITSET, FUTEX_WAKE
from dontneed.abi.syscalls import FUTEX_WAKE_OP as WAKE_OP
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, TargetRefused
from dontneed.kernel import ptrace
from dontneed.records import Record
from dontneed.remote.classic_bpf import data_words, parse_filter, possible_actions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.remote.classic_bpf import Word

_KEPT = 64
_ACTIONS_AVAILABLE = "/proc/sys/kernel/seccomp/actions_avail"


class Call(Record):
    """A system call that will or may be made.

    Attributes:
        number: which.
        arguments: as far as they are known; None: could be anything, as is every one that is left out.
    """

    number: int
    arguments: tuple[Word, ...] = ()


_PROT_NONE, _PROT_READ_WRITE = 0, 3
_PRIVATE_ANONYMOUS = 0x22

PASSAGE_CALLS = (
    Call(NR.GETPID),
    Call(NR.RT_SIGRETURN),
    Call(NR.RESTART_SYSCALL),
    Call(NR.MADVISE, (None, None, int(Advice.DONTNEED))),
)
"""What every borrowed thread makes, or may have to make. All that reasons advise from inside is DONTNEED."""

FUNCTION_CALLS = (
    # How allocators give back and, where their own tables grow meanwhile, take: malloc_trim and heap_trim (brk,
    # mprotect, madvise), extents of jemalloc, segments of mimalloc, spans of tcmalloc (munmap, mprotect, mmap).
    Call(NR.BRK),
    Call(NR.MUNMAP),
    Call(NR.MPROTECT, (None, None, _PROT_NONE)),
    Call(NR.MPROTECT, (None, None, _PROT_READ_WRITE)),
    Call(NR.MMAP, (None, None, _PROT_READ_WRITE, _PRIVATE_ANONYMOUS)),
    # Locks of all of them, and the GIL: PyGILState_Ensure waits for it with a timeout, and Release wakes who waits. A
    # C library ends the program when a futex fails in a way that it does not know. WAKE_OP: glibc before 2.25.
    *(
        Call(NR.FUTEX, (None, operation | FUTEX_PRIVATE))
        for operation in (FUTEX_WAIT, FUTEX_WAKE, WAKE_OP, FUTEX_WAIT_BITSET, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME)
    ),
    # What time it is, on machines whose clock the vDSO cannot read. CPython ends the program if it is not told.
    Call(NR.CLOCK_GETTIME),
)
"""What functions that we run may call, and what would harm them if it failed. Arguments of 32 bits have no more."""

FUNCTION_CALLS_THAT_MAY_FAIL = (
    # jemalloc and mimalloc advise FREE, and others, and fall back; glibc looks at the overcommit mode before it shrinks
    # a heap, and takes it for the usual one if it cannot; spinlocks give the processor away.
    Call(NR.MADVISE),
    Call(NR.OPENAT),
    Call(NR.OPEN),
    Call(NR.READ),
    Call(NR.CLOSE),
    Call(NR.SCHED_YIELD),
    Call(NR.NANOSLEEP),
    Call(NR.CLOCK_NANOSLEEP),
    Call(NR.GETCPU),
    Call(NR.GETTID),
    Call(NR.MEMBARRIER),
)
"""What functions may call and do without: an errno is no harm, anything else is."""


class Verdicts:
    """What the filters of a thread make of system calls.

    Args:
        filters: each an array of struct sock_filter.
        logs: the kernel knows the action LOG; without, it kills for it.
    """

    def __init__(self, filters: Iterable[bytes], *, logs: bool = True) -> None:
        self._programs = [parse_filter(each) for each in filters]
        self._allowing = frozenset({abi.ALLOW, abi.LOG} if logs else {abi.ALLOW})
        self._known: dict[tuple[int, tuple[Word, ...]], frozenset[int]] = {}

    def actions(self, number: int, arguments: tuple[Word, ...] = ()) -> frozenset[int]:
        """Every action that may be the answer to a call, over all values of what is not known."""
        if (number, arguments) in self._known:
            return self._known[number, arguments]
        words = data_words(number, arguments)
        actions = frozenset({abi.ALLOW})
        for program in self._programs:
            possible = possible_actions(program, words)
            actions = frozenset(min(one, other, key=abi.precedence) for one in actions for other in possible)
        if not arguments:
            self._known[number, arguments] = actions
        return actions

    def allows(self, number: int, *arguments: Word) -> bool:
        """Whether a call is made as if there were no filter, whatever of it is not known."""
        return self.actions(number) <= self._allowing or (
            bool(arguments) and self.actions(number, arguments) <= self._allowing
        )

    def tolerates(self, number: int, *arguments: Word) -> bool:
        """Whether a call is made, or fails with an errno and nothing worse."""
        return self.actions(number, arguments) <= self._allowing | {abi.ERRNO}

    def require(self, number: int, *arguments: Word) -> None:
        """Raise unless a call is allowed.

        Raises:
            TargetRefused: with its name, and what would happen.
        """
        if not self.allows(number, *arguments):
            raise TargetRefused(
                self._sentence(number, arguments), hint="a seccomp profile that allows the call would permit it"
            )

    def why_not(self, calls: Iterable[Call], calls_that_may_fail: Iterable[Call] = ()) -> str:
        """Why not all of these calls may be made; nothing if they may."""
        for call in calls:
            if not self.allows(call.number, *call.arguments):
                return self._sentence(call.number, call.arguments)
        for call in calls_that_may_fail:
            if not self.tolerates(call.number, *call.arguments):
                return self._sentence(call.number, call.arguments)
        return ""

    def _sentence(self, number: int, arguments: tuple[Word, ...]) -> str:
        actions = self.actions(number, arguments)
        worst = abi.ACTION_NAMES[min(actions, key=abi.precedence)]
        may = "may answer" if len(actions) > 1 else "answers"
        return f"its seccomp filter {may} {_name(number)} with {worst}, and we need that call"


def verdicts_of(mode: int, thread: int) -> Verdicts:
    """What the filters of a stopped thread make of system calls.

    Args:
        mode: its seccomp mode, as its status has it.
        thread: its id.
    Raises:
        NotPermitted, KernelLacks, ProcessGone: as `kernel.ptrace.get_seccomp_filters`.
        TargetRefused: strict mode.
    """
    if mode == abi.MODE_NONE:
        return _NO_FILTER
    if mode != abi.MODE_FILTER:
        raise TargetRefused(STRICT, hint="only its own end changes that")
    filters = tuple(ptrace.get_seccomp_filters(thread))
    if filters not in _verdicts:
        if len(_verdicts) >= _KEPT:
            _verdicts.clear()
        _verdicts[filters] = Verdicts(filters, logs=_kernel_logs())
    return _verdicts[filters]


STRICT = "it is under seccomp in strict mode, which ends it for any call but read, write and exit"
UNREADABLE = (
    "it is under a seccomp filter, which may end it for a system call that its program never makes, and we may not "
    "read it to judge: run dontneed as root outside of the container (that takes CAP_SYS_ADMIN in the first user "
    "namespace, and to be under no seccomp filter)"
)

_NO_FILTER = Verdicts(())
_verdicts: dict[tuple[bytes, ...], Verdicts] = {}


def why_not(mode: int, thread: int, needed: Iterable[Call], *, runs_function: bool) -> str:
    """Why the seccomp filters of a stopped thread forbid to borrow it; nothing if they don't.

    Args:
        mode: its seccomp mode, as its status has it.
        thread: its id.
        needed: calls that it has to make besides those of every passage.
        runs_function: it is to run functions, and not only system calls.
    Raises:
        ProcessGone: it has ended.
    """
    try:
        verdicts = verdicts_of(mode, thread)
    except NotPermitted:
        return UNREADABLE
    except (KernelLacks, TargetRefused) as error:
        return error.message
    calls = [*PASSAGE_CALLS, *needed, *(FUNCTION_CALLS if runs_function else ())]
    return verdicts.why_not(calls, FUNCTION_CALLS_THAT_MAY_FAIL if runs_function else ())


def may_forbid_restart(thread: int) -> bool:
    """Whether a filter of a stopped thread could do harm when the kernel goes on with a call by restart_syscall.

    Without the right to read filters, having one is enough. A kernel that shows no filters to anybody answers as if
    there were none.

    Raises:
        ProcessGone: it has ended.
    """
    try:
        return not verdicts_of(abi.MODE_FILTER, thread).allows(NR.RESTART_SYSCALL)
    except KernelLacks:  # EINVAL, as a rule: it is under no filter
        return False
    except NotPermitted:  # of any thread, filtered or not
        return _says_filter(thread)


def _says_filter(thread: int) -> bool:
    """Whether the status of a thread that we trace, whose number is therefore its own, says that it has a filter."""
    try:
        with open(f"/proc/{thread}/status", "rb") as file:
            return b"\nSeccomp:\t2\n" in file.read()
    except OSError as error:
        msg = f"thread {thread} has ended"
        raise ProcessGone(msg) from error


def why_unreadable() -> str:
    """Why we could not judge a filter, as far as our own rights tell; nothing if we probably could."""
    from dontneed.kernel.capabilities import read_privileges

    own = read_privileges()
    can = own.holds("CAP_SYS_ADMIN") and not own.user_namespace and not own.seccomp_filter
    return "" if can else UNREADABLE


def _kernel_logs() -> bool:
    """Whether LOG is an action of this kernel: since 4.14, which brought the list of actions as well."""
    try:
        with open(_ACTIONS_AVAILABLE, "rb") as file:
            return b"log" in file.read().split()
    except OSError:  # an older kernel, or a /proc/sys that is hidden: then it is as if it killed
        return False


def _name(number: int) -> str:
    if number in _NAMES:
        return _NAMES[number]
    return f"system call {number}"


_NAMES = {number: name.lower() for name, number in vars(NR).items() if not name.startswith("_")}
