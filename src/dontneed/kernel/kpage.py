"""/proc/kpageflags and /proc/kpagecount: what every frame of the machine is, and how often it is mapped.

For a part of a large folio kpagecount may be an average over the folio (CONFIG_NO_PAGE_MAPCOUNT), so it tells shared
from not shared, and no more.

Kernel:
    since 2.6.25; fs/proc/page.c; root only. Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import os
from array import array

from dontneed.errors import KernelLacks, NotPermitted
from dontneed.kernel.libc import pread_held

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from dontneed.kernel.pagemap import Words

_WORD_BYTES = 8
_JOIN_FRAMES = 64
"""A gap that is cheaper to read than to jump: a word takes some 30 ns, a system call some µs."""


def read_frame_flags(frames: Words) -> Words:
    """The flags of frames, as `abi.kpageflags` names them.

    The GIL is held meanwhile, some 0.1 µs a frame: ask for some thousands at a time.

    Args:
        frames: uint64 frame numbers, in any order; runs of neighbours are read together.
    Returns:
        uint64, shaped like `frames`.
    Raises:
        NotPermitted: not root. KernelLacks: no such file (CONFIG_PROC_PAGE_MONITOR), or a container hides it.
    """
    return _read_words("/proc/kpageflags", frames)


def read_flags_of(frames: Sequence[int]) -> dict[int, int]:
    """The flags of each of some frames, without numpy; 0 beyond the last frame of the machine.

    Args:
        frames: ascending, each once.
    Raises:
        As `read_frame_flags`.
    """
    return _read_words_of("/proc/kpageflags", frames)


def read_map_counts(frames: Words) -> Words:
    """How often frames are mapped, by all processes together.

    Args, Returns, Raises: as `read_frame_flags`.
    """
    return _read_words("/proc/kpagecount", frames)


def read_map_counts_of(frames: Sequence[int]) -> dict[int, int]:
    """How often each of some frames is mapped, without numpy; 0 beyond the last frame of the machine.

    Args:
        frames: ascending, each once.
    Raises:
        As `read_frame_flags`.
    """
    return _read_words_of("/proc/kpagecount", frames)


def _read_words_of(path: str, frames: Sequence[int]) -> dict[int, int]:
    """The word of each frame, as `_read_words` reads them."""
    found: dict[int, int] = {}
    fd = _open(path)
    try:
        cuts = [place for place in range(1, len(frames)) if frames[place] - frames[place - 1] > _JOIN_FRAMES]
        for begin, end in zip([0, *cuts], [*cuts, len(frames)], strict=True):
            run = frames[begin:end]
            if run:
                size = (run[-1] - run[0] + 1) * _WORD_BYTES
                words = array("Q", os.pread(fd, size, run[0] * _WORD_BYTES).ljust(size, b"\0"))
                found.update((frame, words[frame - run[0]]) for frame in run)
    finally:
        os.close(fd)
    return found


def _read_words(path: str, frames: Words) -> Words:
    """The word of each frame; frames that lie close together are read together, with what is between them."""
    import numpy as np

    unique, where = np.unique(frames, return_inverse=True)
    words = np.zeros(len(unique), np.uint64)
    cuts = np.flatnonzero(np.diff(unique) > _JOIN_FRAMES) + 1
    fd = _open(path)
    try:
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(unique)], strict=True):
            if first < last:
                near = unique[first:last] - unique[first]
                words[first:last] = _read_run(fd, int(unique[first]), int(near[-1]) + 1)[near]
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


def _read_run(fd: int, first: int, count: int) -> Words:
    """The words of `count` neighbouring frames; what lies beyond the last frame of the machine stays 0."""
    import numpy as np

    words = np.zeros(count, np.uint64)
    done = 0
    while done < words.nbytes:
        size = pread_held(fd, words.ctypes.data + done, words.nbytes - done, first * _WORD_BYTES + done)
        if size <= 0:
            break
        done += size
    return words
