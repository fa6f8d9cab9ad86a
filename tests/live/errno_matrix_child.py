"""Asks the running kernel: one kind of mapping, made afresh for each advice, in a process that may die of it.

    echo anon DONTNEED FREE | python errno_matrix_child.py

answers each line of its input, a kind and advices, with one line of JSON: {ADVICE: {"answer": "ok" or the errno,
"contents": "kept", "lost" or "unread"}}, or {"missing": [errno, why]} where this machine cannot make such a mapping.
HWPOISON and SOFT_OFFLINE are asked only of a kernel that cannot carry them out; elsewhere they are left out.

Each advice is given in a fork of its own, because it may take the mapping away from under Python (GUARD_INSTALL on the
stack) and because most of them leave something behind.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import struct
import sys
import tempfile
import traceback
from pathlib import Path

from dontneed.abi.advice import Advice
from dontneed.abi.syscalls import MSEAL
from dontneed.kernel import libc
from dontneed.kernel.mappings import MAP_FIXED, MAP_NORESERVE, lock_memory, map_memory, protect_memory, unmap_memory
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES, round_up

PATIENCE_SECONDS = 30

PERF_EVENT_OPEN, MLOCK2, MEMFD_SECRET = 298, 325, 447  # x86-64
MLOCK_ONFAULT = 1
MAP_DROPPABLE = 0x08
MAP_HUGETLB = 0x40000

NONE, READ, WRITE = 0, mmap.PROT_READ, mmap.PROT_WRITE
PRIVATE, SHARED, ANONYMOUS = mmap.MAP_PRIVATE, mmap.MAP_SHARED, mmap.MAP_ANONYMOUS

FEW = 4 * PAGE_BYTES
"""Enough to be several pages, too little to hold a huge one."""

QUICKLY_REACHED = 100_000
"""Mappings; the kernel's default is 65,530."""

IN_FILES, WRITTEN = 0x46, 0x5A
"""What files hold, and what is written through a mapping: a lost private change shows the file again."""


class Mapping:
    """What an advice is given for.

    Attributes:
        address, length: the range, in bytes.
        readable: its contents can be read at any time and stay as they are; reading changes nothing that matters.
    """

    def __init__(self, address: int, length: int = FEW, *, readable: bool = True) -> None:
        self.address = address
        self.length = length
        self.readable = readable

    def read(self) -> bytes | None:
        """The contents, for a comparison."""
        return ctypes.string_at(self.address, self.length) if self.readable else None


def place(length: int = FEW, protection: int = READ | WRITE, flags: int = PRIVATE | ANONYMOUS, fd: int = -1) -> int:
    """Map memory that starts on a huge page's boundary and has no neighbour to merge with."""
    nothing = map_memory(length + 3 * HUGE_PAGE_BYTES, protection=NONE, flags=SHARED | ANONYMOUS | MAP_NORESERVE)
    address = round_up(nothing + PAGE_BYTES, HUGE_PAGE_BYTES)
    return map_memory(length, address=address, protection=protection, flags=flags | MAP_FIXED, fd=fd)


def fill(address: int, length: int = FEW) -> int:
    """Write every byte, so that every page is present; the address again."""
    ctypes.memset(address, WRITTEN, length)
    return address


def anonymous(protection: int = READ | WRITE, length: int = FEW) -> int:
    """Private anonymous memory, written first and then protected."""
    address = fill(place(length), length)
    protect_memory(address, length, protection)
    return address


def memfd(length: int = FEW) -> int:
    """The descriptor of a memfd full of bytes."""
    fd = os.memfd_create("matrix")
    os.write(fd, bytes([IN_FILES]) * length)
    return fd


def file(flags: int = os.O_RDWR) -> int:
    """A descriptor of a file of its own, full of bytes, on the file system of the temporary directory."""
    made, path = tempfile.mkstemp(prefix="dontneed-")
    os.write(made, bytes([IN_FILES]) * FEW)
    fd = os.open(path, flags)
    Path(path).unlink()
    return fd


def locked(address: int) -> int:
    """The same memory after mlock(2)."""
    lock_memory(address, FEW)
    return address


def sealed(address: int) -> int:
    """The same memory after mseal(2)."""
    libc.check(libc.syscall(MSEAL, address, FEW, 0), "mseal")
    return address


def advised(address: int, advice: Advice, length: int = FEW) -> int:
    """The same memory after another advice."""
    libc.check(libc.madvise(address, length, advice), str(advice))
    return address


def special(name: str, *, readable: bool) -> Mapping:
    """A mapping that every process has."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith(name):
            start, end = (int(address, 16) for address in line.partition(" ")[0].split("-"))
            return Mapping(start, end - start, readable=readable)
    raise FileNotFoundError(errno.ENOENT, "no such mapping", name)


def first_page(mapping: Mapping) -> Mapping:
    """A part of a mapping: of the stack, the page farthest from where it is used."""
    return Mapping(mapping.address, PAGE_BYTES, readable=mapping.readable)


def unmapped() -> Mapping:
    address = place()
    unmap_memory(address, FEW)
    return Mapping(address, readable=False)


def locked_on_fault() -> Mapping:
    address = anonymous()
    libc.check(libc.syscall(MLOCK2, address, FEW, MLOCK_ONFAULT), "mlock2")
    return Mapping(address)


def secret() -> Mapping:
    fd = libc.check(libc.syscall(MEMFD_SECRET, 0), "memfd_secret")
    os.ftruncate(fd, FEW)
    return Mapping(fill(place(flags=SHARED, fd=fd)))


def perf_ring() -> Mapping:
    """The ring buffer of a software event that never fires (PERF_COUNT_SW_DUMMY)."""
    software, dummy, size = 1, 9, 64
    attributes = ctypes.create_string_buffer(struct.pack("=IIQ", software, size, dummy), size)
    fd = libc.check(libc.syscall(PERF_EVENT_OPEN, ctypes.addressof(attributes), 0, -1, -1, 0), "perf_event_open")
    length = 2 * PAGE_BYTES
    return Mapping(map_memory(length, flags=SHARED, fd=fd), length, readable=False)


def hugetlb(flags: int, *, start: int = 0) -> Mapping:
    """A page of the pool; the range may start inside it."""
    address = fill(place(HUGE_PAGE_BYTES, flags=flags | ANONYMOUS | MAP_HUGETLB), HUGE_PAGE_BYTES)
    return Mapping(address + start, HUGE_PAGE_BYTES - start)


def huge_page(*, touched: bool = True, told: Advice = Advice.HUGEPAGE) -> Mapping:
    """A whole, aligned huge page of anonymous memory."""
    address = advised(place(HUGE_PAGE_BYTES), told, HUGE_PAGE_BYTES)
    if touched:
        fill(address, HUGE_PAGE_BYTES)
    return Mapping(address, HUGE_PAGE_BYTES, readable=touched)


def beyond_end() -> Mapping:
    """A shared file that is a page shorter than its mapping."""
    fd = memfd(FEW)
    address = place(flags=SHARED, fd=fd)
    os.ftruncate(fd, FEW - PAGE_BYTES)
    return Mapping(address, readable=False)


def at_the_limit() -> Mapping:
    """A part of a mapping, in a process that can have no mapping more."""
    address = anonymous()
    limit = int(Path("/proc/sys/vm/max_map_count").read_text(encoding="utf-8"))
    if limit > QUICKLY_REACHED:
        raise OSError(errno.E2BIG, f"vm.max_map_count is {limit}, too many mappings for a test")
    many = place(2 * limit * PAGE_BYTES, NONE)
    for page in range(1, 2 * limit, 2):
        if libc.madvise(many + page * PAGE_BYTES, PAGE_BYTES, Advice.DONTDUMP) == -1:
            return Mapping(address + PAGE_BYTES, PAGE_BYTES)
    message = "vm.max_map_count was not reached"
    raise AssertionError(message)


KINDS = {
    # Those of the matrix.
    "anon": lambda: Mapping(anonymous()),
    "anon_unpop": lambda: Mapping(place(), readable=False),
    "none": lambda: Mapping(anonymous(NONE), readable=False),
    "ro": lambda: Mapping(anonymous(READ)),
    "stack": lambda: first_page(special("[stack]", readable=False)),
    "thp": huge_page,
    "locked": lambda: Mapping(locked(anonymous())),
    "lockonfault": locked_on_fault,
    "sealed_ro": lambda: Mapping(sealed(anonymous(READ))),
    "sealed_rw": lambda: Mapping(sealed(anonymous())),
    "droppable": lambda: Mapping(fill(place(flags=MAP_DROPPABLE | ANONYMOUS))),
    "devzero_pv": lambda: Mapping(fill(place(flags=PRIVATE, fd=os.open("/dev/zero", os.O_RDWR)))),
    "shanon": lambda: Mapping(fill(place(flags=SHARED | ANONYMOUS))),
    "memfd_sh": lambda: Mapping(place(flags=SHARED, fd=memfd())),
    "memfd_pv": lambda: Mapping(fill(place(flags=PRIVATE, fd=memfd()))),
    "locked_memfd": lambda: Mapping(locked(place(flags=SHARED, fd=memfd()))),
    "secret": secret,
    "file_sh_rw": lambda: Mapping(place(flags=SHARED, fd=file())),
    "file_sh_ro_rwfd": lambda: Mapping(place(protection=READ, flags=SHARED, fd=file())),
    "file_sh_ro_rofd": lambda: Mapping(place(protection=READ, flags=SHARED, fd=file(os.O_RDONLY))),
    "file_pv_rw": lambda: Mapping(fill(place(flags=PRIVATE, fd=file()))),
    "file_pv_ro": lambda: Mapping(place(protection=READ, flags=PRIVATE, fd=file())),
    "hugetlb_sh": lambda: hugetlb(SHARED),
    "hugetlb_pv": lambda: hugetlb(PRIVATE),
    "vdso": lambda: special("[vdso]", readable=True),
    "vvar": lambda: special("[vvar]", readable=False),
    "perf": perf_ring,
    "unmapped": unmapped,
    # Those of the table's refusals that no cell of the matrix shows.
    "write_only": lambda: Mapping(anonymous(WRITE), readable=False),
    "guarded": lambda: Mapping(advised(anonymous(), Advice.GUARD_INSTALL), readable=False),
    "beyond_end": beyond_end,
    "vdso_part": lambda: first_page(special("[vdso]", readable=True)),
    "hugetlb_unaligned": lambda: hugetlb(PRIVATE, start=PAGE_BYTES),
    "thp_empty": lambda: huge_page(touched=False),
    "thp_told_not": lambda: huge_page(told=Advice.NOHUGEPAGE),
    "at_the_limit": at_the_limit,
}


def poisoning_is_impossible() -> bool:
    """Whether the kernel lists its functions, and the two that would take frames away for good are not among them."""
    try:
        functions = {line.split()[2] for line in Path("/proc/kallsyms").read_text(encoding="utf-8").splitlines()}
    except FileNotFoundError:
        return False
    return "do_madvise" in functions and functions.isdisjoint({"memory_failure", "soft_offline_page"})


def give(kind: str, advice: Advice | None, say: int) -> None:
    """Make the mapping, give the advice, and write the answer at once, then what became of the contents."""
    mapping = KINDS[kind]()
    before = mapping.read()
    os.write(say, b"made\n")
    if advice is None:
        return
    failed = libc.madvise(mapping.address, mapping.length, advice) == -1
    os.write(say, f"{errno.errorcode[libc.last_errno()] if failed else 'ok'}\n".encode())
    after = mapping.read()
    os.write(say, b"unread" if before is None else b"kept" if before == after else b"lost")


def in_a_fork(kind: str, advice: Advice | None) -> list[str]:
    """What `give` wrote before it ended or died, line by line."""
    hear, say = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(PATIENCE_SECONDS)
        try:
            give(kind, advice, say)
        except OSError as error:
            os.write(say, f"missing\n{error.errno}\n{error}".encode())
        except BaseException:  # noqa: BLE001 - a fork must not return into its parent's code
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(say)
    with open(hear, "rb") as pipe:
        lines = pipe.read().decode().splitlines()
    os.waitpid(pid, 0)
    return lines


def ask(kind: str, advices: list[Advice]) -> dict[str, object]:
    """The kernel's answers for one kind of mapping."""
    made = in_a_fork(kind, None)
    if made != ["made"]:
        _, number, why = made
        return {"missing": [int(number), why]}
    answers: dict[str, object] = {}
    for advice in advices:
        _, answer, *contents = in_a_fork(kind, advice)
        # Nothing said: the read died of the advice, so that the contents are out of reach.
        answers[advice.name] = {"answer": answer, "contents": contents[0] if contents else "lost"}
    return answers


def main() -> None:
    """Answer every line."""
    never = set() if poisoning_is_impossible() else {Advice.HWPOISON, Advice.SOFT_OFFLINE}
    for line in sys.stdin:
        kind, *names = line.split()
        advices = [advice for advice in map(Advice.named, names) if advice not in never]
        print(json.dumps(ask(kind, advices)), flush=True)


if __name__ == "__main__":
    main()
