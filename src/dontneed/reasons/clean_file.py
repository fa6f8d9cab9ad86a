"""`clean-file`: pages of files that are in memory as they are on disk: program code, libraries, data that is mapped.

Frees: the frames of file pages that this process alone maps, from RSS and from the page cache.

Safe because a disk holds the same bytes: a page that is touched again is read again. That is also its cost, a wait for
the disk at every first touch, and why the survey counts reading all of it back as part of what it costs.

Needs: process_madvise(PAGEOUT), which is CAP_SYS_NICE and the right to read the process's memory; in the own process
nothing. Stops nobody. The kernel pages out only files that the caller owns or may write, or all for root.

Refuses: files in memory only (tmpfs, memfd), of another process (FUSE) or across a network (NFS), with DAX, and what
is on a file system that we do not know; shared mappings that can be written, whose pages may be newer than the disk;
locked memory. Left alone, page by page: private copies, which would go to swap; what other processes map as well,
which the kernel does not page out for one of them.

Kernel:
    PAGEOUT since 5.4, of other processes 5.10; mm/madvise.c madvise_cold_or_pageout_pte_range(), can_do_file_pageout().
"""

from __future__ import annotations

import os
import time

from dontneed.abi.advice import Advice
from dontneed.errors import AdviceRefused, DontneedError
from dontneed.kernel.madvise import advise_spans
from dontneed.kernel.remote_advice import advisable
from dontneed.observe.file_systems import read_file_systems
from dontneed.observe.resident import find_of_files
from dontneed.observe.slices import in_slices, together
from dontneed.observe.subject import read_subject
from dontneed.reasons.survey import Released, Survey
from dontneed.spans import Spans
from dontneed.units import MIB, format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from dontneed.observe.file_systems import FileSystem
    from dontneed.observe.subject import Row, Subject
    from dontneed.reasons.survey import Limits

NAME = "clean-file"
ACTS_INSIDE = False
WHY_SAFE = "the same bytes are in the file: what is touched again is read from the disk again, and nothing is stopped"

_PAGED_OUT_BYTES_A_SECOND = 2 << 30
_READ_BYTES_A_SECOND = 500 * MIB
"""What a disk reads in one go: a slow SSD; a spinning one takes three times as long, and more where it has to seek."""

_SLICE_BYTES = 4 * MIB
_BREATH_SECONDS = 50e-6
"""Between slices: the kernel holds the process's mmap_lock for all of a call, and whoever waits is to get in."""
_AFTER_SURVEY_BYTES = 64 * MIB


def survey(subject: Subject, hint: Mapping[str, int] | None = None) -> Survey:
    """Count the file pages that the process alone maps, and ask whether they could be paged out."""
    del hint
    files, refused = _eligible(subject)
    resident = find_of_files(subject.process, files)
    if resident.shared:
        refused.append(
            f"{format_bytes(resident.shared.size_bytes)} of file pages are mapped by other processes as well: they stay"
        )
    try:
        with advisable(subject.process, Advice.PAGEOUT):
            spans = resident.alone
    except DontneedError as refusal:
        refused.insert(0, f"{refusal}; {refusal.hint}" if refusal.hint else str(refusal))
        spans = Spans()
    return Survey(
        reason=NAME,
        releasable_bytes=spans.size_bytes,
        spans=spans,
        why_safe=WHY_SAFE,
        cost_seconds=spans.size_bytes / _PAGED_OUT_BYTES_A_SECOND + spans.size_bytes / _READ_BYTES_A_SECOND,
        pause_seconds=0.0,
        refused=tuple(refused),
    )


def release(subject: Subject, found: Survey, limits: Limits) -> Released:
    """Page out what is still a file page of this process alone, a few MiB at a time.

    Raises:
        NotPermitted, KernelLacks, ProcessGone: as `kernel.remote_advice.advisable`.
    """
    del limits
    files, _ = _eligible(read_subject(subject.process))
    advised, notes = [], set()
    with advisable(subject.process, Advice.PAGEOUT) as pidfd:
        for known in in_slices(found.spans & files, _AFTER_SURVEY_BYTES):
            for part in in_slices(find_of_files(subject.process, known).alone, _SLICE_BYTES):
                try:
                    advise_spans(part, Advice.PAGEOUT, pidfd=pidfd)
                except AdviceRefused as refusal:  # locked, or unmapped, in this very moment
                    notes.add(str(refusal))
                else:
                    advised.append(part)
                time.sleep(_BREATH_SECONDS)
    given_up = together(advised)
    return Released(found.spans.size_bytes, given_up.size_bytes, given_up, (), tuple(sorted(notes)))


def _eligible(subject: Subject) -> tuple[Spans, list[str]]:
    """The mappings of files whose clean pages can go; and why others cannot, in sentences."""
    file_systems = read_file_systems(subject.process)
    spans: list[tuple[int, int]] = []
    refused: dict[str, int] = {}
    for row in subject.rows("file"):
        if why_not := _why_not(row, file_systems):
            refused[why_not] = refused.get(why_not, 0) + 1
        else:
            spans.append((row.start, row.end))
    said = [f"{count} {'mapping' if count == 1 else 'mappings'} of {why}" for why, count in refused.items()]
    return Spans(spans) - subject.protected.spans, said


def _why_not(row: Row, file_systems: Mapping[str, FileSystem]) -> str:
    """Why a mapping is left alone; nothing if it is not."""
    if row.perms.endswith("s") and "w" in row.perms:
        return "files that are shared and written: their pages may be newer than the disk"
    system = file_systems.get(row.device)
    if system is None:
        return "files on a file system that is not mounted here"
    if not system.reads_again:
        return (
            f"files on {system.kind}{' with DAX' if system.dax else ''}: they are not read from a disk of this machine"
        )
    if not _may_page_out(row.name):
        return "files of other users: the kernel pages out only what you own or may write"
    return ""


def _may_page_out(path: str) -> bool:
    """Whether the kernel lets us page out a file: as can_do_file_pageout()."""
    if os.geteuid() == 0:
        return True
    try:
        return os.stat(path).st_uid == os.geteuid() or os.access(path, os.W_OK)
    except OSError:  # deleted, or in another mount namespace
        return False
