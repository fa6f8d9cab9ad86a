"""The pool of hugetlb pages of 2 MiB: how many are free, and more for as long as they are needed.

Kernel:
    mm/hugetlb.c; Documentation/admin-guide/mm/hugetlbpage.rst. Pages in use when the pool shrinks become surplus, and
    go when they are unmapped.
"""

from __future__ import annotations

from contextlib import contextmanager

from dontneed.errors import KernelLacks
from dontneed.kernel.settings import held_lock, read_setting, write_setting
from dontneed.units import HUGE_PAGE_BYTES, KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB"
_SIZE = f"{_POOL}/nr_hugepages"


def count_free_pages() -> int:
    """How many huge pages nobody uses or has reserved.

    Raises:
        KernelLacks: this kernel has no hugetlb pages of 2 MiB.
    """
    return int(read_setting(f"{_POOL}/free_hugepages")) - int(read_setting(f"{_POOL}/resv_hugepages"))


@contextmanager
def enlarged_pool(pages: int) -> Iterator[None]:
    """Have `pages` free huge pages for the time of a `with` block; the pool has its own size again afterwards.

    Raises:
        NotPermitted: there are too few, and this user may not change that.
        KernelLacks: there are no such pages, or not enough memory in one piece.
    """
    with held_lock(_SIZE):
        missing = max(0, pages - count_free_pages())
        _check_memory(missing)
        _resize(missing)
        try:
            if (found := count_free_pages()) < pages:
                msg = f"only {found} of {pages} huge pages of 2 MiB are free: memory is in pieces too small"
                raise KernelLacks(msg, hint="`echo 1 > /proc/sys/vm/compact_memory` may join the pieces")
            yield
        finally:
            _resize(-missing)


def _resize(pages: int) -> None:
    """Make the pool larger or smaller, by a difference: others may change it too, and know nothing of our lock."""
    if pages:
        write_setting(_SIZE, max(0, int(read_setting(_SIZE)) + pages))


def _check_memory(pages: int) -> None:
    """Refuse to ask for so much that the kernel would take it from everyone else: it tries hard."""
    available = read_available_bytes()
    if pages * HUGE_PAGE_BYTES > available // 2:
        msg = f"{pages} more huge pages of 2 MiB are more than half of the memory that is available"
        raise KernelLacks(msg, hint="the pool takes its pages from everyone for as long as it has them")


def read_available_bytes() -> int:
    """How much memory can be had without swapping, as MemAvailable says (since 3.14); before that, what is free."""
    lines = dict(line.split(":", 1) for line in read_setting("/proc/meminfo").splitlines())
    return int(lines.get("MemAvailable", lines["MemFree"]).split()[0]) * KIB
