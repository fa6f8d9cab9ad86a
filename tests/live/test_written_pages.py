"""A watch over the writes of a process: exact, and undone whatever ends the watcher."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dontneed
from dontneed.abi import seccomp
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import KernelLacks, NotPermitted, TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.swap import swap_space
from dontneed.remote import written

from .hot_set import await_that, hot_set, maps_of, page_out, patient, smaps_of, use_at
from .native_target import PAGE, entries_of
from .test_release_seccomp import Target, answering

MIB = 1 << 20
UFFD_WP = 1 << 57
"""In pagemap."""
ROUNDS = int(os.environ.get("DONTNEED_ROUNDS", "25"))

pytestmark = [
    pytest.mark.needs_command("cc"),
    pytest.mark.needs_root,
    pytest.mark.needs_feature("userfaultfd write watch"),
    pytest.mark.needs_feature("pidfd_getfd"),
]


# What is found


@pytest.mark.parametrize(("mode", "pages"), [("read", 0), ("write", 64), ("write", 3000)])
def test_a_watch_over_writes_is_exact(tmp_path, mode, pages):
    """To the page; and nothing of it is left."""
    with hot_set(tmp_path, 32, 3000 if mode == "read" else pages, mode) as hot:
        use = hot.use(hot.watch("written"))
        assert (use.written_bytes, use.touched_bytes) == (pages * PAGE, pages * PAGE)
        assert not hot.is_watched()
        hot.assert_well()


def test_a_working_set_by_writes_comes_from_a_helper(tmp_path):
    """As it is asked for: with its record whole, and nothing left."""
    with hot_set(tmp_path, 16, 500, "write") as hot:
        found = patient(lambda: dontneed.working_set(hot.pid, 0.3, "written"))
        assert hot.use(found).written_bytes == 500 * PAGE
        assert found.at_most_bytes is None
        assert (found.method, found.disturbed) == ("written", True)
        assert found.seconds >= 0.3
        assert not hot.is_watched()


def test_writes_by_the_kernel_new_memory_and_a_fork_are_counted(tmp_path):
    """read(2) into a protected page neither fails nor goes unseen; a child is not watched."""
    with hot_set(tmp_path, 32, 0, "idle") as hot:
        told = []

        def act():
            hot.target.tell("k 100")
            told.extend(hot.target.tell("n 70"))

        found = hot.watch("written", act)
        assert hot.use(found).written_bytes == 100 * PAGE
        assert use_at(found, int(told[0], 16)).written_bytes >= 70 * PAGE
        found = hot.watch("written", lambda: hot.target.tell("f"))
        assert hot.use(found).written_bytes == (32 * MIB // PAGE - 4096) * PAGE
        assert not hot.is_watched()
        hot.assert_well()


@pytest.mark.needs_feature("transparent huge pages")
def test_huge_pages_are_left_whole_unless_asked_otherwise(tmp_path):
    """What is left out is told, and so is what was taken apart."""

    def huge_bytes():
        rollup = Path(f"/proc/{hot.pid}/smaps_rollup").read_text()
        return int(rollup.split("AnonHugePages:")[1].split()[0]) * 1024

    with hot_set(tmp_path, 32, 3000, "write", "huge") as hot:
        before = huge_bytes()
        if before < 24 * MIB:
            pytest.skip("needs free huge pages")
        left = hot.watch("written")
        assert huge_bytes() == before
        assert any("in huge pages were not watched" in note for note in left.notes)
        split = hot.watch("written", split_huge_pages=True)
        assert hot.use(split).written_bytes == 3000 * PAGE
        assert huge_bytes() < before
        assert any("were taken apart" in note for note in split.notes)
        hot.assert_well()


@pytest.mark.needs_feature("process_madvise(other)")
def test_swap_neither_hides_writes_nor_makes_any(tmp_path):
    """A page keeps its protection, or the want of it, on its way to swap and back; what was out before is told."""
    with swap_space(), hot_set(tmp_path, 32, 0, "idle") as hot:

        def act():
            hot.target.tell("w 50")
            hot.goes_round()
            hot.target.tell("i")
            hot.goes_round()
            page_out(hot, 0, 300)
            hot.target.tell("r 200")
            hot.goes_round()
            hot.target.tell("i")

        assert hot.use(hot.watch("written", act)).written_bytes == 50 * PAGE
        page_out(hot, 4096, 4196)
        found = hot.watch("written", lambda: hot.target.tell("k 150"))
        assert hot.use(found).written_bytes == 50 * PAGE
        assert any("were swapped out when it began" in note for note in found.notes)
        assert not hot.is_watched()
        hot.assert_well()


# Whatever ends us


def test_the_watcher_killed_at_any_moment_leaves_nothing(tmp_path):
    """No page stays protected, no mapping registered; the target runs, writes, forks, and finds what it wrote."""
    chance = random.Random(11)  # noqa: S311 - for a test, not for secrets
    with hot_set(tmp_path, 64, 4000, "write") as hot, ProcessDirectory(hot.pid) as process:
        began = time.monotonic()
        hot.watch("written")
        whole = time.monotonic() - began
        registered = 0
        for turn in range(max(20, ROUNDS)):
            registered += killed_while_registered(hot, chance.random() * min(whole, 0.2), at_random=turn % 2 == 0)
            assert " uw" not in smaps_of(hot.pid)
            assert protected_pages(hot) == 0
            if turn % 10 == 0:
                hot.target.tell("f")
        left = list(process.links("fd").values()).count(written._USERFAULTFD)  # each made, not yet closed, and inert
        assert left < registered
        hot.target.tell("f")
        hot.target.tell("k 500")
        hot.assert_well()


def killed_while_registered(hot, seconds, *, at_random):
    """Kill a watcher some time after it began, or after it began to register; whether memory was registered then."""
    watcher = os.fork()
    if not watcher:
        try:
            written._watch(hot.order(), lambda: False)
        finally:
            os._exit(0)

    def has_ended():
        return os.waitid(os.P_PID, watcher, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    if not at_random:
        await_that(lambda: has_ended() or " uw" in smaps_of(hot.pid))
    time.sleep(seconds)
    registered = " uw" in smaps_of(hot.pid)
    os.kill(watcher, signal.SIGKILL)
    os.waitpid(watcher, 0)
    return registered


def protected_pages(hot):
    """How many pages of its memory bear the mark of write protection."""
    return int(np.count_nonzero(entries_of(hot.pid, hot.start, hot.start + 64 * MIB) & np.uint64(UFFD_WP)))


def test_a_caller_that_is_killed_takes_the_watch_with_it(tmp_path):
    """The helper sees that nobody waits for its answer, and undoes it."""
    with hot_set(tmp_path, 32, 2000, "write") as hot:
        caller = os.fork()
        if not caller:
            try:
                patient(lambda: dontneed.working_set(hot.pid, 60, "written"))
            finally:
                os._exit(0)
        await_that(hot.is_watched)
        os.kill(caller, signal.SIGKILL)
        os.waitpid(caller, 0)
        await_that(lambda: not hot.is_watched())
        hot.assert_well()


# Refusals


def test_a_process_with_a_userfaultfd_of_its_own_is_left_alone(tmp_path):
    """It would be refused what it registers."""
    with hot_set(tmp_path, 16, 500, "write") as hot:
        assert int(hot.target.tell("u 0")[0]) > 0
        assert hot.use(hot.watch("written")).written_bytes == 500 * PAGE  # such a one stays of a watcher that is killed
        assert int(hot.target.tell("u 1")[0]) > 0
        with pytest.raises(TargetRefused, match="userfaultfd of its own"):
            hot.watch("written")
        hot.assert_well()


def test_a_process_with_many_mappings_is_left_room_for_more(tmp_path, monkeypatch):
    """Where it may have hardly more than it has, watching it could make its next mmap fail."""
    with hot_set(tmp_path, 16, 500, "write") as hot:
        monkeypatch.setattr(written, "read_setting", lambda _path: str(2 * maps_of(hot.pid).count("\n") - 1))
        with pytest.raises(TargetRefused, match="new ones may find no room"):
            hot.watch("written")
        assert not hot.is_watched()
        hot.assert_well()


@pytest.mark.parametrize("number", [NR.USERFAULTFD, NR.CLOSE], ids=["userfaultfd", "close"])
def test_what_a_filter_of_the_process_forbids_is_refused_and_not_tried(child, number):
    """It would be killed, or keep the descriptor; it lives, and has none."""
    filtered = Target(child, answering(number, seccomp.KILL_PROCESS))
    with pytest.raises(TargetRefused, match="seccomp"):
        patient(lambda: dontneed.working_set(filtered.pid, 0.1, "written"))
    with ProcessDirectory(filtered.pid) as process:
        assert written._USERFAULTFD not in process.links("fd").values()
    assert filtered.is_whole()


def test_two_cannot_watch_the_writes_of_one_process(tmp_path):
    """The second is refused by the kernel, and leaves the first one's watch alone."""
    with hot_set(tmp_path, 16, 500, "write") as hot:

        def watch_too():
            with pytest.raises(TargetRefused, match="another userfaultfd watches it"):
                patient(lambda: dontneed.working_set(hot.pid, 0.1, "written"))

        assert hot.use(hot.watch("written", watch_too)).written_bytes == 500 * PAGE
        hot.assert_well()


def test_the_calling_process_can_be_asked_about():
    """It waits, and what it writes meanwhile by another thread is seen."""
    memory = bytearray(8 * MIB)
    over = threading.Event()

    def write():
        while not over.wait(0.001):
            memory[::PAGE] = b"x" * (len(memory) // PAGE)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = patient(lambda: dontneed.working_set(None, 0.5, "written"))
    finally:
        over.set()
        writer.join()
    assert found.pid == os.getpid()
    assert found.written_bytes > 0


def test_what_is_missing_is_named_before_the_process_is_touched(child, monkeypatch):
    """Absent and forbidden are two things."""
    from dontneed.kernel import features

    pid = child().pid
    for state, kind in (("absent", KernelLacks), ("forbidden", NotPermitted)):
        missing = features.Feature("userfaultfd write watch", state, "look", "6.7", "", "ENOSYS", "a newer kernel")
        monkeypatch.setitem(features._found, "userfaultfd write watch", missing)
        with pytest.raises(kind, match=f"userfaultfd write watch is {state}"):
            dontneed.working_set(pid, 0.1, "written")
