"""Functions that are called from outside: what they return, who may run them, and those that take too long."""

from __future__ import annotations

import time

import pytest

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import TargetRefused, UsageError
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote.call import call
from dontneed.remote.lender import has_proven_stack, why_not
from dontneed.remote.passage import Passage
from dontneed.remote.quiet import quiet_threads, still_quiet
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

from .native_target import PATIENCE_SECONDS, running

pytestmark = pytest.mark.needs_command("cc")


class Callable:
    """The target with functions, and what it says of them."""

    def __init__(self, target, process):
        self.target = target
        self.process = process
        self.said = {name: words[0] for name, words in target.named().items()}

    def counted(self):
        """How often each function ended, by name; with what was wrong."""
        return {name: int(number) for name, number in map(str.split, self.target.tell("?"))}

    def call_by(self, thread, name, *arguments, **options):
        """Have one thread call a function, while the others run on."""
        with Stop(self.process, threads=[thread]) as stop:
            return call(stop, self.said[name], *arguments, **options)

    def wait_until(self, name, number):
        """Wait until a function has ended so often."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.counted()[name] != number:
            assert time.monotonic() < deadline
            time.sleep(0.002)


@pytest.fixture
def one(tmp_path):
    """The target, all its threads asleep."""
    with running(tmp_path, "callable") as target, ProcessDirectory(target.pid) as process:
        yield Callable(target, process)


def test_a_function_that_waits_for_a_lock_gets_it(one):
    """The other threads run on, so that whoever holds it can give it back."""
    one.target.tell("l")
    with Stop(one.process, threads=[one.said["sleeper"]]) as stop:
        one.target._process.stdin.write(b"u\n")  # is done some time during the call
        assert call(stop, one.said["locked"], 41) == 42
    one.target._until_ready()
    assert one.counted()["locked"] == 1


def test_a_function_that_takes_too_long_is_finished_by_its_thread_alone(one):
    """It may hold a lock: tearing it out would leave that locked for ever. It goes on with its own work afterwards."""
    one.target.tell("l")
    sleeper = one.said["sleeper"]
    with Stop(one.process, threads=[sleeper]) as stop:
        with pytest.raises(TargetRefused, match="finishes by itself"):
            call(stop, one.said["locked"], 1, patience_seconds=0.05)
        assert sleeper not in stop.registers
    before = one.counted()
    assert before["locked"] == 0
    one.target.tell("u")
    one.wait_until("locked", 1)
    time.sleep(0.05)
    after = one.counted()
    assert after["sleeps"] > before["sleeps"]
    assert after["errors"] == 0


def test_a_function_of_many_system_calls_runs_freely(one):
    """It is not stopped at each of them; its result comes all the same, and its thread is held again."""
    sleeper = one.said["sleeper"]
    for count in (1, 20, 31, 32, 33, 100, 5000):
        with Stop(one.process, threads=[sleeper]) as stop:
            assert call(stop, one.said["many"], count) == 2 * count
            assert sleeper in stop.registers
            assert inject(stop, NR.GETTID) == sleeper
            assert call(stop, one.said["many"], 3) == 6
    assert one.counted() | {"sleeps": 0} == {"locked": 0, "many": 14, "faults": 0, "sleeps": 0, "errors": 0}


def test_a_passage_goes_on_after_a_function_that_ran_freely(one):
    """Its thread has been home meanwhile, and perhaps done something: it is borrowed anew from where it is."""
    sleeper = one.said["sleeper"]
    for _ in range(20):
        with Stop(one.process, threads=[sleeper]) as stop, Passage(stop, sleeper, one.said["many"], (300,)) as passage:
            assert passage.result == 600
            time.sleep(0.001)
            assert passage.system_call(NR.GETTID) == sleeper
            assert passage.call(one.said["many"], 200) == 400
            assert passage.call(one.said["many"], 2) == 4
            assert inject(stop, NR.GETTID) == sleeper
        time.sleep(0.005)
    assert one.counted() | {"sleeps": 0} == {"locked": 0, "many": 60, "faults": 0, "sleeps": 0, "errors": 0}


def test_a_function_that_takes_too_long_in_many_calls_is_let_go(one):
    """As one that waits."""
    with pytest.raises(TargetRefused, match="finishes by itself"):
        one.call_by(one.said["sleeper"], "many", 500_000, patience_seconds=0.03)
    one.wait_until("many", 1)
    assert one.counted()["errors"] == 0


def test_a_function_that_crashes_does_no_harm(one):
    """The thread is put back; the program's own handler neither runs nor is taken away."""
    for _ in range(3):
        with pytest.raises(TargetRefused, match="SIGSEGV"):
            one.call_by(one.said["sleeper"], "crash", 8)
    with Stop(one.process, threads=[one.said["sleeper"]]) as stop:
        with pytest.raises(TargetRefused, match="SIGSEGV"):
            call(stop, 16)
        assert call(stop, one.said["locked"], 1) == 2
        assert inject(stop, NR.GETTID) == one.said["sleeper"]
    assert one.counted() | {"sleeps": 0} == {"locked": 1, "many": 0, "faults": 0, "sleeps": 0, "errors": 0}


def test_a_function_has_some_stack_of_its_own(one):
    """Half of what is promised, on any thread; what is above is not touched."""
    for name in ("sleeper", "holder", "plain_futex"):
        assert one.call_by(one.said[name], "deep", 16 << 10) == 0x55
    assert one.counted()["errors"] == 0


def test_only_threads_on_their_own_stack_are_borrowed(one):
    """Below the stack pointer of a signal stack or of a coroutine there may be anything."""
    with Stop(one.process) as stop:
        proven = {
            name for name, thread in one.said.items() if thread in stop.registers and has_proven_stack(stop, thread)
        }
        assert proven == {"handler", "plain_futex", "sleeper", "holder"}
        assert has_proven_stack(stop, one.target.pid)
        assert "stack" in why_not(stop, one.said["coroutine"], stop.registers[one.said["coroutine"]])
    for name in ("coroutine", "signal_stack"):
        with Stop(one.process, threads=[one.said[name]]) as stop, pytest.raises(TargetRefused, match="stack"):
            inject(stop, NR.GETPID)
    with Stop(one.process, threads=[one.said["coroutine"], one.said["sleeper"]]) as stop:
        assert inject(stop, NR.GETTID) == one.said["sleeper"]


def test_a_thread_in_a_signal_handler_is_not_quiet(one):
    """The handler may have interrupted malloc. From outside it looks like any other that waits in poll."""
    quiet = {each.thread: each.call_name for each in quiet_threads(one.process)}
    assert quiet[one.said["handler"]] == quiet[one.said["coroutine"]] == "poll"
    assert one.said["plain_futex"] not in quiet
    with Stop(one.process) as stop:
        sleeps = stop.registers[one.said["sleeper"]].system_call is not None  # it may be between two of them
        assert {name: still_quiet(stop, thread) for name, thread in one.said.items() if thread in stop.registers} == {
            "handler": False,
            "signal_stack": False,
            "coroutine": False,
            "plain_futex": False,
            "sleeper": sleeps,
            "holder": True,
        }
        assert still_quiet(stop, one.target.pid)


def test_a_quiet_thread_stays_quiet_when_it_was_stopped_before(one):
    """Interrupted once, its sleep goes on as restart_syscall, which says nothing of what it was."""
    for _ in range(5):
        with Stop(one.process, threads=[one.said["sleeper"]]) as stop:
            if stop.registers[one.said["sleeper"]].system_call is not None:
                assert still_quiet(stop, one.said["sleeper"])


def test_one_function_at_a_time(one):
    """A thread on its way through one function is not sent through another; its system calls go on."""
    main = one.target.pid
    with Stop(one.process, threads=[main]) as stop, Passage(stop, main, one.said["many"], (2,)) as passage:
        with pytest.raises(UsageError, match="already"):
            call(stop, one.said["many"], 1)
        assert passage.result == 4
        assert inject(stop, NR.GETTID) == main


def test_no_function_is_refused(one):
    """A symbol that was not found is 0."""
    with Stop(one.process) as stop, pytest.raises(TargetRefused, match="address 0"):
        call(stop, 0)


def test_a_thread_that_computes_lends_itself_for_system_calls(tmp_path):
    """If there is no better one: it is in no critical section, as the kernel says."""
    with running(tmp_path, "callable", "spin") as target, ProcessDirectory(target.pid) as process:
        spinning = Callable(target, process).said["spinning"]
        for _ in range(10):
            with Stop(process, threads=[spinning]) as stop:
                assert stop.registers[spinning].system_call is None
                assert inject(stop, NR.GETTID) == spinning
