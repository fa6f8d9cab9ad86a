"""The way to the kernel's memory: who is let in, what is said to the others, and that nothing of it stays."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dontneed.abi import bpf as abi
from dontneed.errors import DontneedError, KernelLacks, NotPermitted
from dontneed.kernel import btf, direct_map, features, kernel_memory, probes_tracing, tasks
from dontneed.kernel.bpf import R0, R6, Assembler, Program, next_id
from dontneed.kernel.kernel_memory import open_kernel_memory
from dontneed.kernel.procfs import ProcessDirectory

ready = pytest.mark.needs_feature("kernel memory")
pytestmark = [pytest.mark.needs_root, pytest.mark.needs_feature("BTF")]

WALK = """if True:
    import sys, dontneed
    from dontneed.errors import DontneedError
    memory = bytearray(b"x" * 4096)
    try:
        walk = dontneed.walk(None, id(memory))
        print(walk.levels, "writable" in walk.entries[-1].flags)
    except DontneedError as error:
        print(type(error).__name__, error, "/", error.hint)
"""


def told(*command, before=""):
    """What a Python says of a walk, that `command` starts and that runs `before` first."""
    argv = [*command, sys.executable, "-c", before + WALK]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def untried():
    """Features as nobody has tried them, now and afterwards."""
    features._found.clear()
    yield
    features._found.clear()


# Refusals


def test_nobody_is_told_which_capability_is_missing(as_nobody):
    """And how to have it; sudo helps."""
    said = as_nobody(WALK).stdout
    assert said.startswith("NotPermitted page tables cannot be read: bpf is unprivileged")
    assert "CAP_BPF" in said
    assert "sudo" in said


@pytest.mark.needs_command("setpriv")
def test_a_root_without_the_capabilities_is_sent_to_its_container():
    """CAP_BPF is in neither Docker's nor Kubernetes' default set."""
    said = told("setpriv", "--bounding-set=-bpf,-sys_admin,-perfmon", "--inh-caps=-all")
    assert "NotPermitted" in said
    assert "--cap-add=BPF" in said


@pytest.mark.needs_command("setpriv")
def test_without_perfmon_programs_may_run_and_read_nothing():
    """The verifier says the same of lockdown; the message says which it is."""
    said = told("setpriv", "--bounding-set=-sys_admin,-perfmon", "--inh-caps=-all")
    assert "kernel memory is unprivileged" in said
    assert "CAP_PERFMON" in said
    assert "--cap-add=PERFMON" in said


@pytest.mark.needs_command("unshare")
def test_the_root_of_a_user_namespace_is_told_where_its_rights_end():
    """It holds every capability, over nothing of the machine's."""
    if subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs user namespaces, which this system forbids")
    said = told("unshare", "--user", "--map-root-user")
    assert "bpf is forbidden" in said
    assert "user namespace" in said


def test_a_seccomp_filter_is_named():
    """As container runtimes have one, which lets bpf(2) pass with CAP_BPF only."""
    from .test_features import SECCOMP

    own_filter = SECCOMP.replace("{number}", str(errno.EPERM))
    own_filter = own_filter.replace("PROCESS_MADVISE", "BPF").replace(
        "from dontneed.abi.syscalls import BPF", "BPF = 321"
    )
    said = told(before=own_filter)
    assert "bpf is forbidden" in said
    assert "seccomp" in said


def refused(*_arguments, **_options):
    """What the verifier says of the helper that reads kernel memory, where it is not to be called."""
    message = "Invalid argument: program of this type cannot use helper bpf_probe_read_kernel#113"
    raise OSError(errno.EINVAL, message, "bpf")


@pytest.mark.parametrize(
    ("lockdown", "words"),
    [
        ("none integrity [confidentiality]\n", "lockdown=confidentiality keeps the kernel's memory from everyone"),
        (None, "the kernel's verifier refuses to read kernel memory"),
    ],
)
@ready
@pytest.mark.usefixtures("untried")
def test_lockdown_is_named_even_to_root(monkeypatch, tmp_path, lockdown, words):
    """Simulated: the verifier refuses the helper. With securityfs the setting is read, without it is guessed."""
    setting = tmp_path / "lockdown"
    if lockdown:
        setting.write_text(lockdown)
    monkeypatch.setattr(probes_tracing, "_LOCKDOWN", str(setting))
    load = Program.__init__
    monkeypatch.setattr(
        Program,
        "__init__",
        lambda self, name, code, **options: (refused if reads_kernel(code) else load)(self, name, code, **options),
    )
    with pytest.raises(NotPermitted, match=words) as caught:
        open_kernel_memory()
    assert "lockdown" in caught.value.hint


def reads_kernel(code):
    """Whether a program calls the helper."""
    return any((line[0], line[4]) == (abi.CALL, abi.PROBE_READ_KERNEL) for line in code._code)


@pytest.mark.usefixtures("untried")
def test_a_kernel_without_btf_is_told_what_to_build_in(monkeypatch, tmp_path):
    """Absent, and so no question of rights."""
    monkeypatch.setattr(btf, "PATH", str(tmp_path / "vmlinux"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(KernelLacks, match="BTF is absent") as caught:
        open_kernel_memory()
    assert "CONFIG_DEBUG_INFO_BTF" in caught.value.hint
    assert "pagemap" in caught.value.hint


def test_another_processor_is_told_so(monkeypatch):
    """The programs might run there, and what they read would be nonsense."""
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6.18", "#1", "riscv64")))
    with pytest.raises(KernelLacks, match="x86-64 only"):
        open_kernel_memory()


@ready
@pytest.mark.parametrize("member", ["pgd", "start_stack", "start_boottime", "task_size"])
def test_a_wrong_offset_is_noticed_and_nothing_is_believed(monkeypatch, member):
    """As a kept file of another kernel would have it: the proof on a page of our own fails."""
    right = kernel_memory.read_layout(tasks.MEMBERS, tasks.FUNCTIONS)
    wrong = {pair: offset + 8 * (pair[1] == member) for pair, offset in right.offsets.items()}
    monkeypatch.setattr(kernel_memory, "read_layout", lambda *_, **_anew: btf.Layout(wrong, right.functions))
    with pytest.raises(DontneedError):
        open_kernel_memory()


@ready
def test_a_kept_file_that_is_wrong_is_asked_of_the_kernel_anew(monkeypatch, tmp_path):
    """It is in its place, ours, and of the right form; only what it says is not so."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    open_kernel_memory().close()
    (kept,) = tmp_path.glob("dontneed/kernel-*.txt")
    right = kept.read_text()
    (offset,) = re.findall(r"^mm_struct\.pgd (\d+)$", right, re.MULTILINE)
    kept.write_text(right.replace(f"pgd {offset}", f"pgd {int(offset) + 8}"))
    open_kernel_memory().close()
    assert kept.read_text() == right


@ready
def test_the_direct_map_is_found_however_far_it_begins_below(monkeypatch):
    """A machine of terabytes has its first table far up; so many candidates take the large reader."""
    with open_kernel_memory() as memory:
        expected = memory.base, memory.zero_frame
    monkeypatch.setattr(direct_map, "_CANDIDATES", ((100, 164), (164, 1188), (0, 1024)))
    with open_kernel_memory() as memory:
        assert (memory.base, memory.zero_frame) == expected


# Whose memory


@ready
def test_without_the_function_for_it_a_task_is_found_in_the_list(monkeypatch, child):
    """Kernels before 6.10 have no such function for these programs; the answers are the same."""
    pid = child().pid
    with open_kernel_memory() as memory, ProcessDirectory(pid) as process:
        by_function = memory.task(process)
    monkeypatch.setattr(tasks, "FUNCTIONS", ("no_such_function",))
    with open_kernel_memory() as memory, ProcessDirectory(pid) as process:
        assert memory.task(process) == by_function


@ready
def test_siblings_that_were_forked_in_one_moment_are_told_apart(monkeypatch, child):
    """They started in the same clock tick, with the same program, stack and arguments."""
    monkeypatch.setattr(tasks, "FUNCTIONS", ("no_such_function",))
    forking = child("""if True:
        import os
        pids = []
        for _ in range(20):
            pid = os.fork()
            if not pid:
                os.close(1)
                os.read(0, 1)
                os._exit(0)
            pids.append(pid)
        print(*pids)
    """)
    with open_kernel_memory() as memory:
        roots = set()
        pids = list(map(int, forking.said[0].split()))
        for pid in pids:
            with ProcessDirectory(pid) as process:
                roots.add(memory.task(process).root)
    assert len(roots) == len(pids)


@ready
@pytest.mark.needs_command("unshare")
def test_in_a_pid_namespace_numbers_mean_others_and_nobody_is_mistaken():
    """As in a privileged container: its process 1 is not ours."""
    assert told("unshare", "--pid", "--fork", "--mount-proc") in ("4 True\n", "5 True\n")


@ready
def test_a_forked_child_has_a_way_of_its_own():
    """What is mapped from the parent would be written to by both."""
    code = """if True:
        import ctypes, mmap, os, dontneed
        memory = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[0] = 1
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        frame = dontneed.walk(None, address).frame
        if not (pid := os.fork()):
            memory[0] = 2
            other = dontneed.walk(None, address).frame
            os._exit(0 if other and other != frame else 1)
        print(os.waitpid(pid, 0)[1], dontneed.walk(None, address).frame == frame)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout == "0 True\n", done.stderr


@ready
def test_threads_do_not_read_each_others_pages():
    """Each has a way to itself for the time that it needs it."""
    import dontneed

    memories = [bytearray(b"x" * 8192) for _ in range(4)]
    expected = [dontneed.walk(None, id(memory)).raw for memory in memories]
    wrong = []

    def work(memory, raw):
        wrong.extend(1 for _ in range(100) if dontneed.walk(None, id(memory)).raw != raw)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(memories, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# Nothing stays


def loaded(pid):
    """The numbers of the programs and maps that a process has."""
    found = {}
    for link in Path(f"/proc/{pid}/fdinfo").iterdir():
        for line in link.read_text().splitlines():
            word, _, number = line.partition(":")
            if word in ("prog_id", "map_id"):
                found[int(number)] = word
    return found


def is_there(number, word):
    """Whether a program or map of this number is loaded."""
    command = abi.PROG_GET_NEXT_ID if word == "prog_id" else abi.MAP_GET_NEXT_ID
    return next_id(command, number - 1) == number


@ready
@pytest.mark.parametrize("end", ["killed", "closed", "exited"])
def test_whatever_ends_us_the_programs_and_maps_go(child, end):
    """They are descriptors: the kernel lets them go with the process, killed in the middle of things or not."""
    process = child("""if True:
        from dontneed.kernel.kernel_memory import open_kernel_memory
        memory = open_kernel_memory()
        pause()
        memory.close()
        pause()
    """)
    numbers = loaded(process.pid)
    assert sorted(numbers.values()).count("map_id") >= 1
    assert sorted(numbers.values()).count("prog_id") >= 1
    assert all(is_there(number, word) for number, word in numbers.items())
    if end == "killed":
        process.kill()
    else:
        process.proceed()
        if end == "exited":
            process.kill()
        else:
            assert loaded(process.pid) == {}
    deadline = time.monotonic() + 30
    while any(is_there(number, word) for number, word in numbers.items()):
        assert time.monotonic() < deadline, "a program or a map outlived its process"
        time.sleep(0.01)


@ready
def test_a_program_that_reads_where_nothing_is_gets_an_error_and_no_harm():
    """Any address may be asked for."""
    with open_kernel_memory() as memory:
        assert memory.read([0xFFFF_C000_0000_0000, memory.base, 0, (1 << 64) - 4096]) in ([0, 2, 3], [0, 2])


@ready
def test_what_the_verifier_says_is_in_the_error():
    """Whoever writes a program wants to know."""
    code = Assembler()
    code.store(R6, 0, R0)
    code.exit(0)
    with pytest.raises(OSError, match="!read_ok"):
        Program("bad", code)
