"""khugepaged: the kernel thread that makes huge pages of small ones, now and then; and how to have it come at once.

Kernel:
    mm/khugepaged.c; Documentation/admin-guide/mm/transhuge.rst. Since 2.6.38. A write to scan_sleep_millisecs wakes it.
"""

from __future__ import annotations

from contextlib import contextmanager

from dontneed.kernel.settings import changed_settings, held_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SETTINGS = "/sys/kernel/mm/transparent_hugepage/khugepaged"
_PAGES_OF_A_HUGE_ONE = 512


@contextmanager
def hurried_khugepaged() -> Iterator[None]:
    """Have khugepaged scan without a pause, and fill up huge pages of which it finds one small page, for a while.

    Raises:
        NotPermitted: this user may not change its settings.
        KernelLacks: this kernel has no huge pages.
    """
    settings = {
        "max_ptes_none": _PAGES_OF_A_HUGE_ONE - 1,
        "alloc_sleep_millisecs": 10,
        "scan_sleep_millisecs": 10,
    }
    with (
        held_lock(f"{_SETTINGS}/scan_sleep_millisecs"),
        changed_settings({f"{_SETTINGS}/{name}": value for name, value in settings.items()}),
    ):
        yield
