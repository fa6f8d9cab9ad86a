"""Harmless trials: one small function per kernel interface; `interfaces` has the table of them.

A trial uses the interface the way dontneed will, on memory of its own that it gives back, and leaves nothing behind:

- A scratch page lies between two pages without permissions, so that its flags never merge with a neighbour's and a
  mapping of one page is never registered with khugepaged.
- MADV_MERGEABLE and MADV_COLLAPSE do leave traces (the process is entered in ksmd's list; every CPU drains its LRU
  batches), so they are tried on an empty range, which the kernel accepts exactly for an advice that it knows.
- Whole-process walks (smaps_rollup) are opened and not read.
- Another process is asked to take an empty list: every permission is checked, and no page of it is touched.
- HWPOISON and SOFT_OFFLINE are never tried: they take a frame out of the machine.

One thing no trial can avoid: a seccomp filter that kills instead of refusing kills here, as it would at the first use.

A trial returns what it saw, raises the kernel's own OSError, or ends with one of the four outcomes below that no errno
tells. What any of it means for this user is decided in `features`.
"""

from __future__ import annotations

import errno
import os
import stat
import sys

from dontneed.units import PAGE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

    from dontneed.abi.advice import Advice


class TrialEnded(Exception):
    """A trial came to an end that no errno tells."""


class Lacking(TrialEnded):
    """The interface answers, and has not what was looked for."""


class Hidden(TrialEnded):
    """The kernel answered, and kept the content to itself, as it does with users it does not trust."""


class Untried(TrialEnded):
    """There was nothing harmless to try it on; the capability alone must tell."""


class SwitchedOff(TrialEnded):
    """Somebody turned it off or covered it, whatever this user may do.

    Attributes:
        remedy: how to have it back.
    """

    def __init__(self, saw: str, remedy: str) -> None:
        super().__init__(saw)
        self.remedy = remedy


class Scratch:
    """One page of our own to try things on, between two that nobody may touch; gone at the end of the `with` block."""

    __slots__ = ("_fence", "_shared")

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared

    def __enter__(self) -> int:
        """The address of the page: readable, writable, not touched yet."""
        from dontneed.kernel import mappings

        kind = mappings.MAP_ANONYMOUS | (mappings.MAP_SHARED if self._shared else mappings.MAP_PRIVATE)
        self._fence = mappings.map_memory(3 * PAGE_BYTES, protection=mappings.PROT_NONE, flags=kind)
        page = self._fence + PAGE_BYTES
        mappings.protect_memory(page, PAGE_BYTES, mappings.PROT_READ | mappings.PROT_WRITE)
        return page

    def __exit__(self, *_error: object) -> None:
        from dontneed.kernel import mappings

        mappings.unmap_memory(self._fence, 3 * PAGE_BYTES)


# --- look -----------------------------------------------------------------------------------------


def try_maps() -> str:
    """Read the start of our own."""
    _read_start("/proc/self/maps")
    return "read our own"


def try_smaps() -> str:
    """Read the start of our own: the kernel walks the first mappings only."""
    _read_start("/proc/self/smaps")
    return "read our own"


def try_smaps_rollup() -> str:
    """Open it; reading would walk the whole process and stall its other threads."""
    os.close(os.open("/proc/self/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC))
    return "opened"


def try_pagemap() -> str:
    """Read the entry of an untouched scratch page."""
    with Scratch() as page:
        return f"entry {_own_pagemap_entry(page):#x} for an untouched page"


def try_pagemap_scan() -> str:
    """Ask whether a scratch page with a byte in it is present, and for guard pages, which came later."""
    import ctypes

    from dontneed.abi.pagemap import IS_GUARD, IS_PRESENT

    with Scratch() as page:
        ctypes.memset(page, 1, 1)
        _scan_page(page, IS_PRESENT)
        try:
            _scan_page(page, IS_PRESENT | IS_GUARD)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return "found a page of ours; knows no guard pages"
    return "found a page of ours; knows guard pages"


def _scan_page(page: int, categories: int) -> None:
    """One PAGEMAP_SCAN of the present page of ours at `page`, to be told `categories`."""
    from array import array

    from dontneed.abi import pagemap as abi

    region = array("Q", bytes(3 * 8))
    scan = array("Q", bytes(abi.SCAN_ARG_BYTES))
    scan[abi.SCAN_SIZE] = abi.SCAN_ARG_BYTES
    scan[abi.SCAN_START], scan[abi.SCAN_END] = page, page + PAGE_BYTES
    scan[abi.SCAN_VEC], scan[abi.SCAN_VEC_LEN] = region.buffer_info()[0], 1
    scan[abi.SCAN_ANYOF], scan[abi.SCAN_RETURN] = abi.IS_PRESENT, categories
    _own_ioctl("pagemap", abi.PAGEMAP_SCAN, scan)
    if region[0] != page:
        raise Lacking("did not find a page of ours that is present")


def try_procmap_query() -> str:
    """Ask for the mapping of a scratch page."""
    from array import array

    from dontneed.abi.pagemap import PROCMAP_QUERY

    with Scratch() as page:
        query = array("Q", [_PROCMAP_QUERY_BYTES, 0, page, *(0,) * 10])
        _own_ioctl("maps", PROCMAP_QUERY, query)
    if query[3] != page:
        raise Lacking("did not find a mapping of ours")
    return "found a mapping of ours"


_PROCMAP_QUERY_BYTES = 104
"""struct procmap_query: size, flags, the address, then what the kernel fills in, the start of the mapping first."""


def try_rss_by_kind() -> str:
    """Look for the lines in status."""
    if b"\nRssAnon:" not in _read_start("/proc/self/status"):
        raise Lacking("no RssAnon line in status")
    return "RssAnon, RssFile and RssShmem lines"


def try_mincore() -> str:
    """Ask about an untouched scratch page."""
    import ctypes

    from dontneed.kernel import libc

    answer = ctypes.c_ubyte()
    with Scratch() as page:
        libc.check(libc.mincore(page, PAGE_BYTES, ctypes.byref(answer)), "mincore")
    return f"{answer.value & 1} for an untouched page"


def try_own_processes() -> str:
    """Read the maps of the processes of this user until one lets us."""
    return _read_a_process(own=True) or "this user has no other process to try"


def try_all_processes() -> str:
    """Read the maps of the processes of other users until one lets us."""
    saw = _read_a_process(own=False)
    if saw is not None:
        return saw
    if not os.path.exists("/proc/1"):
        raise Hidden("process 1 is hidden: /proc is mounted with hidepid")
    raise Untried("no other user has a process here to try")


def _read_a_process(*, own: bool) -> str | None:
    """The first process of this user, or of others, whose maps can be read; None without any. Kernel threads have none.

    Raises:
        OSError: all that there are refuse; the last refusal.
    """
    refusal: OSError | None = None
    for pid, uid in _other_processes():
        if (uid == os.geteuid()) is not own:
            continue
        try:
            if _read_start(f"/proc/{pid}/maps"):
                return f"read the maps of process {pid}, of uid {uid}"
        except PermissionError as error:
            refusal = error
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    if refusal is not None:
        raise refusal
    return None


# --- prove ----------------------------------------------------------------------------------------


def try_frame_numbers() -> str:
    """Touch a scratch page and read the frame number of it."""
    import ctypes

    from dontneed.abi.pagemap import PFN_MASK

    with Scratch() as page:
        ctypes.memset(page, 1, 1)
        frame = _own_pagemap_entry(page) & PFN_MASK
    if frame == 0:
        raise Hidden("the frame number of a present page reads 0")
    return "a page of ours has one"


def try_kpageflags() -> str:
    """Read the flags of the first frame."""
    return _try_frame_file("/proc/kpageflags")


def try_kpagecount() -> str:
    """Read the count of the first frame."""
    return _try_frame_file("/proc/kpagecount")


def _try_frame_file(path: str) -> str:
    """Read the first entry of a file with 8 bytes per frame, and tell apart the ways of not having it."""
    try:
        entry = _read_start(path, 8)
    except FileNotFoundError:
        if os.path.exists("/proc/self") and not os.path.exists("/proc/meminfo"):
            raise SwitchedOff(
                "ENOENT: this /proc shows processes only (subset=pid)",
                "mount /proc without subset=pid; for a systemd service, ProcSubset=all",
            ) from None
        raise
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise SwitchedOff(
            "covered by a device file",
            "the container masks it: docker run --security-opt systempaths=unconfined, Kubernetes procMount: Unmasked",
        )
    if not entry:
        raise Lacking("empty")
    return "read one entry"


# --- release --------------------------------------------------------------------------------------


def try_pidfd_open() -> str:
    """Open a pidfd on ourselves."""
    os.close(_open_pidfd(os.getpid()))
    return "opened one on this process"


def try_own_process_madvise() -> str:
    """Drop an untouched scratch page of ours by way of a list."""
    from array import array

    from dontneed.abi.advice import Advice

    with Scratch() as page:
        ranges = array("Q", [page, PAGE_BYTES])
        pidfd = _open_pidfd(os.getpid())
        try:
            advised = _process_madvise(pidfd, ranges.buffer_info()[0], 1, int(Advice.DONTNEED))
        finally:
            os.close(pidfd)
    return f"{advised} bytes of our own advised DONTNEED"


def try_remote_process_madvise() -> str:
    """Ask other processes, this user's first, to take an empty list until one may be asked."""
    from dontneed.abi.advice import Advice

    refusal: OSError | None = None
    for pid, _ in sorted(_other_processes(), key=lambda process: process[1] != os.geteuid()):
        try:
            pidfd = _open_pidfd(pid)
        except ProcessLookupError:
            continue
        try:
            _process_madvise(pidfd, 0, 0, int(Advice.COLD))
        except OSError as error:
            if error.errno == errno.EACCES:  # we may not read this process; another may be ours
                refusal = error
            elif error.errno != errno.ESRCH:  # a kernel thread, or gone
                raise
        else:
            return f"process {pid} may be advised (an empty list was accepted)"
        finally:
            os.close(pidfd)
    if refusal is not None:
        raise refusal
    raise Untried("no other process here to try")


def try_process_memory() -> str:
    """Read a byte of other processes, this user's first, until one lets us."""
    from dontneed.errors import NotPermitted, ProcessGone, Unreadable
    from dontneed.kernel.process_memory import read_memory

    refused = False
    for pid, _ in sorted(_other_processes(), key=lambda process: process[1] != os.geteuid()):
        try:
            start, _, _ = _read_start(f"/proc/{pid}/maps", 64).partition(b"-")
            if not start:  # a kernel thread
                continue
            read_memory(pid, int(start, 16), 1)
        except (NotPermitted, PermissionError):
            refused = True
        except (ProcessGone, Unreadable, FileNotFoundError, ProcessLookupError):
            continue
        else:
            return f"read a byte of process {pid}"
    if refused:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    raise Untried("no other process here to try")


def try_ptrace() -> str:
    """Stop a child of ours, which sleeps, for an instant."""
    import subprocess

    from dontneed.errors import ProcessGone
    from dontneed.kernel import ptrace

    try:
        child = subprocess.Popen(["sleep", "60"])  # noqa: S607 - whichever there is
    except FileNotFoundError:
        raise Untried("no `sleep` here to try it on") from None
    try:
        ptrace.seize(child.pid)
        ptrace.interrupt(child.pid)
        while ptrace.wait(child.pid) is None:
            os.sched_yield()
        ptrace.detach(child.pid)
    except ProcessGone as gone:
        msg = f"a child of ours ended while it was tried: {gone}"
        raise Untried(msg) from None
    finally:
        child.kill()
        child.wait()
    return "a child of ours was stopped and went on"


def try_advice(advice: Advice) -> str:
    """Give `advice` on a scratch page, or on an empty range where it would leave traces."""
    from dontneed.kernel import libc

    with Scratch(shared=advice.name in _WANTS_A_FILE) as page:
        if advice.name in _LEAVES_TRACES:
            return _try_empty_range(page, advice)
        libc.check(libc.madvise(page, PAGE_BYTES, int(advice)), "madvise")
    return "accepted on a page of ours"


_LEAVES_TRACES = ("MERGEABLE", "COLLAPSE")
_WANTS_A_FILE = ("WILLNEED", "REMOVE")
"""Shared anonymous memory has one; without CONFIG_SWAP WILLNEED is EBADF where there is none."""
_NO_ADVICE = -1
"""An advice that no kernel has."""


def _try_empty_range(page: int, advice: Advice) -> str:
    """Linux checks the advice before it sees that there is nothing to do; a kernel that does not cannot be asked."""
    from dontneed.kernel import libc

    if libc.madvise(page, 0, _NO_ADVICE) == 0:
        raise Lacking("this kernel takes any advice for an empty range, so it cannot be told")
    libc.check(libc.madvise(page, 0, int(advice)), "madvise")
    return "accepted for an empty range"


# --- environment ----------------------------------------------------------------------------------


def try_huge_pages() -> str:
    """Read the setting."""
    from dontneed.kernel.environment import read_huge_pages

    setting = read_huge_pages()
    if setting is None:
        raise Lacking("no /sys/kernel/mm/transparent_hugepage/enabled")
    if setting == "never":
        raise SwitchedOff("never", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, as root")
    return setting


def try_memory_cgroup() -> str:
    """Find our memory.stat and read it."""
    from dontneed.kernel.environment import read_memory_cgroup

    cgroup = read_memory_cgroup()
    if cgroup is None:
        raise Lacking("no memory.stat for this process below the cgroup mounts")
    _read_start(f"{cgroup.path}/memory.stat")
    return f"v{cgroup.version} at {cgroup.path}"


def try_pressure() -> str:
    """Read /proc/pressure/memory."""
    return _read_start("/proc/pressure/memory").decode().partition("\n")[0].rpartition(" ")[0]


# --- shared by the trials -------------------------------------------------------------------------


def _read_start(path: str, size_bytes: int = 4096) -> bytes:
    """The first bytes of a file, in one read: for a file of /proc, work for one page at most."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, size_bytes)
    finally:
        os.close(fd)


def _own_pagemap_entry(page: int) -> int:
    """The pagemap entry of the page of ours at address `page`."""
    from dontneed.abi.pagemap import ENTRY_BYTES

    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int.from_bytes(os.pread(fd, ENTRY_BYTES, page // PAGE_BYTES * ENTRY_BYTES), sys.byteorder)
    finally:
        os.close(fd)


def _own_ioctl(name: str, request: int, words: array[int]) -> None:
    """An ioctl on /proc/self/`name`, whose argument is `words`, changed in place."""
    from fcntl import ioctl

    fd = os.open(f"/proc/self/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        ioctl(fd, request, words)
    finally:
        os.close(fd)


def _other_processes() -> Iterator[tuple[int, int]]:
    """(pid, uid) of every other process in this /proc, whose pids need not be those of our pid namespace."""
    own = os.readlink("/proc/self")
    for name in os.listdir("/proc"):
        if name.isdigit() and name != own:
            try:
                uid = os.stat(f"/proc/{name}").st_uid
            except FileNotFoundError:  # it ended meanwhile
                continue
            yield int(name), uid


def _open_pidfd(pid: int) -> int:
    """A pidfd, even in a Python that was built on a system older than pidfd_open."""
    if not hasattr(os, "pidfd_open"):
        raise Lacking("this Python was built without os.pidfd_open")
    return os.pidfd_open(pid)


def _process_madvise(pidfd: int, ranges: int, count: int, advice: int) -> int:
    """process_madvise(2) of `count` struct iovec at address `ranges`: bytes advised."""
    from dontneed.abi.syscalls import PROCESS_MADVISE
    from dontneed.kernel import libc

    return libc.check(libc.syscall(PROCESS_MADVISE, pidfd, ranges, count, advice, 0), "process_madvise")
