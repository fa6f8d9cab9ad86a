"""Which pages of a process are written to, exactly: by a userfaultfd of its own, which nobody holds but the watcher.

# How

1. The process is stopped for a moment, and one of its threads makes a userfaultfd. We take a copy of the descriptor,
   and the same thread closes its own. The process runs on, and has nothing open that it had not before.
2. Our copy is now the only one, and only now is anything registered with it: the private anonymous memory that can be
   written. Its pages are write-protected; a write is let through by the kernel and leaves the page unprotected.
3. After some seconds the pages that are not protected are those that were written to.
4. The descriptor is closed: all is as it was.

# Why nothing stays, whatever ends us

A registration lives as long as a copy of the descriptor is open somewhere. From 2 on there is one, and it is ours: if
we are killed, the kernel closes it, and makes every page writable again. Should we be killed within 1, the process
keeps an open descriptor that was never asked for its features: nothing is registered with it, and nothing can be, as it
is. The watcher is a helper process of its own (`helper`), which has no children that could inherit it.

# What is left out, and told

A process that uses a userfaultfd: it would be refused if it registered what we have. Huge pages, unless asked for:
writing to a protected one takes its entry in the page tables apart, and leaves the process with 512 entries where it
had one, until khugepaged finds it. Files, shared memory, hugetlb: pages of these come and go for reasons that are no
writes. What another userfaultfd watches. A process with half as many mappings as it may have: memory that it maps
beside a watched mapping stays a mapping of its own until the end, and it must not be us who make a mmap fail.

# What is counted

A page that was protected, and is not now; and a page that was not there at the beginning, and is now, but for zero
pages. What was swapped out at the beginning cannot be protected: what comes back of it is not counted, and told.
"""

from __future__ import annotations

import errno
import os
import time

from dontneed.abi import pagemap as abi
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import KernelLacks, NotPermitted, ProcessGone, TargetRefused
from dontneed.kernel.maps import read_maps
from dontneed.kernel.pagemap import scan_categories, scan_pages, scan_written
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.settings import read_setting
from dontneed.kernel.status import read_identity
from dontneed.kernel.userfaultfd import OPEN_FLAGS, WriteWatch, fetch_descriptor
from dontneed.observe.mapping import kind_of
from dontneed.observe.working_set import check_program, read_program, wait, why_gone
from dontneed.records import Record
from dontneed.remote.helper import serve
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import borrowed, inject
from dontneed.spans import Spans
from dontneed.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterable, Iterator

    from dontneed.errors import DontneedError
    from dontneed.kernel.maps import MapsTable

_USERFAULTFD = "anon_inode:[userfaultfd]"
_MOST_MAPPINGS = "/proc/sys/vm/max_map_count"
_SHARE_OF_MAPPINGS = 2
"""Nothing new becomes part of a mapping that is watched, so that there may be twice as many before the end."""
_KINDS = ("anonymous", "heap", "stack", "thread stack")


class WriteOrder(Record):
    """What the helper is to do.

    Attributes:
        pid, started: the process; a pid that was given anew is refused.
        seconds: for which it is watched.
        split_huge_pages: watch huge pages too.
    """

    pid: int
    started: int
    seconds: float
    split_huge_pages: bool


class Written(Record):
    """What the helper found.

    Attributes:
        spans: pages that were written to.
        unwatched: mappings that were there at the beginning and were not watched.
        seconds: how long the others were.
        notes: what was left out, and what the process went through.
    """

    spans: Spans
    unwatched: Spans
    seconds: float
    notes: tuple[str, ...]


class _Ground(Record):
    """What was there at the beginning.

    Attributes:
        watched, unwatched: mappings.
        huge: pages of the watched ones in huge pages.
        unprotected: pages of the watched ones that could not be protected.
    """

    watched: list[tuple[int, int]]
    unwatched: Spans
    huge: Spans
    unprotected: Spans


def main() -> None:
    """Serve one order, in the helper process."""
    serve(_watch)


def _watch(order: WriteOrder, is_over: Callable[[], bool]) -> Written:
    with ProcessDirectory(order.pid) as process:
        if read_identity(process).started != order.started:
            msg = f"process {order.pid} has ended, and another one has its number"
            raise ProcessGone(msg)
        program, pagemap = read_program(process), process.open("pagemap")
        try:
            written = _watch_pages(process, pagemap, order, is_over)
        except ProcessGone as gone:
            raise why_gone(process) from gone
        finally:
            os.close(pagemap)
        check_program(process, program)
    return written


def _watch_pages(process: ProcessDirectory, pagemap: int, order: WriteOrder, is_over: Callable[[], bool]) -> Written:
    descriptor, pause_seconds = _obtain(process)
    notes = [f"it stood still for {format_seconds(pause_seconds)}, in which one of its threads made a userfaultfd"]
    try:
        watch = WriteWatch(descriptor)
    except OSError as refusal:
        raise _no_watch(refusal) from None
    with watch:
        ground = _protect(process, pagemap, watch, notes, huge_pages=order.split_huge_pages)
        began = time.monotonic()
        wait(process, order.seconds, is_over)
        seconds = time.monotonic() - began
        spans = _read_written(process, pagemap) - ground.unwatched - ground.unprotected
        if order.split_huge_pages and ground.huge:
            left = ground.huge & _found(scan_pages, pagemap, ground.watched, wanted=abi.IS_HUGE, returned=abi.IS_HUGE)
            split = format_bytes(ground.huge.size_bytes - left.size_bytes)
            notes.append(f"{split} of its huge pages were taken apart by being written to; khugepaged may join them")
    return Written(spans, ground.unwatched, seconds, tuple(notes))


def _obtain(process: ProcessDirectory) -> tuple[int, float]:
    """Have the process make a userfaultfd, take it over, and have the process close its own copy.

    Returns:
        The descriptor, open nowhere but here; and for how many seconds the process stood still.
    """
    with Stop(process) as stop:
        if _uses_userfaultfd(process):
            msg = f"process {process.pid} has a userfaultfd of its own: what it registers would be refused meanwhile"
            raise TargetRefused(msg, hint="--method accessed needs none")
        borrowed(stop).verdicts.require(NR.CLOSE, 0)
        number = inject(stop, NR.USERFAULTFD, OPEN_FLAGS)
        if number < 0:
            raise _not_made(process.pid, -number)
        try:
            descriptor = fetch_descriptor(process.pid, number)
        except OSError as refusal:
            raise _not_fetched(process.pid, refusal) from None
        finally:
            inject(stop, NR.CLOSE, number)
    return descriptor, stop.pause_seconds


def _uses_userfaultfd(process: ProcessDirectory) -> bool:
    """Whether it has a userfaultfd that something can be registered with: one that was asked for its features."""
    for number, target in process.links("fd").items():
        if target == _USERFAULTFD:
            lines = process.read(f"fdinfo/{number}").split(b"\n")
            words = [line.split(b":")[2] for line in lines if line.startswith(b"API:")]
            if not words or int(words[0], 16):
                return True
    return False


def _protect(
    process: ProcessDirectory, pagemap: int, watch: WriteWatch, notes: list[str], *, huge_pages: bool
) -> _Ground:
    """Register all that can be, and protect its pages."""
    table = read_maps(process)
    if _SHARE_OF_MAPPINGS * len(table) > int(read_setting(_MOST_MAPPINGS)):
        msg = f"process {process.pid} has {len(table):,} mappings: if they are watched, new ones may find no room"
        raise TargetRefused(msg, hint=f"a larger {_MOST_MAPPINGS}; or --method accessed")
    watched, unwatched = _register(watch, table, notes)
    barred = 0 if huge_pages else abi.IS_HUGE
    out = abi.IS_SWAPPED | barred
    # Before and after, since pages are swapped in between. What was both out and protected is known all the same.
    before = _found(scan_pages, pagemap, watched, wanted=out, returned=out)
    huge = _found(scan_pages, pagemap, watched, wanted=abi.IS_HUGE, returned=abi.IS_HUGE)
    protected = _found(scan_written, pagemap, watched, wanted=abi.IS_PRESENT, barred=barred, protect=True)
    unprotected = (before | _found(scan_pages, pagemap, watched, wanted=out, returned=out)) - protected
    left_huge = unprotected & huge
    if left_huge:
        notes.append(
            f"{format_bytes(left_huge.size_bytes)} in huge pages were not watched: writing to them would take them "
            "apart (--split-huge-pages watches them)"
        )
    swapped = unprotected - huge
    if swapped:
        notes.append(f"{format_bytes(swapped.size_bytes)} were swapped out when it began: they are in no amount")
    return _Ground(watched, unwatched, huge, unprotected)


def _register(watch: WriteWatch, table: MapsTable, notes: list[str]) -> tuple[list[tuple[int, int]], Spans]:
    """Which mappings are watched from now on, and which are not."""
    watched: list[tuple[int, int]] = []
    unwatched: list[tuple[int, int]] = []
    refused: dict[str, int] = {}
    wanted = set(_rows_to_watch(table))
    for row, (start, end) in enumerate(zip(table.starts, table.ends, strict=True)):
        if row not in wanted:
            unwatched.append((start, end))
            continue
        try:
            why = watch.register(start, end)
        except OSError as refusal:
            if refusal.errno != errno.ESRCH:
                raise
            raise ProcessGone("the process gave up its memory while it was registered") from None
        if why:
            refused[why] = refused.get(why, 0) + end - start
        (unwatched if why else watched).append((start, end))
    notes += [f"{format_bytes(size)} of addresses are not watched: {why}" for why, size in refused.items()]
    if not watched:
        msg = "there is no private anonymous memory that could be watched" + "".join(f": {why}" for why in refused)
        raise TargetRefused(msg, hint="--method accessed sees files and shared memory too")
    return watched, Spans(unwatched)


def _rows_to_watch(table: MapsTable) -> Iterator[int]:
    """The mappings that can be written to and that nobody else sees."""
    for row in range(len(table)):
        perms, _, _, _, name = table.words(row)
        if perms[1] == "w" and perms.endswith("p") and kind_of(name, perms) in _KINDS:
            yield row


def _read_written(process: ProcessDirectory, pagemap: int) -> Spans:
    """Pages of private memory that nothing protects, and that are there; no zero pages, no guards."""
    table = read_maps(process)
    if not len(table):
        raise ProcessGone("the process gave up its memory while it was watched")
    ranges = [(table.starts[row], table.ends[row]) for row in _rows_to_watch(table)]
    barred = abi.IS_ZERO | scan_categories(pagemap) & abi.IS_GUARD
    return _found(scan_written, pagemap, ranges, wanted=abi.IS_PRESENT | abi.IS_SWAPPED, barred=barred)


def _found(
    scan: Callable[..., Iterator[array[int]]], pagemap: int, ranges: Iterable[tuple[int, int]], **masks: int
) -> Spans:
    """The pages that a scan finds in some ranges."""
    import numpy as np

    found = [np.zeros((0, 3), np.uint64)]
    for start, end in ranges:
        found += [np.array(window, np.uint64).reshape(-1, 3) for window in scan(pagemap, start, end, **masks)]
    return Spans.from_array(np.concatenate(found)[:, :2])


# Refusals


def _not_made(pid: int, number: int) -> DontneedError:
    word = errno.errorcode.get(number, str(number))
    msg = f"process {pid} could not make a userfaultfd: {word}"
    if number == errno.ENOSYS:
        return KernelLacks(msg, hint="a kernel with CONFIG_USERFAULTFD; or --method accessed")
    if number in (errno.EPERM, errno.EACCES):
        return NotPermitted(
            msg, hint="something forbids it this call (a security module); --method accessed needs none"
        )
    return TargetRefused(msg, hint="has it as many files open as it may? --method accessed needs none")


def _not_fetched(pid: int, refusal: OSError) -> DontneedError:
    word = errno.errorcode.get(refusal.errno or 0, str(refusal))
    msg = f"the userfaultfd of process {pid} could not be taken over: {word}"
    kind = KernelLacks if refusal.errno == errno.ENOSYS else NotPermitted
    return kind(msg, hint="`dontneed doctor` says what pidfd_getfd needs; --method accessed needs none")


def _no_watch(refusal: OSError) -> DontneedError:
    word = errno.errorcode.get(refusal.errno or 0, str(refusal))
    msg = f"this kernel's userfaultfd watches no writes by itself: {word}"
    return KernelLacks(msg, hint="it came with 6.7; --method accessed needs none")
