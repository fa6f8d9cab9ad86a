"""`Mapping`: one VMA, what kind of memory it is, and how much of it is there; `Mappings`: those of a process."""

from __future__ import annotations

from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, overload

    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.smaps import SmapsCounters
    from dontneed.observe.residency import Residency

KINDS = (
    "anonymous",
    "heap",
    "stack",
    "thread stack",
    "file",
    "shared anonymous",
    "shared memory",
    "hugetlb",
    "device",
    "vdso",
    "vvar",
    "vsyscall",
    "special",
)
"""The kinds of memory that `kind_of` tells apart.

`anonymous`, `heap` (brk), `stack` (the main thread's) and `thread stack` are private memory that no file backs; `file`
is a file's page cache, or private copies of it; `shared anonymous` is `mmap(MAP_SHARED | MAP_ANONYMOUS)`, `shared
memory` memfd, /dev/shm and System V segments; `device` is memory of a driver; the rest belongs to the kernel.
"""

_BRACKETED = {
    "[heap]": "heap",
    "[stack]": "stack",
    "[vdso]": "vdso",
    "[vvar]": "vvar",
    "[vvar_vclock]": "vvar",
    "[vsyscall]": "vsyscall",
}
_PREFIXES = (
    ("[anon:", "anonymous"),
    ("[anon_shmem:", "shared anonymous"),
    ("[stack:", "thread stack"),
    ("/dev/shm/", "shared memory"),  # noqa: S108 - a name to recognise, not a file to make
    ("/memfd:", "shared memory"),
    ("/SYSV", "shared memory"),
    ("/secretmem", "shared memory"),
    ("/[aio]", "special"),
    ("/anon_hugepage", "hugetlb"),
    ("/dev/hugepages/", "hugetlb"),
    ("/dev/", "device"),
    ("/", "file"),
    ("anon_inode:", "device"),
    ("socket:", "device"),
)


def kind_of(name: str, perms: str) -> str:
    """What kind of memory a mapping is, by its name and permissions.

    hugetlb behind a memfd or a file on another mount, and thread stacks, take a look at more than these two.
    """
    if not name:
        return "anonymous"
    if name in _BRACKETED:
        return _BRACKETED[name]
    if name.startswith("/dev/zero"):
        return "shared anonymous" if perms.endswith("s") else "anonymous"
    for prefix, kind in _PREFIXES:
        if name.startswith(prefix):
            return kind
    return "special"


class Kinds:
    """The kind of each mapping of a table, by row: found when someone asks, unless it was set before."""

    __slots__ = ("_set", "_table")

    def __init__(self, table: MapsTable) -> None:
        self._table = table
        self._set: dict[int, str] = {}

    def __getitem__(self, row: int) -> str:
        if row in self._set:
            return self._set[row]
        perms, _, _, _, name = self._table.words(row)
        return kind_of(name, perms)

    def __setitem__(self, row: int, kind: str) -> None:
        self._set[row] = kind

    def __iter__(self) -> Iterator[str]:
        kinds = self._table.classify(kind_of)
        for row, kind in self._set.items():
            kinds[row] = kind
        return iter(kinds)


class Mapping(Record):
    r"""One mapping, as `/proc/PID/maps` prints it, and the memory behind it.

    Attributes:
        start, end: addresses, `[start, end)`.
        perms: four letters, as `rw-p`: readable, writable, executable, private or shared.
        offset: where it begins in its file, in bytes.
        device, inode: of the file; `00:00` and 0 without one.
        name: the kernel's name: a path (a newline in it is printed `\012`), a word in brackets, or nothing.
        kind: one of `KINDS`.
        rss_bytes: present, without zero pages and hugetlb: what the kernel counts as RSS.
        swap_bytes: swapped out. Shared memory that is swapped out can be seen in smaps only.
        huge_bytes: present and mapped by huge-page entries; None where the method cannot tell.
        zero_bytes: present, and only the shared zero page: no memory; None where the method cannot tell.
        hugetlb_bytes: present hugetlb pages, which are outside RSS.
        accessed_bytes: used by the processor since the kernel last looked (page reclaim, DAMON); None where the method
            cannot tell.
        dirty_bytes: written to, by the page tables of this process; with smaps what the kernel calls dirty, which knows
            of other writers of a shared page too. None where the method cannot tell.
        smaps: the kernel's own counters, when asked for.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    name: str
    kind: str
    rss_bytes: int
    swap_bytes: int
    huge_bytes: int | None
    zero_bytes: int | None
    hugetlb_bytes: int
    accessed_bytes: int | None = None
    dirty_bytes: int | None = None
    smaps: SmapsCounters | None = None

    __slots__ = ("_look", "_row")  # where a row of a look gets its fields from, when they are asked for

    def __getattr__(self, field: str) -> Any:
        """A field that was not asked for before: taken from the columns of the look, and kept.

        Python comes here only for a field that is not set, so a mapping that was made whole never does.
        """
        if field not in _FIELDS:
            msg = f"a Mapping has no {field}"
            raise AttributeError(msg)
        return self._look.fill(self, self._row, field)

    @property
    def size_bytes(self) -> int:
        """Virtual size."""
        return self.end - self.start

    @property
    def shared(self) -> bool:
        """MAP_SHARED: stores are seen by everyone who maps the same object."""
        return self.perms.endswith("s")


_FIELDS = frozenset(Mapping._fields)
_WORDS = ("perms", "offset", "device", "inode", "name")
_blank = object.__new__
_store = object.__setattr__

if TYPE_CHECKING:
    _Rows = Sequence[Mapping]
else:
    _Rows = object  # collections.abc costs a cold command 2 ms


class Mappings(_Rows):
    """The mappings of an address space in address order: columns, and a `Mapping` when one is asked for."""

    __slots__ = ("_columns", "_kinds", "_residency", "_smaps", "_table")

    def __init__(
        self, table: MapsTable, kinds: Kinds | list[str], residency: Residency, smaps: list[SmapsCounters] | None
    ) -> None:
        self._table = table
        self._kinds = kinds
        self._residency = residency
        self._smaps = smaps
        self._columns: dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self._table)

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, row: int) -> Mapping: ...
        @overload
        def __getitem__(self, row: slice) -> Sequence[Mapping]: ...

    def __getitem__(self, row: int | slice) -> Mapping | Sequence[Mapping]:
        if isinstance(row, slice):
            return [self._mapping(each) for each in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            msg = f"there are {len(self)} mappings, none of them is number {row}"
            raise IndexError(msg)
        return self._mapping(row % len(self))

    def __iter__(self) -> Iterator[Mapping]:
        return map(self._mapping, range(len(self)))

    def _mapping(self, row: int) -> Mapping:
        mapping = _blank(Mapping)
        _store(mapping, "_look", self)
        _store(mapping, "_row", row)
        return mapping

    def fill(self, mapping: Mapping, row: int, field: str) -> Any:
        """Set `field` of a mapping, and the others that come from the same words; its value."""
        if field in _WORDS:
            for name, word in zip(_WORDS, self._table.words(row), strict=True):
                _store(mapping, name, word)
            return getattr(mapping, field)
        value = (self._columns.get(field) or self._column(field))[row]
        _store(mapping, field, value)
        return value

    def _column(self, field: str) -> Any:
        """Where all rows have a field from; found once."""
        column: Any
        if field in ("start", "end"):
            column = getattr(self._table, f"{field}s")
        elif field in ("kind", "smaps"):
            column = self._kinds if field == "kind" else self._smaps
        elif field == "hugetlb_bytes":
            column = [self._residency.hugetlb.get(row, 0) for row in range(len(self))]
        else:
            column = getattr(self._residency, field.removesuffix("_bytes"))
        self._columns[field] = [None] * len(self) if column is None else column
        return self._columns[field]

    @property
    def sizes(self) -> list[int]:
        """Virtual size of each mapping, in bytes; a column, without making the rows."""
        return [end - start for start, end in zip(self._table.starts, self._table.ends, strict=True)]

    @property
    def rss(self) -> list[int]:
        """Resident bytes of each mapping; a column."""
        return self._residency.rss

    @property
    def swap(self) -> list[int]:
        """Swapped bytes of each mapping; a column."""
        return self._residency.swap

    @property
    def kinds(self) -> list[str]:
        """Kind of each mapping; a column."""
        return list(self._kinds)
