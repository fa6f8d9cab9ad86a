"""Processes that change while they are being stopped: threads and children come and go, programs are replaced, or end.

Whatever happens, we come back soon, with the process held or with a refusal that says why; and it is none the worse.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
import warnings

import pytest

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import ProcessGone, TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

from .native_target import SOURCES, running

ROUNDS = int(os.environ.get("DONTNEED_ROUNDS", "200"))

pytestmark = pytest.mark.needs_command("cc")


def act_on(process):
    """Stop it and have it say its number; "held", or the kind of the refusal."""
    try:
        with Stop(process) as stop:
            assert inject(stop, NR.GETPID) == process.pid
    except (TargetRefused, ProcessGone) as refused:
        return type(refused).__name__
    return "held"


@pytest.mark.parametrize("mode", ["threads", "forks", "spawns"])
def test_threads_and_children_come_and_go_meanwhile(tmp_path, mode):
    """Every thread that there is in the end is held, and what they make of each other is right."""
    chance = random.Random(mode)  # noqa: S311 - for a test, not for secrets
    outcomes = []
    with running(tmp_path, "restless", mode) as target, ProcessDirectory(target.pid) as process:
        for _ in range(ROUNDS):
            outcomes.append(act_on(process))
            time.sleep(chance.random() * 0.002)
        turns, errors = target.tell("end")
    assert errors == "errors 0"
    assert int(turns.split()[1]) > 0
    assert outcomes.count("held") > 0.8 * ROUNDS


def test_every_thread_is_held_while_threads_are_made(tmp_path):
    """A thread that is born during the stop is found, too: what /proc lists is what we hold."""
    with running(tmp_path, "restless", "threads") as target, ProcessDirectory(target.pid) as process:
        for _ in range(ROUNDS // 4):
            with Stop(process) as stop:
                alive = {thread for thread in process.threads() if not stop._has_ended(thread)}
                assert set(stop.registers) == alive
                time.sleep(0.001)
                assert {thread for thread in process.threads() if not stop._has_ended(thread)} == alive
        target.tell("end")


def test_a_process_that_replaces_its_program_is_held_or_refused(tmp_path):
    """By a thread beside the main one, whose number it takes over; each program goes on to the next."""
    chance = random.Random(8)  # noqa: S311 - for a test, not for secrets
    outcomes = []
    with running(tmp_path, "restless", "execs") as target, ProcessDirectory(target.pid) as process:
        for _ in range(ROUNDS):
            outcomes.append(act_on(process))
            time.sleep(chance.random() * 0.003)
        turns, errors = target.tell("end")
    assert errors == "errors 0"
    assert int(turns.split()[1]) > ROUNDS / 20
    assert outcomes.count("held") > 0
    assert set(outcomes) <= {"held", "TargetRefused"}


def test_a_process_that_ends_meanwhile_ends_as_it_would_have(tmp_path):
    """With the exit status that it chose; and we say that it has gone."""
    program = tmp_path / "restless"
    subprocess.run(["cc", "-pthread", SOURCES / "restless.c", "-o", program], check=True)
    outcomes = []
    for _ in range(max(20, ROUNDS // 5)):
        with subprocess.Popen([program, "exits"], stdout=subprocess.PIPE) as target:
            target.stdout.readline()
            outcomes.append(outcome_in_a_child(target.pid))
            assert target.wait() == 7
    assert set(outcomes) <= {"held", "ProcessGone", "TargetRefused"}
    assert "ProcessGone" in outcomes


def outcome_in_a_child(pid):
    """What becomes of the tries of a process of ours that is not the target's parent: its last outcome.

    A parent is told the end of its child by the same call as a tracer, and must not be both.
    """
    reads, writes = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        try:
            outcome = "ProcessGone"
            with ProcessDirectory(pid) as process:
                while (outcome := act_on(process)) == "held":
                    pass
        except ProcessGone:
            pass
        finally:
            os.write(writes, outcome.encode())
            os._exit(0)
    os.close(writes)
    os.waitpid(child, 0)
    outcome = os.read(reads, 64).decode()
    os.close(reads)
    return outcome


def test_a_process_that_is_killed_while_we_hold_it_has_gone(child):
    """Its threads vanish under our hands; that is all that we say."""
    target = child()
    with ProcessDirectory(target.pid) as process:
        with Stop(process) as stop:
            assert inject(stop, NR.GETPID) == target.pid
            os.kill(target.pid, signal.SIGKILL)
            with pytest.raises(ProcessGone):
                inject(stop, NR.GETPID)
        with pytest.raises(ProcessGone), Stop(process):
            pass


def test_a_process_whose_main_thread_has_ended_is_refused(tmp_path):
    """The others go on, but what they have is no longer seen through the main one. It is not said to have gone."""
    source = tmp_path / "headless.c"
    source.write_text(
        "#include <pthread.h>\n#include <unistd.h>\nvoid *wait(void *unused) { for (;;) pause(); return unused; }\n"
        "int main(void) { pthread_t one; pthread_create(&one, 0, wait, 0); pthread_exit(0); }"
    )
    subprocess.run(["cc", "-w", "-pthread", source, "-o", tmp_path / "headless"], check=True)
    with subprocess.Popen([tmp_path / "headless"]) as target:
        time.sleep(0.05)
        with ProcessDirectory(target.pid) as process, pytest.raises(TargetRefused, match="main thread"), Stop(process):
            pass
        target.kill()
