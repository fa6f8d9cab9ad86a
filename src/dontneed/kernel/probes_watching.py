"""Harmless trials of what tells which pages are used; as those of `probes`, and with the same outcomes."""

from __future__ import annotations

import errno
import os


def try_clear_refs() -> str:
    """Open our own for writing, and write nothing."""
    from dontneed.kernel.clear_refs import has_soft_dirty

    os.close(os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC))
    return "opened our own; " + ("soft-dirty bits are kept" if has_soft_dirty() else "no soft-dirty bits")


def try_write_watch() -> str:
    """Watch a scratch page of ours, protect it, and write to it."""
    import ctypes

    from dontneed.abi.pagemap import IS_PRESENT
    from dontneed.errors import KernelLacks
    from dontneed.kernel.pagemap import scan_written
    from dontneed.kernel.probes import Lacking, Scratch
    from dontneed.kernel.userfaultfd import WriteWatch, open_own_userfaultfd
    from dontneed.units import PAGE_BYTES

    with Scratch() as page, WriteWatch(open_own_userfaultfd()) as watch:
        ctypes.memset(page, 1, 1)
        why = watch.register(page, page + PAGE_BYTES)
        if why:
            raise Lacking(why)
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = []
            for protects in (True, False):
                runs = scan_written(fd, page, page + PAGE_BYTES, wanted=IS_PRESENT, barred=0, protect=protects)
                found.append(sum(len(run) for run in runs))
        except KernelLacks as lacks:
            raise Lacking(str(lacks)) from None
        finally:
            os.close(fd)
        ctypes.memset(page, 2, 1)
    if not found[0] or found[1]:
        raise Lacking("a page of ours that was protected looks written to")
    return "a page of ours was watched"


def try_pidfd_getfd() -> str:
    """Fetch a descriptor of our own by way of a pidfd."""
    from dontneed.kernel.probes import Lacking
    from dontneed.kernel.userfaultfd import fetch_descriptor

    if not hasattr(os, "pidfd_open"):
        raise Lacking("this Python was built without os.pidfd_open")
    reader, writer = os.pipe()
    try:
        os.close(fetch_descriptor(os.getpid(), reader))
    except OSError as error:
        if error.errno == errno.EBADF:
            raise Lacking("did not find a descriptor of ours") from None
        raise
    finally:
        os.close(reader)
        os.close(writer)
    return "fetched one of our own"
