"""Thread stacks in the model: the system calls of each C library, and what stays of a stack that was used."""

from __future__ import annotations

from errno import EAGAIN, EINVAL
from signal import SIGSEGV

import pytest

from dontneed.model.calls.mappings import mmap
from dontneed.model.paging.faults import touch
from dontneed.model.program.libc import libc_at
from dontneed.model.program.nptl import Stacks
from dontneed.model.space import vma as vm
from dontneed.model.space.entries import ANON, GUARD
from dontneed.model.space.mm import Mm
from dontneed.model.system import System

PAGE = 4096
MIB = 1 << 20
MIB_PAGES = MIB // PAGE
ALL_LIBCS = ("glibc 2.3.4", "glibc 2.5", "glibc 2.11", "glibc 2.12", "glibc 2.32", "glibc 2.36", "glibc 2.42", "musl")
THAT_DISCARD = ("glibc 2.11", "glibc 2.12", "glibc 2.32", "glibc 2.36", "glibc 2.42")


def _stacks(libc="glibc 2.36", kernel="6.18", **options):
    return Stacks(Mm(System(kernel)), libc_at(libc), **options)


def _start(stacks, *arguments, **named):
    refused, stack = stacks.create(*arguments, **named)
    assert not refused
    return stack


def _access(stacks):
    return [(vma.pages, vma.flags & vm.ACCESS) for vma in stacks.mm.vmas]


READ_WRITE = vm.READ | vm.WRITE


# How a stack is made


@pytest.mark.parametrize(
    ("libc", "pages"),
    [
        ("glibc 2.3.4", 2049),  # 8 MiB with the guard in it is a multiple of 64 KiB: a page more
        ("glibc 2.12", 2049),
        ("glibc 2.26", 2049),
        ("glibc 2.27", 2049),  # 8 MiB, and the guard on top
        ("glibc 2.36", 2049),
        ("glibc 2.42", 2049),
        ("musl", 2050),
    ],
)
def test_a_stack_of_8_mib(libc, pages):
    """What is mapped for it: 8,392,704 bytes in every glibc, for different reasons."""
    stack = _start(_stacks(libc))
    assert (stack.pages, stack.guard_pages) == (pages, 1)


@pytest.mark.parametrize(("libc", "pages"), [("glibc 2.12", 15), ("glibc 2.27", 16), ("glibc 2.36", 16)])
def test_the_guard_is_on_top_of_the_size_since_2_27(libc, pages):
    """Of a stack of 60 KiB with 4 KiB of guard."""
    assert _start(_stacks(libc), 60 << 10).pages == pages + (libc == "glibc 2.27")  # a multiple of 64 KiB, there


def test_multiples_of_64_kib_are_avoided_until_2_33():
    """A guardless stack of 64 KiB has a page more there."""
    assert _start(_stacks("glibc 2.33"), 65536, 0).pages == 17
    assert _start(_stacks("glibc 2.36"), 65536, 0).pages == 16


@pytest.mark.parametrize("libc", ALL_LIBCS)
def test_below_the_stack_is_a_guard(libc):
    """One mapping without access, or markers in the same mapping; a touch is SIGSEGV either way."""
    stacks = _stacks(libc)
    stack = _start(stacks, MIB, 2 * PAGE)
    if libc == "glibc 2.42":
        assert _access(stacks) == [(stack.pages, READ_WRITE)]
        assert stacks.mm.table.runs(stack.first, stack.usable_first) == [(stack.first, stack.first + 2, GUARD, 0)]
    else:
        assert _access(stacks) == [(2, 0), (stack.pages - 2, READ_WRITE)]
    assert touch(stacks.mm, stack.usable_first, stack.usable_first + 1, write=True) == 0
    assert touch(stacks.mm, stack.usable_first - 1, stack.usable_first, write=True) == SIGSEGV


def test_only_newer_glibc_leaves_the_guard_uncharged():
    """Mapped without access first, it was never to be written to; before 2.26 it was charged like the rest."""
    for libc, charged in (("glibc 2.12", vm.ACCOUNT), ("glibc 2.36", 0)):
        stacks = _stacks(libc, kernel="5.10")
        stack = _start(stacks)
        guard = stacks.mm.vmas.find(stack.first)
        assert guard is not None
        assert guard.flags & vm.ACCOUNT == charged


def test_without_guard_markers_2_42_protects_and_does_not_ask_again():
    """The first stack falls back on a mapping without access, the others are made like those of 2.41."""
    stacks = _stacks("glibc 2.42", kernel="6.12")
    for _ in range(2):
        stack = _start(stacks, MIB)
        assert not stack.by_advice
        assert touch(stacks.mm, stack.first, stack.first + 1, write=True) == SIGSEGV


def test_no_guard_is_asked_for():
    """Then the whole block can be used."""
    stacks = _stacks()
    stack = _start(stacks, MIB, 0)
    assert _access(stacks) == [(MIB_PAGES, READ_WRITE)]
    assert stacks.use(stack, MIB_PAGES) == 0


def test_a_fresh_thread_has_touched_two_pages():
    """Measured: its control block, and the frames below."""
    stacks = _stacks()
    stack = _start(stacks)
    assert stacks.mm.table.runs(0, 1 << 35)[0][:2] == (stack.last - 2, stack.last)


def test_calls_use_a_stack_from_the_top():
    """Deeper than it is long they meet the guard, when all of it is touched."""
    stacks = _stacks()
    stack = _start(stacks, MIB)
    assert stacks.use(stack, 10) == 0
    assert stacks.mm.resident[ANON] == 10
    assert stacks.use(stack, MIB_PAGES + 1) == SIGSEGV
    assert stacks.mm.resident[ANON] == MIB_PAGES


def test_what_cannot_be_is_refused():
    """A stack that is all guard is EINVAL in old glibc, no room is EAGAIN."""
    assert _stacks("glibc 2.12").create(16384, 16384) == (EINVAL, None)
    assert _stacks("glibc 2.36").create(16384, 16384)[0] == 0
    assert _stacks(place=lambda _pages: 0).create() == (EAGAIN, None)


# What stays when it ends


@pytest.mark.parametrize("libc", THAT_DISCARD)
def test_a_thread_that_ends_keeps_24_kib(libc):
    """Measured with 2.36: madvise(block, 8368128, DONTNEED) of 8392704 bytes, so six pages stay."""
    stacks = _stacks(libc)
    stack = _start(stacks)
    stacks.use(stack, 1024)
    stacks.end(stack)
    assert stacks.mm.resident[ANON] == 6
    assert stacks.mm.table.runs(0, stack.last - 6) == (
        [(stack.first, stack.first + 1, GUARD, 0)] if stack.by_advice else []
    )


@pytest.mark.parametrize("libc", ["glibc 2.3.4", "glibc 2.5"])
def test_before_2_11_all_that_was_touched_stays(libc):
    """As the seed says."""
    stacks = _stacks(libc)
    stack = _start(stacks)
    stacks.use(stack, 1024)
    stacks.end(stack)
    assert stacks.mm.resident[ANON] == 1024


def test_a_stack_of_16_kib_is_not_advised():
    """PTHREAD_STACK_MIN and what is in use are all that there is."""
    stacks = _stacks()
    stack = _start(stacks, 16384)
    stacks.use(stack, 4)
    stacks.end(stack)
    assert stacks.mm.resident[ANON] == 4


def test_musl_unmaps_when_a_thread_is_done():
    """It has no cache and advises nothing."""
    stacks = _stacks("musl")
    first, second = _start(stacks), _start(stacks)
    stacks.use(first, 1024)
    stacks.end(first)
    stacks.end(second, detached=True)
    assert len(stacks.mm.vmas) == 0
    assert stacks.mm.resident[ANON] == 0


def test_64_threads_that_used_4_mib():
    """Measured: 262,656 kB while they are idle; four stacks of 24 KiB in the cache once they are gone."""
    stacks = _stacks()
    threads = [_start(stacks) for _ in range(64)]
    for stack in threads:
        stacks.use(stack, 1024)
    assert stacks.mm.resident[ANON] == 64 * 1024
    for stack in threads:
        stacks.end(stack)
    assert len(stacks.cache) == 4
    assert stacks.mm.resident[ANON] == 4 * 6
    assert stacks.mm.size_pages == 4 * 2049


def test_emptied_tables_of_a_stack_go_by_kernel():
    """Since 6.14: of five, the two that lie whole below what stays, and apart from the guard's mapping."""
    for kernel, tables in (("6.12", 5), ("6.18", 3)):
        stacks = _stacks(kernel=kernel, place=lambda _pages: 512 * 1000)
        stack = _start(stacks)
        stacks.use(stack, 2048)
        stacks.end(stack)
        assert len(stacks.mm.table.leaves) == tables


# Its user's own memory


@pytest.mark.parametrize(
    ("libc", "left"),
    [("glibc 2.5", 100), ("glibc 2.11", 6), ("glibc 2.31", 6), ("glibc 2.32", 100), ("glibc 2.42", 100)],
)
def test_a_users_stack_was_discarded_from_2_11_to_2_31(libc, left):
    """It is neither guarded nor cached nor unmapped."""
    stacks = _stacks(libc)
    mmap(stacks.mm, 1000, 1000 + MIB_PAGES, READ_WRITE)
    stack = _start(stacks, users=(1000, 1000 + MIB_PAGES))
    assert stack.guard_pages == 0
    stacks.use(stack, 100)
    stacks.end(stack)
    assert stacks.mm.resident[ANON] == left
    assert not stacks.cache
    assert _access(stacks) == [(MIB_PAGES, READ_WRITE)]


# The cache


def test_the_newest_stack_of_its_size_is_used_first():
    """And nothing else is mapped."""
    stacks = _stacks()
    first, second = _start(stacks), _start(stacks)
    stacks.end(first)
    stacks.end(second)
    assert _start(stacks) is second
    assert _start(stacks) is first


def test_the_smallest_that_is_large_enough_is_used_unless_too_large():
    """Four times what is needed is too large; measured: 3 MiB are taken out of 8, 1 MiB is not."""
    stacks = _stacks()
    large, small = _start(stacks, 8 * MIB), _start(stacks, 4 * MIB)
    stacks.end(small)
    stacks.end(large)
    assert _start(stacks, MIB // 2) not in (large, small)
    assert _start(stacks, 3 * MIB) is small
    assert _start(stacks, 3 * MIB) is large


def test_the_cache_drops_its_oldest_beyond_40_mib():
    """Measured: of seven stacks of 8 MiB three are unmapped."""
    stacks = _stacks()
    threads = [_start(stacks) for _ in range(7)]
    for stack in threads:
        stacks.end(stack)
    assert stacks.cache == threads[:2:-1]
    assert stacks.cached_bytes == 4 * 8392704


def test_a_tuned_cache_keeps_nothing():
    """glibc.pthread.stack_cache_size=0, since 2.34; older ones have no such tunable."""
    for libc, kept in (("glibc 2.36", 0), ("glibc 2.32", 1)):
        stacks = _stacks(libc, cache_bytes=0)
        stacks.end(_start(stacks))
        assert len(stacks.cache) == kept


def test_a_detached_thread_cannot_unmap_what_it_stands_on():
    """It goes into the cache whatever its size, and out again when the next one comes."""
    stacks = _stacks(cache_bytes=0)
    first, second = _start(stacks), _start(stacks)
    stacks.end(first, detached=True)
    assert stacks.cache == [first]
    stacks.end(second, detached=True)
    assert stacks.cache == [second]


def test_what_a_cached_stack_held_is_there_for_the_next_thread():
    """No library zeroes it: what was not discarded is still resident."""
    stacks = _stacks("glibc 2.5")
    stack = _start(stacks)
    stacks.use(stack, 1000)
    stacks.end(stack)
    assert _start(stacks) is stack
    assert stacks.mm.resident[ANON] == 1000


@pytest.mark.parametrize("libc", ["glibc 2.12", "glibc 2.36", "glibc 2.42"])
def test_a_larger_guard_is_made_of_a_cached_stack(libc):
    """Measured with 2.36: a stack that had none gets one by mprotect."""
    stacks = _stacks(libc)
    stack = _start(stacks, MIB, 0)
    stacks.end(stack)
    assert _start(stacks, MIB - 8 * PAGE, 2 * PAGE) is stack
    assert touch(stacks.mm, stack.first + 1, stack.first + 2, write=True) == SIGSEGV
    assert touch(stacks.mm, stack.first + 2, stack.first + 3, write=True) == 0


def test_a_smaller_guard_is_worth_the_call_only_if_it_takes_more_than_there_is_to_spare():
    """Measured with 2.36: the page that 8 MiB without a guard leave over stays a guard. 2.42 always adjusts."""
    for libc, left in (("glibc 2.36", 1), ("glibc 2.42", 0)):
        stacks = _stacks(libc)
        stack = _start(stacks)
        stacks.end(stack)
        assert _start(stacks, 8 * MIB, 0) is stack
        assert stack.guard_pages == left
        assert (touch(stacks.mm, stack.first, stack.first + 1, write=True) == 0) is not left


def test_a_guard_that_is_much_too_large_shrinks():
    """The request would not fit otherwise."""
    for libc in ("glibc 2.36", "glibc 2.42"):
        stacks = _stacks(libc)
        stack = _start(stacks, MIB, 8 * PAGE)
        stacks.end(stack)
        assert _start(stacks, MIB + 4 * PAGE, PAGE) is stack
        assert touch(stacks.mm, stack.first + 1, stack.first + 2, write=True) == 0
        assert touch(stacks.mm, stack.first, stack.first + 1, write=True) == SIGSEGV


def test_a_child_has_the_stacks_of_threads_that_it_does_not_have_in_its_cache():
    """Those of the running threads first, as they were; users' stacks are nobody's."""
    stacks = _stacks()
    cached, running, survivor = _start(stacks), _start(stacks), _start(stacks)
    stacks.end(cached)
    mmap(stacks.mm, 1000, 1100, READ_WRITE)
    _start(stacks, users=(1000, 1100))
    child = stacks.forked(stacks.mm, survivor)
    assert [stack.first for stack in child.cache] == [running.first, cached.first]
    assert [stack.first for stack in child.used] == [survivor.first]
    assert not _stacks("musl").forked(stacks.mm).cache
