"""become_nobody.py PROGRAM [ARGUMENT...]: run a program with the rights of `nobody`.

An interpreter or a checkout in somebody's closed home directory is out of nobody's reach. Where that is so, this
process puts an open directory over the closed one, with the trees that Python needs bound into it, in a mount namespace
of its own: nobody else sees it, and it is gone with the program. Without root, the user that there is keeps its rights,
which are few enough.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NOBODY = 65534
"""uid and gid on Debian."""

CLONE_NEWNS = 0x20000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
"""include/uapi/linux/sched.h, include/uapi/linux/mount.h."""

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Become nobody, and then the program."""
    if os.geteuid() == 0:
        _open_the_way_to({Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[1]})
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    os.chdir("/")
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - what a shell would add is in the way


def _open_the_way_to(trees: set[Path]) -> None:
    closed = {tree: directory for tree in trees if (directory := _first_closed_directory(tree))}
    if not closed:
        return
    _check(_libc.unshare(CLONE_NEWNS), "unshare")
    _mount("none", Path("/"), None, MS_REC | MS_PRIVATE)
    held = {tree: os.open(tree, os.O_PATH) for tree in closed}
    for directory in set(closed.values()):
        _mount("none", directory, "tmpfs", 0)
        directory.chmod(0o755)
    for tree in sorted(held):
        if not tree.exists():
            tree.mkdir(parents=True)
            _mount(f"/proc/self/fd/{held[tree]}", tree, None, MS_BIND | MS_REC)


def _first_closed_directory(tree: Path) -> Path | None:
    """The uppermost directory on the way to `tree` that others may not pass through."""
    return next((directory for directory in reversed(tree.parents) if not directory.stat().st_mode & 0o001), None)


def _mount(source: str, target: Path, kind: str | None, flags: int) -> None:
    words = (source.encode(), os.fsencode(target), kind and kind.encode(), ctypes.c_ulong(flags), None)
    _check(_libc.mount(*words), f"mount {target}")


def _check(result: int, call: str) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call)


if __name__ == "__main__":
    main()
