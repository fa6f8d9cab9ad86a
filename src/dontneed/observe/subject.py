"""`Subject`: the process that reasons survey, read once for all of them."""

from __future__ import annotations

import os

from dontneed.kernel.maps import read_maps
from dontneed.kernel.status import read_counters, read_identity
from dontneed.observe.address_space import why_empty
from dontneed.observe.mapping import kind_of
from dontneed.observe.protected import read_protected
from dontneed.observe.stacks.thread_stacks import mark_thread_stacks
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from dontneed.kernel.maps import MapsTable
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.kernel.status import Counters
    from dontneed.observe.protected import Protected


class Row(Record):
    """One mapping of a subject: addresses, permissions as `rw-p`, name and device as maps prints them, kind, inode."""

    start: int
    end: int
    perms: str
    name: str
    kind: str
    device: str
    inode: int


class Subject(Record):
    """A process at one moment, as far as every reason wants to know it.

    Attributes:
        process: held by its directory.
        table, kinds: its mappings, and the kind of each.
        counters: what the kernel counts.
        protected: memory that no reason may touch.
        is_self: it is the calling process.
    """

    process: ProcessDirectory
    table: MapsTable
    kinds: list[str]
    counters: Counters
    protected: Protected
    is_self: bool

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def rows(self, *kinds: str) -> Iterator[Row]:
        """Its mappings of these kinds, or all, in address order."""
        for row, kind in enumerate(self.kinds):
            if not kinds or kind in kinds:
                perms, _, device, inode, name = self.table.words(row)
                yield Row(self.table.starts[row], self.table.ends[row], perms, name, kind, device, inode)


def read_subject(process: ProcessDirectory) -> Subject:
    """Read what the reasons share. Stops nothing and writes nothing.

    Raises:
        ProcessGone, NotPermitted, KernelLacks: as `ProcessDirectory.read`.
        NoAddressSpace: a kernel thread.
    """
    table = read_maps(process)
    if not len(table):
        raise why_empty(process, read_identity(process))
    kinds = table.classify(kind_of)
    counters = read_counters(process)
    if counters.threads > 1:
        mark_thread_stacks(process, table, kinds, [])
    protected = read_protected(process, table, counters)
    return Subject(process, table, kinds, counters, protected, process.pid == os.getpid())
