"""The model prints what its kernel would: text that parses unchanged, in the lines of its version, and that adds up."""

from __future__ import annotations

from array import array

import pytest

from dontneed.abi import kpageflags
from dontneed.abi import pagemap as abi
from dontneed.abi.advice import Advice
from dontneed.kernel.maps import parse_maps
from dontneed.kernel.smaps import parse_smaps
from dontneed.kernel.status import parse_status
from dontneed.model.process import PAGE_BYTES, Process
from dontneed.model.program.layout import Program
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import FILE, SHMEM
from dontneed.model.system import System
from dontneed.model.views import procfs
from dontneed.model.views.pagemap import kpageflags as frame_flags
from dontneed.model.views.pagemap import pagemap

SMAPS_LINES = {
    "4.4": "Size Rss Pss Shared_Clean Shared_Dirty Private_Clean Private_Dirty Referenced Anonymous AnonHugePages "
    "Shared_Hugetlb Private_Hugetlb Swap SwapPss KernelPageSize MMUPageSize Locked VmFlags",
    "4.15": "Size KernelPageSize MMUPageSize Rss Pss Shared_Clean Shared_Dirty Private_Clean Private_Dirty Referenced "
    "Anonymous LazyFree AnonHugePages ShmemPmdMapped Shared_Hugetlb Private_Hugetlb Swap SwapPss Locked VmFlags",
    "5.0": "Size KernelPageSize MMUPageSize Rss Pss Shared_Clean Shared_Dirty Private_Clean Private_Dirty Referenced "
    "Anonymous LazyFree AnonHugePages ShmemPmdMapped Shared_Hugetlb Private_Hugetlb Swap SwapPss Locked THPeligible "
    "VmFlags",
    "5.4": "Size KernelPageSize MMUPageSize Rss Pss Shared_Clean Shared_Dirty Private_Clean Private_Dirty Referenced "
    "Anonymous LazyFree AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb Private_Hugetlb Swap SwapPss Locked "
    "THPeligible VmFlags",
    "6.1": "Size KernelPageSize MMUPageSize Rss Pss Pss_Dirty Shared_Clean Shared_Dirty Private_Clean Private_Dirty "
    "Referenced Anonymous LazyFree AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb Private_Hugetlb Swap "
    "SwapPss Locked THPeligible VmFlags",
    "6.8": "Size KernelPageSize MMUPageSize Rss Pss Pss_Dirty Shared_Clean Shared_Dirty Private_Clean Private_Dirty "
    "Referenced Anonymous KSM LazyFree AnonHugePages ShmemPmdMapped FilePmdMapped Shared_Hugetlb Private_Hugetlb Swap "
    "SwapPss Locked THPeligible VmFlags",
}
"""What kernels of distributions printed that were booted one after the other, without ProtectionKey: some processors
have such keys."""

_IDENTITY = "State Tgid Ngid Pid PPid TracerPid Uid Gid FDSize Groups NStgid NSpid NSpgid NSsid"
_SIZES = "VmPeak VmSize VmLck VmPin VmHWM VmRSS"
_KINDS = "RssAnon RssFile RssShmem VmData VmStk VmExe VmLib VmPTE VmSwap HugetlbPages CoreDumping"
STATUS_LINES = {
    "4.4": f"Name {_IDENTITY} {_SIZES} VmData VmStk VmExe VmLib VmPTE VmPMD VmSwap HugetlbPages Threads",
    "4.15": f"Name Umask {_IDENTITY} {_SIZES} {_KINDS} Threads",
    "5.0": f"Name Umask {_IDENTITY} {_SIZES} {_KINDS} THP_enabled Threads",
    "6.5": f"Name Umask {_IDENTITY} Kthread {_SIZES} {_KINDS} THP_enabled untag_mask Threads",
}
"""The same of status, up to the number of threads."""

RW = vm.READ | vm.WRITE
PLACE = 0x7000_0000_0000


def process_at(version: str = "6.18") -> Process:
    """A process that runs a small program."""
    system = System(version)
    return Process(system, Program(system))


def entries_of(process: Process, address: int, pages: int) -> list[int]:
    """The words of pagemap."""
    first = address // PAGE_BYTES
    return list(array("Q", pagemap(process.mm, first, first + pages)))


def smaps_block(process: Process, address: int) -> list[str]:
    """The lines of smaps on the mapping that begins at an address."""
    lines = procfs.smaps(process).decode().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(f"{address:x}-"))
    end = next(number for number in range(begin + 1, len(lines)) if "-" in lines[number].partition(" ")[0])
    return lines[begin:end]


def keys(lines: list[str]) -> list[str]:
    """What stands before the colons."""
    return [line.partition(":")[0] for line in lines]


# Text


def test_maps_of_a_fresh_process_name_its_program_libc_heap_and_stack():
    """The parser of maps finds them, ascending, and the page above them all."""
    table = parse_maps(procfs.maps(process_at()))
    names = [table.words(row)[4] for row in range(len(table))]
    assert table.starts == sorted(table.starts)
    assert names[0] == "/usr/bin/program"
    assert {"[heap]", "/usr/lib/x86_64-linux-gnu/libc.so.6", "[vvar]", "[vvar_vclock]", "[vdso]", "[stack]"} <= set(
        names
    )
    assert names[-1] == "[vsyscall]"


def test_the_kernel_of_2_6_32_maps_no_vvar():
    """It came with 3.16, and was split in 6.13."""
    assert b"[vvar" not in procfs.maps(process_at("2.6.32"))
    assert b"[vvar_vclock]" not in procfs.maps(process_at("4.4"))


def test_a_line_of_maps_is_padded_to_its_name():
    """As every kernel pads it; without a name the line ends in a space."""
    process = process_at()
    file = process.system.new_file("/tmp/a\nb", 4, kind=FILE)
    process.mmap(2 * PAGE_BYTES, vm.READ, address=PLACE, file=file, offset=PAGE_BYTES)
    process.mmap(PAGE_BYTES, RW, address=PLACE + 4 * PAGE_BYTES)
    lines = procfs.maps(process).decode().splitlines()
    head = f"700000000000-700000002000 r--p 00001000 fe:00 {file.inode}"
    assert f"{head:73}/tmp/a\\012b" in lines
    assert "700000004000-700000005000 rw-p 00000000 00:00 0 " in lines


def test_shared_memory_without_a_file_is_named_after_dev_zero():
    """It is a file in memory, deleted from the start."""
    process = process_at()
    process.mmap(PAGE_BYTES, RW, address=PLACE, shared=True)
    line = next(line for line in procfs.maps(process).decode().splitlines() if line.startswith("700000000000"))
    assert " rw-s 00000000 00:01 " in line
    assert line.endswith(" /dev/zero (deleted)")


def test_smaps_of_6_18_to_the_letter():
    """Three pages written, one of them given up, one read: all lines, in their order and columns."""
    process = process_at()
    process.mmap(4 * PAGE_BYTES, RW, address=PLACE)
    process.write(PLACE, 3 * PAGE_BYTES, 1)
    process.madvise(PLACE, PAGE_BYTES, int(Advice.DONTNEED))
    process.touch(PLACE, PAGE_BYTES, write=False)
    assert smaps_block(process, PLACE) == [
        "700000000000-700000004000 rw-p 00000000 00:00 0 ",
        "Size:                 16 kB",
        "KernelPageSize:        4 kB",
        "MMUPageSize:           4 kB",
        "Rss:                   8 kB",
        "Pss:                   8 kB",
        "Pss_Dirty:             8 kB",
        "Shared_Clean:          0 kB",
        "Shared_Dirty:          0 kB",
        "Private_Clean:         0 kB",
        "Private_Dirty:         8 kB",
        "Referenced:            8 kB",
        "Anonymous:             8 kB",
        "KSM:                   0 kB",
        "LazyFree:              0 kB",
        "AnonHugePages:         0 kB",
        "ShmemPmdMapped:        0 kB",
        "FilePmdMapped:         0 kB",
        "Shared_Hugetlb:        0 kB",
        "Private_Hugetlb:       0 kB",
        "Swap:                  0 kB",
        "SwapPss:               0 kB",
        "Locked:                0 kB",
        "THPeligible:           0",
        "VmFlags: rd wr mr mw me ac ",
    ]


def test_smaps_of_2_6_32_to_the_letter():
    """The same there: the zero page counts into Rss, and into nothing else."""
    process = process_at("2.6.32")
    process.mmap(4 * PAGE_BYTES, RW, address=PLACE)
    process.write(PLACE, 3 * PAGE_BYTES, 1)
    process.madvise(PLACE, PAGE_BYTES, int(Advice.DONTNEED))
    process.touch(PLACE, PAGE_BYTES, write=False)
    assert smaps_block(process, PLACE) == [
        "700000000000-700000004000 rw-p 00000000 00:00 0 ",
        "Size:                 16 kB",
        "Rss:                  12 kB",
        "Pss:                   8 kB",
        "Shared_Clean:          0 kB",
        "Shared_Dirty:          0 kB",
        "Private_Clean:         0 kB",
        "Private_Dirty:         8 kB",
        "Referenced:            8 kB",
        "Swap:                  0 kB",
        "KernelPageSize:        4 kB",
        "MMUPageSize:           4 kB",
    ]


@pytest.mark.parametrize("version", SMAPS_LINES)
def test_smaps_has_the_lines_that_the_kernel_printed(version):
    """Those, and in that order."""
    process = process_at(version)
    process.mmap(PAGE_BYTES, RW, address=PLACE)
    assert keys(smaps_block(process, PLACE)[1:]) == SMAPS_LINES[version].split()


@pytest.mark.parametrize("version", STATUS_LINES)
def test_status_has_the_lines_that_the_kernel_printed(version):
    """Those, and in that order."""
    assert keys(procfs.status(process_at(version)).decode().splitlines()) == STATUS_LINES[version].split()


# Sums


def test_smaps_adds_up_to_the_counters_of_the_process():
    """Rss to VmRSS, Anonymous to RssAnon, Size to VmSize, Locked to what is there of VmLck."""
    process = process_at()
    file = process.system.new_file("/tmp/file", 32, kind=FILE, byte=7)
    memory = process.system.new_file("/memfd:m (deleted)", 32, kind=SHMEM, byte=7)
    process.mmap(32 * PAGE_BYTES, RW, address=PLACE, file=file)
    process.mmap(32 * PAGE_BYTES, RW, address=PLACE + (1 << 30), file=memory, shared=True)
    process.mmap(32 * PAGE_BYTES, RW, address=PLACE + (2 << 30))
    for place in (PLACE, PLACE + (1 << 30)):
        process.write(place, 8 * PAGE_BYTES, 1)
        process.read(place, 20 * PAGE_BYTES)
    process.mlock(PLACE + (2 << 30), 4 * PAGE_BYTES)
    _, counted = parse_smaps(procfs.smaps(process))
    table, _ = parse_smaps(procfs.smaps(process))
    status = parse_status(procfs.status(process))
    assert sum(each.rss_bytes for each in counted) == status["rss_bytes"]
    assert sum(each.anonymous_bytes for each in counted) == status["rss_anon_bytes"]
    assert status["rss_bytes"] == status["rss_anon_bytes"] + status["rss_file_bytes"] + status["rss_shmem_bytes"]
    assert status["rss_shmem_bytes"] == 32 * PAGE_BYTES  # a fault maps what is cached around it
    assert sum(each.locked_bytes for each in counted) == status["locked_bytes"] == 4 * PAGE_BYTES
    mapped = sum(end - start for start, end in zip(table.starts, table.ends, strict=True))
    assert mapped == status["size_bytes"] + PAGE_BYTES  # vsyscall belongs to no process


def test_what_two_processes_share_counts_half_in_each():
    """Pss of both is the Rss of one; private again when one has gone."""
    process = process_at()
    process.mmap(8 * PAGE_BYTES, RW, address=PLACE)
    process.write(PLACE, 8 * PAGE_BYTES, 1)
    child = process.fork()
    both = [smaps_block(each, PLACE) for each in (process, child)]
    assert all("Pss:                  16 kB" in block and "Shared_Dirty:         32 kB" in block for block in both)
    child.exit()
    assert "Private_Dirty:        32 kB" in smaps_block(process, PLACE)


def test_the_peak_outlives_what_was_given_up():
    """VmHWM, and VmPeak."""
    process = process_at()
    process.mmap(256 * PAGE_BYTES, RW, address=PLACE)
    process.write(PLACE, 256 * PAGE_BYTES, 1)
    high = parse_status(procfs.status(process))["rss_bytes"]
    process.munmap(PLACE, 256 * PAGE_BYTES)
    assert parse_status(procfs.status(process))["peak_rss_bytes"] == high
    assert process.peak_pages == process.mm.size_pages + 256


def test_vm_pte_counts_all_levels_since_4_15():
    """Before, the last one, and for some time the one above it in a line of its own."""
    counted = {
        version: parse_status(procfs.status(process_at(version)))["page_table_bytes"] for version in ("4.4", "5.0")
    }
    assert counted["5.0"] == counted["4.4"] + 4 * 4096
    assert b"VmPMD:\t       8 kB\n" in procfs.status(process_at("4.4"))


# Bits


def test_pagemap_tells_anonymous_file_zero_and_guard_pages_apart():
    """Bit by bit, as 6.18 does."""
    process = process_at()
    file = process.system.new_file("/tmp/file", 4, kind=FILE)
    process.mmap(8 * PAGE_BYTES, RW, address=PLACE)
    process.write(PLACE, PAGE_BYTES, 1)
    process.touch(PLACE + PAGE_BYTES, PAGE_BYTES, write=False)
    process.madvise(PLACE + 2 * PAGE_BYTES, PAGE_BYTES, int(Advice.GUARD_INSTALL))
    process.mmap(PAGE_BYTES, vm.READ, address=PLACE + 8 * PAGE_BYTES, file=file)
    process.touch(PLACE + 8 * PAGE_BYTES, PAGE_BYTES, write=False)
    entries = entries_of(process, PLACE, 10)
    assert entries[0] & ~abi.PFN_MASK == abi.PRESENT | abi.EXCLUSIVE
    assert entries[1] & ~abi.PFN_MASK == abi.PRESENT
    assert entries[2] == 0x4400_0000_0000_009F  # as the live kernel has it
    assert entries[3] == 0
    assert entries[8] & ~abi.PFN_MASK == abi.PRESENT | abi.FILE | abi.EXCLUSIVE
    assert entries[9] == 0
    assert len({entry & abi.PFN_MASK for entry in (entries[0], entries[1], entries[8])}) == 3


def test_pagemap_of_2_6_32_has_the_page_size_in_every_entry():
    """But where a page table is there and has nothing."""
    process = process_at("2.6.32")
    process.mmap(1024 * PAGE_BYTES, RW, address=PLACE)
    process.write(PLACE, PAGE_BYTES, 1)
    entries = entries_of(process, PLACE, 513)
    assert entries[0] & ~abi.PFN_MASK == abi.PRESENT | abi.SIZE_4_KIB
    assert entries[1] == 0
    assert entries[512] == abi.SIZE_4_KIB


def test_pagemap_has_swap_slots():
    """The slot stands where frames stand, above the type of the swap area."""
    process = process_at()
    process.system.swap.enabled = True
    process.mmap(2 * PAGE_BYTES, RW, address=PLACE)
    process.write(PLACE, 2 * PAGE_BYTES, 1)
    process.madvise(PLACE, 2 * PAGE_BYTES, int(Advice.PAGEOUT))
    first, second = entries_of(process, PLACE, 2)
    assert first & abi.SWAP
    assert not first & abi.PRESENT
    assert second - first in (1 << 5, -(1 << 5))
    assert "Swap:                  8 kB" in smaps_block(process, PLACE)
    assert parse_status(procfs.status(process))["swap_bytes"] == 2 * PAGE_BYTES


def test_kpageflags_tells_what_a_frame_is_for():
    """Anonymous, of a file (dirty or not), the zero page, and free."""
    process = process_at()
    system = process.system
    file = system.new_file("/tmp/file", 4, kind=FILE)
    process.mmap(8 * PAGE_BYTES, RW, address=PLACE)
    process.mmap(4 * PAGE_BYTES, RW, address=PLACE + (1 << 30), file=file, shared=True)
    process.write(PLACE, PAGE_BYTES, 1)
    process.touch(PLACE + PAGE_BYTES, PAGE_BYTES, write=False)
    process.write(PLACE + (1 << 30), PAGE_BYTES, 1)
    anonymous, zero = (entry & abi.PFN_MASK for entry in entries_of(process, PLACE, 2))
    (dirty,) = (entry & abi.PFN_MASK for entry in entries_of(process, PLACE + (1 << 30), 1))

    def told(*frames: int) -> list[int]:
        return frame_flags(system, [process.mm], [file], frames)

    before = told(anonymous, zero, dirty, file.cache[3])
    assert before[0] == kpageflags.ANON | kpageflags.LRU | kpageflags.MMAP | kpageflags.SWAPBACKED
    assert before[1] == kpageflags.ZERO_PAGE
    assert before[2] & (kpageflags.DIRTY | kpageflags.MMAP) == kpageflags.DIRTY | kpageflags.MMAP
    assert not before[3] & (kpageflags.DIRTY | kpageflags.MMAP)
    process.madvise(PLACE, PAGE_BYTES, int(Advice.DONTNEED))
    process.madvise(PLACE + (1 << 30), PAGE_BYTES, int(Advice.DONTNEED))
    after = told(anonymous, dirty)
    assert after[0] == kpageflags.BUDDY
    assert after[1] & (kpageflags.DIRTY | kpageflags.MMAP) == kpageflags.DIRTY


# Calls, as far as they check what is no whole page


def test_calls_refuse_what_the_kernel_refuses_before_it_looks_at_pages():
    """Addresses within a page, lengths of nothing, ends beyond all memory."""
    process = process_at()
    assert process.mmap(0, RW) == -22
    assert process.mmap(PAGE_BYTES, RW, address=PLACE + 1) == -22
    assert process.mmap(1 << 48, RW) == -12
    assert process.munmap(PLACE + 1, PAGE_BYTES) == 22
    assert process.munmap(PLACE, 0) == 22
    assert process.mprotect(PLACE + 1, PAGE_BYTES, RW) == 22
    assert process.mprotect(PLACE, 0, RW) == 0
    assert process.mlock(PLACE, 0) == 0
    assert process.mlock(PLACE, 1) == 12


def test_mmap_takes_the_highest_gap():
    """From the top down, below what is there."""
    process = process_at()
    upper, lower = process.mmap(PAGE_BYTES, RW), process.mmap(PAGE_BYTES, vm.READ)
    assert lower == upper - PAGE_BYTES
    process.munmap(upper, PAGE_BYTES)
    assert process.mmap(PAGE_BYTES, RW) == upper


def test_contents_are_read_as_they_were_written():
    """Zeros where nothing was; the signal where nothing is mapped."""
    process = process_at()
    process.mmap(4 * PAGE_BYTES, RW, address=PLACE)
    process.write(PLACE, PAGE_BYTES, 5)
    assert process.read(PLACE, 4 * PAGE_BYTES) == {0, 5}
    assert process.read(PLACE + 4 * PAGE_BYTES, 1) == -11
    assert process.write(PLACE + 3 * PAGE_BYTES, 2 * PAGE_BYTES, 5) == 11


def test_exit_gives_everything_back():
    """No frame is in use but those of the page cache, no page table, no mapping."""
    process = process_at()
    cached = process.system.frames.in_use - process.mm.rss_pages
    process.fork().exit()
    process.exit()
    program = Program(System())
    pages = sum(file.pages for file in (program.text, program.libc, program.linker, program.vdso))
    assert process.system.frames.in_use == pages
    assert cached < pages
    assert (len(process.mm.vmas), process.mm.rss_pages, sum(process.mm.table.table_bytes())) == (0, 0, 0)
