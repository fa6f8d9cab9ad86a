"""Every interface tried for real: as root, as nobody, in a user namespace, behind seccomp filters and masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from dontneed.kernel.environment import read_environment
from dontneed.kernel.features import features

STATES = {"present", "absent", "forbidden", "unprivileged"}
NEEDS_RIGHTS = {
    "all processes": "CAP_SYS_PTRACE",
    "bpf": "CAP_BPF",
    "kernel memory": "CAP_PERFMON",
    "tracefs": "CAP_SYS_ADMIN",
    "tracepoints": "CAP_PERFMON",
    "frame numbers": "CAP_SYS_ADMIN",
    "/proc/kpageflags": "CAP_DAC_READ_SEARCH",
    "/proc/kpagecount": "CAP_DAC_READ_SEARCH",
    "process_madvise(other)": "CAP_SYS_NICE",
    "process_vm_readv": "CAP_SYS_PTRACE",
}

TELL = """if True:
    import json
    from dontneed.kernel.features import features
    print(json.dumps({feature.name: feature.as_dict() for feature in features()}))
"""


def _told(*command: str, before: str = "") -> dict[str, dict[str, str]]:
    """The features of a Python that `command` starts, and that runs `before` first."""
    argv = [*command, sys.executable, "-c", before + TELL]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_feature_has_a_state_and_a_remedy_exactly_if_it_is_not_present():
    """Whoever runs this, wherever."""
    for feature in features():
        assert feature.state in STATES
        assert feature.detail
        assert bool(feature.remedy) is (feature.state != "present"), feature


@pytest.mark.needs_root
@pytest.mark.needs_kernel("6.18")
def test_root_on_a_new_kernel_has_every_interface():
    """The environment aside, which is anybody's choice."""
    missing = [feature for feature in features(refresh=True) if feature.state != "present"]
    assert [feature for feature in missing if feature.step != "environment"] == []


@pytest.mark.needs_root
def test_nobody_lacks_the_rights_of_root_and_nothing_else(as_nobody):
    """What takes a capability is unprivileged and names it; all else is as it is for root."""
    told = json.loads(as_nobody(TELL).stdout)
    for feature in features(refresh=True):
        if feature.name in NEEDS_RIGHTS:
            assert told[feature.name]["state"] == "unprivileged", feature.name
            assert NEEDS_RIGHTS[feature.name] in told[feature.name]["detail"]
            assert "sudo" in told[feature.name]["remedy"]
        else:
            assert told[feature.name]["state"] == feature.state, feature.name


@pytest.mark.needs_root
def test_a_process_that_is_not_dumpable_is_refused_its_own_page_map(as_nobody):
    """As after setuid: /proc/self belongs to root then, and the detail says why, since nobody expects it."""
    become_undumpable = "from dontneed.kernel import libc; PR_SET_DUMPABLE = 4; libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)"
    told = json.loads(as_nobody(f"{become_undumpable}\n{TELL}").stdout)
    assert told["/proc/PID/pagemap"]["state"] == "unprivileged"
    assert "not dumpable" in told["/proc/PID/pagemap"]["detail"]
    assert told["PAGEMAP_SCAN"]["state"] == "unprivileged"


@pytest.mark.needs_root
@pytest.mark.needs_command("setpriv")
def test_a_root_without_the_capability_is_sent_to_its_container():
    """Dropped from the bounding set, no sudo brings it back: an option of `docker run` does."""
    told = _told("setpriv", "--bounding-set=-sys_admin,-sys_nice,-sys_ptrace", "--inh-caps=-all")
    assert told["frame numbers"]["state"] == "unprivileged"
    assert "--cap-add=SYS_ADMIN" in told["frame numbers"]["remedy"]
    assert told["process_madvise(other)"]["state"] == "unprivileged"
    assert told["process_madvise(other)"]["detail"].startswith("EPERM")
    assert told["/proc/kpageflags"]["state"] == "present"  # its owner needs no capability


@pytest.mark.needs_root
@pytest.mark.needs_command("unshare")
def test_the_root_of_a_user_namespace_is_forbidden_what_the_machine_owns():
    """It holds every capability, so it is not unprivileged; sudo would change nothing."""
    _require_user_namespaces()
    told = _told("unshare", "--user", "--map-root-user")
    for name in ("frame numbers", "process_madvise(other)", "all processes"):
        assert told[name]["state"] == "forbidden", told[name]
        assert "user namespace" in told[name]["remedy"]
    assert told["madvise(DONTNEED)"]["state"] == "present"
    assert told["process_madvise(self)"]["state"] == "present"


def _require_user_namespaces() -> None:
    """Skip where the administrator forbids them, unless everything is required."""
    if subprocess.run(["unshare", "--user", "true"], check=False, capture_output=True).returncode != 0:
        refuse = pytest.fail if os.environ.get("DONTNEED_REQUIRE_ALL") == "1" else pytest.skip
        refuse("needs user namespaces, which this system forbids")


SECCOMP = """if True:
    import ctypes
    from dontneed.abi.syscalls import PROCESS_MADVISE
    from dontneed.kernel import libc
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
    LOAD_NUMBER, IF_EQUAL, RETURN, SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x20, 0x15, 0x06, 0x00050000, 0x7FFF0000
    class Instruction(ctypes.Structure):
        _fields_ = [("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32)]
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint16), ("first", ctypes.POINTER(Instruction))]
    rules = (Instruction * 4)(
        (LOAD_NUMBER, 0, 0, 0), (IF_EQUAL, 0, 1, PROCESS_MADVISE), (RETURN, 0, 0, SECCOMP_RET_ERRNO | {number}),
        (RETURN, 0, 0, SECCOMP_RET_ALLOW))
    program = Program(4, rules)
    libc.check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    libc.check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0), "prctl")
"""
EPERM, ENOSYS = 1, 38


@pytest.mark.needs_feature("process_madvise(self)")
def test_a_call_that_a_seccomp_filter_refuses_is_forbidden():
    """EPERM though no capability matters: the filter's word, and the remedy is the filter's profile."""
    told = _told(before=SECCOMP.replace("{number}", str(EPERM)))
    assert told["process_madvise(self)"]["state"] == "forbidden"
    assert "seccomp" in told["process_madvise(self)"]["remedy"]
    assert told["madvise(DONTNEED)"]["state"] == "present"


@pytest.mark.needs_feature("process_madvise(self)")
def test_a_call_that_a_seccomp_filter_hides_is_absent_and_the_filter_is_named():
    """ENOSYS is what an older kernel says, and what container runtimes say in its place."""
    told = _told(before=SECCOMP.replace("{number}", str(ENOSYS)))
    assert told["process_madvise(self)"]["state"] == "absent"
    assert "seccomp filter" in told["process_madvise(self)"]["detail"]


@pytest.mark.needs_root
@pytest.mark.needs_command("unshare")
@pytest.mark.parametrize(
    ("mount", "word"),
    [
        ("mount --bind /dev/null /proc/kpageflags", "container masks it"),
        ("mount -t proc -o subset=pid proc /proc", "ProcSubset"),
    ],
)
def test_a_file_that_is_covered_is_forbidden_and_not_absent(mount, word):
    """Container runtimes and systemd cover files of /proc; the kernel has them all the same."""
    told = _told("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    assert told["/proc/kpageflags"]["state"] == "forbidden"
    assert word in told["/proc/kpageflags"]["remedy"]
    assert told["frame numbers"]["state"] == "present"


@pytest.mark.needs_root
@pytest.mark.needs_command("unshare")
def test_without_proc_the_remedy_is_to_mount_it():
    """As in a chroot that somebody forgot to furnish: no traceback, and madvise works still."""
    told = _told("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh")
    assert told["/proc/PID/maps"]["state"] == "absent"
    assert told["/proc/PID/maps"]["remedy"] == "mount -t proc proc /proc"
    assert told["madvise(DONTNEED)"]["state"] == "present"


def test_the_trials_leave_no_mapping_and_no_descriptor_behind():
    """The mappings with their flags, and the open files, are the same before and after."""
    code = """if True:
        import os
        from dontneed.kernel.features import features
        def traces():
            with open("/proc/self/smaps") as file:
                mappings = [line for line in file if "-" in line.split()[0] or line.startswith("VmFlags")]
            return mappings, os.listdir("/proc/self/fd")
        for _ in range(3):
            features(refresh=True)
            traces()
        before = traces()
        features(refresh=True)
        after = traces()
        assert after == before, [pair for pair in zip(before, after) if pair[0] != pair[1]]
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_environment_is_what_the_files_say():
    """Against the same facts by other ways: uname -r, /proc/meminfo, the file of the cgroup."""
    environment = read_environment()
    with open("/proc/meminfo", encoding="ascii") as file:
        meminfo = dict(line.split(":") for line in file)
    release = subprocess.run(["uname", "-r"], capture_output=True, text=True, check=True).stdout
    assert environment.kernel == release.strip()
    assert environment.swap_bytes == int(meminfo["SwapTotal"].split()[0]) * 1024
    assert environment.page_bytes == os.sysconf("SC_PAGE_SIZE")
    if environment.cgroup:
        assert os.path.exists(f"{environment.cgroup.path}/memory.stat")
