"""BTF: the running kernel's description of its own types, from which offsets of members are taken by name.

Where a member of a struct lies depends on version, configuration and compiler, so it is never written down here.
/sys/kernel/btf/vmlinux lists every type one behind the other, without an index: to know which is the n-th all of them
are passed over, 0.1 s of Python. What was found is kept in a file named for the build of the kernel, so that this is
paid once for each kernel.

# Why such a file can be trusted

It is read only if it and its directory belong to us and nobody else may write to them; otherwise it is as if there were
none. And nothing that it says is believed: whoever uses an offset first reads with it what is known already.

Kernel:
    Documentation/bpf/btf.rst; CONFIG_DEBUG_INFO_BTF, in sysfs since 5.4.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from array import array
from bisect import bisect_left

from dontneed.errors import KernelLacks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PATH = "/sys/kernel/btf/vmlinux"
NOTES = "/sys/kernel/notes"

_MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
"""struct btf_header: magic, version, flags, its own length, then offset and length of the types and of the strings."""
_TYPE = struct.Struct("<III")
"""struct btf_type: offset of the name, kind and count, size or the type referred to."""
_MEMBER = struct.Struct("<III")
"""struct btf_member: offset of the name, type, and where it is, in bits."""
_FUNCTION, _STRUCT, _UNION = 12, 4, 5
_MODIFIERS = (8, 9, 10, 11, 18)
"""typedef, volatile, const, restrict, type tag: they stand before another type."""
_EXTRA_BYTES = {1: 4, 3: 12, 14: 4, 17: 4}
"""What follows a type of a kind: int, array, variable, declaration tag."""
_BYTES_A_MEMBER = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
"""What follows for each of its members: struct, union, enum, prototype, data section, 64-bit enum."""
_BIT_OFFSET_MASK = 0xFFFFFF
"""In a struct that has bit fields, the rest of the number is a width."""
_BUILD_ID_KIND = 3
_NOTE = struct.Struct("<III")


class Layout:
    """Where members are and which functions there are, by name.

    Attributes:
        offsets: bytes, by (struct, member); a member that the struct lacks is not in it.
        functions: BTF ids by name, of those that there are.
    """

    __slots__ = ("functions", "offsets")

    def __init__(self, offsets: dict[tuple[str, str], int], functions: dict[str, int]) -> None:
        self.offsets = offsets
        self.functions = functions

    def offset(self, structure: str, *members: str) -> int:
        """Where the first of some members is that the struct has: a member has had several names.

        Raises:
            KernelLacks: it has none of them.
        """
        for member in members:
            if (structure, member) in self.offsets:
                return self.offsets[structure, member]
        msg = f"the struct {structure} of this kernel has no {' or '.join(members)}"
        raise KernelLacks(msg, hint="this kernel is not one that dontneed knows; please report it")


def read_layout(members: Iterable[tuple[str, str]], functions: Iterable[str], *, anew: bool = False) -> Layout:
    """Look members and functions up, in what was kept of this kernel or in its BTF.

    Args:
        members: (struct, member) pairs; a member of an unnamed part of the struct counts as its own.
        functions: names.
        anew: do not ask what was kept.
    Raises:
        OSError: there is no BTF, or it is not to be read.
        KernelLacks: it is of a form that is not known.
    """
    members, functions = list(members), list(functions)
    place = _place()
    kept = _read_kept(place, members, functions) if place and not anew else None
    if kept is not None:
        return kept
    with open(PATH, "rb") as file:
        layout = parse_btf(file.read(), members, functions)
    if place:
        _keep(place, members, functions, layout)
    return layout


def is_btf(start: bytes) -> bool:
    """Whether what begins so is BTF of this machine's byte order."""
    return len(start) >= _HEADER.size and bool(_HEADER.unpack_from(start)[0] == _MAGIC)


def parse_btf(data: bytes, members: Iterable[tuple[str, str]], functions: Iterable[str]) -> Layout:
    """Look members and functions up in the bytes of a BTF file.

    Raises:
        KernelLacks: they are no BTF.
    """
    types = _Types(data)
    members, functions = list(members), list(functions)
    types.find(_STRUCT, {structure for structure, _ in members})
    types.find(_FUNCTION, functions)
    found = ((pair, types.member_offset(*pair)) for pair in members)
    return Layout(
        {pair: offset for pair, offset in found if offset is not None},
        {name: number for name in functions if (number := types.numbers.get((_FUNCTION, name)))},
    )


class _Steps(dict[int, int]):
    """How many words a type takes, by its second one; computed once for each value of that."""

    def __missing__(self, info: int) -> int:
        kind = info >> 24 & 31
        size = _TYPE.size + _EXTRA_BYTES.get(kind, 0) + _BYTES_A_MEMBER.get(kind, 0) * (info & 0xFFFF)
        self[info] = size // 4
        return self[info]


class _Types:
    """The types of a BTF file.

    Attributes:
        numbers: of the types that were asked for, by kind and name.
    """

    def __init__(self, data: bytes) -> None:
        if not is_btf(data):
            raise KernelLacks("the kernel's description of its types (BTF) is not in the form that dontneed reads")
        _, _, _, header, types_at, types_bytes, names_at, names_bytes = _HEADER.unpack_from(data)
        self._types = data[header + types_at : header + types_at + types_bytes]
        self._names = data[header + names_at : header + names_at + names_bytes]
        self._places = _places(self._types)
        self.numbers: dict[tuple[int, str], int] = {}

    def find(self, kind: int, names: Iterable[str]) -> None:
        """Note the numbers of the types of a kind that have these names."""
        for name in names:
            at = self._names.find(b"\0" + name.encode("ascii") + b"\0")
            number = self._number(kind, at + 1) if at >= 0 else None
            if number is not None:
                self.numbers[kind, name] = number

    def _number(self, kind: int, name_at: int) -> int | None:
        """The first type of a kind whose name is there: found by its first word, which members have as well."""
        word = name_at.to_bytes(4, "little")
        place = self._types.find(word)
        while place >= 0:
            number = bisect_left(self._places, place // 4, 1)
            if place % 4 == 0 and number < len(self._places) and self._places[number] == place // 4:
                _, info, _ = _TYPE.unpack_from(self._types, place)
                if info >> 24 & 31 == kind:
                    return number
            place = self._types.find(word, place + 1)
        return None

    def member_offset(self, structure: str, member: str) -> int | None:
        """Where a member is, in bytes; None where there is no such struct or member."""
        number = self.numbers.get((_STRUCT, structure))
        return None if number is None else self._offset_in(number, member.encode("ascii"))

    def _offset_in(self, number: int, member: bytes) -> int | None:
        """Where a member of type `number` is, also one of its unnamed structs and unions."""
        info: int
        _, info, referred = _TYPE.unpack_from(self._types, 4 * self._places[number])
        while info >> 24 & 31 in _MODIFIERS:
            number = referred
            _, info, referred = _TYPE.unpack_from(self._types, 4 * self._places[number])
        if info >> 24 & 31 not in (_STRUCT, _UNION):
            return None
        first = 4 * self._places[number] + _TYPE.size
        for nth in range(info & 0xFFFF):
            name_at, kind, place = _MEMBER.unpack_from(self._types, first + nth * _MEMBER.size)
            base: int = (place & _BIT_OFFSET_MASK if info >> 31 else place) // 8
            if not name_at:
                below = self._offset_in(kind, member)
                if below is not None:
                    return base + below
            elif self._names[name_at : name_at + len(member) + 1] == member + b"\0":
                return base
        return None


def _places(types: bytes) -> list[int]:
    """In which word each type begins, by its number; number 0 is that of no type."""
    words = array("I", types[: len(types) // 4 * 4])
    if sys.byteorder == "big":
        words.byteswap()
    steps, places, place, end = _Steps(), [0], 0, len(words) - 1
    while place < end:
        places.append(place)
        place += steps[words[place + 1]]
    return places


# What was found is kept


def parse_build_id(notes: bytes) -> str:
    """The build id in the notes of a kernel, in hexadecimal; nothing without one."""
    place = 0
    while place + _NOTE.size <= len(notes):
        name_bytes, content_bytes, kind = _NOTE.unpack_from(notes, place)
        name_at = place + _NOTE.size
        content_at = name_at + (name_bytes + 3 & ~3)
        if kind == _BUILD_ID_KIND and notes[name_at : name_at + name_bytes] == b"GNU\0":
            return notes[content_at : content_at + content_bytes].hex()
        place = content_at + (content_bytes + 3 & ~3)
    return ""


def _place() -> str:
    """Where what is known of this kernel is kept; nothing where its build has no id, or we have no home."""
    try:
        with open(NOTES, "rb") as file:
            build = parse_build_id(file.read())
    except OSError:  # no id: nothing tells this build from another, so nothing is kept
        return ""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return f"{caches}/dontneed/kernel-{build}.txt" if build and os.path.isabs(caches) else ""


def _read_kept(place: str, members: list[tuple[str, str]], functions: list[str]) -> Layout | None:
    """What was kept, if it is ours and answers all that is asked: a line a name, with its number or `-`."""
    try:
        if not _is_ours(os.stat(os.path.dirname(place), follow_symlinks=False), stat.S_ISDIR):
            return None
        with open(os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), encoding="ascii") as file:
            if not _is_ours(os.fstat(file.fileno()), stat.S_ISREG):
                return None
            kept = dict(line.split() for line in file)
        offsets = {pair: _number(kept[".".join(pair)]) for pair in members}
        numbers = {name: _number(kept[name]) for name in functions}
    except (OSError, ValueError, LookupError):  # not there, torn, or of another time: BTF has it all
        return None
    return Layout(
        {pair: value for pair, value in offsets.items() if value is not None},
        {name: value for name, value in numbers.items() if value},
    )


def _number(word: str) -> int | None:
    return None if word == "-" else int(word)


def _keep(place: str, members: list[tuple[str, str]], functions: list[str], layout: Layout) -> None:
    """Write what was found, whole or not at all; where we may not, the next one looks it up again."""
    directory = os.path.dirname(place)
    found = {
        **{".".join(pair): layout.offsets.get(pair) for pair in members},
        **{name: layout.functions.get(name) for name in functions},
    }
    draft = f"{place}.{os.getpid()}"
    try:
        if not _is_ours(os.stat(_nearest_that_exists(directory)), stat.S_ISDIR):  # sudo with another user's home
            return
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if not _is_ours(os.stat(directory, follow_symlinks=False), stat.S_ISDIR):
            return
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.writelines(f"{name} {'-' if number is None else number}\n" for name, number in found.items())
        os.rename(draft, place)
    except OSError:  # no room, read-only, no home: nothing depends on it
        return


def _nearest_that_exists(directory: str) -> str:
    """The directory above, or the one above that."""
    above = os.path.dirname(directory)
    return above if os.path.exists(above) or above == directory else _nearest_that_exists(above)


def _is_ours(found: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    """Whether a file or directory belongs to us, and nobody else may write to it."""
    return is_kind(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
