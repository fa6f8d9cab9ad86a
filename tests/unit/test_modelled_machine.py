"""The model as a machine of the lab: every word answers as the protocol says, and experiments hold on it."""

from __future__ import annotations

from errno import EINVAL, ENOMEM
from typing import TYPE_CHECKING

import pytest

from dontneed.abi import kpageflags
from dontneed.abi.advice import Advice, PosixAdvice
from dontneed.errors import DontneedError, KernelLacks, ProcessGone, UsageError
from dontneed.lab.catalogue import experiment_named, run_experiment
from dontneed.lab.machine import HUGETLB, PRIVATE_FILE, SHARED_ANONYMOUS, SHARED_FILE, Faults, Region
from dontneed.lab.modelled import ModelMachine
from dontneed.lab.snapshot import Held, take_snapshot
from dontneed.model.versions import NEWEST, OLDEST

if TYPE_CHECKING:
    from dontneed.lab.modelled_process import ModelProcess

PAGES = 64
HUGE = 512
SIGBUS, SIGSEGV = 7, 11


@pytest.fixture
def process() -> ModelProcess:
    """A process on the newest kernel."""
    return ModelMachine(NEWEST).start()


def held(process: ModelProcess, region: Region) -> Held:
    """What a region holds."""
    return take_snapshot(process, [region]).held(region)


# Machines


@pytest.mark.parametrize("version", [OLDEST, "4.4", NEWEST])
@pytest.mark.parametrize("name", ["anonymous", "zero-page", "shared-anonymous", "private-file", "locked", "hole"])
def test_experiments_hold_on_every_version(name, version):
    """Each predicts what its kernel does, and the model does it."""
    run = run_experiment(experiment_named(name), ModelMachine(version))
    assert [claim for claim in run.claims if not claim.holds] == []
    assert run.passed


def test_the_kernel_of_the_machine_is_the_modelled_one():
    """As the table of versions has it; what was never run says so."""
    newest, oldest = ModelMachine(NEWEST).kernel, ModelMachine(OLDEST).kernel
    assert (newest.release, newest.version, newest.architecture) == ("6.18", (6, 18), "x86_64")
    assert newest.frees_emptied_tables
    assert not oldest.frees_emptied_tables
    assert oldest.behaviour.smaps_counts_zero_page
    assert "never run" in oldest.note
    assert "never run" not in newest.note


def test_the_c_library_is_one_of_the_kernels_time_or_the_one_asked_for():
    """RHEL 6 had 2.6.32 and glibc 2.12."""
    assert ModelMachine(OLDEST).libc == "glibc 2.12"
    assert ModelMachine(NEWEST).libc == "glibc 2.36"
    assert ModelMachine(NEWEST, libc="musl").libc == "musl"


# Memory


def test_a_region_is_fenced_off():
    """It lies at the beginning of a slot, and slots without access adjoin it."""
    process = ModelMachine().start()
    region = process.map("p", PAGES)
    assert region.start % (HUGE * 4096) == 0
    for neighbour in (Region("below", region.start - 4096, 4096), Region("above", region.end, 4096)):
        assert process.touch(neighbour) == SIGSEGV


def test_unmapping_a_region_leaves_no_fence(process):
    """The process is as large as before; a part that goes leaves the rest."""
    size = take_snapshot(process, []).counters.size_bytes
    region = process.map("p", PAGES)
    assert process.unmap(region.part("q", 0, 1)) == 0
    assert held(process, region).size_bytes == (PAGES - 1) * 4096
    assert process.unmap(region) == 0
    assert take_snapshot(process, []).counters.size_bytes == size


def test_writing_and_reading_count_faults(process):
    """A fault a page, and none where a page is there."""
    region = process.map("p", PAGES)
    assert process.write(region, 7) == Faults(PAGES, 0)
    assert process.write(region, 8) == Faults(0, 0)
    found = process.read(region)
    assert found.values == (8,)
    assert found.faults == Faults(0, 0)


def test_a_touch_of_what_cannot_be_touched_ends_the_process(process):
    """But for the word `touch`, which survives it."""
    region = process.map("p", PAGES, protection="r")
    assert process.touch(region, write=True) == SIGSEGV
    with pytest.raises(ProcessGone, match="signal 11"):
        process.write(region, 1)
    process.end()


def test_a_touch_beyond_the_end_of_a_file_is_sigbus(process):
    """Pages before it were touched."""
    region = process.map("p", PAGES, kind=SHARED_FILE, file=process.create_file("f", 4, 1))
    assert process.touch(region) == SIGBUS
    assert held(process, region).present_pages == 4


def test_what_is_refused_is_answered_by_its_errno(process):
    """And what the machine has not at all is raised."""
    region = process.map("p", PAGES)
    process.lock(region.part("q", 0, 1))
    assert process.advise(region, Advice.DONTNEED) == EINVAL
    assert process.unlock(region.part("q", 0, 1)) == 0
    assert process.unmap(region.part("q", 3, 1)) == 0
    assert process.advise(region, Advice.DONTNEED) == ENOMEM
    assert process.seal(region) == ENOMEM
    with pytest.raises(KernelLacks, match="does not seal"):
        ModelMachine(OLDEST).start().seal(region)
    with pytest.raises(KernelLacks, match="process_madvise"):
        ModelMachine(OLDEST).start().advise_vector([region], Advice.COLD)
    with pytest.raises(KernelLacks, match="huge pages"):
        ModelMachine(OLDEST).start().map("p", HUGE, huge=True)


def test_a_kind_of_memory_that_wants_a_file_gets_one(process):
    """And others none."""
    with pytest.raises(UsageError, match="without a file"):
        process.map("p", PAGES, kind=PRIVATE_FILE)
    with pytest.raises(UsageError, match="of a file"):
        process.map("p", PAGES, file=process.create_file("f", 1, 1))
    with pytest.raises(KernelLacks, match="maps no device memory"):
        process.map("p", PAGES, kind="device")


def test_a_vector_counts_bytes_and_a_seal_holds(process):
    """process_madvise and mseal are passed on."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    parts = [region.part("q", 0, 4), region.part("r", 8, 4)]
    assert process.advise_vector(parts, Advice.DONTNEED) == 8 * 4096
    assert held(process, region).present_pages == PAGES - 8
    assert process.seal(region) == 0
    assert process.unmap(region) != 0


def test_a_remapped_region_takes_its_contents_along_and_its_fences_not(process):
    """Longer and elsewhere; then shorter where it is."""
    region = process.map("p", PAGES)
    process.write(region, 3)
    longer = process.remap(region, 2 * PAGES)
    assert (longer.name, longer.pages) == ("p", 2 * PAGES)
    assert process.read(longer).values == (0, 3)
    shorter = process.remap(longer, 1)
    assert shorter.start == longer.start
    assert process.read(shorter).values == (3,)


def test_a_move_that_is_refused_leaves_nothing_behind(process):
    """Neither a new place nor fences."""
    region = process.map("p", PAGES)
    process.unmap(region.part("q", 3, 1))
    size = take_snapshot(process, []).counters.size_bytes
    with pytest.raises(DontneedError, match="mremap: EFAULT"):
        process.remap(region, 2 * PAGES)
    assert take_snapshot(process, []).counters.size_bytes == size


def test_posix_advice_is_the_c_librarys(process):
    """Glibc before 2.6 discarded, and none does since."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    assert process.posix_advise(region, PosixAdvice.DONTNEED) == 0
    assert held(process, region).present_pages == PAGES
    old = ModelMachine(OLDEST, libc="glibc 2.5").start()
    region = old.map("p", PAGES)
    old.write(region, 1)
    assert old.posix_advise(region, PosixAdvice.DONTNEED) == 0
    assert held(old, region).present_pages == 0


# Files


def test_a_file_is_cached_clean_and_shared(process):
    """What is written through a shared mapping is read from the file, a private one keeps it to itself."""
    file = process.create_file("f", PAGES, ord("f"))
    assert process.cached_pages(file) == PAGES
    shared = process.map("p", PAGES, kind=SHARED_FILE, file=file)
    private = process.map("q", PAGES, kind=PRIVATE_FILE, file=file)
    assert held(process, shared).dirty_bytes == 0
    process.write(shared.part("r", 0, 1), ord("s"))
    process.write(private.part("r", 1, 1), ord("t"))
    assert process.file_bytes(file) == (ord("f"), ord("s"))
    assert process.read(private).values == (ord("f"), ord("s"), ord("t"))


def test_a_child_has_its_parents_files_and_regions_and_memory_of_its_own(process):
    """What it writes its parent does not see."""
    file = process.create_file("f", PAGES, 1, in_memory=True)
    region = process.map("p", PAGES)
    process.write(region, 1)
    with process.fork() as child:
        child.write(region, 2)
        assert process.read(region).values == (1,)
        assert child.read(child.map("q", PAGES, kind=SHARED_FILE, file=file)).values == (1,)
        assert child.unmap(region) == 0
    assert process.read(region).values == (1,)


def test_shared_anonymous_memory_is_shared_with_a_child(process):
    """MAP_SHARED."""
    region = process.map("p", PAGES, kind=SHARED_ANONYMOUS)
    with process.fork() as child:
        child.write(region, 2)
    assert process.read(region).values == (2,)


# The machine


def test_swap_is_there_for_the_time_of_a_block(process):
    """Pages go there, and slots are counted; without it they stay."""
    region = process.map("p", PAGES)
    process.write(region, 1)
    process.advise(region, Advice.PAGEOUT)
    assert held(process, region).present_pages == PAGES
    with process.machine.swap():
        process.advise(region, Advice.PAGEOUT)
        assert held(process, region).swapped_pages == PAGES
        assert process.machine.swap_used_bytes() == PAGES * 4096
        process.advise(region, Advice.DONTNEED)
        assert process.machine.swap_used_bytes() == 0
    process.write(region, 1)
    process.advise(region, Advice.PAGEOUT)
    assert held(process, region).present_pages == PAGES


def test_the_hugetlb_pool_is_there_for_the_time_of_a_block(process):
    """Memory of that kind is refused without it."""
    with pytest.raises(DontneedError, match="ENOMEM"):
        process.map("p", HUGE, kind=HUGETLB)
    with process.machine.hugetlb_pool(2):
        region = process.map("p", 2 * HUGE, kind=HUGETLB)
        process.write(region.part("q", 0, HUGE), 1)
        assert held(process, region).hugetlb_bytes == HUGE * 4096
        process.unmap(region)
    assert process.machine.system.huge_pool == 0


def test_a_process_that_ends_gives_huge_pages_and_reservations_back(process):
    """Those that it touched, and those that it never did."""
    system = process.machine.system
    with process.machine.hugetlb_pool(4):
        with process.fork() as child:
            region = child.map("p", 2 * HUGE, kind=HUGETLB)
            child.write(region.part("q", 0, HUGE), 1)
            assert (system.huge_pool, system.huge_reserved) == (3, 1)
        assert (system.huge_pool, system.huge_reserved) == (4, 0)


def test_frame_flags_are_those_of_all_processes_and_files(process):
    """Also of what only a child maps."""
    region = process.map("p", PAGES)
    with process.fork() as child:
        child.write(region, 2)
        frames = take_snapshot(child, [region]).frames(region)
        flags = process.machine.frame_flags(frames)
        assert all(each & kpageflags.ANON and each & kpageflags.MMAP for each in flags)
    assert set(process.machine.frame_flags(frames)) == {kpageflags.BUDDY}


def test_khugepaged_takes_back_what_was_given_up(process):
    """A slot with holes becomes a huge page again: RSS grows. Before 2.6.38 there was none."""
    region = process.map("p", HUGE, huge=True)
    process.write(region, 1)
    process.advise(region.part("q", 0, HUGE - 1), Advice.DONTNEED)
    assert held(process, region).rss_bytes == 4096
    assert process.machine.wait_for_khugepaged(process, region)
    assert held(process, region).huge_bytes == HUGE * 4096
    old = ModelMachine(OLDEST).start()
    with pytest.raises(KernelLacks, match="khugepaged"):
        old.machine.wait_for_khugepaged(old, region)


# Threads


def test_a_thread_gives_back_most_of_its_stack_when_it_ends(process):
    """Glibc 2.36 keeps six pages; the stack stays mapped, in the cache."""
    thread = process.start_thread("t", 2048)
    assert (thread.stack.pages, thread.guard_bytes) == (2048, 4096)
    assert take_snapshot(process, []).counters.threads == 2
    process.use_stack(thread, 1024)
    assert held(process, thread.stack).present_pages == 1024
    process.end_thread(thread)
    assert held(process, thread.stack).present_pages == 6
    assert take_snapshot(process, []).counters.threads == 1


def test_a_thread_of_musl_takes_its_stack_along():
    """No cache: the mapping is gone."""
    process = ModelMachine(NEWEST, libc="musl").start()
    thread = process.start_thread("t", 32)
    process.use_stack(thread, 16)
    process.end_thread(thread)
    assert held(process, thread.stack).size_bytes == 0


def test_a_process_ends_once_and_its_memory_is_given_back():
    """Ending it twice does nothing; the machine has as many frames in use as before it."""
    machine = ModelMachine()
    with machine.start():
        pass
    in_use = machine.system.frames.in_use
    with machine.start() as process:
        process.write(process.map("p", PAGES), 1)
        process.end()
    process.end()
    assert machine.system.frames.in_use == in_use
