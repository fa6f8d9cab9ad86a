"""What surrounds this process and changes what its memory does: huge pages, swap, the memory cgroup, security settings.

Facts, not features: no value here is better than another, but each explains a result. `khugepaged` refills what was
half released; without swap, cold pages of anonymous memory have nowhere to go; a cgroup is charged until the last page
of a huge page is gone.

Kernel:
    Documentation/admin-guide/mm/transhuge.rst, cgroup-v1/memory.rst, cgroup-v2.rst, LSM/Yama.rst; proc(5).
"""

from __future__ import annotations

import os

from dontneed.records import Record
from dontneed.units import KIB, PAGE_BYTES

_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage"
_NO_LIMIT_BYTES = 1 << 60
"""cgroup v1 says 'no limit' with a number near 2^63; nobody has this much memory."""


class MemoryCgroup(Record):
    """Where this process is charged for its memory.

    Attributes:
        version: 1 or 2.
        path: the directory that holds its memory.stat; an ancestor's where its own has none.
        limit_bytes: the limit set on that directory; None for no limit.
    """

    version: int
    path: str
    limit_bytes: int | None


class Environment(Record):
    """The settings around this process; None where this system has no such setting or does not show it.

    Attributes:
        kernel: the release, as uname -r says it; only for people, never to decide anything.
        machine: the architecture, as uname -m says it.
        page_bytes: the size of a page.
        huge_pages: the word chosen in transparent_hugepage/enabled: always, madvise or never.
        huge_pages_disabled: prctl(PR_SET_THP_DISABLE) switched them off for this process.
        khugepaged_max_ptes_none: how many of 512 pages may be missing when khugepaged makes one huge page.
        swap_bytes, swap_used_bytes: all swap areas together.
        cgroup: the memory cgroup.
        yama_ptrace_scope: 0 to 3: who may attach with ptrace; reading maps and pagemap is not affected.
        lockdown: the word chosen in security/lockdown: none, integrity or confidentiality.
        why_not_native: why this dontneed has no native part, in a phrase; nothing if it has.
    """

    kernel: str
    machine: str
    page_bytes: int
    huge_pages: str | None
    huge_pages_disabled: bool
    khugepaged_max_ptes_none: int | None
    swap_bytes: int
    swap_used_bytes: int
    cgroup: MemoryCgroup | None
    yama_ptrace_scope: int | None
    lockdown: str | None
    why_not_native: str = ""


def read_environment() -> Environment:
    """The environment now. Reads a dozen small files and changes none."""
    from dontneed.kernel.native import why_not

    uname = os.uname()
    swap_bytes, swap_used_bytes = parse_swaps(_read("/proc/swaps") or "")
    max_ptes_none = _read(f"{_HUGE_PAGES}/khugepaged/max_ptes_none")
    ptrace_scope = _read("/proc/sys/kernel/yama/ptrace_scope")
    return Environment(
        kernel=uname.release,
        machine=uname.machine,
        page_bytes=PAGE_BYTES,
        huge_pages=read_huge_pages(),
        huge_pages_disabled="\nTHP_enabled:\t0\n" in (_read("/proc/self/status") or ""),
        khugepaged_max_ptes_none=int(max_ptes_none) if max_ptes_none else None,
        swap_bytes=swap_bytes,
        swap_used_bytes=swap_used_bytes,
        cgroup=read_memory_cgroup(),
        yama_ptrace_scope=int(ptrace_scope) if ptrace_scope else None,
        lockdown=chosen_word(_read("/sys/kernel/security/lockdown")),
        why_not_native=why_not(),
    )


def read_huge_pages() -> str | None:
    """The word chosen in transparent_hugepage/enabled; None on a kernel without huge pages.

    Kernel:
        since 2.6.38; mm/huge_memory.c enabled_show().
    """
    return chosen_word(_read(f"{_HUGE_PAGES}/enabled"))


def read_memory_cgroup() -> MemoryCgroup | None:
    """The memory cgroup that charges this process; None where no hierarchy with its counters is visible.

    Kernel:
        v1 since 2.6.25, v2 4.5; cgroups(7).
    """
    memberships = _read("/proc/self/cgroup") or ""
    for version, root, mount in _memory_hierarchies(_read("/proc/self/mountinfo") or ""):
        own = own_cgroup(memberships, version)
        if own is None:
            continue
        directory = _nearest_with_counters(mount, own.removeprefix(root.rstrip("/")))
        if directory is not None:
            limit_file = "memory.max" if version == 2 else "memory.limit_in_bytes"  # noqa: PLR2004 - cgroup v2
            return MemoryCgroup(version, directory, parse_limit(_read(f"{directory}/{limit_file}")))
    return None


def chosen_word(text: str | None) -> str | None:
    """The word in brackets: 'madvise' of 'always [madvise] never'; None without one."""
    _, opened, rest = (text or "").partition("[")
    word, closed, _ = rest.partition("]")
    return word if opened and closed else None


def parse_swaps(text: str) -> tuple[int, int]:
    """Size and use, in bytes, of all swap areas in the text of /proc/swaps; names there have their spaces escaped."""
    areas = [line.split() for line in text.splitlines()[1:]]
    return sum(int(area[2]) for area in areas) * KIB, sum(int(area[3]) for area in areas) * KIB


def parse_limit(text: str | None) -> int | None:
    """A memory limit in bytes; None for 'max', for v1's astronomic default, and for a file that is not there."""
    if text is None or text.strip() == "max":
        return None
    limit_bytes = int(text)
    return limit_bytes if limit_bytes < _NO_LIMIT_BYTES else None


def own_cgroup(memberships: str, version: int) -> str | None:
    """This process's path in the v1 memory hierarchy or in v2, from the text of /proc/self/cgroup; or None."""
    for line in memberships.splitlines():
        number, controllers, path = line.split(":", 2)
        is_v2 = number == "0" and not controllers
        if is_v2 if version == 2 else "memory" in controllers.split(","):  # noqa: PLR2004 - cgroup v2
            return path
    return None


def _memory_hierarchies(mountinfo: str) -> list[tuple[int, str, str]]:
    """(version, root within it, mount point) of each mounted cgroup hierarchy that may count memory, v1 first."""
    found = []
    for line in mountinfo.splitlines():
        where, _, how = line.partition(" - ")
        root, mount = where.split()[3:5]
        kind, *_, options = how.split()
        if kind == "cgroup2":
            found.append((2, root, mount))
        elif kind == "cgroup" and "memory" in options.split(","):
            found.append((1, root, mount))
    return sorted(found)


def _nearest_with_counters(mount: str, path: str) -> str | None:
    """The directory for `path` below `mount`, or its nearest ancestor, that has a memory.stat."""
    directory = f"{mount}/{path.strip('/')}".rstrip("/")
    while len(directory) >= len(mount):
        if os.path.exists(f"{directory}/memory.stat"):
            return directory
        directory = os.path.dirname(directory)
    return None


def _read(path: str) -> str | None:
    """The text of a small file; None where it is absent or closed to us, which for a setting is the same."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:  # ENOENT, EACCES, EOPNOTSUPP, EINVAL: the setting is not to be seen
        return None
