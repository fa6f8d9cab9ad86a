"""Processes as the kernel keeps them: their task_struct, found and told from every other, and what of it changes.

/proc and a task_struct say some things alike: when a process started, and where its program, stack, arguments and
environment lie. By these a task is known, and not by its number: in a pid namespace the number is another one, and
numbers are used again.

Kernel:
    include/linux/sched.h, mm_types.h; fs/proc/array.c do_task_stat(). bpf_task_from_pid() since 6.2.
"""

from __future__ import annotations

import errno
import os
import struct

from dontneed.abi import bpf as abi
from dontneed.errors import DontneedError, KernelLacks, NoAddressSpace, NotPermitted, ProcessGone
from dontneed.kernel.bpf import R0, R1, R6, Assembler, Program
from dontneed.kernel.closing import Closing
from dontneed.kernel.status import PF_KTHREAD
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dontneed.kernel.btf import Layout
    from dontneed.kernel.procfs import ProcessDirectory

    Reader = Callable[[Sequence[int]], list[int]]
    """Reads words at addresses of the kernel."""

MEMBERS = (
    ("task_struct", "mm"),
    ("task_struct", "tasks"),
    ("task_struct", "group_leader"),
    ("task_struct", "start_boottime"),
    ("task_struct", "real_start_time"),  # its name until 5.5
    ("task_struct", "self_exec_id"),
    ("task_struct", "thread_pid"),
    ("pid", "level"),
    ("pid", "numbers"),
    ("mm_struct", "pgd"),
    ("mm_struct", "task_size"),
    ("mm_struct", "start_code"),
    ("mm_struct", "start_stack"),
    ("mm_struct", "arg_start"),
    ("mm_struct", "env_end"),
)
"""What is looked up in BTF."""
FUNCTIONS = (_FROM_PID, _RELEASE) = ("bpf_task_from_pid", "bpf_task_release")

_WORD = struct.Struct("<Q")
_INT = (1 << 32) - 1
_UPID_BYTES = 16
"""struct upid: a number, and a pointer to the namespace that it is of."""
_IDENTIFYING = ("start_code", "start_stack", "arg_start", "env_end")
_STAT_FIELDS = {"start": 19, "start_code": 23, "start_stack": 25, "arg_start": 45, "env_end": 48}
"""Where /proc/PID/stat says the same, counted from the state; proc(5)."""
_FLAGS_FIELD = 6
_MOST_TASKS = 1 << 22
_ANOTHER_KIND = (errno.EINVAL, errno.EACCES, errno.ENOTSUPP if hasattr(errno, "ENOTSUPP") else 524)
"""What the verifier says of a function that the kernel has for other kinds of programs."""


class Task(Record):
    """A process as the kernel keeps it, at one moment.

    Attributes:
        pid: the number by which we know it.
        mm, root: addresses of its mm_struct, and of the uppermost of its page tables.
        watched: addresses of words that change when it ends or replaces its program.
        values: what these words were.
    """

    pid: int
    mm: int
    root: int
    watched: tuple[int, ...]
    values: tuple[int, ...]


class TaskFinder(Closing):
    """Finds tasks: by number where the kernel has a function for that, else by the list of all.

    Args:
        layout: where members are.
        read_words: how kernel memory is read.
    Raises:
        OSError: as bpf(2).
    """

    __slots__ = ("_layout", "_program", "_read_words")

    def __init__(self, layout: Layout, read_words: Reader) -> None:
        self._layout = layout
        self._read_words = read_words
        self._program = _load(layout)

    def close(self) -> None:
        """Unload the program."""
        if self._program is not None:
            self._program.close()

    def find(self, process: ProcessDirectory) -> Task:
        """The task of a process.

        Raises:
            ProcessGone, NoAddressSpace, NotPermitted: as `_identity`.
            KernelLacks: it is not among the tasks of this kernel.
        """
        identity = _identity(process)
        for address in self._candidates(process.pid, identity):
            task = self._task_at(process.pid, address)
            if task is not None and self._is(task, identity):
                return task
        _identity(process)  # it may have ended meanwhile
        msg = f"process {process.pid} is not to be found among the tasks of the kernel"
        raise KernelLacks(msg, hint="did it just replace its program? Otherwise please report it")

    def _candidates(self, pid: int, identity: dict[str, int]) -> Iterator[int]:
        """Addresses of tasks that may be the one."""
        if self._program is not None:
            found = _ask(self._program, pid)
            if found:
                yield found
        yield from (address for address in self._started_at(identity["start"]) if self._has_number(address, pid))

    def everyone(self) -> list[Task]:
        """Every process of the machine that has memory of its own, whatever /proc shows of it; their numbers are 0.

        Raises:
            DontneedError: one ended while its neighbours were looked at, and the way to the others was lost.
        """
        found: dict[int, Task | None] = {}
        for address, _ in self._listed():
            if address in found:
                msg = "the list of all processes changed while it was read"
                raise DontneedError(msg, hint="try again")
            found[address] = self._task_at(0, address)
        return [task for task in found.values() if task is not None]

    def _started_at(self, start: int) -> Iterator[int]:
        """Every process of the machine that started then."""
        return (address for address, began in self._listed() if _ticks(began) == start)

    def _listed(self) -> Iterator[tuple[int, int]]:
        """Every process of the machine, by the list that the kernel keeps of all, and when it started."""
        offset = self._layout.offset
        tasks, leader = offset("task_struct", "tasks"), offset("task_struct", "group_leader")
        started = offset("task_struct", "start_boottime", "real_start_time")
        first = address = self._read_words([_own_task() + leader])[0]
        for _ in range(_MOST_TASKS):
            began, following = self._read_words([address + started, address + tasks])
            yield address, began
            address = following - tasks
            if address == first:
                return

    def _has_number(self, address: int, pid: int) -> bool:
        """Whether a task has this number in any pid namespace: all else of siblings of one clock tick may be alike."""
        offset = self._layout.offset
        (held,) = self._read_words([address + offset("task_struct", "thread_pid")])
        (level,) = self._read_words([held + offset("pid", "level")])
        first = held + offset("pid", "numbers")
        places = [first + nth * _UPID_BYTES for nth in range((level & _INT) + 1)]
        return pid in [number & _INT for number in self._read_words(places)]

    def _task_at(self, pid: int, address: int) -> Task | None:
        """What a task says; None where it has no memory."""
        offset = self._layout.offset
        watched = tuple(
            address + offset("task_struct", *names)
            for names in (("mm",), ("start_boottime", "real_start_time"), ("self_exec_id",))
        )
        values = tuple(self._read_words(watched))
        mm = values[0]
        if not mm:
            return None
        return Task(pid, mm, self._read_words([mm + offset("mm_struct", "pgd")])[0], watched, values)

    def _is(self, task: Task, identity: dict[str, int]) -> bool:
        """Whether a task is the process that /proc told of."""
        places = [task.mm + self._layout.offset("mm_struct", name) for name in _IDENTIFYING]
        words = dict(zip(_IDENTIFYING, self._read_words(places), strict=True))
        return {"start": _ticks(task.values[1]), **words} == identity

    def address_space_end(self, task: Task) -> int:
        """Where the addresses that the task may map end."""
        return self._read_words([task.mm + self._layout.offset("mm_struct", "task_size")])[0]


def _load(layout: Layout) -> Program | None:
    """The program that finds a task by its number; None where this kernel has no function for that."""
    if not all(name in layout.functions for name in FUNCTIONS):
        return None
    code = Assembler()
    code.move(R6, R1)
    code.move(R0, 0)
    code.store(R6, _WORD.size, R0)
    code.load(R1, R6, 0, size=4)
    code.call_kernel(layout.functions[_FROM_PID])
    code.jump_if_equal(R0, 0, "none")
    code.store(R6, _WORD.size, R0)
    code.move(R1, R0)
    code.call_kernel(layout.functions[_RELEASE])
    code.label("none")
    code.exit(0)
    try:
        return Program("dontneed_find", code, context_bytes=2 * _WORD.size)
    except OSError as refusal:
        if refusal.errno not in _ANOTHER_KIND:
            raise
        return None


def _ask(program: Program, pid: int) -> int:
    """The task of a number in the first pid namespace; 0: none."""
    _WORD.pack_into(program.context, 0, pid)
    program.run_held()
    address: int = _WORD.unpack_from(program.context, _WORD.size)[0]
    return address


def _own_task() -> int:
    """The task of this thread."""
    code = Assembler()
    code.move(R6, R1)
    code.call(abi.GET_CURRENT_TASK)
    code.store(R6, 0, R0)
    code.exit(0)
    with Program("dontneed_self", code, context_bytes=_WORD.size) as program:
        program.run()
        address: int = _WORD.unpack_from(program.context)[0]
    return address


def _identity(process: ProcessDirectory) -> dict[str, int]:
    """What tells a process from every other: when it started, and where its memory lies.

    Raises:
        ProcessGone: it has ended.
        NoAddressSpace: it has no memory of its own: a kernel thread.
        NotPermitted: /proc does not say where its memory lies.
    """
    words = process.read("stat").rpartition(b") ")[2].split()
    found = {name: int(words[place]) for name, place in _STAT_FIELDS.items()}
    if found["env_end"]:
        return found
    if words[0] in (b"Z", b"X"):
        msg = f"process {process.pid} has ended: it is a zombie, and its memory is gone"
        raise ProcessGone(msg)
    if int(words[_FLAGS_FIELD]) & PF_KTHREAD:
        msg = f"process {process.pid} is a kernel thread: it has no page tables of its own"
        raise NoAddressSpace(msg)
    if process.read("statm").startswith(b"0 "):
        msg = f"process {process.pid} is ending, and its memory is gone"
        raise ProcessGone(msg)
    msg = f"not permitted to know where the memory of process {process.pid} lies"
    raise NotPermitted(msg, hint="run as root (sudo); in a container, add CAP_SYS_PTRACE")


def _ticks(nanoseconds: int) -> int:
    """A time as /proc/PID/stat says it."""
    return nanoseconds // (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
