"""Signals and stops of others while we hold a process: none is lost, none comes twice, and a stop stays a stop."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote.call import call
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

from .native_target import PATIENCE_SECONDS, running

ROUNDS = int(os.environ.get("DONTNEED_ROUNDS", "200"))

THREADS = """if True:
    import ctypes, threading, time
    for _ in range(3):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    print(ctypes.cast(ctypes.CDLL(None).usleep, ctypes.c_void_p).value)
    pause()
"""


def states_of(pid):
    """The state letter of every thread."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {(task / "stat").read_bytes().rpartition(b") ")[2][:1].decode() for task in tasks}


def wait_for(pid, states):
    """Wait until all threads are in one of these states."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not states_of(pid) <= set(states):
        assert time.monotonic() < deadline, f"threads are {states_of(pid)}, not {states}"
        time.sleep(0.001)


def assert_goes_on(target):
    """It answers, once it is continued."""
    os.kill(target.pid, signal.SIGCONT)
    wait_for(target.pid, "S")
    target.proceed()


@pytest.mark.needs_command("cc")
def test_no_signal_is_lost_in_a_storm(tmp_path):
    """A thousand queued ones a second, and as many sent one by one; and no sleep is cut short by a stop."""
    chance = random.Random(7)  # noqa: S311 - for a test, not for secrets
    with running(tmp_path, "signals") as target, ProcessDirectory(target.pid) as process:
        for _ in range(ROUNDS):
            with Stop(process) as stop:
                assert inject(stop, NR.GETPID) == target.pid
            time.sleep(chance.expovariate(1 / 0.004))
        said = {name: [int(word) for word in words] for name, *words in map(str.split, target.tell("end"))}
    for kind in ("queued", "single"):
        sent, handled = said[kind]
        assert 0 < sent == handled
    assert said["timer"] > [0]
    assert said["interrupted"] == [0]
    assert said["errors"] == [0]


def test_a_stopped_process_stays_stopped(child):
    """It was stopped by SIGSTOP before we came; we act in it all the same, and leave it as it was."""
    target = child(THREADS)
    os.kill(target.pid, signal.SIGSTOP)
    wait_for(target.pid, "T")
    with ProcessDirectory(target.pid) as process:
        for _ in range(3):
            with Stop(process) as stop:
                assert len(stop.registers) == 4
                assert inject(stop, NR.GETPID) == target.pid
            wait_for(target.pid, "T")
            time.sleep(0.02)
            assert states_of(target.pid) == {"T"}
    assert_goes_on(target)


def test_a_stop_that_arrives_while_we_hold_it_takes_effect_afterwards(child):
    """SIGSTOP is neither lost nor does it disturb us."""
    target = child(THREADS)
    with ProcessDirectory(target.pid) as process:
        with Stop(process) as stop:
            assert inject(stop, NR.GETPID) == target.pid
            os.kill(target.pid, signal.SIGSTOP)
            assert inject(stop, NR.GETPID) == target.pid
        wait_for(target.pid, "T")
    assert_goes_on(target)


def test_a_stop_and_its_end_while_we_hold_it_cancel_out(child):
    """In both orders: stopped and continued while held; or stopped before, and continued while held."""
    target = child(THREADS)
    with ProcessDirectory(target.pid) as process:
        with Stop(process) as stop:
            os.kill(target.pid, signal.SIGSTOP)
            inject(stop, NR.GETPID)
            os.kill(target.pid, signal.SIGCONT)
            inject(stop, NR.GETPID)
        wait_for(target.pid, "S")
        os.kill(target.pid, signal.SIGSTOP)
        wait_for(target.pid, "T")
        with Stop(process) as stop:
            inject(stop, NR.GETPID)
            os.kill(target.pid, signal.SIGCONT)
            inject(stop, NR.GETPID)
        wait_for(target.pid, "S")
    target.proceed()


def test_a_function_is_finished_though_the_process_is_stopped_meanwhile(child):
    """The borrowed thread may hold a lock: it joins the others in their stop when it is home."""
    target = child(THREADS)
    usleep = int(target.said[0])
    pid = os.fork()
    if not pid:
        time.sleep(0.05)
        os.kill(target.pid, signal.SIGSTOP)
        os._exit(0)
    with ProcessDirectory(target.pid) as process:
        with Stop(process, threads=[target.pid]) as stop:
            assert call(stop, usleep, 200_000) == 0
        os.waitpid(pid, 0)
        wait_for(target.pid, "T")
    assert_goes_on(target)


def test_a_signal_for_a_borrowed_thread_waits_for_it(child):
    """Its handler runs when the thread is home, and once."""
    target = child(
        "import ctypes, signal\nseen = []\nsignal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))\n"
        "print(ctypes.cast(ctypes.CDLL(None).usleep, ctypes.c_void_p).value)\npause()\nprint(*seen)"
    )
    with ProcessDirectory(target.pid) as process, Stop(process) as stop:
        os.kill(target.pid, signal.SIGUSR1)
        assert call(stop, int(target.said[0]), 1000) == 0
        assert inject(stop, NR.GETPID) == target.pid
    time.sleep(0.05)
    assert target.proceed() == ["10"]


def test_an_ignored_signal_wakes_nobody(child):
    """Traced, a process is sent even the signals that it ignores: they vanish all the same."""
    target = child("import select\nqueue = select.epoll()\npause()\nprint(queue.poll(0.3))\npause()")
    target._process.stdin.write(b"\n")
    with ProcessDirectory(target.pid) as process:
        for _ in range(20):
            with Stop(process) as stop:
                os.kill(target.pid, signal.SIGWINCH)
                inject(stop, NR.GETPID)
            time.sleep(0.001)
    assert target._wait_until_ready() == ["[]"]
