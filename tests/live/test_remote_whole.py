"""Nothing of a thread is changed by what we do with it: not when all goes well, and not when we die in the middle."""

from __future__ import annotations

import os
import random
import signal
import time
import warnings
from collections import Counter
from contextlib import suppress

import pytest

from dontneed import Advice, Span, Spans
from dontneed.abi import ptrace as abi
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.abi.x86_64 import RED_ZONE_BYTES
from dontneed.errors import TargetRefused
from dontneed.kernel import ptrace
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.stacks.dead_stacks import RESERVE_BYTES
from dontneed.remote.advise import advise_inside
from dontneed.remote.call import call
from dontneed.remote.lender import stack_of
from dontneed.remote.passage import Passage, Tail
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

from .native_target import PAGE, running

ROUNDS = int(os.environ.get("DONTNEED_ROUNDS", "200"))

pytestmark = pytest.mark.needs_command("cc")

REQUEST_NAMES = {number: name for name, number in vars(abi).items() if name.isupper() and isinstance(number, int)}


class Whole:
    """The target that knows its registers, and what it says of them."""

    def __init__(self, target, process):
        self.target = target
        self.process = process
        self.clobber, self.many, self.tail, self.components = (int(word, 0) for word in target.said[0].split())

    def state(self):
        """Turns, what was wrong, calls interrupted, functions begun, finished, tails, and what was wrong first."""
        words = self.target.tell("?")[0].split(None, 7)
        return [int(word) for word in words[:7]], "".join(words[7:])

    def assert_whole(self, interrupted=0):
        """Nothing was wrong, and no function was left in the middle."""
        (turns, wrong, eintr, begun, finished, tails, total), first = self.state()
        assert (wrong, first) == (0, "")
        assert eintr <= interrupted
        assert begun == finished
        assert total == 5 * tails
        return turns, begun, tails

    def inject(self):
        """System calls by whichever thread can; all are stopped."""
        with Stop(self.process) as stop:
            for _ in range(3):
                assert inject(stop, NR.GETPID) == self.target.pid

    def drop(self, keep=RED_ZONE_BYTES):
        """All dead stack, that of the borrowed thread too but for the ground that it stands on."""
        with Stop(self.process) as stop:
            spans = []
            for registers in stop.registers.values():
                start, _ = stack_of(stop, registers)
                spans.append(Span.inward(start, registers.rsp - keep - start))
            assert advise_inside(stop, Spans(spans), Advice.DONTNEED) > 0

    def drop_far(self):
        """Dead stack that nobody reaches soon: whoever dies now lets the others run on while it goes."""
        self.drop(RESERVE_BYTES)

    def call(self):
        """A function that spoils what it may, on the main thread; the others run on."""
        with Stop(self.process, threads=[self.target.pid]) as stop:
            assert call(stop, self.clobber, 1, 2, 3, 4, 5, 6) == 91

    def freely(self):
        """A function that makes so many system calls that it is not stopped at each of them."""
        with Stop(self.process, threads=[self.target.pid]) as stop:
            assert call(stop, self.many, 200) == 400

    def passage(self):
        """A function, system calls where the thread is parked behind it, and another function."""
        thread, arguments = self.target.pid, (1, 2, 3, 4, 5, 6)
        with (
            Stop(self.process, threads=[thread]) as stop,
            Passage(stop, thread, self.clobber, arguments, tail=Tail(self.tail, 5)) as passage,
        ):
            assert passage.result == 91
            assert passage.system_call(NR.GETTID) == thread
            page = inject(stop, NR.MMAP, 0, PAGE, 3, 0x22, -1, 0)
            assert page > 0
            assert inject(stop, NR.MUNMAP, page, PAGE) == 0


@pytest.fixture(params=["plain", "amx"])
def whole(request, tmp_path):
    """Two threads; once more with the tiles of AMX in use, where the processor has them."""
    words = [2] if request.param == "plain" else [2, "amx"]
    with running(tmp_path, "whole", *words) as target, ProcessDirectory(target.pid) as process:
        one = Whole(target, process)
        if request.param == "amx" and not one.components >> 18:
            pytest.skip("needs a processor with AMX")
        yield one


@pytest.mark.parametrize("what", ["inject", "drop", "call", "freely", "passage"])
def test_every_register_is_as_it_was(whole, what):
    """General and vector registers, the red zone, the signal mask and stack, the results and times of its own calls."""
    chance = random.Random(what)  # noqa: S311 - for a test, not for secrets
    for _ in range(ROUNDS // 4):
        getattr(whole, what)()
        time.sleep(chance.random() * 0.006)
    turns, begun, tails = whole.assert_whole()
    assert turns > 0
    assert begun == (0 if what in ("inject", "drop") else ROUNDS // 4)
    assert tails == (ROUNDS // 4 if what == "passage" else 0)


def forked(action):
    """A process of ours that does something and ends; it shares what has been found out already."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads: this one needs none
        child = os.fork()
    if not child:
        done = False
        try:
            action()
            done = True
        finally:
            os._exit(not done)  # and never back into pytest
    return child


def requests_of(action):
    """The ptrace requests that an action makes, by name."""
    made = []
    real = ptrace._request

    def noted(request, *arguments):
        made.append(REQUEST_NAMES.get(request, hex(request)))
        real(request, *arguments)

    ptrace._request = noted
    try:
        action()
    finally:
        ptrace._request = real
    return made


def dies_at(action, request, *, before):
    """Do something in a process that kills itself right before, or after, its nth ptrace request; whether it did."""

    def deadly():
        real = ptrace._request
        count = iter(range(1 << 30))

        def counted(*arguments):
            turn = next(count)
            if turn == request and before:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments)
            if turn == request:
                os.kill(os.getpid(), signal.SIGKILL)

        ptrace._request = counted
        with suppress(TargetRefused):  # the thread may still be on its way home from the last time
            action()

    _, status = os.waitpid(forked(deadly), 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


@pytest.mark.parametrize("what", ["inject", "drop_far", "call", "freely", "passage"])
def test_death_between_any_two_requests_leaves_the_target_whole(whole, what):
    """The thread walks home by itself. Only where it was interrupted, and not yet seen, a call may say EINTR."""
    action = getattr(whole, what)
    action()
    turns = max(len(requests_of(action)) for _ in range(3)) + 2
    deaths = Counter()
    for turn in sorted({*range(min(50, turns)), *range(max(0, turns - 25), turns)}):  # between them all are alike
        for before in (True, False):
            deaths[dies_at(action, turn, before=before)] += 1
            time.sleep(0.0005)
    whole.assert_whole(interrupted=turns)
    assert deaths[True] > deaths[False]
    action()
    whole.assert_whole(interrupted=turns)


def test_death_at_any_moment_leaves_the_target_whole(whole):
    """Also while the thread runs, in our function or on its way home."""
    chance = random.Random(6)  # noqa: S311 - for a test, not for secrets
    actions = [whole.inject, whole.drop_far, whole.call, whole.freely, whole.passage]
    for action in actions:
        action()

    def act_for_ever():
        while True:
            with suppress(TargetRefused):  # the thread may still be on its way home from the last time
                chance.choice(actions)()

    count = max(60, ROUNDS // 2)
    for _ in range(count):
        child = forked(act_for_ever)
        time.sleep(0.001 + chance.random() * 0.012)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status == signal.SIGKILL
    time.sleep(0.05)  # those on their way come home
    whole.assert_whole(interrupted=count)
    whole.passage()
