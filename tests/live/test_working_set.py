"""The working set of processes whose working set is known, by every method; and processes that move meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

import dontneed
from dontneed.errors import DontneedError, NotPermitted, ProcessGone, TargetRefused, UsageError
from dontneed.kernel import clear_refs
from dontneed.kernel.swap import swap_space
from dontneed.observe import working_set as observed
from dontneed.remote import written
from dontneed.remote.working_set import working_set_until

from .hot_set import await_that, hot_set, maps_of, page_out, patient, use_at
from .native_target import PAGE

MIB = 1 << 20

by_tables = [pytest.mark.needs_root, pytest.mark.needs_feature("kernel memory"), pytest.mark.needs_feature("BTF")]
watching_writes = [pytest.mark.needs_feature("userfaultfd write watch"), pytest.mark.needs_feature("pidfd_getfd")]
pytestmark = [pytest.mark.needs_command("cc"), pytest.mark.needs_root]

TABLES = pytest.param("tables", marks=by_tables)
ACCESSED = pytest.param("accessed", marks=by_tables)
WRITTEN = pytest.param("written", marks=watching_writes)


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


# Swap


@pytest.mark.needs_feature("process_madvise(other)")
@pytest.mark.parametrize("method", [TABLES])
def test_what_comes_from_swap_is_used(tmp_path, method):
    """Read or written."""
    with swap_space(), hot_set(tmp_path, 32, 0, "idle") as hot:
        page_out(hot, 100, 300)
        use = hot.use(hot.watch(method, lambda: hot.target.tell("r 400")))
        assert 200 * PAGE <= use.touched_bytes <= use.at_most_bytes
        assert use.written_bytes == 0


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
