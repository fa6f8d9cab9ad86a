"""What is no process, may not be looked at, or ends or changes while it is looked at: a clear error, or the truth."""

from __future__ import annotations

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dontneed.errors import NoAddressSpace, NotPermitted, ProcessGone, UsageError, WrongType
from dontneed.kernel import kernel_memory
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.observe.address_space import look, why_empty

PAGE = 4096
TESTS = Path(__file__).parents[1]

LOOK_AT = """if True:
    from dontneed.errors import DontneedError
    from dontneed.observe.address_space import look
    def tell(pid):
        try:
            print(pid, "seen", len(look(pid).mappings) > 10)
        except DontneedError as error:
            print(pid, type(error).__name__, error, "|", error.hint)
"""
"""For processes without rights: look, and say in a line what came of it."""


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _no_descriptor_is_lost():
    """Whatever goes wrong, what was opened is closed, but for the way to the kernel's memory, which is kept."""
    look()
    kernel_memory._forget()
    before = open_descriptors()
    yield
    kernel_memory._forget()
    assert open_descriptors() == before


# What is no pid


@pytest.mark.parametrize("pid", ["1", "", "self", b"1", 1.0, True, False, [1], object()])
def test_what_is_no_integer_is_no_pid(pid) -> None:
    """A wrong type, which is a TypeError and a ValueError too; a number in a text is not converted."""
    with pytest.raises(WrongType, match="integer") as raised:
        look(pid)
    assert isinstance(raised.value, TypeError)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("pid", [0, -1, -(2**63), -(10**30)])
def test_a_pid_is_positive(pid) -> None:
    """0 and the negative numbers mean groups to kill(2); here they are refused before anyone is asked."""
    with pytest.raises(UsageError, match="positive") as raised:
        look(pid)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("pid", [2**22, 2**22 + 1, 2**31 - 1, 2**31, 2**32 + 1, 2**63, 2**64 + 1, 10**30])
def test_a_huge_pid_is_no_process(pid) -> None:
    """Larger than any pid, or than any integer of the kernel: the same clear answer."""
    with pytest.raises(ProcessGone, match=str(pid)) as raised:
        look(pid)
    assert raised.value.exit_code == 5


def test_an_unknown_method_is_refused_with_those_there_are() -> None:
    """Before the process is asked for anything."""
    with pytest.raises(UsageError, match="nonsense") as raised:
        look(method="nonsense")
    assert "PAGEMAP_SCAN" in raised.value.hint


# What is no process with memory


def test_a_pid_that_was_reaped_is_gone(child) -> None:
    """There was one, it has ended, and its parent knows."""
    ended = child()
    ended.kill()
    with pytest.raises(ProcessGone, match=f"no process {ended.pid}") as raised:
        look(ended.pid)
    assert isinstance(raised.value, ProcessLookupError)
    assert raised.value.hint


def test_a_zombie_is_gone_and_its_parent_is_named(child) -> None:
    """An entry in the table is left and no memory; what is left to do is the parent's."""
    ended = child()
    os.kill(ended.pid, 9)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessGone, match="ended") as raised:
        look(ended.pid)
    assert str(os.getpid()) in raised.value.hint


@pytest.mark.needs_root
@pytest.mark.parametrize("smaps", [False, True])
def test_a_kernel_thread_has_no_address_space(smaps) -> None:
    """It is a process like any other, but for its memory; and it is not gone."""
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("needs to see kthreadd: this is a pid namespace of its own")
    with pytest.raises(NoAddressSpace, match="kthreadd") as raised:
        look(2, smaps=smaps)
    assert raised.value.exit_code == 1


def test_a_thread_is_looked_at_as_its_process(child) -> None:
    """A thread's id is as good as the process's: the memory is the same."""
    quiet = child(
        "import threading\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "print(threading.enumerate()[1].native_id)"
    )
    thread = int(quiet.said[0])
    of_thread, of_process = look(thread), look(quiet.pid)
    assert of_thread.pid == thread
    assert [each.start for each in of_thread.mappings] == [each.start for each in of_process.mappings]
    assert of_thread.total == of_process.total


def test_a_process_without_its_first_thread_is_seen_through_another() -> None:
    """The first thread has ended and is a zombie; the others live, and the memory with them."""
    code = """if True:
        import ctypes, os, threading
        def body():
            print(threading.get_native_id(), flush=True)
            os.read(0, 1)
            os._exit(0)
        threading.Thread(target=body).start()
        ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread alone, on x86-64
    """
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        thread = int(process.stdout.readline())
        while "\nState:\tZ" not in Path(f"/proc/{process.pid}/status").read_text():
            os.sched_yield()
        space = look(thread)
        with pytest.raises(ProcessGone, match="others live on") as raised:
            look(process.pid)
        process.stdin.write(b"\n")
    assert str(thread) in raised.value.hint
    assert space.total.rss_bytes > 1 << 20
    assert space.command == "python" or space.command.startswith("python")


def test_only_what_has_ended_is_called_so(child) -> None:
    """Between two programs a process has no memory for a moment, and its parent has nothing to collect."""
    with ProcessDirectory(child().pid) as process:
        refused = why_empty(process, read_identity(process))
    assert isinstance(refused, ProcessGone)
    assert "started another program" in str(refused)
    assert "entry is left" not in str(refused)


# What one may not look at


@pytest.mark.parametrize(("user", "said"), [(0, "CAP_SYS_PTRACE"), (65534, "sudo")])
def test_who_is_root_already_is_not_sent_to_sudo(child, monkeypatch, user, said) -> None:
    """Root of a container, or of a user namespace: it is root, and lacks something else."""

    def refuse(*_names, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    with ProcessDirectory(child().pid) as process, monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: user)
        patch.setattr(os, "listdir", refuse)
        with pytest.raises(NotPermitted) as raised:
            process.threads()
    assert said in raised.value.hint
    assert ("sudo" in raised.value.hint) == bool(user)


@pytest.mark.needs_root
def test_another_users_process_is_refused_and_both_users_are_named(child, as_nobody) -> None:
    """Whose it is, who asked, and how to get the rights: in one line, and nothing else."""
    pid = child().pid
    done = as_nobody(f"{LOOK_AT}\ntell({pid})")
    assert done.stderr == ""
    said, _, hint = done.stdout.partition(" | ")
    assert said.startswith(f"{pid} NotPermitted not permitted to read /proc/{pid}/")
    assert "uid 0" in said
    assert "uid 65534" in said
    assert "sudo" in hint


@pytest.mark.needs_root
def test_nobody_is_told_of_kernel_threads_and_lost_pids_as_root_is(as_nobody) -> None:
    """Rights are no part of the answer where there is nothing to look at."""
    done = as_nobody(f"{LOOK_AT}\ntell({2**22})")
    assert (done.stdout.split()[1], done.stderr) == ("ProcessGone", "")


def test_nobody_can_look_at_itself(as_nobody) -> None:
    """No privilege is needed for one's own memory."""
    done = as_nobody(f"{LOOK_AT}\ntell(None)")
    assert (done.stdout.splitlines(), done.stderr) == (["None seen True"], "")


@pytest.mark.needs_root
@pytest.mark.needs_kernel("5.8")
@pytest.mark.needs_command("unshare")
@pytest.mark.parametrize("hidepid", [1, 2])
def test_a_proc_that_hides_processes_is_not_taken_for_one_without_them(child, hidepid) -> None:
    """Closed directories (1) or none at all (2): the process exists, and it is not permitted to look at it."""
    pid = child().pid
    # A mount of its own, in a namespace of its own: since 5.8 the option is that mount's alone.
    mount = 'mount -t proc -o hidepid=$0 proc /proc && exec "$@"'
    code = f"{LOOK_AT}\ntell({pid})\ntell({2**22 - 1})\ntell(None)"
    become_nobody = [sys.executable, TESTS / "become_nobody.py", sys.executable, "-c", code]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, str(hidepid), *become_nobody],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
    )
    assert done.stderr == ""
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["NotPermitted", "ProcessGone", "seen"]


# What does not stay as it is


def end(quiet) -> None:
    """End the process, and collect it."""
    quiet.kill()


def become_a_zombie(quiet) -> None:
    """End the process, and leave its entry in the table."""
    os.kill(quiet.pid, 9)
    os.waitid(os.P_PID, quiet.pid, os.WEXITED | os.WNOWAIT)


def start_another_program(quiet) -> None:
    """Let the process exec: the same pid, the same directory in /proc, and nothing else the same."""
    quiet.proceed()


class Interruption:
    """Does something to a process while it is looked at: before or after the n-th of its files is opened."""

    def __init__(self, monkeypatch, happening, quiet) -> None:
        self.done = False
        self._countdown = 0
        self._happen = lambda: happening(quiet)
        really_open = ProcessDirectory.open

        def open_and_tick(process, name):
            self._tick()
            fd = really_open(process, name)
            self._tick()
            return fd

        monkeypatch.setattr(ProcessDirectory, "open", open_and_tick)

    def after(self, ticks: int) -> None:
        """Let that many ticks go by; there is one before each opening of a file and one behind it."""
        self._countdown = ticks

    def _tick(self) -> None:
        self._countdown -= 1
        if self._countdown == 0:
            self.done = True
            self._happen()


EXECS = """if True:
    import os, threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    pause()
    os.execv("/bin/sh", ["sh", "-c", "echo ready; read line"])
"""


@pytest.mark.parametrize(
    "options", [{}, {"pages": True, "smaps": True}, {"method": "pagemap"}], ids=["plain", "everything", "entries"]
)
@pytest.mark.parametrize("happening", [end, become_a_zombie, start_another_program])
def test_nothing_that_happens_meanwhile_is_a_surprise(child, monkeypatch, happening, options) -> None:
    """Before and after each opening of each file: it is gone, or what was seen is whole, or it says that it moved."""
    for ticks in itertools.count(1):
        quiet = child(EXECS)
        with monkeypatch.context() as patch:
            interruption = Interruption(patch, happening, quiet)
            interruption.after(ticks)
            try:
                space = look(quiet.pid, **options)
            except ProcessGone:
                assert interruption.done
                assert happening is not start_another_program  # it is there, and was looked at again
                continue
        if not interruption.done:
            break
        assert happening is start_another_program  # half a picture of what has ended is shown to nobody
        at_rest = space.total.size_bytes - space.counters.size_bytes <= PAGE  # vsyscall
        assert at_rest or space.drift.moved
        assert all(each.rss_bytes <= each.size_bytes for each in space.mappings)
    assert ticks > 10


SHORT_LIVES = """if True:
    import os
    from dontneed.errors import ProcessGone
    from dontneed.observe.address_space import look
    seen = 0
    for number in range(60):
        pid = os.posix_spawn("/bin/sleep", ["sleep", "0.004"], os.environ)
        method = "auto" if number % 5 else "pagemap"
        try:
            while True:
                space = look(pid, pages=number % 2 == 0, smaps=number % 3 == 0, method=method)
                seen += 1
                assert all(each.rss_bytes <= each.size_bytes for each in space.mappings)
        except ProcessGone:
            pass
        finally:
            os.waitpid(pid, 0)
    print(seen > 0)
"""


def test_short_lives_end_in_no_surprise(as_nobody) -> None:
    """Processes that begin and end while their owner looks, until they are gone: what ends is refused to its owner."""
    done = as_nobody(SHORT_LIVES)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_short_lives_are_no_surprise_to_root(capsys) -> None:
    """Who may look at everything is told ESRCH where others are refused."""
    exec(SHORT_LIVES, {})  # noqa: S102
    assert capsys.readouterr().out == "True\n"


def look_if_it_holds_still(pid: int, number: int):
    """Look this way or that; nothing, if the memory that was looked at is gone."""
    try:
        return look(pid, pages=number % 2 == 0, smaps=number % 3 == 0)
    except ProcessGone:
        return None


def test_a_process_that_execs_all_the_time_is_no_surprise(tmp_path) -> None:
    """A script that starts itself anew for ever: every look ends in an address space, or in one that was given up."""
    (tmp_path / "again.sh").write_text('exec /bin/sh "$0"\n')
    with subprocess.Popen(["/bin/sh", tmp_path / "again.sh"]) as process:
        try:
            looks = [look_if_it_holds_still(process.pid, number) for number in range(200)]
            assert process.poll() is None
        finally:
            process.kill()
    seen = [space for space in looks if space]
    assert seen
    assert all(each.rss_bytes <= each.size_bytes for space in seen for each in space.mappings)


# What is hard to read


def test_a_process_at_the_limit_of_mappings_is_seen_whole(child) -> None:
    """65,000 mappings, by the fast way: all of them, with every second one's page."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    if limit < 65_530:
        pytest.skip("needs vm.max_map_count of 65530, which is its default")
    quiet = child(
        """if True:
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        held = mmap.mmap(-1, 65_000 * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        start = ctypes.addressof(ctypes.c_char.from_buffer(held))
        for page in range(1, 65_000, 2):
            held[page * 4096] = 1
            assert libc.mprotect(start + page * 4096, 4096, mmap.PROT_READ) == 0
        print(start)
        """
    )
    start = int(quiet.said[0])
    space = look(quiet.pid)
    crowd = [each for each in space.mappings if start <= each.start < start + 65_000 * PAGE]
    assert len(crowd) >= 64_999  # the last one may have become part of its neighbour
    assert {(each.perms, each.rss_bytes) for each in crowd[:64_998]} == {("rw-p", 0), ("r--p", PAGE)}
    assert sum(each.rss_bytes for each in crowd) == 32_500 * PAGE


@pytest.mark.parametrize(
    "name",
    [b"two words", b" spaces around ", b"new\nline", b"really (deleted)", b"tab\t", b"\xff\xfe", b"[heap]", b"a" * 255],
)
def test_a_file_may_have_any_name(child, tmp_path, name) -> None:
    """It comes as the kernel prints it: only a newline is escaped; bytes that are no UTF-8 survive the way back."""
    path = os.path.join(os.fsencode(tmp_path), name)
    quiet = child(
        f"import mmap, os\n"
        f"fd = os.open({path!r}, os.O_RDWR | os.O_CREAT); os.write(fd, b'x' * 4096)\n"
        f"held = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ); held[0]\n"
        f"pause(); os.unlink({path!r})"
    )
    printed = path.replace(b"\n", b"\\012")
    before = [each for each in look(quiet.pid).mappings if os.fsencode(each.name) == printed]
    quiet.proceed()
    after = [each for each in look(quiet.pid).mappings if os.fsencode(each.name) == printed + b" (deleted)"]
    assert [(each.kind, each.rss_bytes) for each in (*before, *after)] == [("file", PAGE)] * 2


@pytest.mark.parametrize("name", [b"a) R 1 1", b"((", b"new\nline", b"\xff\xfe", b"VmRSS:\t1 kB", b"fifteen letters"])
def test_a_command_may_have_any_name(child, name) -> None:
    """Brackets, newlines and lines like those of status: the name is told, the counters are not led astray."""
    quiet = child(f"import ctypes; ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0)")
    space = look(quiet.pid)
    assert os.fsencode(space.command) == name[:15]
    assert space.counters.threads == 1
    assert space.counters.rss_bytes > 1 << 20


# What looking does to the process


@pytest.mark.parametrize(
    "options",
    [{}, {"pages": True}, {"smaps": True}, {"method": "pagemap"}, {"method": "smaps", "pages": True}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_looking_changes_nothing(child, options) -> None:
    """References, faults, page tables and dirty pages of a child at rest are what they were."""
    quiet = child(
        """if True:
        import mmap
        written = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); written.write(b"x" * (1 << 20))
        only_read = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); only_read.read()
        lazy = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); lazy.write(b"x" * (1 << 20))
        lazy.madvise(mmap.MADV_FREE)
        huge = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS); huge.madvise(mmap.MADV_HUGEPAGE)
        huge.write(b"x" * (4 << 20))
        """
    )
    before = what_the_kernel_knows_of(quiet.pid)
    for _ in range(3):
        look(quiet.pid, **options)
    after = what_the_kernel_knows_of(quiet.pid)
    assert {line: (before.get(line), now) for line, now in after.items() if before.get(line) != now} == {}
    assert before.keys() == after.keys()


def what_the_kernel_knows_of(pid: int) -> dict[tuple[str, str], str]:
    """Every line of smaps for memory without a file, which only `pid` touches, of status, and the faults in stat."""
    known = {}
    where = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key:
            where = line if " 00:00 0 " in line else ""
        elif where and key != "LazyFree":  # the kernel moves pages to its list when it likes
            known[where, key] = value
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.startswith(("Vm", "Rss", "HugetlbPages", "Threads", "voluntary")):
            known["status", key] = value
    faults = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7:11]
    known["stat", "faults"] = " ".join(faults)
    return known
