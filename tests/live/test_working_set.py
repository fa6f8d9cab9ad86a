"""The working set of processes whose working set is known, by every method; and processes that move meanwhile."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import dontneed
from dontneed.abi import seccomp
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import DontneedError, KernelLacks, NotPermitted, ProcessGone, TargetRefused, UsageError
from dontneed.kernel import clear_refs
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.kernel.swap import swap_space
from dontneed.observe import working_set as observed
from dontneed.remote import written
from dontneed.remote.working_set import _columns, working_set_until
from dontneed.spans import Span

from .native_target import PAGE, SWAPPED, entries_of, running
from .test_release_seccomp import Target, answering

MIB = 1 << 20
UFFD_WP = 1 << 57
"""In pagemap."""
ROUNDS = int(os.environ.get("DONTNEED_ROUNDS", "25"))
PATIENCE_SECONDS = 60

by_tables = [pytest.mark.needs_root, pytest.mark.needs_feature("kernel memory"), pytest.mark.needs_feature("BTF")]
watching_writes = [pytest.mark.needs_feature("userfaultfd write watch"), pytest.mark.needs_feature("pidfd_getfd")]
pytestmark = [pytest.mark.needs_command("cc"), pytest.mark.needs_root]

TABLES = pytest.param("tables", marks=by_tables)
ACCESSED = pytest.param("accessed", marks=by_tables)
WRITTEN = pytest.param("written", marks=watching_writes)


class HotSet:
    """The target, where its memory is, and whether it is well."""

    def __init__(self, target):
        self.target = target
        self.pid = target.pid
        self.start = target.named()["memory"][0]

    def use(self, found):
        """What was found of its memory."""
        return use_at(found, self.start)

    def turns(self):
        """How often it has touched its hot set."""
        turns, errors = map(int, self.target.tell("?")[0].split())
        assert errors == 0
        return turns

    def goes_round(self, times=2):
        """Wait until it has touched all of its hot set, however busy the machine is; True."""
        enough = self.turns() + times
        await_that(lambda: self.turns() > enough)
        return True

    def assert_well(self):
        """It goes on, and finds its memory as it wrote it."""
        self.goes_round()

    def is_watched(self):
        """Whether any of its memory is registered with a userfaultfd, or it has one open."""
        with ProcessDirectory(self.pid) as process:
            return " uw" in smaps_of(self.pid) or written._uses_userfaultfd(process)

    def order(self, **options):
        """That its writes be watched."""
        with ProcessDirectory(self.pid) as process:
            started = read_identity(process).started
        return written.WriteOrder(self.pid, started, 60.0, **{"split_huge_pages": False, **options})

    def watch(self, method, action=lambda: None, **options):
        """A working set; as soon as it is watched `action` is called, and it has gone round, it is over."""

        def is_over():
            action()
            return self.goes_round()

        if method != "written":
            return working_set_until(self.pid, 60.0, method, is_over)
        found = patient(lambda: written._watch(self.order(**options), is_over))
        return observed_writes(self.pid, found)


def observed_writes(pid, found):
    """What the helper found, as the caller shows it."""
    mappings = dontneed.look(pid).mappings
    uses = tuple(observed.use_of(*each) for each in _columns(mappings, found))
    return SimpleNamespace(mappings=uses, notes=found.notes)


def use_at(found, address):
    """The use of the mapping at an address."""
    return next(use for use in found.mappings if use.start <= address < use.end)


@contextmanager
def hot_set(tmp_path, *arguments):
    """A running target."""
    with running(tmp_path, "hot_set", *arguments) as target:
        yield HotSet(target)


def patient(action):
    """What an action returns; a thread that cannot be borrowed at this moment can be at the next."""
    for _ in range(20):
        with ignored("no thread that could run"):
            return action()
    raise AssertionError("no thread could be borrowed, twenty times")


@contextmanager
def ignored(words):
    """A refusal with these words is none."""
    try:
        yield
    except TargetRefused as refusal:
        if words not in str(refusal):
            raise


def await_that(condition):
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# What is found


@pytest.mark.parametrize("mode", ["read", "write"])
@pytest.mark.parametrize("method", [TABLES, "smaps"])
def test_bounds_hold_the_truth_between_them(tmp_path, method, mode):
    """Nothing is cleared: the hot set bears its marks already, and cannot be told from the rest."""
    with hot_set(tmp_path, 32, 3000, mode) as hot:
        found = hot.watch(method)
        use = hot.use(found)
        assert use.touched_bytes <= 3000 * PAGE <= use.at_most_bytes <= use.rss_bytes == 32 * MIB
        assert not found.disturbed
        assert found.method == method


@pytest.mark.parametrize("method", [TABLES])
def test_what_comes_to_be_used_is_told_for_certain(tmp_path, method):
    """New pages that are written to, whatever else is marked."""
    with hot_set(tmp_path, 32, 3000, "idle") as hot:
        told = []
        found = hot.watch(method, lambda: told.extend(hot.target.tell("n 700")))
        use = use_at(found, int(told[0], 16))
        assert use.touched_bytes >= 700 * PAGE
        assert use.written_bytes >= 700 * PAGE


@pytest.mark.parametrize("mode", ["read", "write"])
@pytest.mark.parametrize("pages", [64, 1000, 4000])
@pytest.mark.parametrize("method", [ACCESSED])
def test_cleared_marks_tell_a_hot_set(tmp_path, method, pages, mode):
    """Also one that the TLB holds whole, since it is flushed; where it cannot be, the known error says so."""
    with hot_set(tmp_path, 32, pages, mode) as hot:
        found = hot.watch(method)
        if "not flushed" not in found.known_error:
            assert pages - max(4, pages // 100) <= hot.use(found).touched_bytes // PAGE <= pages
        assert found.disturbed
        hot.assert_well()


def test_without_page_tables_smaps_tells_a_hot_set(tmp_path, monkeypatch):
    """And says what it cost, and why."""

    def refuse():
        raise NotPermitted("no", hint="be root")

    monkeypatch.setattr("dontneed.kernel.kernel_memory.open_kernel_memory", refuse)
    monkeypatch.setattr("dontneed.kernel.kernel_memory._idle", [])
    with hot_set(tmp_path, 32, 3000, "read") as hot:
        by_default = hot.watch("auto")
        cleared = hot.watch("accessed")
        if "not flushed" not in cleared.known_error:
            assert 2950 <= hot.use(cleared).touched_bytes // PAGE <= 3000
        assert by_default.method == cleared.source == "smaps"
        assert any("be root" in note for note in by_default.notes)
        with pytest.raises(NotPermitted):
            hot.watch("tables")


@pytest.mark.parametrize(("mode", "pages"), [("read", 0), ("write", 64), ("write", 3000)])
@pytest.mark.parametrize("method", [WRITTEN])
def test_a_watch_over_writes_is_exact(tmp_path, method, mode, pages):
    """To the page; and nothing of it is left."""
    with hot_set(tmp_path, 32, 3000 if mode == "read" else pages, mode) as hot:
        use = hot.use(hot.watch(method))
        assert (use.written_bytes, use.touched_bytes) == (pages * PAGE, pages * PAGE)
        assert not hot.is_watched()
        hot.assert_well()


@pytest.mark.parametrize("method", [WRITTEN])
def test_a_working_set_by_writes_comes_from_a_helper(tmp_path, method):
    """As it is asked for: with its record whole, and nothing left."""
    with hot_set(tmp_path, 16, 500, "write") as hot:
        found = patient(lambda: dontneed.working_set(hot.pid, 0.3, method))
        assert hot.use(found).written_bytes == 500 * PAGE
        assert found.at_most_bytes is None
        assert (found.method, found.disturbed) == ("written", True)
        assert found.seconds >= 0.3
        assert not hot.is_watched()


@pytest.mark.parametrize("method", [WRITTEN])
def test_writes_by_the_kernel_new_memory_and_a_fork_are_counted(tmp_path, method):
    """read(2) into a protected page neither fails nor goes unseen; a child is not watched."""
    with hot_set(tmp_path, 32, 0, "idle") as hot:
        told = []

        def act():
            hot.target.tell("k 100")
            told.extend(hot.target.tell("n 70"))

        found = hot.watch(method, act)
        assert hot.use(found).written_bytes == 100 * PAGE
        assert use_at(found, int(told[0], 16)).written_bytes >= 70 * PAGE
        found = hot.watch(method, lambda: hot.target.tell("f"))
        assert hot.use(found).written_bytes == (32 * MIB // PAGE - 4096) * PAGE
        assert not hot.is_watched()
        hot.assert_well()


@pytest.mark.needs_feature("transparent huge pages")
@pytest.mark.parametrize("method", [WRITTEN])
def test_huge_pages_are_left_whole_unless_asked_otherwise(tmp_path, method):
    """What is left out is told, and so is what was taken apart."""

    def huge_bytes():
        rollup = Path(f"/proc/{hot.pid}/smaps_rollup").read_text()
        return int(rollup.split("AnonHugePages:")[1].split()[0]) * 1024

    with hot_set(tmp_path, 32, 3000, "write", "huge") as hot:
        before = huge_bytes()
        if before < 24 * MIB:
            pytest.skip("needs free huge pages")
        left = hot.watch(method)
        assert huge_bytes() == before
        assert any("in huge pages were not watched" in note for note in left.notes)
        split = hot.watch(method, split_huge_pages=True)
        assert hot.use(split).written_bytes == 3000 * PAGE
        assert huge_bytes() < before
        assert any("were taken apart" in note for note in split.notes)
        hot.assert_well()


# Swap


def page_out(hot, first, last):
    """Have pages go to swap, and wait until they are there."""
    span = Span(hot.start + first * PAGE, hot.start + last * PAGE)

    def are_out():
        dontneed.advise(span, dontneed.Advice.PAGEOUT, pid=hot.pid)
        return bool((entries_of(hot.pid, span.start, span.end) & np.uint64(SWAPPED) != 0).all())

    await_that(are_out)


@pytest.mark.needs_feature("process_madvise(other)")
@pytest.mark.parametrize("method", [TABLES])
def test_what_comes_from_swap_is_used(tmp_path, method):
    """Read or written."""
    with swap_space(), hot_set(tmp_path, 32, 0, "idle") as hot:
        page_out(hot, 100, 300)
        use = hot.use(hot.watch(method, lambda: hot.target.tell("r 400")))
        assert 200 * PAGE <= use.touched_bytes <= use.at_most_bytes
        assert use.written_bytes == 0


@pytest.mark.needs_feature("process_madvise(other)")
@pytest.mark.parametrize("method", [WRITTEN])
def test_swap_neither_hides_writes_nor_makes_any(tmp_path, method):
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

        assert hot.use(hot.watch(method, act)).written_bytes == 50 * PAGE
        page_out(hot, 4096, 4196)
        found = hot.watch(method, lambda: hot.target.tell("k 150"))
        assert hot.use(found).written_bytes == 50 * PAGE
        assert any("were swapped out when it began" in note for note in found.notes)
        assert not hot.is_watched()
        hot.assert_well()


# Whatever ends us


@pytest.mark.parametrize("method", [WRITTEN])
def test_the_watcher_killed_at_any_moment_leaves_nothing(tmp_path, method):
    """No page stays protected, no mapping registered; the target runs, writes, forks, and finds what it wrote."""
    chance = random.Random(11)  # noqa: S311 - for a test, not for secrets
    with hot_set(tmp_path, 64, 4000, "write") as hot, ProcessDirectory(hot.pid) as process:
        began = time.monotonic()
        hot.watch(method)
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


def smaps_of(pid):
    """With the flags of every mapping."""
    return Path(f"/proc/{pid}/smaps").read_text()


def protected_pages(hot):
    """How many pages of its memory bear the mark of write protection."""
    return int(np.count_nonzero(entries_of(hot.pid, hot.start, hot.start + 64 * MIB) & np.uint64(UFFD_WP)))


@pytest.mark.parametrize("method", [WRITTEN])
def test_a_caller_that_is_killed_takes_the_watch_with_it(tmp_path, method):
    """The helper sees that nobody waits for its answer, and undoes it."""
    with hot_set(tmp_path, 32, 2000, "write") as hot:
        caller = os.fork()
        if not caller:
            try:
                patient(lambda: dontneed.working_set(hot.pid, 60, method))
            finally:
                os._exit(0)
        await_that(hot.is_watched)
        os.kill(caller, signal.SIGKILL)
        os.waitpid(caller, 0)
        await_that(lambda: not hot.is_watched())
        hot.assert_well()


# Processes that move


@pytest.mark.parametrize("what", ["x", "e"])
@pytest.mark.parametrize("method", [TABLES, "smaps", ACCESSED, WRITTEN])
def test_a_process_that_ends_or_becomes_another_is_said_so(tmp_path, method, what):
    """A sentence and never half an answer."""
    with hot_set(tmp_path, 16, 500, "read") as hot:

        def is_over():
            hot.target._process.stdin.write(f"{what}\n".encode())
            await_that(lambda: f"{hot.start:x}-" not in maps_of(hot.pid))
            return True

        def watch():
            if method == "written":
                return patient(lambda: written._watch(hot.order(), is_over))
            return working_set_until(hot.pid, 60.0, method, is_over)

        with pytest.raises((ProcessGone, TargetRefused)) as refused:
            watch()
        assert isinstance(refused.value, ProcessGone if what == "x" else TargetRefused), refused.value
        assert ("ended" if what == "x" else "replaced its program") in str(refused.value)


def maps_of(pid):
    """Its mappings, as text; of a zombie there are none."""
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("method", [WRITTEN])
def test_a_process_with_a_userfaultfd_of_its_own_is_left_alone(tmp_path, method):
    """It would be refused what it registers."""
    with hot_set(tmp_path, 16, 500, "write") as hot:
        assert int(hot.target.tell("u 0")[0]) > 0
        assert hot.use(hot.watch(method)).written_bytes == 500 * PAGE  # such a one stays of a watcher that is killed
        assert int(hot.target.tell("u 1")[0]) > 0
        with pytest.raises(TargetRefused, match="userfaultfd of its own"):
            hot.watch(method)
        hot.assert_well()


@pytest.mark.parametrize("method", [WRITTEN])
def test_a_process_with_many_mappings_is_left_room_for_more(tmp_path, method, monkeypatch):
    """Where it may have hardly more than it has, watching it could make its next mmap fail."""
    with hot_set(tmp_path, 16, 500, "write") as hot:
        monkeypatch.setattr(written, "read_setting", lambda _path: str(2 * maps_of(hot.pid).count("\n") - 1))
        with pytest.raises(TargetRefused, match="new ones may find no room"):
            hot.watch(method)
        assert not hot.is_watched()
        hot.assert_well()


@pytest.mark.parametrize("method", [WRITTEN])
@pytest.mark.parametrize("number", [NR.USERFAULTFD, NR.CLOSE], ids=["userfaultfd", "close"])
def test_what_a_filter_of_the_process_forbids_is_refused_and_not_tried(child, method, number):
    """It would be killed, or keep the descriptor; it lives, and has none."""
    filtered = Target(child, answering(number, seccomp.KILL_PROCESS))
    with pytest.raises(TargetRefused, match="seccomp"):
        patient(lambda: dontneed.working_set(filtered.pid, 0.1, method))
    with ProcessDirectory(filtered.pid) as process:
        assert written._USERFAULTFD not in process.links("fd").values()
    assert filtered.is_whole()


@pytest.mark.parametrize("method", [WRITTEN])
def test_two_cannot_watch_the_writes_of_one_process(tmp_path, method):
    """The second is refused by the kernel, and leaves the first one's watch alone."""
    with hot_set(tmp_path, 16, 500, "write") as hot:

        def watch_too():
            with pytest.raises(TargetRefused, match="another userfaultfd watches it"):
                patient(lambda: dontneed.working_set(hot.pid, 0.1, method))

        assert hot.use(hot.watch(method, watch_too)).written_bytes == 500 * PAGE
        hot.assert_well()


@pytest.mark.parametrize("method", [WRITTEN])
def test_the_calling_process_can_be_asked_about(method):
    """It waits, and what it writes meanwhile by another thread is seen."""
    memory = bytearray(8 * MIB)
    over = threading.Event()

    def write():
        while not over.wait(0.001):
            memory[::PAGE] = b"x" * (len(memory) // PAGE)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = patient(lambda: dontneed.working_set(None, 0.5, method))
    finally:
        over.set()
        writer.join()
    assert found.pid == os.getpid()
    assert found.written_bytes > 0


# Refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"method": "magic"}, "no method 'magic'"),
        ({"seconds": 0}, "for 0 seconds"),
        ({"seconds": float("nan")}, "for nan seconds"),
        ({"seconds": -1.0}, "for -1.0 seconds"),
        ({"split_huge_pages": True}, "by the method `written` alone"),
    ],
)
def test_a_call_that_is_wrong_is_refused(words, said):
    """Before anything is looked at."""
    with pytest.raises(UsageError, match=said):
        dontneed.working_set(1, **words)


def test_a_process_that_is_not_there_is_gone(child):
    """By every method."""
    ended = child()
    ended.kill()
    for method in observed.METHODS:
        with pytest.raises(ProcessGone):
            dontneed.working_set(ended.pid, 0.1, method)


def test_what_is_missing_is_named_before_the_process_is_touched(child, monkeypatch):
    """Absent and forbidden are two things."""
    from dontneed.kernel import features

    pid = child().pid
    for state, kind in (("absent", KernelLacks), ("forbidden", NotPermitted)):
        missing = features.Feature("userfaultfd write watch", state, "look", "6.7", "", "ENOSYS", "a newer kernel")
        monkeypatch.setitem(features._found, "userfaultfd write watch", missing)
        with pytest.raises(kind, match=f"userfaultfd write watch is {state}"):
            dontneed.working_set(pid, 0.1, "written")


# Without root


NOBODYS = """if True:
    import mmap, subprocess, sys, time
    import dontneed
    code = '''if True:
        import mmap
        held = mmap.mmap(-1, 16 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        held.madvise(mmap.MADV_NOHUGEPAGE)
        held[:] = b"x" * len(held)
        print("ready", flush=True)
        while True:
            held[: 4 << 20 : 4096] = b"y" * 1024
    '''
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        try:
            child.stdout.readline()
            found = dontneed.working_set(child.pid, 0.3, {method!r})
            use = max(found.mappings, key=lambda use: use.touched_bytes)
            print(found.method, found.source, use.touched_bytes, use.written_bytes)
        finally:
            child.kill()
"""


def test_nobody_may_ask_about_processes_of_its_own(as_nobody):
    """By smaps; with the marks cleared too; and by a watch over writes, where it may trace."""
    by_default = as_nobody(NOBODYS.format(method="auto"))
    assert by_default.stdout.startswith("smaps smaps "), by_default.stderr
    cleared = as_nobody(NOBODYS.format(method="accessed"))
    assert cleared.stdout.startswith("accessed smaps "), cleared.stderr
    if not clear_refs.has_soft_dirty():
        assert 4 * MIB - 16 * PAGE <= int(cleared.stdout.split()[2]) <= 5 * MIB


@pytest.mark.parametrize("method", [WRITTEN])
def test_nobody_may_watch_the_writes_of_processes_of_its_own(as_nobody, method):
    """UFFD_USER_MODE_ONLY is for everyone."""
    watched = as_nobody(NOBODYS.format(method=method))
    assert watched.stdout.startswith("written userfaultfd"), watched.stderr
    assert 4 * MIB <= int(watched.stdout.split()[-1]) <= 5 * MIB


@pytest.mark.parametrize("method", ["auto", "smaps", "accessed", "written"])
def test_nobody_is_told_why_not_about_others(as_nobody, child, method):
    """No traceback."""
    done = as_nobody.command("wss", str(child().pid), "--seconds", "0.1", "--method", method)
    assert done.returncode == 3, done.stderr
    assert "uid 65534" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_refusal_is_one_of_ours():
    """A kernel thread has nothing to watch."""
    if not Path("/proc/2/comm").exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("needs to see a kernel thread")
    for method in observed.METHODS:
        with pytest.raises(DontneedError):
            dontneed.working_set(2, 0.1, method)
