"""Pieces of the target's own code that a borrowed thread walks over: found in its executable files, never written.

A system call instruction followed by a return, a pop, the end of a function that stores its result, getpid or one of
its kin, and what signal handlers return to (`__restore_rt`): every C library has them, some only by chance in the
middle of other instructions, which a processor does not mind.

They are looked for before the target is stopped, since a library is megabytes long, and looked at again when they are
used.
"""

from __future__ import annotations

import os
import re

from dontneed.abi import x86_64
from dontneed.errors import TargetRefused, Unreadable
from dontneed.kernel.maps import read_maps
from dontneed.kernel.process_memory import read_memory
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.procfs import ProcessDirectory

_PATTERNS = {
    "system_call": re.compile(re.escape(x86_64.SYSCALL_RETURN)),
    "restore": re.compile(re.escape(x86_64.RESTORE_RT)),
    "landing": re.compile(x86_64.HARMLESS_CALL_RETURN, re.DOTALL),
    "pop_rdi": re.compile(re.escape(x86_64.POP_RDI_RETURN)),
    "store": re.compile(x86_64.STORE_RAX_RETURN, re.DOTALL),
}
_LARGEST_MAPPING_BYTES = 256 << 20
_KEPT_PROCESSES = 64


class Piece(Record):
    """Some instructions of the target: where they are, and their bytes."""

    address: int
    code: bytes

    @property
    def end(self) -> int:
        """Behind the last instruction."""
        return self.address + len(self.code)


class Store(Record):
    """How a piece of code stores rax.

    Attributes:
        register: which register holds the address.
        displacement: what is added to it.
        popped: words that it takes from the stack before it returns.
    """

    register: str
    displacement: int
    popped: int


class Gadgets(Record):
    """What was found of a target.

    Attributes:
        pieces: by name. `system_call`: `syscall; ret`. `restore`: `mov $15, %rax; syscall`, to which a signal frame
            returns. `landing`: a whole getpid, or another call as harmless. `pop_rdi`: `pop %rdi; ret`. `store`: see
            `parse_store`.
        program: see `identify_program`.
        stack: the mapping of the main thread's stack, `(start, end)`; it may have grown downwards since.
    """

    pieces: dict[str, Piece]
    program: bytes
    stack: tuple[int, int] = (0, 0)

    def address(self, name: str) -> int:
        """Where a piece begins."""
        return self.pieces[name].address

    @property
    def after_system_call(self) -> int:
        """The `ret` of `syscall; ret`."""
        return self.pieces["system_call"].end - len(x86_64.RETURN)

    @property
    def after_landing(self) -> int:
        """Where a thread is while it is stopped at the landing: at its `ret`."""
        return self.pieces["landing"].end - len(x86_64.RETURN)

    @property
    def numbers_called(self) -> tuple[int, ...]:
        """The number of the system call that the landing makes, if there is one: any of a few harmless ones."""
        landing = self.pieces.get("landing")
        return (int.from_bytes(landing.code[1:5], "little"),) if landing else ()

    def require_unchanged(self, pid: int, *names: str) -> None:
        """Raise unless these pieces are still where they were found.

        Raises:
            TargetRefused: they are not.
        """
        for piece in (self.pieces[name] for name in names):
            try:
                code = read_memory(pid, piece.address, len(piece.code))
            except Unreadable:  # the library has gone
                code = b""
            if code != piece.code:
                msg = f"the code of process {pid} has changed while it was looked at"
                raise TargetRefused(msg, hint="it unloads a library just now, or writes code: try again")


_found: dict[int, Gadgets] = {}


def find_gadgets(process: ProcessDirectory) -> Gadgets:
    """What the process has; searched once for each program that it runs.

    Raises:
        ProcessGone, NotPermitted: as reading maps and memory.
    """
    pid = process.pid
    known = _found.get(pid)
    program = identify_program(process)
    if known and known.program == program:
        return known
    if len(_found) >= _KEPT_PROCESSES:
        _found.clear()
    _found[pid] = _search(process, program)
    return _found[pid]


def identify_program(process: ProcessDirectory) -> bytes:
    """What tells a program from any other that the process has run, or will: where everything was put when it began.

    Raises:
        ProcessGone, NotPermitted: as `ProcessDirectory.read`.
    """
    return process.read("auxv")


def require(gadgets: Gadgets, *names: str) -> None:
    """Raise unless the target has these pieces.

    Raises:
        TargetRefused: it has not.
    """
    if missing := [name for name in names if name not in gadgets.pieces]:
        what = "way back from a signal handler" if "restore" in missing else f"code to go by ({', '.join(missing)})"
        msg = f"the program has no {what}, so nothing can be run in it safely"
        raise TargetRefused(
            msg, hint="it is statically linked, or uses an unusual C library; look and plan work on it all the same"
        )


def parse_store(code: bytes) -> Store:
    """What a piece of code that `x86_64.STORE_RAX_RETURN` fits does."""
    extended = code[0] & 1
    mode, low = code[2] >> 6, code[2] & 7
    has_index = low == _SIB
    register = _BASES[extended][low]
    at = 4 if has_index else 3
    displacement_bytes = (0, 1, 4)[mode]
    displacement = int.from_bytes(code[at : at + displacement_bytes], "little", signed=True)
    at += displacement_bytes
    popped = 0
    if code[at : at + 3] == _ADD_TO_RSP:
        popped += code[at + 3] // 8
        at += 4
    popped += sum(1 for byte in code[at:-1] if byte != _EXTENDED_POP)
    return Store(register, displacement, popped)


_SIB = 4
_ADD_TO_RSP = b"\x48\x83\xc4"
_EXTENDED_POP = 0x41
_BASES = ({3: "rbx", 5: "rbp"}, {4: "r12", 5: "r13", 6: "r14", 7: "r15"})


def _search(process: ProcessDirectory, program: bytes) -> Gadgets:
    table = read_maps(process)
    code = []
    stack = (0, 0)
    for row in range(len(table)):
        perms, _, _, _, name = table.words(row)
        if name == "[stack]":
            stack = (table.starts[row], table.ends[row])
        elif "r" in perms and "x" in perms and name.startswith("/"):
            code.append((_rank(name), table.starts[row], table.ends[row]))
    found: dict[str, Piece] = {}
    for _, start, end in sorted(code):
        _search_mapping(process.pid, start, min(end, start + _LARGEST_MAPPING_BYTES), found)
        if len(found) == len(_PATTERNS):
            break
    return Gadgets(found, program, stack)


def _rank(name: str) -> int:
    """The C library first: it has everything."""
    file = os.path.basename(name)
    return 0 if file.startswith(("libc.so", "libc-", "ld-musl", "ld-linux")) else 1


def _search_mapping(pid: int, start: int, end: int, found: dict[str, Piece]) -> None:
    try:
        code = read_memory(pid, start, end - start)
    except Unreadable:  # beyond the end of its file, or unmapped meanwhile
        return
    for name, pattern in _PATTERNS.items():
        if name not in found and (match := pattern.search(code)):
            found[name] = Piece(start + match.start(), match.group())
