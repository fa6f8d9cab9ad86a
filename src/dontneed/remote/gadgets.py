"""Pieces of the target's own code that a borrowed thread walks over: found in its executable files, never written.

A system call instruction followed by a return, a pop, a store, and what signal handlers return to (`__restore_rt`):
every C library has them, if only by chance in the middle of other instructions, which a processor does not mind.

They are looked for before the target is stopped, since a library is megabytes long, and looked at again when they are
used.
"""

from __future__ import annotations

import os

from dontneed.abi import x86_64
from dontneed.errors import TargetRefused, Unreadable
from dontneed.kernel.maps import read_maps
from dontneed.kernel.process_memory import read_memory
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory

_PATTERNS = {
    "system_call": x86_64.SYSCALL_RETURN,
    "restore": x86_64.RESTORE_RT,
    "pop_rax": x86_64.POP_RAX_RETURN,
    "pop_rdi": x86_64.POP_RDI_RETURN,
    "store": x86_64.STORE_RAX_AT_RDI_RETURN,
}
_LARGEST_MAPPING_BYTES = 256 << 20
_KEPT_PROCESSES = 64


class Gadgets(Record):
    """Addresses in the target; 0 where it has no such piece of code.

    Attributes:
        system_call: `syscall; ret`.
        restore: `mov $15, %rax; syscall`, to which a signal frame returns.
        pop_rax, pop_rdi: `pop; ret`.
        store: `mov %rax, (%rdi); ret`.
        stack: the mapping of the main thread's stack, `(start, end)`; it may have grown downwards since.
    """

    system_call: int = 0
    restore: int = 0
    pop_rax: int = 0
    pop_rdi: int = 0
    store: int = 0
    stack: tuple[int, int] = (0, 0)

    @property
    def plain_return(self) -> int:
        """A `ret` alone."""
        return self.system_call + len(x86_64.SYSCALL)

    def still_there(self, pid: int) -> bool:
        """Whether each piece is where it was found."""
        try:
            return all(
                read_memory(pid, address, len(pattern)) == pattern
                for name, pattern in _PATTERNS.items()
                if (address := getattr(self, name))
            )
        except Unreadable:  # the library has gone
            return False


_found: dict[int, tuple[str, Gadgets]] = {}


def find_gadgets(process: ProcessDirectory) -> Gadgets:
    """What the process has; searched once for each process and program, then only looked at again.

    Raises:
        ProcessGone, NotPermitted: as reading maps and memory.
    """
    pid = process.pid
    program = _program(process)
    known = _found.get(pid)
    if known and known[0] == program and known[1].still_there(pid):
        return known[1]
    found = _search(process)
    if len(_found) >= _KEPT_PROCESSES:
        _found.clear()
    _found[pid] = program, found
    return found


def require(gadgets: Gadgets, *names: str) -> None:
    """Raise unless the target has these pieces.

    Raises:
        TargetRefused: it has not.
    """
    if missing := [name for name in names if not getattr(gadgets, name)]:
        what = "no way back from a signal handler" if "restore" in missing else "none of the code that we would go by"
        msg = f"the program has {what} ({', '.join(missing)}), so nothing can be run in it safely"
        raise TargetRefused(
            msg,
            hint="it is statically linked, or uses an unusual C library; look works on it all the same",
        )


def _program(process: ProcessDirectory) -> str:
    """What tells one process and program from another with the same number: start time, code, stack."""
    words = process.read("stat").rpartition(b") ")[2].split()
    return b" ".join((words[19], *words[23:26])).decode("ascii")


def _search(process: ProcessDirectory) -> Gadgets:
    table = read_maps(process)
    code = []
    stack = (0, 0)
    for row in range(len(table)):
        perms, _, _, _, name = table.words(row)
        if name == "[stack]":
            stack = (table.starts[row], table.ends[row])
        elif "r" in perms and "x" in perms and name.startswith("/"):
            code.append((_rank(name), table.starts[row], table.ends[row]))
    found: dict[str, int] = {}
    for _, start, end in sorted(code):
        _search_mapping(process.pid, start, min(end, start + _LARGEST_MAPPING_BYTES), found)
        if len(found) == len(_PATTERNS):
            break
    return Gadgets(**found, stack=stack)


def _rank(name: str) -> int:
    """The C library first: it has everything."""
    file = os.path.basename(name)
    return 0 if file.startswith(("libc.so", "libc-", "ld-musl")) else 1


def _search_mapping(pid: int, start: int, end: int, found: dict[str, int]) -> None:
    try:
        code = read_memory(pid, start, end - start)
    except Unreadable:  # beyond the end of its file, or unmapped meanwhile
        return
    for name, pattern in _PATTERNS.items():
        if name not in found and (at := code.find(pattern)) >= 0:
            found[name] = start + at
