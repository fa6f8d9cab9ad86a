"""The stacks of threads: how a C library maps, guards, keeps and gives them back.

    block         first                                          last
                  | guard |                        stack  | frames | TCB |
                                                                   ^ a thread that ends stands in the last page but one

glibc keeps the stacks of ended threads in a cache, newest first, and hands them to new threads whatever is left in
them. Since 2.11 a thread that ends discards its stack up to 16 KiB below where it stands; before, all that it ever
touched stayed resident. musl has no cache: a stack is unmapped when its thread is joined.

Kernel:
    mmap, mprotect, madvise, munmap, in the order of glibc nptl/allocatestack.c allocate_stack(), advise_stack_range(),
    nptl/nptl-stack.c __nptl_deallocate_stack(); musl src/thread/pthread_create.c. Measured with glibc 2.36; see `libc`.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.abi.errnos import EAGAIN, EINVAL
from dontneed.model.calls.advice import madvise
from dontneed.model.calls.mappings import find_gap, mmap, mprotect, munmap
from dontneed.model.paging.faults import SIGSEGV, touch
from dontneed.model.space.mm import PAGE_SHIFT
from dontneed.model.space.vma import NO_HUGE_PAGE, READ, WRITE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from dontneed.model.program.libc import Libc
    from dontneed.model.space.mm import Mm

DEFAULT_STACK_BYTES = 8 << 20
"""RLIMIT_STACK, as it usually is."""
DEFAULT_GUARD_BYTES = 4096

_PAGE_BYTES = 1 << PAGE_SHIFT
_TOP_PAGES = 2
"""The TCB with its thread-local variables, and the first frames below."""
_STANDS_IN = 2
"""A thread that ends does so in this page from the top."""
_LEAST_BYTES = 16384
"""PTHREAD_STACK_MIN: what is left alone below that."""
_LEAST_REST_PAGES = 2
"""Less than this above the guard is too little to start with."""
_LARGEST_FIT = 4
"""A cached stack more than so many times too large is not used."""
_ALIASING_PAGES = 16
_MUSL_TLS_BYTES = 2048


class Stack:
    """The stack of a thread.

    Attributes:
        first, last: the block of pages that was mapped for it, or given by its user.
        guard_pages: how many of them, from the first on, are its guard.
        by_advice: the guard is one of markers, not a mapping without access.
        is_users: it is its user's memory: neither guarded, nor cached, nor unmapped.
    """

    def __init__(self, first: int, last: int, guard_pages: int = 0, *, is_users: bool = False) -> None:
        self.first = first
        self.last = last
        self.guard_pages = guard_pages
        self.by_advice = False
        self.is_users = is_users

    def copy(self) -> Stack:
        """Another that says the same."""
        twin = Stack(self.first, self.last, self.guard_pages, is_users=self.is_users)
        twin.by_advice = self.by_advice
        return twin

    @property
    def pages(self) -> int:
        """How many pages the block has."""
        return self.last - self.first

    @property
    def usable_first(self) -> int:
        """The first page above the guard."""
        return self.first + self.guard_pages


class Stacks:
    """The stacks of a process, by the rules of one C library.

    Args:
        mm: the memory of the process.
        libc: the library.
        cache_bytes: the tunable glibc.pthread.stack_cache_size; None, or where there is no such: the library's own.
        place: finds room for so many pages, or answers 0; by default as mmap does.

    Attributes:
        used: stacks of running threads, newest first.
        cache: stacks of ended threads that are still mapped, newest first.
    """

    def __init__(
        self, mm: Mm, libc: Libc, *, cache_bytes: int | None = None, place: Callable[[int], int] | None = None
    ) -> None:
        self.mm = mm
        self.libc = libc
        self.used: list[Stack] = []
        self.cache: list[Stack] = []
        tuned = cache_bytes if libc.cache_is_tunable else None
        self._most_pages = (libc.cache_bytes if tuned is None else tuned) >> PAGE_SHIFT
        self._place = place or (lambda pages: find_gap(mm, pages))
        self._by_advice = libc.guards_by_advice

    @property
    def cached_bytes(self) -> int:
        """What the cache holds."""
        return sum(stack.pages for stack in self.cache) << PAGE_SHIFT

    def create(
        self,
        stack_bytes: int = DEFAULT_STACK_BYTES,
        guard_bytes: int = DEFAULT_GUARD_BYTES,
        *,
        users: tuple[int, int] | None = None,
    ) -> tuple[int, Stack | None]:
        """What pthread_create(3) does for a stack, and the thread for its first frames.

        Args:
            stack_bytes: of the thread's attributes.
            guard_bytes: likewise.
            users: the first page of memory to use instead, and the one behind its last (pthread_attr_setstack).
        Returns:
            0 and the stack; or what pthread_create returns, and None.
        """
        stack: Stack | None
        if users is not None:
            refused, stack = 0, Stack(*users, is_users=True)
        else:
            refused, stack = self._allocate(stack_bytes, _pages(guard_bytes))
        if stack is not None:
            self.used.insert(0, stack)
            self.use(stack, _TOP_PAGES)
        return refused, stack

    def use(self, stack: Stack, pages: int) -> int:
        """Write to the uppermost pages of a stack, from the top down, as calls do; 0, or SIGSEGV of the guard."""
        first = stack.last - pages
        signal = touch(self.mm, max(first, stack.usable_first), stack.last, write=True)
        return signal or (SIGSEGV if first < stack.usable_first else 0)

    def end(self, stack: Stack, *, detached: bool = False) -> None:
        """The thread returns, and is joined; or, detached, it sees to its stack itself."""
        libc = self.libc
        if libc.discards_users_stacks if stack.is_users else libc.discards_at_exit:
            self._discard(stack)
        self.used.remove(stack)
        if stack.is_users:
            return
        self.cache.insert(0, stack)
        self._trim(standing_on=stack if detached and libc.cache_bytes else None)

    def forked(self, mm: Mm, survivor: Stack | None = None) -> Stacks:
        """The stacks of a child: those of threads that it does not have are in its cache (__reclaim_stacks).

        Args:
            mm: the memory of the child.
            survivor: of the thread that forked; None: the main thread did.
        """
        child = Stacks(mm, self.libc, cache_bytes=self._most_pages << PAGE_SHIFT)
        child._by_advice = self._by_advice
        if self.libc.cache_bytes:
            left = [stack for stack in self.used if stack is not survivor and not stack.is_users]
            child.cache = [stack.copy() for stack in (*left, *self.cache)]
        if survivor is not None:
            child.used = [survivor.copy()]
        return child

    # Where a stack comes from

    def _allocate(self, stack_bytes: int, guard: int) -> tuple[int, Stack | None]:
        """allocate_stack(): one from the cache, or a fresh one."""
        wanted = self._block_pages(stack_bytes, guard)
        if wanted < guard + _LEAST_REST_PAGES:
            return EINVAL, None
        stack = self._take_cached(wanted)
        if stack is None:
            return self._map(wanted, guard)
        refused = self._change_guard(stack, guard, spare=stack.pages - wanted)
        if refused:
            munmap(self.mm, stack.first, stack.last)
            return refused, None
        return 0, stack

    def _block_pages(self, stack_bytes: int, guard: int) -> int:
        """How many pages a stack of that size needs."""
        if not self.libc.cache_bytes:
            stack_bytes += _MUSL_TLS_BYTES  # musl's thread-local variables come on top
        return _pages(stack_bytes) + (0 if self.libc.guard_within_size else guard)

    def _take_cached(self, wanted: int) -> Stack | None:
        """get_cached_stack(): the smallest that is large enough, if not too large; of equals the newest."""
        enough = [stack for stack in self.cache if stack.pages >= wanted]
        stack = min(enough, key=lambda each: each.pages, default=None)
        if stack is None or stack.pages > _LARGEST_FIT * wanted:
            return None
        self.cache.remove(stack)
        return stack

    def _map(self, pages: int, guard: int) -> tuple[int, Stack | None]:
        """Map a block, and see to its guard."""
        libc, mm = self.libc, self.mm
        if libc.avoids_64_kib and not pages % _ALIASING_PAGES:
            pages += 1
        inaccessible = bool(guard) and libc.maps_inaccessible and not self._by_advice
        first = self._place(pages)
        flags = NO_HUGE_PAGE if libc.maps_as_stack and mm.system.behaviour.small_stacks else 0
        if not first or mmap(mm, first, first + pages, 0 if inaccessible else READ | WRITE, flags=flags):
            return EAGAIN, None
        stack = Stack(first, first + pages, guard)
        stack.by_advice = self._by_advice
        refused = 0
        if inaccessible:
            refused = mprotect(mm, stack.usable_first, stack.last, READ | WRITE)
        elif guard:
            refused = self._guard(stack)
        if refused:
            munmap(mm, first, first + pages)
            return EAGAIN, None
        return 0, stack

    def _guard(self, stack: Stack) -> int:
        """Make a guard of accessible pages; a kernel without guard markers is asked for them once in a process."""
        first, last = stack.first, stack.usable_first
        if stack.by_advice:
            refused = madvise(self.mm, first << PAGE_SHIFT, (last - first) << PAGE_SHIFT, int(Advice.GUARD_INSTALL))
            if not refused:
                return 0
            self._by_advice = stack.by_advice = False
        return mprotect(self.mm, first, last, 0)

    def _change_guard(self, stack: Stack, guard: int, *, spare: int) -> int:
        """Make the guard of a stack from the cache larger, or smaller if it takes more than what is to spare."""
        before = stack.guard_pages
        if guard > before:
            stack.guard_pages = guard
            return self._guard(stack)
        if guard == before or (before - guard <= spare and not self.libc.guards_by_advice):
            return 0
        first = stack.first + guard
        stack.guard_pages = guard
        if stack.by_advice:
            return madvise(self.mm, first << PAGE_SHIFT, (before - guard) << PAGE_SHIFT, int(Advice.GUARD_REMOVE))
        return mprotect(self.mm, first, first + before - guard, READ | WRITE)

    # Where it goes

    def _discard(self, stack: Stack) -> None:
        """advise_stack_range(): from the beginning of the block, guard and all, to 16 KiB below where it stands."""
        below = (stack.pages - _STANDS_IN) * _PAGE_BYTES
        if below > _LEAST_BYTES:
            madvise(self.mm, stack.first << PAGE_SHIFT, below - _LEAST_BYTES, int(Advice.DONTNEED))

    def _trim(self, standing_on: Stack | None) -> None:
        """Unmap cached stacks, oldest first, until the cache is small enough; none that a thread stands on."""
        pages = sum(stack.pages for stack in self.cache)
        for stack in reversed(self.cache.copy()):
            if pages <= self._most_pages:
                break
            if stack is not standing_on:
                self.cache.remove(stack)
                munmap(self.mm, stack.first, stack.last)
                pages -= stack.pages


def _pages(length: int) -> int:
    return -(-length >> PAGE_SHIFT)
