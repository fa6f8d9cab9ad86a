"""`dead-stack`: what threads have come back from goes, and each goes on as if nothing had been."""

from __future__ import annotations

import ctypes
import re
import threading

import pytest

from dontneed.reasons import dead_stack
from dontneed.reasons.dead_stack import release_own_stack
from dontneed.reasons.survey import Limits

from .native_target import PAGE, ROUNDS, resident_bytes, running, subject_of

MIB = 1 << 20
THREADS = 64

needs_cc = pytest.mark.needs_command("cc")


def released_from(subject, **limits):
    """What a survey found, and what its release gave up."""
    found = dead_stack.survey(subject)
    return found, dead_stack.release(subject, found, Limits(**limits))


@needs_cc
def test_nearly_all_dead_stack_of_idle_threads_is_returned(tmp_path):
    """95 % and more of RSS's own figure; the frames that are alive hold what they held, and recursing works again."""
    dead_bytes = THREADS * 2 * MIB
    with running(tmp_path, "deep_threads", THREADS, 2048, "idle") as target:
        target.wait_until_asleep()
        for _ in range(2):
            before = resident_bytes(target.pid)
            with subject_of(target.pid) as subject:
                found, released = released_from(subject)
            assert before - resident_bytes(target.pid) >= 0.95 * dead_bytes
            assert released.advised == found.releasable_bytes
            assert len(released.pauses) == THREADS + 1  # the main thread has used some, too
            assert released.notes == ()
            target.tell("again")
            target.wait_until_asleep()
        assert target.tell("end") == ["errors 0"]


@needs_cc
def test_threads_at_work_lose_nothing(tmp_path):
    """They recurse to any depth and come back all the time, and look into every frame."""
    dropped = 0
    with running(tmp_path, "deep_threads", 4, 512, "busy") as target:
        for _ in range(ROUNDS):
            with subject_of(target.pid) as subject:
                dropped += released_from(subject)[1].advised
        assert target.tell("end") == ["errors 0"]
    assert dropped > ROUNDS * PAGE


@needs_cc
def test_stacks_that_are_not_what_they_seem_are_left_alone(tmp_path):
    """Below the stack pointer there lies what somebody else still needs, or what is nobody's stack at all."""
    with running(tmp_path, "odd_stacks") as target:
        target.wait_until_asleep()
        roles = {thread: name for name, (thread,) in target.named().items()}
        with subject_of(target.pid) as subject:
            found, released = released_from(subject)
        assert sorted(roles.get(thread, "main") for thread in found.details) == ["plain"]
        assert released.advised == found.releasable_bytes
        assert target.tell("end") == ["errors 0"]
    said = "; ".join(found.refused)
    # Whether a foreign stack is seen for what it is, or as one too deep, depends on what lies above it in memory.
    assert sum(int(number) for number in re.findall(r"(\d+) threads? (?:is|are)", said)) == len(roles) - 2
    assert "holding addresses below their stack pointer" in said
    assert "mlock" in said


@needs_cc
def test_a_shorter_pause_takes_more_stops(tmp_path):
    """A MiB at a time, at least, and in the end the same."""
    with running(tmp_path, "deep_threads", 1, 4096, "idle") as target:
        target.wait_until_asleep()
        with subject_of(target.pid) as subject:
            found, released = released_from(subject, max_pause_seconds=0.0)
        assert target.tell("end") == ["errors 0"]
    assert released.advised == found.releasable_bytes
    assert len(released.pauses) > 2


@needs_cc
def test_a_thread_that_has_ended_is_passed_over(tmp_path):
    """It took its stack along; the others are still given what they were found for."""
    with running(tmp_path, "deep_threads", 2, 512, "idle") as target:
        target.wait_until_asleep()
        with subject_of(target.pid) as subject:
            found = dead_stack.survey(subject)
            target.tell("end")
            released = dead_stack.release(subject, found, Limits())
    assert len(found.details) == 3
    assert 0 < released.advised < found.releasable_bytes


def call_deep(levels):
    """Use the C stack: qsort calls back into Python, which calls qsort."""
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    libc = ctypes.CDLL(None)

    def deeper(left):
        if left:
            libc.qsort(ctypes.create_string_buffer(2), 2, 1, compare(lambda *_: deeper(left - 1) or 0))

    deeper(levels)


def test_the_calling_thread_gives_its_own_back():
    """Without a stop, and it goes on to call as deep as before."""
    given = []

    def work():
        for _ in range(2):
            call_deep(150)
            given.append(release_own_stack())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [released.advised == released.asked == released.spans.size_bytes for released in given] == [True, True]
    assert min(released.advised for released in given) >= 16 * PAGE
    assert given[0].pauses == ()


def test_the_main_thread_gives_its_own_back(child):
    """Its stack is a mapping that grows, of which the C library knows only how far it may."""
    target = child(
        "import ctypes\nfrom dontneed.reasons.dead_stack import release_own_stack\n"
        "compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)\nlibc = ctypes.CDLL(None)\n"
        "def deeper(left):\n"
        "    if left: libc.qsort(ctypes.create_string_buffer(2), 2, 1, compare(lambda *_: deeper(left - 1) or 0))\n"
        "deeper(200)\nprint(release_own_stack().advised)\ndeeper(200)\nprint('whole')"
    )
    advised, whole = target.said
    assert int(advised) >= 16 * PAGE
    assert whole == "whole"
