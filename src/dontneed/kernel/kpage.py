"""/proc/kpageflags and /proc/kpagecount: what every frame of the machine is, and how often it is mapped.

For a part of a large folio kpagecount may be an average over the folio (CONFIG_NO_PAGE_MAPCOUNT), so it tells shared
from not shared, and no more.

Kernel:
    since 2.6.25; fs/proc/page.c; root only. Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import os

from dontneed.errors import KernelLacks, NotPermitted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.kernel.pagemap import Words

_WORD_BYTES = 8


def read_frame_flags(frames: Words) -> Words:
    """The flags of frames, as `abi.kpageflags` names them.

    Args:
        frames: uint64 frame numbers, in any order; runs of neighbours are read together.
    Returns:
        uint64, shaped like `frames`.
    Raises:
        NotPermitted: not root. KernelLacks: no such file (CONFIG_PROC_PAGE_MONITOR), or a container hides it.
    """
    return _read_words("/proc/kpageflags", frames)


def read_map_counts(frames: Words) -> Words:
    """How often frames are mapped, by all processes together.

    Args, Returns, Raises: as `read_frame_flags`.
    """
    return _read_words("/proc/kpagecount", frames)


def _read_words(path: str, frames: Words) -> Words:
    import numpy as np

    unique, where = np.unique(frames, return_inverse=True)
    words = np.zeros(len(unique), np.uint64)
    view = memoryview(words.data).cast("B")
    cuts = np.flatnonzero(np.diff(unique) != 1) + 1
    fd = _open(path)
    try:
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(unique)], strict=True):
            if first < last:
                _read_run(fd, int(unique[first]), view[first * _WORD_BYTES : last * _WORD_BYTES])
    finally:
        os.close(fd)
    found: Words = words[where.reshape(frames.shape)]
    return found


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        msg = f"not permitted to read {path}"
        raise NotPermitted(msg, hint="frames are shown to root only: run as root (sudo)") from None
    except FileNotFoundError:
        msg = f"there is no {path}: a kernel without CONFIG_PROC_PAGE_MONITOR, or a container that hides it"
        raise KernelLacks(msg) from None


def _read_run(fd: int, first_frame: int, into: memoryview) -> None:
    """Fill `into` with the words of neighbouring frames; what lies beyond the last frame of the machine stays 0."""
    done = 0
    while done < len(into):
        count = os.preadv(fd, [into[done:]], first_frame * _WORD_BYTES + done)
        if count <= 0:
            return
        done += count
