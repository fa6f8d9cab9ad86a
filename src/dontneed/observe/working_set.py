"""The working set of a process: how much of each mapping it uses while it is watched, told by the marks of use.

Nothing here acts inside the process. What can be known by looking alone is two bounds (`observe.tables.changes`), and
wider ones without root (smaps). To know it better the marks are cleared first, which disturbs reclaim, and so is done
only when it is asked for. Which pages are written to, exactly, takes a userfaultfd of the process: `remote.written`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, TargetRefused, UsageError
from dontneed.kernel.clear_refs import clear_accessed
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import has_memory, read_identity
from dontneed.observe.address_space import look
from dontneed.records import Record
from dontneed.units import WEEK_SECONDS, format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dontneed.errors import DontneedError
    from dontneed.kernel.kernel_memory import KernelMemory
    from dontneed.kernel.status import Identity
    from dontneed.observe.address_space import AddressSpace
    from dontneed.observe.mapping import Mapping

    IsOver = Callable[[], bool]

METHODS = ("auto", "tables", "smaps", "accessed", "written")
"""How it can be found out; `auto` is the first of the next two that works, and neither of them changes anything."""

_READINGS = 10
_LONGEST_PAUSE_SECONDS = 1.0
_READING_SHARE = 10
"""Page tables are read for at most a tenth of the time."""
_GLANCE_SECONDS = 0.05
_PRIVATE = ("anonymous", "heap", "stack", "thread stack")

_PROGRAM_FIELDS = (23, 25)
"""Where /proc/PID/stat says where code and stack begin, counted from the state; an exec changes them. proc(5)."""

_OF_TABLES = (
    "at least: pages whose mark of use came between two readings; what bore it already cannot be told. At most: all "
    "that bear it, since whenever, but for what lost it between two readings: unmapped, or seen by reclaim or DAMON"
)
_OF_SMAPS = (
    "at least: by how much Referenced grew, of private memory that stayed where it was; what bore the mark already "
    "cannot be told, and what khugepaged joined counts too. At most: all that bear it, since whenever and by whomever"
)
_OF_CLEARED = (
    "pages of files that the kernel mapped ahead of their use count in the at most alone; a huge page counts whole; of "
    "what is used all the time a page or two may be missed"
)
_OF_CLEARED_SMAPS = (
    "files and shared memory count in the at most alone, since others may have used them; a huge page counts whole; of "
    "what is used all the time a page or two may be missed"
)
_NOT_FLUSHED = (
    "; this kernel has soft-dirty bits, so translations were not flushed, and a set that the processor holds all of "
    "(some thousand pages) may look idle"
)
_CLEARING = (
    "its marks of use were cleared at the beginning: for a while the kernel's reclaim takes its pages, and what others "
    "share of them, for idle"
)
_NOT_CLEARED = "the kernel clears no marks of hugetlb pages: they count in the at most alone"
_READING_SMAPS = "smaps was read twice, and the process waits for its mmap_lock meanwhile: some 50 ms for 4 GiB"


class MappingUse(Record):
    """How much of a mapping is used.

    Attributes:
        start, end, perms, name, kind: as those of a `Mapping`.
        rss_bytes: resident at the end, hugetlb pages included.
        touched_bytes: used while it was watched, at least.
        at_most_bytes: used at most; None where the method sees no upper bound.
        written_bytes: written to, at least, and exactly by the method `written`; None where the method cannot tell.
    """

    start: int
    end: int
    perms: str
    name: str
    kind: str
    rss_bytes: int
    touched_bytes: int
    at_most_bytes: int | None
    written_bytes: int | None


class WorkingSet(Record):
    """What `working_set` returns: how much of each mapping of a process was used while it was watched.

    Attributes:
        pid, command: whose.
        mappings: a `MappingUse` each, in address order.
        method: one of `METHODS`: what was done.
        source: what was read for it.
        known_error: what these numbers miss, in a sentence.
        disturbed: whether anything of the process was changed for it; `notes` say what.
        seconds: how long it was watched, really.
        minor_faults, major_faults: how many the process took meanwhile.
        gone_bytes: touched too, and unmapped before the end; in no mapping.
        notes: what else is to be known, in sentences.
    """

    pid: int
    command: str
    mappings: tuple[MappingUse, ...]
    method: str
    source: str
    known_error: str
    disturbed: bool
    seconds: float
    minor_faults: int
    major_faults: int
    gone_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def rss_bytes(self) -> int:
        """Resident at the end."""
        return sum(use.rss_bytes for use in self.mappings)

    @property
    def touched_bytes(self) -> int:
        """Used, at least."""
        return sum(use.touched_bytes for use in self.mappings)

    @property
    def at_most_bytes(self) -> int | None:
        """Used, at most; None where the method sees no upper bound."""
        return _total([use.at_most_bytes for use in self.mappings])

    @property
    def written_bytes(self) -> int | None:
        """Written to; None where the method cannot tell."""
        return _total([use.written_bytes for use in self.mappings])


def _total(amounts: Sequence[int | None]) -> int | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def check(seconds: float, method: str) -> None:
    """Raise if a process cannot be watched for so long, or in this way.

    Raises:
        UsageError.
    """
    if method not in METHODS:
        msg = f"there is no method {method!r} to find a working set"
        raise UsageError(msg, hint=f"one of {', '.join(METHODS)}")
    if not 0 < seconds <= WEEK_SECONDS:
        msg = f"a process cannot be watched for {seconds} seconds"
        raise UsageError(msg, hint="some seconds, up to a week; 10 is usual")


def watch(pid: int | None, seconds: float, method: str, is_over: IsOver) -> WorkingSet:
    """Find the working set of a process by the marks of use.

    Args:
        pid: a process id; None is the calling process.
        seconds: for which it is watched.
        method: one of `METHODS`, but `written`.
        is_over: asked now and then; True ends it early.
    Raises:
        As `remote.working_set.working_set`.
    """
    cleared = method == "accessed"
    with ProcessDirectory(pid) as process, ExitStack() as held:
        if method == "smaps":
            return _by_smaps(process, seconds, is_over, cleared=False, why=None)
        from dontneed.kernel.kernel_memory import kernel_memory

        try:
            memory = held.enter_context(kernel_memory())
        except (NotPermitted, KernelLacks) as why:
            if method == "tables":
                raise
            return _by_smaps(process, seconds, is_over, cleared=cleared, why=why)
        return _by_tables(process, memory, seconds, is_over, cleared=cleared)


def wait(process: ProcessDirectory, seconds: float, is_over: IsOver) -> bool:
    """Let time pass while a process lives; whether it was over before.

    Raises:
        ProcessGone: it ended.
    """
    until = time.monotonic() + seconds
    while not (over := is_over()) and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, _GLANCE_SECONDS))
        if not has_memory(process):
            raise why_gone(process)
    return over


def use_of(mapping: Mapping, touched: int, at_most: int | None, written: int | None) -> MappingUse:
    """A mapping as a look at the end has it, and what was found out about its use."""
    return MappingUse(
        start=mapping.start,
        end=mapping.end,
        perms=mapping.perms,
        name=mapping.name,
        kind=mapping.kind,
        rss_bytes=mapping.rss_bytes + mapping.hugetlb_bytes,
        touched_bytes=touched,
        at_most_bytes=at_most,
        written_bytes=written,
    )


# By page tables


def _by_tables(
    process: ProcessDirectory, memory: KernelMemory, seconds: float, is_over: IsOver, *, cleared: bool
) -> WorkingSet:
    readings = _Readings(process, memory, cleared=cleared)
    before = read_identity(process)
    readings.read()
    flushed = clear_accessed(process) if cleared else True
    began = time.monotonic()
    readings.follow(seconds, is_over)
    watched = time.monotonic() - began
    space, after = look(process.pid), read_identity(process)
    readings.read()  # what was looked at is the same process still, or this says so
    changes = readings.changes
    found = changes.by_mapping([each.start for each in space.mappings], [each.end for each in space.mappings])
    columns = zip(space.mappings, found.touched, found.marked, found.written, strict=True)
    return WorkingSet(
        pid=process.pid,
        command=space.command,
        mappings=tuple(_use_by_tables(*column, cleared=cleared) for column in columns),
        method="accessed" if cleared else "tables",
        source=f"page tables, read {readings.count} times",
        known_error=_known_error(_OF_CLEARED if cleared else _OF_TABLES, flushed=flushed),
        disturbed=cleared,
        seconds=watched,
        **faults_between(before, after),
        gone_bytes=found.gone_bytes,
        notes=(*_of_clearing(space, cleared=cleared), *space.notes, *changes.notes, *readings.notes),
    )


class _Readings:
    """Readings of the page tables of a process, each compared with the one before.

    Attributes:
        changes: what they say.
        count: how many there were.
    """

    def __init__(self, process: ProcessDirectory, memory: KernelMemory, *, cleared: bool) -> None:
        from dontneed.observe.tables.changes import TableChanges

        self._process = process
        self._memory = memory
        self._task = memory.task(process)
        self._unsettled_bytes = 0
        self.changes = TableChanges(cleared=cleared)
        self.count = 0

    @property
    def notes(self) -> list[str]:
        """What could not be read."""
        if not self._unsettled_bytes:
            return []
        words = "of addresses moved each time they were read: they are in no amount"
        return [f"{format_bytes(self._unsettled_bytes)} {words}"]

    def follow(self, seconds: float, is_over: IsOver) -> None:
        """Read again and again for so long; the last reading is left to the caller."""
        until = time.monotonic() + seconds
        pause = min(_LONGEST_PAUSE_SECONDS, seconds / _READINGS)
        while (left := until - time.monotonic()) > pause:
            if wait(self._process, pause, is_over):
                return
            left -= pause
            began = time.monotonic()
            self.read()
            pause = max(pause, _READING_SHARE * (time.monotonic() - began))
        wait(self._process, left, is_over)

    def read(self) -> None:
        """Read the tables once.

        Raises:
            ProcessGone, TargetRefused: the process has ended, or replaced its program.
        """
        from dontneed.observe.tables.reader import TableReader

        reader = TableReader(self._memory, [self._task])
        self.changes.begin()
        for tables in reader:
            self.changes.add(tables)
        if reader.gone:
            raise why_gone(self._process)
        unsettled = [(start, end) for _, start, end in reader.unsettled]
        self.changes.end(unsettled)
        self._unsettled_bytes = max(self._unsettled_bytes, sum(end - start for start, end in unsettled))
        self.count += 1


def _use_by_tables(mapping: Mapping, touched: int, at_most: int, written: int, *, cleared: bool) -> MappingUse:
    if cleared and mapping.kind == "hugetlb":
        return use_of(mapping, written, mapping.hugetlb_bytes, written)
    return use_of(mapping, touched, at_most, written)


# By smaps


def _by_smaps(
    process: ProcessDirectory, seconds: float, is_over: IsOver, *, cleared: bool, why: DontneedError | None
) -> WorkingSet:
    program, before = read_program(process), read_identity(process)
    earlier = look(process.pid, smaps=True)
    flushed = clear_accessed(process) if cleared else True
    marks = {_place(each): 0 if cleared else _referenced(each) for each in earlier.mappings}
    began = time.monotonic()
    wait(process, seconds, is_over)
    watched = time.monotonic() - began
    space, after = look(process.pid, smaps=True), read_identity(process)
    check_program(process, program)
    reading = _READING_SMAPS if why is None else f"{_READING_SMAPS}; {why.in_words}"
    return WorkingSet(
        pid=process.pid,
        command=space.command,
        mappings=tuple(_use_by_smaps(each, marks.get(_place(each))) for each in space.mappings),
        method="accessed" if cleared else "smaps",
        source="smaps",
        known_error=_known_error(_OF_CLEARED_SMAPS if cleared else _OF_SMAPS, flushed=flushed),
        disturbed=cleared,
        seconds=watched,
        **faults_between(before, after),
        notes=(*_of_clearing(space, cleared=cleared), reading, *space.notes),
    )


def _use_by_smaps(mapping: Mapping, marked_before: int | None) -> MappingUse:
    """A mapping by its Referenced.

    Args:
        mapping: with its smaps.
        marked_before: Referenced at the beginning, 0 if the marks were cleared; None: it was not there.
    """
    marked = _referenced(mapping)
    touched = 0
    if mapping.kind in _PRIVATE and marked_before is not None:
        touched = max(0, marked - marked_before)
    return use_of(mapping, touched, marked + mapping.hugetlb_bytes, None)


def _referenced(mapping: Mapping) -> int:
    return 0 if mapping.smaps is None else mapping.smaps.referenced_bytes


def _place(mapping: Mapping) -> tuple[int, str, str]:
    """What a mapping is known by that may grow."""
    return mapping.start, mapping.perms, mapping.name


def read_program(process: ProcessDirectory) -> tuple[int, ...]:
    """What an exec changes: where code and stack begin."""
    words = process.read("stat").rpartition(b") ")[2].split()
    return tuple(int(words[place]) for place in _PROGRAM_FIELDS)


def check_program(process: ProcessDirectory, program: tuple[int, ...]) -> None:
    """Raise if a process is not any more what it was when `read_program` gave this.

    Raises:
        ProcessGone, TargetRefused: it has ended, or replaced its program.
    """
    if read_program(process) != program:
        raise why_gone(process)


# What is said of all


def _known_error(sentence: str, *, flushed: bool) -> str:
    return sentence if flushed else sentence + _NOT_FLUSHED


def _of_clearing(space: AddressSpace, *, cleared: bool) -> list[str]:
    if not cleared:
        return []
    return [_CLEARING, _NOT_CLEARED] if space.total.hugetlb_bytes else [_CLEARING]


def faults_between(before: Identity, after: Identity) -> dict[str, int]:
    """The faults that a process took in between, as a `WorkingSet` has them."""
    return {
        "minor_faults": after.minor_faults - before.minor_faults,
        "major_faults": after.major_faults - before.major_faults,
    }


def why_gone(process: ProcessDirectory) -> DontneedError:
    """The error for a process whose memory is not any more what it was."""
    if not has_memory(process):
        return ProcessGone(f"process {process.pid} ended while it was watched")
    return TargetRefused(f"process {process.pid} replaced its program while it was watched", hint="try again")
