"""Pools of running CPythons, given back: what goes, what stays whole, what is refused."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from dontneed.errors import TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.presence import read_presence
from dontneed.observe.python import runtime as python_runtime
from dontneed.observe.subject import read_subject
from dontneed.remote.gil import Gil

from .python_target import (
    FEW_MODULES,
    MODULES,
    STRESS,
    VERSIONS,
    PythonTarget,
    release_until,
    released,
    running,
    surveyed,
    version_of,
)
from .python_target import TARGETS as TARGET_FILES

HERE = "{}.{}".format(*sys.version_info)
SEEN_HERE = VERSIONS if STRESS else (HERE,)
OBJECTS = 2_000_000 if STRESS else 300_000
BUSY_SECONDS = 60 if STRESS else 1
KILLS = 200 if STRESS else 40

WAITS = "import sys; print(flush=True); sys.stdin.readline()"


@pytest.mark.parametrize("how", ["random", "clustered"])
@pytest.mark.parametrize("version", VERSIONS)
def test_most_of_what_small_objects_left_behind_goes(version, how):
    """Where gc.collect() and malloc_trim(0) give back next to nothing; and every survivor is whole."""
    with running(version, "pools_left.py", OBJECTS, how) as target:
        empty, before, trimmed = (target.numbers()[0] for _ in range(3))
        found, given = released(target)
        after = resident_bytes(target)
        left_behind = trimmed if STRESS else trimmed - empty  # few objects are little beside the interpreter itself
        assert before - trimmed <= 0.1 * (before - empty)
        assert trimmed - after >= 0.5 * left_behind
        assert given.advised <= given.asked == found.spans.size_bytes
        assert found.releasable_bytes <= given.advised
        assert given.notes == ()
        target.tell()
        whole, survivors = target.numbers()
        assert whole == survivors > 0
        target.ended_well()


@pytest.mark.needs_command("/usr/bin/python3")
def test_a_program_with_cpython_inside_is_no_different():
    """Debian links it into the program, stripped of all but what is exported."""
    if version_of("/usr/bin/python3") not in VERSIONS:
        pytest.skip("needs a /usr/bin/python3 of a supported version")
    target = PythonTarget("/usr/bin/python3", TARGET_FILES / "pools_left.py", OBJECTS, "random")
    try:
        for _ in range(3):
            target.line()
        found, given = released(target)
        assert 0 < found.releasable_bytes <= given.advised
        target.tell()
        whole, survivors = target.numbers()
        assert whole == survivors > 0
    finally:
        target.kill()


def test_no_page_that_was_given_back_is_there_afterwards():
    """What a survey says is what a release does; a second survey finds nothing, by the hint of the first."""
    with running(HERE, "pools_left.py", OBJECTS, "random") as target:
        for _ in range(3):
            target.line()
        found, given = released(target)
        with ProcessDirectory(target.pid) as process:
            assert read_presence(process, given.spans).present.size_bytes == 0
        again = surveyed(target, found.hint)
        assert again.releasable_bytes <= found.releasable_bytes / 100
        assert again.hint == found.hint
        assert set(again.hint) == {"holder"}


def test_a_hint_that_leads_nowhere_is_as_good_as_none():
    """It may be of another process that had the number before."""
    with running(HERE, "pools_left.py", OBJECTS, "random") as target:
        for _ in range(3):
            target.line()
        found = surveyed(target)
        for wrong in (0, 8, found.hint["holder"] + 8, found.details.arenas.array):
            assert surveyed(target, {"holder": wrong}).hint == found.hint


def test_a_survey_leaves_the_page_map_as_it_is():
    """It reads only what is there: no zero page appears where a pool was never used to its end."""
    with running(HERE, "pools_left.py", OBJECTS, "random") as target:
        for _ in range(3):
            target.line()
        with ProcessDirectory(target.pid) as process:
            before = page_map(process)
            surveyed(target)
            assert page_map(process) == before


def test_a_shorter_pause_takes_more_holds():
    """Other threads get their turn in between."""
    with running(HERE, "pools_left.py", OBJECTS, "random") as target:
        for _ in range(3):
            target.line()
        found, given = released(target, max_pause_seconds=0.003)
        pools = sum(len(batch.pools) for batch in found.details.batches)
        assert len(given.pauses) >= 5
        assert max(given.pauses) < sum(given.pauses) / 2
        assert pools > len(given.pauses)


@pytest.mark.parametrize("version", VERSIONS)
def test_busy_threads_find_their_objects_whole(version):
    """Four of them make and change objects while pools are given back every few milliseconds."""
    with running(version, "pools_busy.py") as target:
        target.line()
        end = time.monotonic() + BUSY_SECONDS
        _, holds = release_until(target, lambda: time.monotonic() >= end)
        target.tell()
        operations, errors = target.numbers()
        target.ended_well()
        assert errors == 0
        assert operations > 0
        assert holds > 0


@pytest.mark.parametrize("version", SEEN_HERE)
def test_cpythons_own_tests_pass_while_pools_are_given_back(version):
    """They know what an object has to be like better than any test of ours."""
    names = MODULES if STRESS else FEW_MODULES
    with running(version, "pools_modules.py", *names) as target:
        advised, holds = release_until(target, lambda: False)
        target.ended_well()
        went = [target.line().split() for _ in names]
        assert [(name, failed) for name, _, failed in went if failed != "0"] == []
        assert all(int(ran) > 0 for _, ran, _ in went)
        assert advised > 0
        assert holds > len(names)


def test_a_release_that_is_killed_leaves_the_target_whole():
    """At any instant: the borrowed thread gives the GIL back, and itself, and no pool is left half edited."""
    seed = int(os.environ.get("DONTNEED_SEED", str(time.time_ns() % 1000)))
    print(f"DONTNEED_SEED={seed}")
    rng = random.Random(seed)  # noqa: S311 - a test that can be repeated
    with running(HERE, "pools_busy.py", 0.002) as target, releaser(target) as helper:
        target.line()
        for _ in range(KILLS):
            helper.tell()
            (child,) = helper.numbers()
            stage, longest = rng.choice([("hold", 0.006), ("held", 0.002)])  # on the way to the GIL, or with it
            while helper.line() != stage:
                pass
            time.sleep(rng.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
            helper.tell()
            while helper.line() != "reaped":
                pass
            assert not target.threads_stand()
        target.tell()
        operations, errors = target.numbers()
        target.ended_well()
        assert errors == 0
        assert operations > 0


# What is refused


@pytest.mark.parametrize("allocator", ["malloc", "debug", "pymalloc_debug"])
def test_another_allocator_is_refused_by_its_name(allocator):
    """Its objects are not in plain pools."""
    with running(HERE, WAITS, PYTHONMALLOC=allocator) as target:
        target.line()
        found = surveyed(target)
        assert found.releasable_bytes == 0
        assert f"PYTHONMALLOC={allocator}" in found.refused[0]


@pytest.mark.parametrize(("allocator", "why"), [("malloc", "no pools"), ("debug", "debug hooks")])
def test_another_allocator_is_refused_by_its_shape(allocator, why, monkeypatch):
    """A program may have chosen it without a word in its environment."""
    monkeypatch.setattr(python_runtime, "_refuse_settings", lambda process: process)
    with running(HERE, WAITS, PYTHONMALLOC=allocator) as target:
        target.line()
        assert why in surveyed(target).refused[0]


def test_what_is_no_python_is_refused():
    """A sentence, and no error: most processes are none."""
    other = PythonTarget("cat")
    try:
        found = surveyed(other)
        assert found.releasable_bytes == 0
        assert "no CPython" in found.refused[0]
    finally:
        other.kill()


def test_a_release_of_what_was_refused_is_refused():
    """With the sentence of the survey."""
    with running(HERE, WAITS, PYTHONMALLOC="malloc") as target:
        target.line()
        with pytest.raises(TargetRefused, match="PYTHONMALLOC=malloc"):
            released(target)


def test_a_process_without_an_idle_thread_is_refused():
    """Nobody can be borrowed; nothing was stopped for longer than a look, and it can be tried again."""
    with running(HERE, "print(flush=True)\nwhile True: pass") as target:
        target.line()
        with pytest.raises(TargetRefused, match="no thread"), gil_of(target) as gil, gil.held(0.1):
            pytest.fail("somebody holds the GIL")
        assert not target.threads_stand()


def test_a_thread_that_holds_the_gil_while_it_waits_is_refused():
    """Objects are in the middle of something there, and it would give back a GIL that it still needs."""
    code = "import ctypes\nprint(flush=True)\nctypes.PyDLL(None).usleep(1_000_000)"
    with running(HERE, code) as target:
        target.line()
        wait_until_asleep(target)
        with pytest.raises(TargetRefused, match="no thread"), gil_of(target) as gil, gil.held(0.1):
            pytest.fail("somebody holds the GIL twice")
        target.ended_well()


def test_an_interpreter_that_shuts_down_is_refused():
    """A thread that asks for its GIL is ended on the spot."""
    code = (
        "import time\n"
        "class Last:\n"
        "    def __del__(self, sleep=time.sleep): print(flush=True); sleep(1)\n"
        "last = Last()\nlast.itself = last\nimport builtins\nbuiltins.last = last"
    )
    with running(HERE, code) as target:
        target.line()
        wait_until_asleep(target)
        with pytest.raises(TargetRefused, match="shutting down"), gil_of(target) as gil, gil.held(0.5):
            pytest.fail("the GIL of an interpreter that shuts down is held")


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_sub_interpreters_are_refused(version):
    """Each may have a GIL and pools of its own."""
    code = (
        "try:\n    import _interpreters as several\nexcept ImportError:\n    import _xxsubinterpreters as several\n"
        f"other = several.create()\n{WAITS}"
    )
    with running(version, code) as target:
        target.line()
        wait_until_asleep(target)
        with pytest.raises(TargetRefused, match="sub-interpreters"), gil_of(target) as gil, gil.held():
            pytest.fail("the GIL of one of several interpreters is held")


@pytest.mark.needs_root
def test_locked_arenas_are_left_alone():
    """mlockall(): someone wants them to stay."""
    code = f"import ctypes\nctypes.CDLL(None).mlockall(3)\n{WAITS}"
    with running(HERE, code) as target:
        target.line()
        found = surveyed(target)
        assert found.spans.size_bytes == 0
        assert any("mlock" in sentence for sentence in found.refused)


def test_borrowed_threads_go_on_waiting_as_before():
    """A wait with a timeout lasts as long as it would have, and a read gets what comes in."""
    code = (
        "import sys, threading, time\n"
        "slept = []\n"
        "def sleep():\n    begun = time.monotonic()\n    time.sleep(1)\n    slept.append(time.monotonic() - begun)\n"
        "sleeper = threading.Thread(target=sleep)\nsleeper.start()\nprint(flush=True)\n"
        "said = sys.stdin.readline()\nsleeper.join()\nprint(said.strip(), int(slept[0] >= 1), flush=True)"
    )
    with running(HERE, code) as target:
        target.line()
        for _ in range(20):
            with gil_of(target) as gil, gil.held() as held:
                assert held.stop.pid == target.pid
        target.tell("whole")
        assert target.line() == "whole 1"
        target.ended_well()


# Helpers of these tests


def resident_bytes(target):
    """RSS, as the kernel counts it."""
    with ProcessDirectory(target.pid) as process:
        return read_subject(process).counters.rss_bytes


def page_map(process):
    """The entries of all anonymous memory that can be written."""
    subject = read_subject(process)
    spans = [(row.start, row.end) for row in subject.rows("anonymous", "heap") if row.perms == "rw-p"]
    fd = process.open("pagemap")
    try:
        entries = [os.pread(fd, (end - start) // 4096 * 8, start // 4096 * 8) for start, end in spans]
    finally:
        os.close(fd)
    return spans, np.frombuffer(b"".join(entries), np.uint64).tobytes()


def wait_until_asleep(target):
    """Its main thread sleeps in a system call."""
    deadline = time.monotonic() + 30
    while not state_of(target).startswith("S"):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def state_of(target):
    """As /proc/PID/stat has it."""
    with open(f"/proc/{target.pid}/stat", encoding="utf-8") as file:
        return file.read().rpartition(") ")[2]


@contextmanager
def gil_of(target):
    """The GIL of a target, to be held."""
    with ProcessDirectory(target.pid) as process:
        yield Gil(process, python_runtime.find_runtime(read_subject(process)))


@contextmanager
def releaser(target):
    """A process whose children give pools of a target back until they are killed."""
    helper = PythonTarget(sys.executable, TARGET_FILES / "pools_releaser.py", target.pid, OPENBLAS_NUM_THREADS="1")
    try:
        yield helper
    finally:
        helper.kill()
