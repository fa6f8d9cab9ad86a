"""Programs and libraries that a process has mapped, and the addresses of their symbols there.

The file is read as the process has it mapped: through `/proc/PID/map_files`, which leads to the very inode, deleted or
in another mount namespace (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE); else through `/proc/PID/root`, and then its first
bytes are held against those in memory: a library that was upgraded on disk has other addresses than the one that runs.

A file is taken as loaded where its executable pages are mapped; that a program reads its own library as data says
nothing. Where the rest of it lies follows from its headers.

Kernel:
    fs/proc/base.c map_files, since 3.3 and without a special configuration since 4.3; proc(5).
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial

from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, Unreadable
from dontneed.kernel.process_memory import read_memory
from dontneed.observe.objects.elf import WRITABLE, parse_elf
from dontneed.records import Record
from dontneed.spans import Spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from dontneed.observe.objects.elf import ElfFile
    from dontneed.observe.subject import Row, Subject

_BY_INODE, _BY_PATH = "map_files/{start:x}-{end:x}", "root{path}"
_WAYS = (_BY_INODE, _BY_PATH)
_DELETED = " (deleted)"
_IDENTITY_BYTES = 1024
"""Program headers and, of nearly every file, the build id."""


class MappedObject(Record):
    """A program or library as a process has it in memory.

    Attributes:
        path: as maps prints it, without ` (deleted)`.
        bias: what the loader added to the addresses in the file.
        segments: the mappings in its address range as (start, end, permissions): also anonymous ones, such as .bss.
        data: its writable data, .bss included.
        code: the mapping by which the file is found again: start, end, and where in the file it begins.
    """

    path: str
    bias: int
    segments: tuple[tuple[int, int, str], ...]
    data: Spans
    code: tuple[int, int, int]

    def contains(self, address: int) -> bool:
        """Whether the byte at `address` lies in one of its mappings."""
        return any(start <= address < end for start, end, _ in self.segments)


def find_object(subject: Subject, predicate: Callable[[str], bool]) -> MappedObject | None:
    """The first program or library, in address order, whose path pleases `predicate`.

    Raises:
        ProcessGone, NotPermitted: as `Subject`'s reads.
    """
    return next(find_objects(subject, predicate), None)


def find_objects(subject: Subject, predicate: Callable[[str], bool]) -> Iterator[MappedObject]:
    """Every program and library whose path pleases `predicate`; one that cannot be read, or is no ELF, is left out.

    Raises:
        ProcessGone, NotPermitted: as `Subject`'s reads.
    """
    seen = set()
    rows = list(subject.rows())
    for number, row in enumerate(rows):
        if "x" not in row.perms or not row.inode or (row.device, row.inode) in seen:
            continue
        path = row.name.removesuffix(_DELETED)
        if not predicate(path):
            continue
        seen.add((row.device, row.inode))
        code = (row.start, row.end, subject.table.words(number)[1])
        with _opened(subject, path, code) as elf:
            bias = elf.bias_of(row.start, code[2]) if elf else None
            if elf and bias is not None:
                yield _mapped(rows, elf, bias, path, code)


def resolve(subject: Subject, mapped: MappedObject, names: Iterable[str]) -> dict[str, int]:
    """The absolute addresses of the symbols that `mapped` defines; names that it lacks are left out.

    Raises:
        ProcessGone, NotPermitted: as `Subject`'s reads.
    """
    with _opened(subject, mapped.path, mapped.code) as elf:
        found = elf.addresses(names) if elf else {}
    return {name: address + mapped.bias for name, address in found.items()}


def pointers_to(subject: Subject, mapped: MappedObject, name: str) -> list[int]:
    """The absolute addresses of the pointers by which the code of `mapped` calls a function of any other object.

    Raises:
        ProcessGone, NotPermitted: as `Subject`'s reads.
    """
    with _opened(subject, mapped.path, mapped.code) as elf:
        return [address + mapped.bias for address in elf.pointers_to(name)] if elf else []


def _mapped(rows: list[Row], elf: ElfFile, bias: int, path: str, code: tuple[int, int, int]) -> MappedObject:
    """What of the process's mappings belongs to a file loaded with this bias."""
    reach = [(bias + segment.pages[0], bias + segment.pages[1]) for segment in elf.segments]
    writable = [pages for pages, segment in zip(reach, elf.segments, strict=True) if segment.flags & WRITABLE]
    first, last = min(reach)[0], max(end for _, end in reach)
    segments = tuple(
        (max(row.start, first), min(row.end, last), row.perms) for row in rows if row.start < last and first < row.end
    )
    data = Spans((start, end) for start, end, perms in segments if perms.startswith("rw"))
    return MappedObject(path, bias, segments, data & Spans(writable), code)


@contextmanager
def _opened(subject: Subject, path: str, code: tuple[int, int, int]) -> Iterator[ElfFile | None]:
    """The file that is mapped at `code`; None if it cannot be read, or is not an ELF file."""
    for way in _WAYS:
        try:
            fd = subject.process.open(way.format(start=code[0], end=code[1], path=path))
        except ProcessGone:
            raise
        except (NotPermitted, KernelLacks, OSError):  # without the right, or no longer there: the next way is tried
            continue
        try:
            elf = parse_elf(partial(_read_at, fd))
            if elf is not None and (way is _BY_INODE or _is_in_memory(subject, fd, elf, code)):
                yield elf
                return
        finally:
            os.close(fd)
    yield None


def _read_at(fd: int, offset: int, length: int) -> bytes:
    """So many bytes, and no more than there are: a broken file may ask for any number."""
    left = os.fstat(fd).st_size - offset
    return os.pread(fd, min(length, left), offset) if left > 0 else b""


def _is_in_memory(subject: Subject, fd: int, elf: ElfFile, code: tuple[int, int, int]) -> bool:
    """Whether the process has this very file in memory: the headers are alike."""
    bias = elf.bias_of(code[0], code[2])
    first = next((segment for segment in elf.segments if segment.offset == 0), None)
    if bias is None or first is None:
        return False
    length = min(_IDENTITY_BYTES, first.file_bytes)
    try:
        return read_memory(subject.pid, bias + first.address, length) == os.pread(fd, length, 0)
    except Unreadable:
        return False
