"""Targets under seccomp: filters are read and judged, nothing that they forbid is tried, and nobody is ever harmed."""

from __future__ import annotations

import json
import random
import struct

import pytest

import dontneed
from dontneed import Advice, Span, Spans, TargetRefused
from dontneed.abi import seccomp as abi
from dontneed.abi.syscalls import PROCESS_MADVISE
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.kernel.features import feature
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.ptrace import get_seccomp_filters
from dontneed.remote.advise import advise_inside
from dontneed.remote.call import call
from dontneed.remote.filters import UNREADABLE, Verdicts
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_feature("ptrace")]

PAGE = 4096
PAGES = 8
NUMBER = (abi.LD_ABS, 0, 0, 0)
ALLOW = (abi.RET_K, 0, 0, abi.ALLOW)
EPERM = abi.ERRNO | 1

INSTALL = """if True:
    import ctypes, mmap, os, struct
    libc = ctypes.CDLL(None, use_errno=True)
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    def install(*instructions):
        data = b"".join(struct.pack("<HBBI", *each) for each in instructions)
        held = ctypes.create_string_buffer(data, len(data))
        program = Program(len(instructions), ctypes.addressof(held))
        assert libc.prctl(38, 1, 0, 0, 0) == 0                              # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, os.strerror(ctypes.get_errno())
"""
TARGET = f"""{INSTALL}
    held = mmap.mmap(-1, {PAGES} * {PAGE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"x" * len(held))
    print(ctypes.addressof(ctypes.c_char.from_buffer(held)))
    print(ctypes.cast(libc.labs, ctypes.c_void_p).value)
    print(ctypes.cast(libc.malloc_trim, ctypes.c_void_p).value)
    for filter in FILTERS:
        install(*filter)
    pause()
    print(*held[::{PAGE}])
    print(sum(len(bytes(1000)) for _ in range(1000)))
"""

CONTAINER_LIST = (
    *(NR.READ, NR.WRITE, NR.OPEN, NR.CLOSE, NR.POLL, NR.MMAP, NR.MPROTECT, NR.MUNMAP, NR.BRK, NR.RT_SIGRETURN),
    *(NR.MADVISE, NR.NANOSLEEP, NR.GETPID, NR.FUTEX, NR.RESTART_SYSCALL, NR.CLOCK_GETTIME, NR.CLOCK_NANOSLEEP),
    *(NR.EPOLL_WAIT, NR.OPENAT, NR.GETTID, NR.SCHED_YIELD, NR.SELECT, NR.ACCEPT4, NR.RECVMSG, NR.SENDMSG),
    *(5, 8, 13, 14, 16, 21, 25, 60, 102, 104, 107, 108, 110, 157, 231, 262, 302, 309, 318, 324, 332),
)
"""By number, as a container runtime's; the last line: files, signals, users, exits, and prctl, to install another."""


def packed(filter_):
    """The bytes of a filter."""
    return b"".join(struct.pack(abi.INSTRUCTION, *each) for each in filter_)


def allow_list(*numbers, otherwise=EPERM):
    """A filter that allows these numbers alone."""
    count = len(numbers)
    tests = [(abi.JEQ, count - at, 0, number) for at, number in enumerate(numbers)]
    return [NUMBER, *tests, (abi.RET_K, 0, 0, otherwise), ALLOW]


def answering(number, action):
    """A filter that answers one call with this action, and allows all others."""
    return [NUMBER, (abi.JEQ, 0, 1, number), (abi.RET_K, 0, 0, action), ALLOW]


class Target:
    """A child under filters, with some pages of its own; `is_whole` says that it still lives and works."""

    def __init__(self, child, *filters):
        self._child = child(TARGET.replace("FILTERS", repr(filters)))
        self.pid = self._child.pid
        self.start, self.labs, self.malloc_trim = map(int, self._child.said)

    def page(self, index):
        """One of its pages."""
        return Span(self.start + index * PAGE, self.start + (index + 1) * PAGE)

    def is_whole(self, gone=()):
        """Whether it goes on as if nothing had happened, but for pages that were given up."""
        pages, total = self._child.proceed()
        expected = [0 if index in gone else ord("x") for index in range(PAGES)]
        return total == "1000000" and list(map(int, pages.split())) == expected


@pytest.fixture
def target(child):
    """Start a child under filters."""
    return lambda *filters: Target(child, *filters)


def advise_some(target):
    """Give up three pages of a target that do not touch each other; the numbers of those that were asked for."""
    spans = Spans([target.page(index) for index in (0, 2, 4)])
    with ProcessDirectory(target.pid) as process, Stop(process) as stop:
        assert advise_inside(stop, spans, Advice.DONTNEED) == 3 * PAGE
    return (0, 2, 4)


def call_some(target):
    """Run a function that computes, and one that trims the heap."""
    with ProcessDirectory(target.pid) as process, Stop(process) as stop:
        assert call(stop, target.labs, (1 << 64) - 5) == 5
        assert call(stop, target.malloc_trim, 0) in (0, 1)


PERMITTING = {
    "everything": [[ALLOW]],
    "everything, logged": [[(abi.RET_K, 0, 0, abi.LOG)]],
    "a container's list": [allow_list(*CONTAINER_LIST)],
    "a container's list that kills": [allow_list(*CONTAINER_LIST, otherwise=abi.KILL_PROCESS)],
    "two lists": [allow_list(*CONTAINER_LIST), answering(165, EPERM)],
    "no process_madvise, or death": [answering(PROCESS_MADVISE, abi.KILL_PROCESS)],
    "no process_madvise": [answering(PROCESS_MADVISE, EPERM)],
    "process_madvise pretended": [answering(PROCESS_MADVISE, abi.ERRNO)],
}


@pytest.mark.parametrize("filters", PERMITTING.values(), ids=PERMITTING)
def test_a_filter_that_allows_what_we_need_is_no_reason_to_refuse(target, filters):
    """Pages go, functions run; of process_madvise, which some filters forbid, there is a substitute."""
    filtered = target(*filters)
    gone = advise_some(filtered)
    call_some(filtered)
    assert filtered.is_whole(gone)


FORBIDDING = {
    "madvise fails": answering(NR.MADVISE, EPERM),
    "madvise is pretended": answering(NR.MADVISE, abi.ERRNO),
    "madvise is trapped": answering(NR.MADVISE, abi.TRAP),
    "getpid kills": answering(NR.GETPID, abi.KILL_PROCESS),
    "getpid kills the thread": answering(NR.GETPID, abi.KILL_THREAD),
    "rt_sigreturn kills": answering(NR.RT_SIGRETURN, abi.KILL_PROCESS),
    "restart_syscall kills": answering(NR.RESTART_SYSCALL, abi.KILL_PROCESS),
    "this advice kills": [
        *(NUMBER, (abi.JEQ, 0, 3, NR.MADVISE), (abi.LD_ABS, 0, 0, 32), (abi.JEQ, 0, 1, 4)),
        *((abi.RET_K, 0, 0, abi.KILL_PROCESS), ALLOW),
    ],
}


@pytest.mark.parametrize("filter_", FORBIDDING.values(), ids=FORBIDDING)
def test_what_a_filter_forbids_is_refused_and_not_tried(target, filter_):
    """The message has the call and the answer; the target lives, with every page."""
    filtered = target(filter_)
    name = next(iter(id_ for id_, each in FORBIDDING.items() if each is filter_)).split()[0].replace("this", "madvise")
    with pytest.raises(TargetRefused, match=f"seccomp filter answers {name} with"):
        advise_some(filtered)
    assert filtered.is_whole()


def test_the_newer_of_two_filters_is_judged_as_well(target):
    """The first allows it; a service may add one of its own."""
    filtered = target(allow_list(*CONTAINER_LIST), answering(NR.GETPID, abi.TRAP))
    with pytest.raises(TargetRefused, match="getpid with TRAP"):
        advise_some(filtered)
    assert filtered.is_whole()


def test_what_functions_call_is_asked_of_a_filter_only_where_functions_are_run(target):
    """Without brk, malloc_trim would die; pages can be given up all the same."""
    filtered = target(answering(NR.BRK, abi.KILL_PROCESS))
    gone = advise_some(filtered)
    with pytest.raises(TargetRefused, match="brk"):
        call_some(filtered)
    assert filtered.is_whole(gone)


def test_a_call_is_judged_before_it_is_injected(target):
    """Whatever it is: here one that no passage needs."""
    filtered = target(answering(NR.GETTID, abi.KILL_PROCESS))
    with ProcessDirectory(filtered.pid) as process, Stop(process) as stop:
        assert inject(stop, NR.GETPID) == filtered.pid
        with pytest.raises(TargetRefused, match="gettid with KILL_PROCESS"):
            inject(stop, NR.GETTID)
        assert inject(stop, NR.GETPID) == filtered.pid
    assert filtered.is_whole()


def test_strict_mode_is_refused(child):
    """It kills for everything but read, write and exit; the child reads and writes on."""
    strict = child("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.prctl(22, 1, 0, 0, 0)\npause()\nprint('whole')")
    with (
        ProcessDirectory(strict.pid) as process,
        pytest.raises(TargetRefused, match="strict mode"),
        Stop(process) as stop,
    ):
        inject(stop, NR.GETPID)
    assert strict.proceed() == ["whole"]


def test_a_stop_alone_does_not_end_a_process_that_may_not_restart(child):
    """The kernel goes on with an interrupted poll by restart_syscall, for which this filter kills."""
    waiting = child(
        f"{INSTALL}\n    import select\n    poll, now = select.poll(), __import__('time').monotonic\n"
        f"    install(*{answering(NR.RESTART_SYSCALL, abi.KILL_PROCESS)!r})\n"
        "    import threading; result = []\n"
        "    thread = threading.Thread(target=lambda: result.append(poll.poll(1000))); thread.start()\n"
        "    while not open(f'/proc/self/task/{thread.native_id}/syscall').read().startswith('7 '): pass\n"
        "    pause()\n    thread.join()\n    print(result)"
    )
    with ProcessDirectory(waiting.pid) as process:
        for _ in range(3):
            with Stop(process) as stop:
                assert len(stop.registers) == 2
    assert waiting.proceed() == ["[[]]"]


def test_a_service_in_a_container_is_released(child):
    """The whole way: helper, stop, the GIL, functions of malloc; and the receipt says that pages came back."""
    code = f"{INSTALL}    held = mmap.mmap(-1, 256 * {PAGE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
    code += f"    held.write(bytes(256 * {PAGE}))\n    kept = [str(n) * 9 for n in range(200000)][::2000]\n"
    code += f"    install(*{allow_list(*CONTAINER_LIST, otherwise=abi.KILL_PROCESS)!r})\n    pause()\n"
    code += "    print(sum(held[:]), len(kept))"
    service = child(code)
    receipt = dontneed.release(service.pid, reasons=["free-pools", "malloc-free", "zero-pages"])
    assert not [each.failed or each.refused for each in receipt.reasons if each.failed or each.refused]
    assert receipt.reasons[-1].freed >= 200 * PAGE
    assert service.proceed() == ["0 100"]


def test_without_the_right_to_read_filters_their_owner_is_refused(as_nobody):
    """Nobody may trace a child of nobody's, but not look at its filter; the message says what could."""
    told = as_nobody(
        "import subprocess, sys\nfrom dontneed import TargetRefused\n"
        "from dontneed.kernel.procfs import ProcessDirectory\nfrom dontneed.remote.stop import Stop\n"
        "from dontneed.remote.syscall import inject\nfrom dontneed.remote.refusals import of_injection\n"
        f"code = {INSTALL + f'    install({ALLOW!r})' + chr(10)!r}\n"
        "code += '    print(1, flush=True); input(); print(2)'\n"
        "pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}\n"
        "with subprocess.Popen([sys.executable, '-c', code], text=True, **pipes) as child:\n"
        "    child.stdout.readline()\n"
        "    with ProcessDirectory(child.pid) as process:\n"
        "        print(of_injection(process))\n"
        "        try:\n"
        "            with Stop(process) as stop: inject(stop, 39)\n"
        "        except TargetRefused as refusal: print(refusal)\n"
        "    print(child.communicate('go')[0], child.returncode)\n"
    )
    beforehand, stopped, *after = told.stdout.splitlines()
    assert beforehand == UNREADABLE, told.stderr
    assert stopped.endswith(UNREADABLE)
    assert "as root outside of the container" in UNREADABLE
    assert after == ["2", " 0"]


# The interpreter against the kernel's

ASKED = 1000
"""No system call has this number: the kernel says ENOSYS where a filter allows it."""
ENOSYS = 38
RUN = f"""{INSTALL}
    import json
    for asked, filter in json.load(open(TRIALS)):
        reading, writing = os.pipe()
        if not os.fork():
            install(*filter)
            ctypes.set_errno(0)
            libc.syscall({ASKED}, *map(ctypes.c_long, asked))
            os.write(writing, b"%d" % ctypes.get_errno())
            os._exit(0)
        os.close(writing)
        print(os.read(reading, 9).decode() or "ended")
        os.close(reading)
        os.wait()
"""


def random_filter(lot):
    """A filter that computes something from a call, and answers with it as errno."""
    count = lot.randrange(10, 60)
    body = [random_instruction(lot, count - at) for at in range(count)]
    body += [(abi.AND, 0, 0, 0x3F), (abi.ADD, 0, 0, EPERM), (abi.RET_A, 0, 0, 0)]
    clean = [(abi.LD_IMM, 0, 0, 0), *((abi.ST, 0, 0, at) for at in range(16))]
    return [NUMBER, (abi.JEQ, 1, 0, ASKED), ALLOW, *clean, *body]


def random_instruction(lot, left):
    """One that leads no further than `left`."""
    some = (abi.LD_ABS, abi.LD_ABS, abi.TAX, abi.TXA, abi.NEG, abi.ST, abi.STX, abi.LD_MEM, abi.LDX_MEM, abi.LDX_LEN)
    code = lot.choice((*some, abi.LDX_IMM, abi.JA, *abi.ARITHMETIC, *abi.JUMPS, *abi.ARITHMETIC, *abi.JUMPS))
    near = lot.randrange(min(left, 5)), lot.randrange(min(left, 5))
    word = lot.choice((lot.getrandbits(32), lot.randrange(1, 40), 1 << lot.randrange(32)))
    if code == abi.LD_ABS:  # not the address of the instruction
        return code, 0, 0, lot.choice((0, 4, *range(16, 64, 4)))
    if code in (abi.ST, abi.STX, abi.LD_MEM, abi.LDX_MEM):
        return code, 0, 0, lot.randrange(16)
    if code == abi.JA:
        return code, 0, 0, near[0]
    if lot.random() < 0.5 and code in abi.ARITHMETIC | abi.JUMPS:
        return code | abi.SOURCE_X, *(near if code in abi.JUMPS else (0, 0)), 0
    if code in (abi.LSH, abi.RSH):
        return code, 0, 0, word % 32
    return code, *(near if code in abi.JUMPS else (0, 0)), word or 1


def errno_by_interpreter(asked, filter_):
    """What a filter answers by our own interpreter: an errno, as the kernel would give it."""
    assert Verdicts([packed(filter_)]).actions(ASKED, asked) <= {abi.ERRNO, abi.KILL_THREAD}
    found = 0
    for bit in range(6):
        ends = (abi.JSET, 0, 1, 1 << bit), (abi.RET_K, 0, 0, abi.TRACE), ALLOW
        (action,) = Verdicts([packed([*filter_[:-2], *ends])]).actions(ASKED, asked)
        if action == abi.KILL_THREAD:
            return "ended"
        found |= (action == abi.TRACE) << bit
    return str(found + 1)


def test_the_interpreter_answers_as_the_kernel_does(child, tmp_path):
    """Random programs over all instructions, each run by both on the same call, word for word."""
    lot = random.Random(4)  # noqa: S311 - the same programs each time
    trials = [
        (tuple(lot.choice((0, 1, lot.getrandbits(63), lot.getrandbits(8))) for _ in range(6)), random_filter(lot))
        for _ in range(300)
    ]
    file = tmp_path / "trials"
    file.write_text(json.dumps(trials))
    kernels = child(RUN.replace("TRIALS", repr(str(file)))).said
    ours = [errno_by_interpreter(*trial) for trial in trials]
    assert ours == kernels
    assert len(set(ours)) > 20


def test_filters_are_read_as_they_were_installed(target):
    """All of them, the oldest first."""
    filters = [answering(165, EPERM), allow_list(*CONTAINER_LIST)][::-1]
    filtered = target(*filters)
    with ProcessDirectory(filtered.pid) as process, Stop(process):
        found = get_seccomp_filters(filtered.pid)
    assert found == [packed(each) for each in filters]


def test_a_thread_without_a_filter_has_none_to_be_read(child):
    """The kernel says EINVAL, as does one that was built without the interface."""
    assert feature("ptrace").state == "present"
    plain = child()
    with ProcessDirectory(plain.pid) as process, Stop(process), pytest.raises(dontneed.KernelLacks, match="seccomp"):
        get_seccomp_filters(plain.pid)
