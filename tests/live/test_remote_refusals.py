"""Processes that are not acted on, each for its own reason, which the error says; and namespaces, where it works."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import ProcessGone, TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.settings import changed_settings
from dontneed.remote.refusals import of_injection
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

from .native_target import PATIENCE_SECONDS

SECCOMP = """if True:
    import ctypes, struct
    libc = ctypes.CDLL(None, use_errno=True)
    allow = ctypes.create_string_buffer(struct.pack('<HBBI', 0x06, 0, 0, 0x7fff0000))
    program = ctypes.create_string_buffer(struct.pack('<HxxxxxxQ', 1, ctypes.addressof(allow)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0
    pause()
"""
"""PR_SET_NO_NEW_PRIVS; PR_SET_SECCOMP with a filter that allows everything."""

STOP_ONE = """if True:
    import sys
    from dontneed.errors import DontneedError
    from dontneed.kernel.procfs import ProcessDirectory
    from dontneed.remote.stop import Stop
    try:
        with ProcessDirectory({pid}) as process, Stop(process) as stop:
            print("held", len(stop.registers))
    except DontneedError as refused:
        print(type(refused).__name__, refused, refused.hint, sep=": ")
"""


def assert_can_be_held(pid):
    """Whatever was in the way has gone, and nothing is left of it."""
    with ProcessDirectory(pid) as process, Stop(process) as stop:
        assert inject(stop, NR.GETPID) == pid


def tracer_of(pid):
    """Who traces it; 0: nobody."""
    return int(Path(f"/proc/{pid}/status").read_text().split("TracerPid:")[1].split()[0])


@contextmanager
def traced_by(pid, *command):
    """Have a program trace the process."""
    with subprocess.Popen(
        [*command, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as tracer:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not tracer_of(pid):
            assert time.monotonic() < deadline
            assert tracer.poll() is None
            time.sleep(0.01)
        try:
            yield tracer.pid
        finally:
            tracer.stdin.close()  # gdb detaches; killed, it would leave the process stopped
            if command[0] != "gdb":
                tracer.terminate()
            tracer.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("strace", "-o", "/dev/null", "-p"), marks=pytest.mark.needs_command("strace"), id="strace"),
        pytest.param(("gdb", "-q", "-nx", "-p"), marks=pytest.mark.needs_command("gdb"), id="gdb"),
    ],
)
def test_a_process_under_a_debugger_is_refused_by_name(child, command):
    """Nobody can be traced twice: who does it already is what a person needs to know."""
    target = child("pause()")
    with traced_by(target.pid, *command):
        refusal = f"traced by process {tracer_of(target.pid)} .{command[0]}"
        with ProcessDirectory(target.pid) as process, pytest.raises(TargetRefused, match=refusal), Stop(process):
            pass
    assert_can_be_held(target.pid)
    target.proceed()


def test_of_a_thread_that_somebody_else_traces_it_is_said_too(child):
    """Not the main thread: it shows only when it is seized. The others are let go."""
    target = child(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()\npause()"
    )
    with ProcessDirectory(target.pid) as process:
        _, thread = process.threads()
        reads, writes = os.pipe()
        pid = os.fork()
        if not pid:
            from dontneed.kernel import ptrace

            ptrace.seize(thread)
            os.write(writes, b"x")
            time.sleep(PATIENCE_SECONDS)
            os._exit(0)
        os.read(reads, 1)
        with pytest.raises(TargetRefused, match=f"{thread} is traced by process {pid}"), Stop(process):
            pass
        assert tracer_of(target.pid) == 0
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reads)
        os.close(writes)
        with Stop(process) as stop:
            assert len(stop.registers) == 2
    target.proceed()


@pytest.mark.needs_root
def test_a_seccomp_filter_that_allows_everything_forbids_nothing(child):
    """It is not the filter that matters but what it says; the borrowed thread makes the calls that it may make."""
    target = child(SECCOMP)
    with ProcessDirectory(target.pid) as process:
        assert of_injection(process) == ""
        with Stop(process) as stop:
            assert inject(stop, NR.GETPID) == target.pid
    target.proceed()


def test_a_kernel_thread_has_nothing_to_act_on():
    """It has no memory of its own."""
    with ProcessDirectory(2) as process:
        if b"VmSize" in process.read("status"):
            pytest.skip("process 2 is no kernel thread here: another pid namespace")
        with pytest.raises(TargetRefused, match="no memory of its own"), Stop(process):
            pass


def test_a_zombie_has_gone():
    """It only waits for its parent to notice."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with ProcessDirectory(pid) as process, pytest.raises(ProcessGone), Stop(process):
        pass
    os.waitpid(pid, 0)


@contextmanager
def program_of(path, *command):
    """A program that waits, as long as the block runs."""
    with subprocess.Popen([*command, path]) as process:
        try:
            time.sleep(0.05)
            yield process.pid
        finally:
            process.kill()


def test_a_32_bit_program_is_refused(tmp_path):
    """Its registers and calls are others. Refused before it is stopped: by its file."""
    code = bytes.fromhex("b81d000000cd80ebf7")  # mov $29, %eax (pause); int $0x80; and again
    header = b"\x7fELF\x01\x01\x01" + bytes(9) + bytes.fromhex("0200 0300 01000000 54800408 34000000 00000000 00000000")
    header += bytes.fromhex("3400 2000 0100 0000 0000 0000 01000000 00000000 00800408 00800408")
    header += (len(header) + 16 + len(code)).to_bytes(4, "little") * 2 + bytes.fromhex("05000000 00100000")
    path = tmp_path / "pause32"
    path.write_bytes(header + code)
    path.chmod(0o755)
    try:
        with (
            program_of(path) as pid,
            ProcessDirectory(pid) as process,
            pytest.raises(TargetRefused, match="64-bit"),
            Stop(process),
        ):
            pass
    except OSError as error:
        pytest.skip(f"needs a kernel that runs 32-bit programs: {error}")


@pytest.mark.needs_command("cc")
def test_a_program_without_a_way_back_from_handlers_is_refused(tmp_path):
    """No C library, as in programs of other languages: it can be held, and nothing can be run in it."""
    source = tmp_path / "bare.c"
    source.write_text(
        'void _start(void) { for (;;) __asm__ volatile("syscall" : : "a"(34) : "rcx", "r11", "memory"); }'
    )
    subprocess.run(["cc", "-static", "-nostdlib", "-O1", source, "-o", tmp_path / "bare"], check=True)
    with (
        program_of(tmp_path / "bare") as pid,
        ProcessDirectory(pid) as process,
        Stop(process) as stop,
        pytest.raises(TargetRefused, match="no way back"),
    ):
        inject(stop, NR.GETPID)


@pytest.mark.needs_command("cc")
def test_the_parent_of_a_vfork_is_refused_while_it_waits(tmp_path):
    """It sleeps uninterruptibly until its child goes on. It is not touched, and later it is held as any other."""
    source = tmp_path / "vforks.c"
    source.write_text(
        "#include <unistd.h>\nint main(void) { if (!vfork()) { usleep(400000); _exit(0); } for (;;) pause(); }"
    )
    subprocess.run(["cc", "-w", source, "-o", tmp_path / "vforks"], check=True)
    with program_of(tmp_path / "vforks") as pid, ProcessDirectory(pid) as process:
        with pytest.raises(TargetRefused, match="vfork"), Stop(process, patience_seconds=0.05):
            pass
        with Stop(process) as stop:
            assert inject(stop, NR.GETPID) == pid


@pytest.mark.needs_command("cc")
def test_a_thread_that_does_not_stop_is_let_go_when_it_does(tmp_path, monkeypatch):
    """It sleeps uninterruptibly, and we are its tracer until it wakes. The next stop finds it, and lets it go first."""
    monkeypatch.setattr("dontneed.remote.refusals.await_end_of_vfork", lambda *_: None)
    source = tmp_path / "vforks.c"
    source.write_text(
        "#include <unistd.h>\nint main(void) { if (!vfork()) { usleep(300000); _exit(0); } for (;;) pause(); }"
    )
    subprocess.run(["cc", "-w", source, "-o", tmp_path / "vforks"], check=True)
    with program_of(tmp_path / "vforks") as pid, ProcessDirectory(pid) as process:
        with pytest.raises(TargetRefused, match="did not stop"), Stop(process, patience_seconds=0.05):
            pass
        assert tracer_of(pid) == os.getpid()
        time.sleep(0.5)
        with Stop(process) as stop:
            assert inject(stop, NR.GETPID) == pid
        assert tracer_of(pid) == 0


@pytest.mark.needs_root
def test_another_users_process_is_not_permitted(child, as_nobody):
    """Whose it is, who asks, and which capability is missing."""
    said = as_nobody(STOP_ONE.format(pid=child().pid)).stdout
    assert said.startswith("NotPermitted: ")
    assert "belongs to uid 0, and you are uid 65534, without CAP_SYS_PTRACE" in said
    assert "sudo" in said


@pytest.mark.needs_root
def test_a_process_of_ones_own_needs_no_rights(as_nobody):
    """Unless Yama says otherwise: then the error names it."""
    said = as_nobody(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\ntime.sleep(0.2)\n"
        f"exec({STOP_ONE!r}.format(pid=child.pid))\nchild.kill()\nchild.wait()"
    ).stdout
    assert said == "held 1\n"


@pytest.mark.needs_root
@pytest.mark.needs_command("setpriv")
def test_root_without_the_capability_is_not_permitted(child):
    """As in a container that keeps CAP_SYS_PTRACE: a process with more capabilities than we have is closed to us."""
    command = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    command += [sys.executable, "-c", STOP_ONE.format(pid=child().pid)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("NotPermitted: ")
    assert "capabilities that you lack" in said
    assert "add CAP_SYS_PTRACE" in said


@pytest.mark.needs_root
def test_yama_is_named_where_it_forbids(as_nobody):
    """A process of the same user that is no child of ours: only Yama keeps us from it."""
    scope = "/proc/sys/kernel/yama/ptrace_scope"
    if not Path(scope).exists():
        pytest.skip("needs a kernel with Yama")
    orphan = "int(subprocess.run(['sh', '-c', 'sleep 30 >&2 & echo $!'], stdout=subprocess.PIPE).stdout)"
    with changed_settings({scope: 1}):
        said = as_nobody(
            f"import os, subprocess\npid = {orphan}\nexec({STOP_ONE!r}.format(pid=pid))\nos.kill(pid, 9)"
        ).stdout
    assert said.startswith("NotPermitted: ")
    assert "its own children only" in said


def unshared(*flags):
    """Whether namespaces like these can be made here; skips if not."""
    command = ["unshare", *flags]
    if subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip(f"needs `{' '.join(command)}`")
    return command


@contextmanager
def python_in(*flags):
    """A Python that waits in namespaces of its own: its pid as we see it, and as it does."""
    command = [*unshared(*flags), sys.executable, "-c", "import os; print(os.getpid(), flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as outer:
        inner = int(outer.stdout.readline())
        pid = outer.pid
        while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            pid = int(children[0])
        try:
            yield pid, inner
        finally:
            os.kill(pid, signal.SIGKILL)
            outer.wait()


@pytest.mark.needs_root
@pytest.mark.needs_command("unshare")
@pytest.mark.parametrize(
    "flags",
    [
        ("--pid", "--fork", "--mount-proc"),
        ("--user", "--map-root-user"),
        ("--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--net"),
        ("--mount",),
    ],
    ids="-".join,
)
def test_a_process_in_other_namespaces_is_held(flags):
    """Nothing of ours is needed there: its own code is all that we go by. It says its number as it knows it."""
    with python_in(*flags) as (pid, inner), ProcessDirectory(pid) as process, Stop(process) as stop:
        assert inject(stop, NR.GETPID) == inner


@pytest.mark.needs_root
@pytest.mark.needs_command("unshare")
def test_from_within_a_user_namespace_the_outside_is_not_permitted(child):
    """Its root holds every capability there, and none out here."""
    command = [*unshared("--user", "--map-root-user"), sys.executable, "-c", STOP_ONE.format(pid=child().pid)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("NotPermitted: ")
    assert "user namespace" in said


@pytest.mark.needs_root
@pytest.mark.needs_command("unshare")
def test_a_proc_of_another_pid_namespace_is_not_trusted(child):
    """Its numbers would be those of other processes to ptrace."""
    command = [*unshared("--pid", "--fork"), sys.executable, "-c", STOP_ONE.format(pid=child().pid)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.startswith("NotPermitted: this /proc shows the processes of another pid namespace")
