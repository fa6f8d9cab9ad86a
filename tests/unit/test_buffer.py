"""What a survey of a buffer decides from the mappings behind it, which are made up here; and how a buffer is held."""

from __future__ import annotations

import array
import ctypes
import mmap

import numpy as np
import pytest

from dontneed import Advice, BufferRefused, Span, UsageError, WrongType
from dontneed.kernel.exports import exported
from dontneed.kernel.maps import parse_maps
from dontneed.kernel.procmap import MappedPart
from dontneed.kernel.smaps import SmapsCounters
from dontneed.kernel.status import Counters
from dontneed.reasons import buffer
from dontneed.units import HUGE_PAGE_BYTES, PAGE_BYTES

START = 0x7F00_0000_0000
PRIVATE, SHARED = "rw-p", "rw-s"


class Process:
    """A process whose mappings and counters are made up; `smaps_read` tells whether smaps had to be read."""

    def __init__(self):
        self.parts = []
        self.flags = []
        self.counters = Counters()
        self.smaps_read = False

    def map(self, pages, name="", perms=PRIVATE, flags=(), page_bytes=PAGE_BYTES):
        """Map the next pages."""
        start = self.parts[-1].end if self.parts else START
        self.parts.append(MappedPart(start, start + pages * PAGE_BYTES, perms, name, page_bytes))
        self.flags.append(flags)
        return self

    def read_parts(self, _process, start, end):
        """What is mapped in the range, cut to it."""
        met = [part for part in self.parts if part.end > start and part.start < end]
        return [part.replace(start=max(start, part.start), end=min(end, part.end)) for part in met]

    def read_smaps(self, _process):
        """Flags of every mapping."""
        self.smaps_read = True
        lines = [f"{part.start:x}-{part.end:x} {part.perms} 0 00:00 0 {part.name}".encode() for part in self.parts]
        return parse_maps(lines), [SmapsCounters(flags=flags) for flags in self.flags]

    def survey(self, first=0, length=None, *, lazy=False):
        """Survey a buffer that begins `first` bytes into the mappings and reaches to their end."""
        whole = self.parts[-1].end - START if self.parts else 0
        return buffer.survey(None, START + first, whole - first if length is None else length, lazy=lazy)


@pytest.fixture
def process(monkeypatch):
    """A process of our own making, of which `survey` believes everything."""
    made = Process()
    monkeypatch.setattr(buffer, "read_parts", made.read_parts)
    monkeypatch.setattr(buffer, "read_counters", lambda _process: made.counters)
    monkeypatch.setattr("dontneed.kernel.smaps.read_smaps", made.read_smaps)
    return made


# By the kind of memory


@pytest.mark.parametrize(
    ("name", "perms", "kind", "advice"),
    [
        ("", PRIVATE, "anonymous", Advice.DONTNEED),
        ("[heap]", PRIVATE, "heap", Advice.DONTNEED),
        ("[stack]", PRIVATE, "stack", Advice.DONTNEED),
        ("[anon:malloc]", PRIVATE, "anonymous", Advice.DONTNEED),
        ("/dev/zero", PRIVATE, "anonymous", Advice.DONTNEED),
        ("/dev/zero (deleted)", SHARED, "shared anonymous", Advice.REMOVE),
        ("[anon_shmem:ring]", SHARED, "shared anonymous", Advice.REMOVE),
        ("/usr/lib/libc.so.6", PRIVATE, "file", Advice.DONTNEED),
        ("/srv/data (deleted)", SHARED, "file", Advice.DONTNEED),
        ("/memfd:name (deleted)", SHARED, "shared memory", Advice.DONTNEED),
        ("/dev/shm/psm_1", SHARED, "shared memory", Advice.DONTNEED),
        ("/SYSV00000000 (deleted)", SHARED, "shared memory", Advice.DONTNEED),
    ],
)
def test_each_kind_of_memory_has_its_advice(process, name, perms, kind, advice):
    """REMOVE only where DONTNEED frees nothing and nobody keeps the contents: never for what has a name."""
    (part,) = process.map(2, name, perms).survey().parts
    assert part == buffer.Part(Span(START, START + 2 * PAGE_BYTES), kind, perms == SHARED, advice)
    assert part.keeps_cache == (kind in ("file", "shared memory"))


@pytest.mark.parametrize(
    ("name", "perms"),
    [
        ("[vdso]", "r-xp"),
        ("[vvar]", "r--p"),
        ("[vsyscall]", "--xp"),
        ("[uprobes]", "r-xp"),
        ("/dev/nvidia0", SHARED),
        ("anon_inode:[perf_event]", SHARED),
        ("socket:[4711]", SHARED),
    ],
)
def test_memory_of_the_kernel_or_a_driver_is_refused(process, name, perms):
    """It has no contents of ours to give up."""
    with pytest.raises(BufferRefused, match="kernel or a driver") as refused:
        process.map(1).map(1, name, perms).survey()
    assert name in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(
    "name", ["/anon_hugepage (deleted)", "/memfd:named like any other (deleted)", "/dev/hugepages/1"]
)
def test_hugetlb_is_refused_by_the_size_of_its_pages_or_by_its_name(process, name):
    """Before PROCMAP_QUERY the size is unknown."""
    size = HUGE_PAGE_BYTES if "memfd" in name else PAGE_BYTES
    with pytest.raises(BufferRefused, match="hugetlb"):
        process.map(512, name, SHARED, page_bytes=size).survey()


# Lazily


@pytest.mark.parametrize("name", ["", "[heap]", "[stack]"])
def test_private_anonymous_memory_can_be_freed_lazily(process, name):
    """By MADV_FREE."""
    assert [part.advice for part in process.map(1, name).survey(lazy=True).parts] == [Advice.FREE]


@pytest.mark.parametrize(("name", "perms"), [("/dev/zero", SHARED), ("/srv/data", PRIVATE), ("/srv/data", SHARED)])
def test_what_a_file_backs_cannot_be_freed_lazily(process, name, perms):
    """Not even in part: nothing is done to the rest either."""
    with pytest.raises(UsageError, match="MADV_FREE") as refused:
        process.map(1).map(1, name, perms).survey(lazy=True)
    assert ("shared" if perms == SHARED else "of a file") in refused.value.message


# Whole pages only


def test_a_survey_takes_whole_pages_of_every_mapping_behind_the_buffer(process):
    """The buffer begins and ends within a page, and mappings end where they end."""
    process.map(2).map(3, "/srv/data", SHARED).map(2, "[heap]").map(4)
    found = process.survey(100, 9 * PAGE_BYTES)
    at = [(part.span.start - START, part.span.end - START) for part in found.parts]
    assert at == [(p * PAGE_BYTES, q * PAGE_BYTES) for p, q in [(1, 2), (2, 5), (5, 7), (7, 9)]]
    assert found.asked == 9 * PAGE_BYTES


@pytest.mark.parametrize(
    ("first", "length", "note"), [(0, 0, "empty"), (1, PAGE_BYTES, "no whole page"), (5, 7, "7 bytes")]
)
def test_a_buffer_without_a_whole_page_has_no_parts_and_a_note(process, first, length, note):
    """What lies behind it is not even asked for."""
    found = process.map(3).survey(first, length)
    assert (found.asked, found.parts) == (length, ())
    assert [note in each for each in found.notes] == [True]


@pytest.mark.parametrize("present", [(1, 2), (0, 2), (0, 1), ()])
def test_a_buffer_with_a_hole_is_refused(process, present):
    """First, midst, last or all of it."""
    process.map(1).map(1).map(1)
    span = process.parts[-1].end - START
    process.parts = [process.parts[nth] for nth in present]
    with pytest.raises(BufferRefused, match="not mapped"):
        process.survey(0, span)


# Locked and sealed


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_a_buffer_of_which_a_part_is_locked_is_refused(process, nth):
    """Before the first page goes: the kernel would find out half-way."""
    for number in range(3):
        process.map(1, flags=("locked",) if number == nth else ())
    process.counters = Counters(locked_bytes=PAGE_BYTES)
    with pytest.raises(BufferRefused, match=f"{START + nth * PAGE_BYTES:x}-.* is locked") as refused:
        process.survey()
    assert "munlock" in refused.value.hint


def test_what_is_locked_beside_the_buffer_does_not_matter(process):
    """Its neighbours on both sides are."""
    process.map(1, flags=("locked",)).map(1).map(1, flags=("locked",))
    process.counters = Counters(locked_bytes=2 * PAGE_BYTES)
    assert len(process.survey(PAGE_BYTES, PAGE_BYTES).parts) == 1
    assert process.smaps_read


def test_smaps_is_read_only_where_it_may_matter(process):
    """It is slow, and most processes lock nothing and own writable memory."""
    assert process.map(1).map(1, "/srv/data").survey().parts
    assert not process.smaps_read
    assert process.map(1, perms="r--p").survey().parts
    assert process.smaps_read


@pytest.mark.parametrize(("perms", "refused"), [("r--p", True), ("---p", True), (PRIVATE, False)])
def test_sealed_memory_is_refused_where_it_cannot_be_written(process, perms, refused):
    """The kernel guards it from those only who could not overwrite it anyway."""
    process.map(1, perms="r--p").map(1, perms=perms, flags=("sealed",))
    if not refused:
        assert len(process.survey().parts) == 2
        return
    with pytest.raises(BufferRefused, match="sealed") as refusal:
        process.survey()
    assert "end of the process" in refusal.value.hint


# Notes


def test_each_surprise_is_noted_once(process):
    """However many mappings cause it."""
    assert process.map(1).survey().notes == ()
    process.map(1, "/dev/zero", SHARED).map(1, "/srv/a", SHARED).map(1, "/srv/b", SHARED).map(1, "/srv/c")
    process.counters = Counters(pinned_bytes=12288)
    notes = process.survey().notes
    for word in ("MADV_REMOVE", "nothing is lost", "changes made here are lost", "12288 bytes pinned"):
        assert len([note for note in notes if word in note]) == 1
    assert len(notes) == 4


# Held meanwhile


@pytest.mark.parametrize(
    "made",
    [
        bytearray(100),
        array.array("d", range(9)),
        mmap.mmap(-1, 5000),
        (ctypes.c_int * 7)(),
        memoryview(bytearray(9))[2:7],
    ],
    ids=lambda made: type(made).__name__,
)
def test_an_exported_buffer_is_where_ctypes_says(made):
    """Address and length; ctypes finds the address of C-ordered buffers by another way."""
    with exported(made) as (address, length):
        assert address == ctypes.addressof((ctypes.c_char * length).from_buffer(made))
        assert length == memoryview(made).nbytes


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_exported_in_both_orders(order):
    """As ctypes does not: it refuses the Fortran one."""
    made = np.zeros((5, 7, 3), order=order)
    with exported(made) as found:
        assert found == (made.ctypes.data, made.nbytes)
    with exported(made.reshape(-1, order="A")[10:20]) as found:
        assert found == (made.ctypes.data + 80, 80)


def test_a_bytearray_cannot_be_resized_while_it_is_exported():
    """Or its memory would be somewhere else, and the old place somebody else's."""
    made = bytearray(100)
    with exported(made) as (_, length):
        assert length == 100
        with pytest.raises(BufferError):
            made.extend(b"more")
    made.extend(b"more")
    assert len(made) == 104


def test_an_mmap_cannot_be_closed_while_it_is_exported():
    """And can again when the block was left by an exception."""
    made = mmap.mmap(-1, PAGE_BYTES)

    def fail_in_a_block():
        with exported(made):
            with pytest.raises(BufferError):
                made.close()
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_a_block()
    made.close()


def test_a_refused_buffer_is_not_held():
    """Neither one that is read-only nor one of objects."""
    made = bytearray(100)
    with pytest.raises(BufferRefused), exported(memoryview(made).toreadonly()):
        pytest.fail("exported")
    made.extend(b"more")
    objects = np.zeros(9, dtype=object)
    with pytest.raises(BufferRefused), exported(objects):
        pytest.fail("exported")
    objects.resize(20, refcheck=False)


def test_a_read_only_buffer_is_exported_where_nothing_will_be_written():
    """As for an advice that destroys nothing."""
    with exported(b"0123456789", writable=False) as (address, length):
        assert ctypes.string_at(address, length) == b"0123456789"
    with exported(np.zeros(3, dtype=object), writable=False) as (_, length):
        assert length == 24


def test_what_has_no_buffer_is_the_wrong_type():
    """Read-only or not."""
    for writable in (True, False):
        with pytest.raises(WrongType, match="int has no buffer protocol"), exported(5, writable=writable):
            pytest.fail("exported")
