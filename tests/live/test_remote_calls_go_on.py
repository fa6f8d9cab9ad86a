"""Threads that are stopped and resumed in the middle of a system call: each gets what it would have got without us."""

from __future__ import annotations

import os
import random
import time

import pytest

from dontneed import Advice, Span, Spans
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import ProcessGone, TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote.advise import advise_inside
from dontneed.remote.quiet import quiet_threads
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

from .native_target import PAGE, running

ROUNDS = int(os.environ.get("DONTNEED_ROUNDS", "200"))

pytestmark = pytest.mark.needs_command("cc")


def map_a_page(stop):
    """Mapped, advised and unmapped by the process itself."""
    page = inject(stop, NR.MMAP, 0, PAGE, 3, 0x22, -1, 0)
    assert page > 0
    assert advise_inside(stop, Spans([Span(page, page + PAGE)]), Advice.DONTNEED) == PAGE
    assert inject(stop, NR.MUNMAP, page, PAGE) == 0


def test_every_kind_of_blocking_call_returns_as_if_nothing_had_been(tmp_path):
    """No EINTR, no timeout that ends early, no byte, signal, child or wake-up that is lost: fifty threads check."""
    chance = random.Random(4)  # noqa: S311 - for a test, not for secrets
    with running(tmp_path, "blocked") as target, ProcessDirectory(target.pid) as process:
        for turn in range(ROUNDS):
            with Stop(process) as stop:
                if turn % 2:
                    map_a_page(stop)
            time.sleep(chance.expovariate(1 / 0.007))
        found = {line.split()[0]: line.split(None, 3)[1:] for line in target.tell("end")}
    assert {name: words for name, words in found.items() if words[1] != "0"} == {}
    assert min(int(words[0]) for name, words in found.items() if name != "main") > 0
    assert len(found) > 45


def test_one_thread_at_a_time_is_no_different(tmp_path):
    """The others run on, feed it, and take what was meant for it where they can."""
    chance = random.Random(5)  # noqa: S311 - for a test, not for secrets
    with running(tmp_path, "blocked") as target, ProcessDirectory(target.pid) as process:
        threads = process.threads()
        for _ in range(ROUNDS):
            thread = chance.choice(threads)
            with Stop(process, threads=[thread]) as stop:
                assert list(stop.registers) == [thread]
                assert inject(stop, NR.GETTID) == thread
            time.sleep(chance.expovariate(1 / 0.002))
        found = {line.split()[0]: line.split(None, 3)[1:] for line in target.tell("end")}
    assert {name: words for name, words in found.items() if words[1] != "0"} == {}


def test_quiet_threads_are_those_in_calls_that_malloc_never_makes(tmp_path):
    """Of the fifty: not the one that computes, and none in a plain futex wait, which is malloc's own."""
    seen = set()
    with running(tmp_path, "blocked") as target, ProcessDirectory(target.pid) as process:
        for _ in range(5):
            quiet = quiet_threads(process)
            seen |= {each.call_name for each in quiet}
            assert {each.thread for each in quiet} <= set(process.threads())
            assert not any(each.call_name == "futex" and each.arguments[1] & 0x7F == 0 for each in quiet)
            time.sleep(0.01)
    assert seen >= {"clock_nanosleep", "poll", "epoll_wait", "read", "accept", "wait4", "recvfrom", "futex"}


def test_a_thread_that_ends_meanwhile_is_no_surprise(tmp_path):
    """Stopping one that is no longer there says so; its process goes on."""
    with running(tmp_path, "blocked") as target, ProcessDirectory(target.pid) as process:
        with pytest.raises((ProcessGone, TargetRefused)), Stop(process, threads=[os.getpid()]):
            pass
        target.tell("end")
