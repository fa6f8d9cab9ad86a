"""`look_all` on this machine: who is in the table, who is not, what is said of that, and processes that move."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dontneed
from dontneed.errors import DontneedError, KernelLacks, ProcessGone, UsageError
from dontneed.kernel.kernel_memory import kernel_memory
from dontneed.kernel.kpage import read_map_counts, read_map_counts_of
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import Counters
from dontneed.kernel.tasks import TaskFinder
from dontneed.observe.holders.holder import SORT_KEYS
from dontneed.observe.holders.look_all import METHODS, ROLLUP, STATUS, TABLES, WINDOWS
from dontneed.observe.holders.roll import Amounts, Roll, read_rollup
from dontneed.observe.tables.reader import TableReader

from .holders import BY_FRAMES, HELD, MIB, PATIENCE_SECONDS, SEEN, by_tables, comes_true, holder_of, plausible

# Who is in the table


@pytest.mark.parametrize(
    "method", [pytest.param(way, marks=BY_FRAMES) if way in (TABLES, WINDOWS) else way for way in METHODS]
)
def test_a_process_is_in_the_table_with_what_it_holds(child, method):
    """By each way that there is; its own memory is its own."""
    pid = child(HELD).pid
    holders = dontneed.look_all(method)
    assert plausible(holders)
    holder = next(each for each in holders.processes if each.pid == pid)
    counters = dontneed.look(pid).counters
    assert holder.rss_bytes == counters.rss_bytes
    assert holder.page_table_bytes == counters.page_table_bytes
    assert holder.command.startswith("python")
    if method == STATUS:
        assert (holder.uss_bytes, holder.pss_bytes) == (None, None)
    else:
        assert 3 * MIB < holder.uss_bytes < holder.pss_bytes < holder.rss_bytes
    if method != "auto":
        assert holder.method == method


def test_we_are_in_the_table_ourselves():
    """As ps and smem are in theirs."""
    assert holder_of(os.getpid()).rss_bytes > MIB


def test_neither_kernel_threads_nor_zombies_are_in_the_table():
    """They have no memory."""
    with subprocess.Popen(["true"]) as ended:
        assert comes_true(lambda: b") Z " in Path(f"/proc/{ended.pid}/stat").read_bytes())
        pids = {holder.pid for holder in dontneed.look_all().processes}
    assert {2, ended.pid} & pids == set()


def test_a_process_whose_first_thread_has_ended_is_in_the_table():
    """It has a zombie's number, and all its memory."""
    code = (
        HELD
        + """    import ctypes, threading
    libc = ctypes.CDLL(None)
    threading.Thread(target=pause).start()
    threading.Thread(target=os.read, args=(0, 1)).start()
    SYS_exit = 60
    libc.syscall(SYS_exit, 0)
"""
    )
    started = subprocess.Popen(
        [sys.executable, "-c", f"import os\ndef pause(): os.read(0, 1)\nexec({code!r})"], stdin=subprocess.PIPE
    )
    try:
        assert comes_true(lambda: b") Z " in Path(f"/proc/{started.pid}/stat").read_bytes())
        for method in ("auto", ROLLUP, STATUS):
            assert holder_of(started.pid, method).rss_bytes > 3 * MIB
    finally:
        started.kill()
        started.communicate()


@by_tables
def test_a_vfork_that_waits_lives_in_the_memory_of_its_parent(child, tmp_path):
    """Both have a row, the memory is read once, and counted once: nothing is shared for that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    parent = child(
        HELD + f"    pause()\n    os.posix_spawn('/bin/true', ['true'], {{}}, "
        f"file_actions=[(os.POSIX_SPAWN_OPEN, 0, {str(fifo)!r}, os.O_RDONLY, 0)])"
    )
    before = holder_of(parent.pid, TABLES)
    parent._process.stdin.write(b"\n")
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    assert comes_true(lambda: children.read_text().split())
    [forked] = map(int, children.read_text().split())
    assert comes_true(lambda: b") S " in Path(f"/proc/{forked}/stat").read_bytes())
    holders = dontneed.look_all(TABLES)
    assert plausible(holders)
    of_parent, of_child = (next(each for each in holders.processes if each.pid == pid) for pid in (parent.pid, forked))
    assert of_child.same_as == parent.pid
    assert of_parent.same_as is None
    assert of_child.replace(pid=0, same_as=None, command="") == of_parent.replace(pid=0, command="")
    assert before.uss_bytes <= of_parent.uss_bytes <= before.uss_bytes + MIB
    with fifo.open("wb"):
        pass


def test_what_is_largest_comes_first(child):
    """By each key; what is not known comes last."""
    pid = child(HELD).pid
    holders = dontneed.look_all()
    for key in SORT_KEYS:
        ordered = holders.largest(by=key)
        assert sorted(ordered, key=lambda holder: holder.pid) == list(holders.processes)
    for key in ("rss", "pss", "uss"):
        amounts = [getattr(holder, f"{key}_bytes") for holder in holders.largest(by=key)]
        known = [amount for amount in amounts if amount is not None]
        assert amounts == sorted(known, reverse=True) + [None] * (len(amounts) - len(known))
    assert [holder.pid for holder in holders.largest(2, by="pid")] == [each.pid for each in holders.processes[:2]]
    with pytest.raises(UsageError, match="are not sorted by 'size'"):
        holders.largest(by="size")
    assert pid in [holder.pid for holder in holders.processes]


# What is needed


@by_tables
def test_the_machine_has_no_process_that_the_list_of_all_does_not_have():
    """Those of /proc, and their memory, are among all tasks of the kernel."""
    with kernel_memory() as memory, ProcessDirectory() as process:
        everyone = memory.everyone()
        own = memory.task(process)
    assert own.mm in {task.mm for task in everyone}
    assert len(everyone) >= len(dontneed.look_all(STATUS).processes) - 2  # some come and go


@by_tables
def test_frames_are_asked_about_without_numpy_as_with_it():
    """How often each is mapped: near and far ones, and beyond the last one of the machine."""
    frames = [0, 1, 5, 70, 200, 4_000, 1 << 16, (1 << 16) + 3, 1 << 36]
    found = read_map_counts_of(frames)
    assert list(found) == frames
    assert found[1 << 36] == 0
    with kernel_memory() as memory, ProcessDirectory() as process:
        task = memory.task(process)
        entries = [entry for tables in TableReader(memory, [task]) for entry in tables.entries[0].tolist() if entry & 1]
    frames = sorted({(entry & (1 << 52) - 1) >> 12 for entry in entries})
    counts = read_map_counts(np.array(frames, np.uint64)).tolist()
    differing = [
        frame for frame, count in zip(frames, counts, strict=True) if read_map_counts_of([frame]) != {frame: count}
    ]
    assert len(differing) * 10 <= len(frames)  # somebody else may map them meanwhile
    assert read_map_counts_of([]) == {}


@by_tables
def test_it_takes_few_files_and_leaves_none_open(child):
    """With a limit that is lower than the number of processes, where that is above a hundred."""
    for _ in range(3):
        child()
    code = """if True:
        import os, resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
        import dontneed
        dontneed.look_all("page tables")
        before = sorted(os.listdir("/proc/self/fd"))
        assert len(dontneed.look_all("page tables").processes) > 3
        assert len(dontneed.look_all("smaps_rollup").processes) > 3
        assert sorted(os.listdir("/proc/self/fd")) == before
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=PATIENCE_SECONDS)


def test_a_method_that_there_is_not_is_refused_by_name():
    """With those that there are."""
    with pytest.raises(UsageError, match="no method 'smaps'") as refused:
        dontneed.look_all("smaps")
    assert "smaps_rollup" in refused.value.hint


def test_without_proc_there_is_no_table(monkeypatch):
    """And a word of what to do."""
    monkeypatch.setattr(os, "listdir", lambda _: ["self", "meminfo"])
    with pytest.raises(KernelLacks, match="no process in /proc") as refused:
        dontneed.look_all(STATUS)
    assert "mount" in refused.value.hint


def test_a_kernel_without_rollup_is_asked_for_smaps(child, monkeypatch):
    """Before 4.14; the sums are the same."""
    pid = child(HELD).pid
    rolled = holder_of(pid, ROLLUP)
    read = ProcessDirectory.read

    def without_rollup(self, name):
        if name == "smaps_rollup":
            msg = "this kernel has no /proc/PID/smaps_rollup"
            raise KernelLacks(msg)
        return read(self, name)

    monkeypatch.setattr("dontneed.kernel.procfs.ProcessDirectory.read", without_rollup)
    added = holder_of(pid, ROLLUP)
    assert added.rss_bytes == rolled.rss_bytes
    assert 3 * MIB < added.uss_bytes < added.pss_bytes < added.rss_bytes


# Without rights


@pytest.mark.needs_root
def test_nobody_sees_shares_of_its_own_processes_and_rss_of_all(child, as_nobody):
    """And is told of how many the shares are not known, why, and what to do."""
    pid = child(HELD).pid
    done = as_nobody(SEEN)
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    mine, other = seen["rows"][str(seen["me"])], seen["rows"][str(pid)]
    assert mine["method"] == ROLLUP
    assert 0 < mine["uss_bytes"] <= mine["pss_bytes"] <= mine["rss_bytes"]
    assert other["method"] == STATUS
    assert (other["uss_bytes"], other["pss_bytes"]) == (None, None)
    assert other["rss_bytes"] > 3 * MIB
    assert seen["method"] == "smaps_rollup + status"
    notes = "\n".join(seen["notes"])
    assert f"USS and PSS of {seen['unknown']:,} process" in notes
    assert "run as root (sudo)" in notes


@pytest.mark.needs_root
def test_nobody_is_refused_page_tables_when_it_asks_for_them(as_nobody):
    """The method that is asked for by name is that or none."""
    done = as_nobody("import dontneed; dontneed.look_all('page tables')")
    assert done.returncode == 1
    assert "dontneed.errors.NotPermitted: page tables cannot be read" in done.stderr


@pytest.mark.needs_root
@pytest.mark.needs_command("unshare")
@pytest.mark.needs_kernel("5.8")
@pytest.mark.parametrize(("hidepid", "said"), [("1", "hidden by /proc (hidepid)"), ("2", "of other users (hidepid)")])
def test_processes_that_proc_hides_are_told_of(child, hidepid, said):
    """As a number, or as not even that."""
    pid = child(HELD).pid
    become_nobody = Path(__file__).parents[1] / "become_nobody.py"
    script = 'mount -t proc -o "hidepid=$1" proc /proc && shift && exec "$@"'
    program = [sys.executable, str(become_nobody), sys.executable, "-c", SEEN]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", hidepid, *program],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    assert str(pid) not in seen["rows"]
    assert str(seen["me"]) in seen["rows"]
    assert said in "\n".join(seen["notes"])


@by_tables
@pytest.mark.needs_command("unshare")
def test_in_a_pid_namespace_shares_are_those_of_the_whole_machine(child, tmp_path):
    """Only its own processes are in the table, and what they share with others outside of it is shared."""
    path = tmp_path / "shared"
    path.write_bytes(b"s" * (2 * MIB))
    mapping = f"file = open({str(path)!r}, 'rb'); held = mmap.mmap(file.fileno(), 0, prot=1); sum(held[::4096])"
    outside = child(f"import mmap; {mapping}")
    code = f"""if True:
        import json, subprocess, sys, dontneed
        quiet = subprocess.Popen(
            [sys.executable, "-c", "import mmap; {mapping}; print(flush=True); input()"], stdin=-1, stdout=-1
        )
        quiet.stdout.readline()
        for _ in range(50):
            both = dontneed.look_all("page tables"), dontneed.look_all("smaps_rollup")
            ours, kernels = [next(row for row in each.processes if row.pid == quiet.pid) for each in both]
            if ours.uss_bytes == kernels.uss_bytes and ours.pss_bytes >> 10 == kernels.pss_bytes >> 10:
                break
        quiet.communicate(b"")
        pids = [row.pid for row in both[0].processes]
        print(json.dumps([pids, quiet.pid, both[0].notes, ours.as_dict(), kernels.as_dict()]))
    """
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    pids, quiet, notes, ours, kernels = json.loads(done.stdout)
    assert pids == [1, quiet]
    assert any("pid namespace" in note for note in notes)
    assert (ours["method"], kernels["method"]) == (TABLES, ROLLUP)
    assert (ours["uss_bytes"], ours["rss_bytes"]) == (kernels["uss_bytes"], kernels["rss_bytes"])
    assert ours["pss_bytes"] >> 10 == kernels["pss_bytes"] >> 10
    assert ours["rss_bytes"] - ours["uss_bytes"] > 2 * MIB
    assert Path(f"/proc/{outside.pid}").exists()


@pytest.mark.needs_root
def test_a_proc_of_the_namespace_around_shows_more_than_ours():
    """In a pid namespace, with the /proc of the host, the table has the processes of the host: no note says other."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; import dontneed; print(*dontneed.look_all('status').notes)"
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if "unshare" in done.stderr:
        pytest.skip("needs to make a pid namespace")
    assert done.stderr == ""
    assert "pid namespace" not in done.stdout


def test_swapped_shared_memory_is_no_ones_swap():
    """The kernel's smaps has it in the swap of each process that maps it; counters and the other ways do not."""

    class Process:
        def read(self, _name):
            return b"1000-9000 ---p 00000000 00:00 0 [rollup]\nRss: 8 kB\nPss: 8 kB\nSwap: 100 kB\nSwapPss: 4 kB\n"

    assert read_rollup(Process(), Counters(swap_bytes=4096)).swap_bytes == 4096


# Processes that move


@by_tables
def test_processes_that_come_go_and_replace_their_programs_disturb_nobody(child):
    """While two shells start programs as fast as they can, a quiet one holds what it holds, and all is plausible."""
    pid = child(HELD).pid
    still = holder_of(pid, TABLES)
    loop = "while :; do true & (exec true) & sh -c 'true' ; /bin/true; done"
    shells = [subprocess.Popen(["sh", "-c", loop], start_new_session=True, stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        for _ in range(12):
            holders = dontneed.look_all(TABLES)
            assert plausible(holders)
            holder = next(each for each in holders.processes if each.pid == pid)
            assert (holder.rss_bytes, holder.method) == (still.rss_bytes, TABLES)
            assert holder.uss_bytes >= 3 * MIB
    finally:
        for shell in shells:
            os.killpg(shell.pid, signal.SIGKILL)  # a session of our own
            shell.wait()


@by_tables
def test_a_process_that_forks_and_writes_meanwhile_is_counted_soundly(child):
    """It has what it maps, whoever has it too at the moment."""
    process = child("""if True:
        import mmap, threading
        held = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        held[:] = b"x" * len(held)
        def work():
            while True:
                forked = os.fork()
                if not forked:
                    held[: 1 << 20] = b"y" * (1 << 20)
                    os._exit(0)
                os.waitpid(forked, 0)
        threading.Thread(target=work, daemon=True).start()
    """)
    for _ in range(10):
        holder = holder_of(process.pid, TABLES)
        assert holder.rss_bytes > 4 * MIB
        assert holder.uss_bytes <= holder.pss_bytes <= holder.rss_bytes


@pytest.mark.parametrize("method", [ROLLUP, STATUS])
def test_the_other_ways_see_processes_that_come_and_go_as_well(child, method):
    """Whoever has ended is left out, whatever was read of it before."""
    pid = child(HELD).pid
    with subprocess.Popen(
        ["sh", "-c", "while :; do sh -c true & true & wait; done"], start_new_session=True, stderr=subprocess.DEVNULL
    ) as shell:
        try:
            for _ in range(30):
                holders = dontneed.look_all(method)
                assert plausible(holders)
                assert pid in {holder.pid for holder in holders.processes}
        finally:
            os.killpg(shell.pid, signal.SIGKILL)  # a session of its own


@by_tables
def test_a_process_whose_task_goes_while_it_is_looked_for_spoils_nothing(child, monkeypatch):
    """Kernel memory that cannot be read any more: the others are read, and that one is left for another way."""
    pid, other = child(HELD).pid, child(HELD).pid
    find = TaskFinder.find

    def find_all_but_one(self, process):
        if process.pid == pid:
            msg = "kernel memory went away while it was read"
            raise DontneedError(msg)
        return find(self, process)

    monkeypatch.setattr(TaskFinder, "find", find_all_but_one)
    assert holder_of(pid, TABLES).method == STATUS
    assert holder_of(other, TABLES).method == TABLES
    assert any("kernel memory went away" in note for note in dontneed.look_all(TABLES).notes)


def test_a_process_that_replaces_its_program_while_it_is_counted_is_counted_again():
    """What it had is gone, and it is not; what has ended is gone each time, and in no table."""
    asked = []

    def count(_process, counters):
        asked.append(counters)
        if len(asked) == 1:
            raise ProcessGone("the process gave up its memory while it was read")
        return Amounts(counters.rss_bytes, 0)

    member = Roll().member(os.getpid(), count=count)
    assert (member.amounts.rss_bytes, len(asked)) == (asked[1].rss_bytes, 2)
    assert Roll().member(1 << 22, count=count) is None
