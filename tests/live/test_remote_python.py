"""A busy Python with many threads, stopped and acted in all the time: all that it does comes out right."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress

import pytest

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import ProcessGone
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote.call import call
from dontneed.remote.lender import why_not
from dontneed.remote.quiet import quiet_threads, still_quiet
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

from .python_target import PATIENCE_SECONDS, running

ROUNDS = int(os.environ.get("DONTNEED_ROUNDS", "200"))


def stop_all(process):
    """A system call by whichever thread can."""
    with Stop(process) as stop:
        assert inject(stop, NR.GETPID) == process.pid


def call_quietly(process, function, argument, expected):
    """A function by a thread that is in no malloc, as soon as there is one."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not called(process, function, argument, expected):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def called(process, function, argument, expected):
    """Whether there was such a thread."""
    for quiet in quiet_threads(process):
        with suppress(ProcessGone), Stop(process, threads=[quiet.thread]) as stop:  # it may be the thread that has
            if still_quiet(stop, quiet.thread) and not why_not(stop, quiet.thread, stop.registers[quiet.thread]):
                assert call(stop, function, argument) in expected
                return True
    return False


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_a_busy_python_does_everything_right(version):
    """Hashes, JSON, queues, waits, sockets, files, an event loop; and malloc_trim in between does not deadlock."""
    chance = random.Random(version)  # noqa: S311 - for a test, not for secrets
    with running(version, "busy.py") as target, ProcessDirectory(target.pid) as process:
        labs, malloc_trim = target.numbers()
        for turn in range(ROUNDS // 4):
            stop_all(process)
            if turn % 2:
                call_quietly(process, labs, -turn, {turn})
            else:
                call_quietly(process, malloc_trim, 0, {0, 1})
            time.sleep(chance.random() * 0.01)
        target.tell()
        least, turns, wrong, *first = target.line().split(None, 3)
        assert (int(wrong), first) == (0, [])
        assert 0 < int(least) < int(turns)
        target.ended_well()
