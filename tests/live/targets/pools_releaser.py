"""Gives pools of a process back without end, to be killed while it does.

Argument: its pid. For each line it says the pid of a child that does so, which says `hold` each time before it borrows
a thread, and `held` when that has the GIL. A second line reaps the child.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from dontneed.errors import TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.subject import read_subject
from dontneed.reasons import free_pools
from dontneed.reasons.survey import Limits
from dontneed.remote.gil import Gil


def release(process, hint):
    """Survey and release once; the hint for the next time."""
    subject = read_subject(process)
    found = free_pools.survey(subject, hint)
    with suppress(TargetRefused):  # nobody waits just now
        free_pools.release(subject, found, Limits())
    return found.hint


def release_for_ever(process, hint):
    """Survey, release, again; and tell whenever the GIL is about to be taken."""
    borrowed = Gil._borrowed

    def telling(gil, thread):
        os.write(1, b"hold\n")
        held = borrowed(gil, thread)
        if held is not None:
            os.write(1, b"held\n")
        return held

    Gil._borrowed = telling
    while True:
        hint = release(process, hint)


def main():
    """Serve lines."""
    with ProcessDirectory(int(sys.argv[1])) as process:
        hint = release(process, None)  # what is found once is inherited
        for _ in sys.stdin:
            child = os.fork()
            if not child:
                try:
                    release_for_ever(process, hint)
                finally:
                    os._exit(1)
            print(child, flush=True)
            sys.stdin.readline()
            os.waitpid(child, 0)
            print("reaped", flush=True)


main()
