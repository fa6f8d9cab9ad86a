"""What C libraries do about memory, as steps from glibc 2.3.4 on, and musl: each step says how it is known.

glibc 2.36 was measured; whatever else is told here was read in the history of the sources and never run.

Kernel:
    None of this is the kernel's: glibc posix/posix_madvise, nptl/allocatestack.c, nptl/pthread_create.c,
    nptl/nptl-stack.c; musl src/mman/posix_madvise.c, src/thread/pthread_create.c.
"""

from __future__ import annotations

from dontneed.abi.advice import Advice
from dontneed.errors import UsageError
from dontneed.model.calls.advice import madvise
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dontneed.model.space.mm import Mm


class Libc(Record):
    """A C library. The defaults are those of glibc 2.3.4, on x86-64.

    Attributes:
        name: glibc or musl.
        version: as numbers.
        posix_discards: POSIX_MADV_DONTNEED is handed to the kernel, which discards; since, nothing is done.
        guard_within_size: the guard is part of the size that was asked for, not on top of it.
        avoids_64_kib: a stack of a multiple of 64 KiB is made a page longer.
        maps_inaccessible: stacks are mapped without access, and made accessible above the guard; before, the other way.
        maps_as_stack: stacks are mapped with MAP_STACK.
        guards_by_advice: the guard is made by MADV_GUARD_INSTALL, and by mprotect where the kernel does not know that.
        discards_at_exit: a thread that ends discards what of its stack it does not stand on.
        discards_users_stacks: also if the stack was its user's own memory.
        cache_bytes: how much of stacks that nobody uses stays mapped; 0: each is unmapped when its thread is done.
        cache_is_tunable: by glibc.pthread.stack_cache_size.
    """

    name: str = "glibc"
    version: tuple[int, ...] = (2, 3, 4)
    posix_discards: bool = True
    guard_within_size: bool = True
    avoids_64_kib: bool = True
    maps_inaccessible: bool = False
    maps_as_stack: bool = False
    guards_by_advice: bool = False
    discards_at_exit: bool = False
    discards_users_stacks: bool = False
    cache_bytes: int = 40 << 20
    cache_is_tunable: bool = False

    def __str__(self) -> str:
        return f"{self.name} {'.'.join(map(str, self.version))}"


class LibcStep(Record):
    """Something that changed in glibc.

    Attributes:
        since: the first version with it.
        what: in one line.
        source: a commit of glibc's, a bug of its tracker, or `measured`.
        changes: the fields of `Libc` that it sets.
    """

    since: str
    what: str
    source: str
    changes: dict[str, Any]


OLDEST_GLIBC = "2.3.4"
NEWEST_GLIBC = "2.42"

GLIBC_STEPS: tuple[LibcStep, ...] = (
    LibcStep("2.6", "POSIX_MADV_DONTNEED does nothing", "8889e7aa46, bug 3458", {"posix_discards": False}),
    LibcStep("2.9", "stacks are mapped with MAP_STACK", "nptl/allocatestack.c, memory", {"maps_as_stack": True}),
    LibcStep(
        "2.11",
        "a thread that ends discards its stack",
        "b42a214c18",
        {"discards_at_exit": True, "discards_users_stacks": True},
    ),
    LibcStep("2.26", "stacks are mapped without access", "0edbf12301", {"maps_inaccessible": True}),
    LibcStep("2.27", "the guard is on top of the size", "630f4cc3aa, bug 22637", {"guard_within_size": False}),
    LibcStep("2.32", "users' stacks are left alone", "087942251f", {"discards_users_stacks": False}),
    LibcStep(
        "2.34",
        "the cache can be tuned; multiples of 64 KiB are as good as others",
        "nptl/nptl-stack.c; bug 23554, and measured on 2.36",
        {"cache_is_tunable": True, "avoids_64_kib": False},
    ),
    LibcStep("2.42", "guards by MADV_GUARD_INSTALL", "nptl/allocatestack.c 2.42", {"guards_by_advice": True}),
)

_MUSL = Libc(
    name="musl",
    version=(1, 2),
    posix_discards=False,
    guard_within_size=False,
    avoids_64_kib=False,
    maps_inaccessible=True,
    cache_bytes=0,
)


def libc_at(name: str) -> Libc:
    """A C library by its name, as "glibc 2.36", or "musl".

    Raises:
        UsageError: there is none of that name, or it is older than what is known.
    """
    family, _, version = name.partition(" ")
    if family == "musl":
        return _MUSL
    numbers = tuple(int(part) for part in version.split(".") if part.isascii() and part.isdigit())
    if family != "glibc" or numbers < _numbers(OLDEST_GLIBC):
        msg = f"there is no model of the C library {name!r}"
        raise UsageError(msg, hint=f"glibc {OLDEST_GLIBC} to {NEWEST_GLIBC}, as in `glibc 2.36`, or musl")
    changes: dict[str, Any] = {}
    for step in GLIBC_STEPS:
        if _numbers(step.since) <= numbers:
            changes.update(step.changes)
    return Libc(version=numbers, **changes)


def posix_madvise(mm: Mm, libc: Libc, address: int, length: int, number: int) -> int:
    """posix_madvise(3): the errno that it returns, or 0. What it does not drop it hands on, whatever the number.

    Args:
        mm: whose memory.
        libc: the library called.
        address: in bytes; where nothing is done, nothing is checked either.
        length: in bytes.
        number: of the POSIX_MADV_* value, equal to that of the kernel's.
    """
    if number == int(Advice.DONTNEED) and not libc.posix_discards:
        return 0
    return madvise(mm, address, length, number)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
