"""`malloc-free`: memory that the program has freed, and that its allocator keeps for later.

Frees, where glibc owns malloc: the whole pages inside free chunks of every arena, and inside the tops of the arenas of
threads, which malloc_trim never returns (14 arenas, all free: 494 MiB before malloc_trim, 494 after it, 4 after this).
Under jemalloc, mimalloc and tcmalloc, whatever their own purge gives back; and of such allocators that live beside
glibc's, as pyarrow's do.

Safe because nobody owns free memory: its contents are undefined until malloc hands it out again, and what malloc itself
keeps there, the first 48 bytes of each chunk, stays. What is free is proven while all threads stand still, by
structures that must agree in every detail (see observe/malloc/arenas.py), and only in arenas whose lock nobody holds.
Purges and malloc_trim are called by a thread that waits where it cannot be inside malloc.

Needs: to stop the process (ptrace), and to run madvise, or the purge, inside it. x86-64.

Refuses: arenas that are locked at every look, or contradict themselves in anything; malloc_state as no known glibc has
it; heaps of huge pages (a tunable); a single thread that is not seen to wait outside malloc; musl, and allocators that
are not known; locked memory, userfaultfd; all of it where pages are pinned, io_uring or AIO are in use, or a device for
direct access to memory is open: such libraries keep freed memory registered, and rely on its frames.

Under glibc: first the pages, in stops that can be short; then malloc_trim, which finds little left to drop, and
consolidates the smallest chunks; then the pages that have become free by that. malloc_trim and purges cannot be
cut into pieces, so they are left out where a longest pause is asked for.

Kernel:
    mm/madvise.c MADV_DONTNEED; glibc malloc/malloc.c mtrim(), malloc/arena.c heap_trim().
"""

from __future__ import annotations

from collections import Counter
from os.path import basename

from dontneed.errors import TargetRefused, Unreadable
from dontneed.kernel.maps import read_maps
from dontneed.observe.malloc.allocators import MUSL, TRIM, find_allocators
from dontneed.observe.malloc.free_chunks import find_free_chunks
from dontneed.observe.malloc.memory import memory_of
from dontneed.observe.presence import read_presence
from dontneed.observe.slices import together
from dontneed.reasons.malloc_calls import can_purge, kept_by, purge, trim
from dontneed.reasons.malloc_pages import SECONDS_A_BYTE, SLICE_BYTES, STOP_SECONDS, drop_free_pages
from dontneed.reasons.survey import Released, Survey
from dontneed.records import Record
from dontneed.spans import Spans

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.observe.malloc.allocators import Allocator, Allocators
    from dontneed.observe.malloc.free_chunks import FreeChunks
    from dontneed.observe.subject import Subject
    from dontneed.reasons.malloc_calls import Called
    from dontneed.reasons.malloc_pages import Dropped
    from dontneed.reasons.survey import Limits

NAME = "malloc-free"
ACTS_INSIDE = True
WHY_SAFE = (
    "freed memory has no contents that anyone may rely on; proven free while all threads stand still and no lock of "
    "malloc is held"
)

_LOOK_SECONDS = 0.05
_NO_PIECES = "cannot be cut into pieces, and is left out where a longest pause is asked for"
_DIRECT_ACCESS = ("/dev/infiniband/", "/dev/nvidia", "/dev/kfd", "/dev/vfio/")
"""Who holds one of these may have registered memory that is free by now, and registers no second time."""


class Findings(Record):
    """What a survey found out and a release goes on with.

    Attributes:
        allocators: those of the process.
        chunks: free memory in glibc's arenas; None where malloc is not glibc's, or no arena was found.
        purged: allocators that are asked to purge.
        watched: memory that malloc_trim or a purge may give back.
    """

    allocators: Allocators
    chunks: FreeChunks | None
    purged: tuple[Allocator, ...]
    watched: Spans


class Hands(Record):
    """What acts on the process.

    Attributes:
        drop: gives up pages of free chunks: see `malloc_pages.drop_free_pages`.
        trim: calls malloc_trim.
        purge: calls the purge of an allocator.
    """

    drop: Callable[[ProcessDirectory, FreeChunks, Mapping[str, int], Limits], Dropped]
    trim: Callable[[ProcessDirectory, Allocator], Called]
    purge: Callable[[ProcessDirectory, Allocator], Called]


_FROM_OUTSIDE = Hands(drop_free_pages, trim, purge)


def survey(
    subject: Subject,
    hint: Mapping[str, int] | None = None,
    *,
    find: Callable[[Subject], Allocators] = find_allocators,
) -> Survey:
    """Find out whose malloc it is, and how much free memory it holds. Stops nothing and writes nothing.

    Under an allocator other than glibc's that cannot be seen from outside: then nothing is promised (0 bytes), and
    `watched` says where a purge may give something back. `find` tells which allocators there are.
    """
    del hint
    why_not = subject.protected.whole or _direct_access(subject.process)
    if why_not:
        return Survey(NAME, 0, Spans(), WHY_SAFE, 0.0, 0.0, refused=(why_not,))
    allocators = find(subject)
    chunks, said = _look(subject, allocators)
    purged = tuple(allocator for allocator in allocators.known if can_purge(allocator))
    said += [_about_purge(allocator) for allocator in purged]
    releasable = chunks.releasable_bytes if chunks is not None else 0
    watched = _watched(subject, chunks, purged)
    slice_seconds = min(SLICE_BYTES, releasable) * SECONDS_A_BYTE
    return Survey(
        reason=NAME,
        releasable_bytes=releasable,
        spans=chunks.spans if chunks is not None else Spans(),
        why_safe=WHY_SAFE,
        cost_seconds=_LOOK_SECONDS + 2 * releasable * SECONDS_A_BYTE,
        pause_seconds=STOP_SECONDS + slice_seconds,
        refused=(*subject.protected.reasons, *said),
        watched=watched or None,
        details=Findings(allocators, chunks, purged, watched),
    )


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Drop the free pages of glibc's arenas, trim them, and have other allocators purge.

    Raises:
        TargetRefused, NotPermitted, ProcessGone: as `remote.stop.Stop`; or nothing could be done at all.
    """
    if subject.is_self:
        msg = "a process cannot hold its own threads while it looks at what they have freed"
        raise TargetRefused(msg, hint="dontneed.release() starts a helper process, which acts on its parent")
    return release_by(_FROM_OUTSIDE, subject, found, limits)


def release_by(hands: Hands, subject: Subject, found: Survey, limits: Limits) -> Released:
    """The same, with hands that may be the process's own.

    Raises:
        TargetRefused, …: nothing could be done at all; or as the hands do.
    """
    work = _Release(hands, subject, found.details, limits)
    work.run()
    return Released(
        asked=found.releasable_bytes,
        advised=work.advised,
        spans=together(work.spans),
        pauses=tuple(work.pauses),
        notes=tuple(dict.fromkeys(work.notes)),
    )


class _Release:
    """The steps of a release, and what has come of them so far."""

    def __init__(self, hands: Hands, subject: Subject, findings: Findings, limits: Limits) -> None:
        self._hands = hands
        self._subject = subject
        self._process = subject.process
        self._findings = findings
        self._limits = limits
        self._refusals: list[TargetRefused] = []
        self.advised = 0
        self.spans: list[Spans] = []
        self.pauses: list[float] = []
        self.notes: list[str] = []

    def run(self) -> None:
        """Do all of them; raise only if none could be done."""
        chunks, libc = self._findings.chunks, self._findings.allocators.libc
        if chunks is not None:
            self._drop(chunks)
            if libc is not None and TRIM in libc.functions and self._findings.watched and self._trim(chunks, libc):
                self._look_again()
        for allocator in self._findings.purged:
            self._purge(allocator)
        if self._refusals and not self.pauses:
            raise self._refusals[0]

    def _drop(self, chunks: FreeChunks) -> None:
        """Drop the pages that are free already."""
        if not chunks.spans:
            return
        libc = self._findings.allocators.libc
        dropped = self._hands.drop(self._process, chunks, libc.functions if libc is not None else {}, self._limits)
        self.advised += dropped.spans.size_bytes
        self.spans.append(dropped.spans)
        self.pauses += dropped.pauses
        self.notes += dropped.notes

    def _trim(self, chunks: FreeChunks, libc: Allocator) -> bool:
        """Have glibc consolidate and trim; whether it did."""
        if self._limits.max_pause_seconds is not None:
            if any(arena.state.has_fast_chunks for arena in chunks.arenas):
                self.notes.append(f"malloc_trim {_NO_PIECES}: the smallest free chunks are not consolidated")
            return False
        return self._call(lambda: self._hands.trim(self._process, libc), chunks.memory, TRIM)

    def _look_again(self) -> None:
        """Drop what malloc_trim has consolidated, and not given back."""
        table, left_alone = read_maps(self._process), self._subject.protected.spans
        try:
            chunks = find_free_chunks(self._process, table, self._findings.allocators, left_alone)
        except Unreadable as moved:
            self.notes.append(str(moved))
            return
        if chunks is not None:
            self._drop(chunks)

    def _purge(self, allocator: Allocator) -> None:
        name = f"the purge of {allocator.name}"
        if self._limits.max_pause_seconds is not None:
            self.notes.append(f"{name} {_NO_PIECES}")
            return
        if self._call(lambda: self._hands.purge(self._process, allocator), self._findings.watched, name):
            self.notes.append(f"{allocator.name} gave back what it could; {kept_by(allocator)}")

    def _call(self, function: Callable[[], Called], watched: Spans, name: str) -> bool:
        """Call a function that gives memory back, and see how much; whether it could be called."""
        if watched & self._subject.protected.spans:
            self.notes.append(f"{name} is left out: some of the memory that it goes through is to be left alone")
            return False
        before = read_presence(self._process, watched).present.size_bytes
        try:
            called = function()
        except TargetRefused as refusal:
            self._refusals.append(refusal)
            self.notes.append(f"{name} was not called: {refusal}")
            return False
        self.pauses.append(called.pause_seconds)
        self.spans.append(watched)
        self.advised += max(0, before - read_presence(self._process, watched).present.size_bytes)
        return True


def _look(subject: Subject, allocators: Allocators) -> tuple[FreeChunks | None, list[str]]:
    """The free memory in arenas, if malloc is glibc's; and what is to be said, in sentences."""
    owner = allocators.owner
    if owner is not None and owner.name == MUSL:
        return None, ["malloc is musl's, which gives back free memory by itself, and has no function for more"]
    if allocators.libc is not None and owner is not None and not allocators.owned_by_glibc:
        if not can_purge(owner):
            return None, [f"malloc is that of {owner.mapped.path}, which is not known here, so that it is left alone"]
        return None, [f"malloc is that of {owner.name} ({owner.mapped.path})"]
    try:
        chunks = find_free_chunks(subject.process, subject.table, allocators, subject.protected.spans)
    except Unreadable as moved:
        return None, [f"the arenas of malloc changed with every look: {moved}"]
    if chunks is None:
        return None, ["no arena of a known glibc (2.23 to 2.43) was found: malloc is another one, or was never used"]
    faults = Counter(arena.fault for arena in chunks.arenas if arena.fault and not arena.is_locked)
    said = [f"{count} of {len(chunks.arenas)} arenas left alone: {fault}" for fault, count in faults.items()]
    if not chunks.chains.is_whole:
        said.append("it has more free chunks than were followed: those beyond are left to malloc_trim, and not counted")
    return chunks, said


def _watched(subject: Subject, chunks: FreeChunks | None, purged: tuple[Allocator, ...]) -> Spans:
    """The memory in which malloc_trim or a purge may find something to give back."""
    if purged:
        writable = memory_of(subject.pid, subject.table).writable
        return read_presence(subject.process, writable - subject.protected.spans).present
    if chunks is None:
        return Spans()
    is_worth_it = chunks.spans or any(arena.state.has_fast_chunks for arena in chunks.arenas)
    return chunks.memory if is_worth_it else Spans()


def _about_purge(allocator: Allocator) -> str:
    return (
        f"how much {allocator.name} in {basename(allocator.mapped.path)} could give back cannot be seen from outside; "
        "a release calls its purge"
    )


def _direct_access(process: ProcessDirectory) -> str:
    """Why all memory is left alone, in a sentence; nothing if it need not be."""
    held = sorted(target for target in set(process.links("fd").values()) if target.startswith(_DIRECT_ACCESS))
    return f"it holds {held[0]}: what it has registered there by address must keep its frames" if held else ""
