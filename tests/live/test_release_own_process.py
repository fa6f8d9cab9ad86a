"""A process gives back its own pools and malloc space by itself: without a tracer, a helper, or a right.

Every release here runs in a process of its own that has made, kept and lost objects; what it kept is verified after
each. Where a helper would betray that the native part was not enough, starting one is made to fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dontneed import NotPermitted, release
from dontneed.kernel import native
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.reasons.survey import Limits
from dontneed.reclaim import in_process
from dontneed.reclaim.order import Order

needs_native = pytest.mark.skipif(not native.is_native(), reason=f"needs the native part: {native.why_not()}")

PATIENCE_SECONDS = 300
"""Far more than any process here needs, so that a loaded machine passes."""
OWN = ("free-pools", "malloc-free")
MIB = 1 << 20

PRELUDE = """
import ctypes, gc, json, os, random, sys, threading, time
import numpy
import dontneed
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_counters
from dontneed.reclaim import release as module

def no_helper(*_):
    raise AssertionError("a helper process was started")

module.ask = no_helper

def rss():
    with ProcessDirectory() as process:
        return read_counters(process).rss_bytes

def make(count, share, chance):
    '''Small objects; those that are kept, by their numbers.'''
    objects = [(number, str(number), [number, -number]) for number in range(count)]
    return {number: each for number, each in enumerate(objects) if chance.random() < share}

def verify(kept):
    for number, each in kept.items():
        assert each == (number, str(number), [number, -number])

def tell(receipt, **more):
    turns = {each.reason: {**each.as_dict()} for each in receipt.reasons}
    print(json.dumps({"turns": turns, "fell": receipt.before.rss_bytes - receipt.after.rss_bytes, **more}))
"""

MANY = """
chance = random.Random(4)
before = rss()
kept = make(300_000, 0.002, chance)
gc.collect()
grown = rss() - before
receipt = dontneed.release(reasons=("free-pools", "malloc-free"))
verify(kept)
more = make(100_000, 1.0, chance)
verify(more)
verify(kept)
tell(receipt, grown=grown)
"""

FILTER = """
def forbid(*numbers):
    '''A seccomp filter, as a container has one: these system calls are not permitted (EPERM).'''
    import struct
    equal, give = 0x15, 0x06
    steps = [(0x20, 0, 0, 0)]
    for place, number in enumerate(numbers):
        steps.append((equal, len(numbers) - place, 0, number))
    steps += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050001)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0, ctypes.get_errno()

forbid(101, 310, 311, 440, 434, 27)  # ptrace, process_vm_readv and _writev, process_madvise, pidfd_open, mincore
try:
    os.pidfd_open(os.getpid())
except PermissionError:
    pass
else:
    raise AssertionError("the filter does not work")
"""


@pytest.fixture(scope="module")
def malloc_work(tmp_path_factory):
    """The path of a library that makes malloc work."""
    library = tmp_path_factory.mktemp("malloc_work") / "malloc_work.so"
    source = Path(__file__).with_name("targets") / "malloc_work.c"
    subprocess.run(["cc", "-O1", "-fPIC", "-shared", source, "-o", library], check=True)
    return str(library)


def _told(code: str, *arguments: str, **environment: str) -> dict:
    """What a process that runs this code says last."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
        env={**{name: value for name, value in os.environ.items() if "COVERAGE" not in name}, **environment},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_native
def test_most_of_what_small_objects_left_behind_comes_back():
    """Survivors are whole, and the memory is as good as new for those that come after."""
    told = _told(MANY)
    assert told["turns"]["free-pools"]["failed"] == told["turns"]["malloc-free"]["failed"] == ""
    assert told["fell"] > told["grown"] * 0.5
    assert told["turns"]["free-pools"]["freed"] > told["grown"] * 0.5


@needs_native
def test_neither_rights_nor_a_filter_are_in_the_way(as_nobody):
    """As in a container: no user to speak of, no ptrace, not even the calls that make it fast."""
    done = as_nobody(PRELUDE + FILTER + MANY)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["fell"] > told["grown"] * 0.5
    assert told["turns"]["malloc-free"]["failed"] == ""


HAMMER = """
from dontneed.observe.subject import read_subject
from dontneed.reasons.survey import Limits
from dontneed.reclaim.in_process import native_reason

sys.setswitchinterval(0.0001)  # everybody in everybody's way
work = ctypes.CDLL(sys.argv[1])
work.hammer.restype = ctypes.c_long
ends, errors, rounds = ctypes.c_int(0), [], [0, 0]
hammered = [ctypes.c_long(0), ctypes.c_long(0)]

def objects(number):
    chance = random.Random(number)
    kept = make(4000, 0.1, chance)
    while not ends.value:
        new = make(2000, 0.5, chance)
        verify(kept)
        verify(new)
        kept = new
        rounds[number] += 1

def memory(number):
    broken = work.hammer(ctypes.byref(ends), number, ctypes.byref(hammered[number]))
    if broken:
        errors.append(f"{broken} blocks were not as they had been left")

def guarded(work, number):
    try:
        work(number)
    except BaseException as error:
        errors.append(repr(error))

works = (objects, 0), (objects, 1), (memory, 0), (memory, 1)
threads = [threading.Thread(target=guarded, args=each) for each in works]
for thread in threads:
    thread.start()
kept = make(20_000, 0.05, random.Random(9))
freed = releases = 0
reasons = [native_reason(name) for name in ("free-pools", "malloc-free")]
with ProcessDirectory() as process:
    while releases < 100 and not errors:
        receipt = dontneed.release(reasons=("free-pools", "malloc-free"), evidence="none")
        freed += sum(each.advised for each in receipt.reasons)
        errors += [each.failed for each in receipt.reasons if each.failed]
        releases += 1
        subject = read_subject(process)
        found = [reason.survey(subject) for reason in reasons]
        for _ in range(24):  # what was found is old soon
            for reason, each in zip(reasons, found):
                freed += reason.release(subject, each, Limits(0.01)).advised
            releases += 1
ends.value = 1
for thread in threads:
    thread.join()
verify(kept)
print(json.dumps({"errors": errors, "rounds": rounds, "hammered": [each.value for each in hammered],
                  "freed": freed, "releases": releases}))
"""


@needs_native
@pytest.mark.needs_command("cc")
def test_a_hundred_releases_while_threads_are_busy_harm_nobody(malloc_work):
    """Two threads make and lose objects, two fill and check memory of malloc's: every byte of it, all the time."""
    told = _told(HAMMER, malloc_work)
    assert told["errors"] == []
    assert told["releases"] == 100
    assert min(told["rounds"]) > 1
    assert min(told["hammered"]) > 1000
    assert told["freed"] > 10 * MIB


TOPS = """
work = ctypes.CDLL(sys.argv[1])
work.leave_top.restype = ctypes.c_void_p
work.leave_top.argtypes = (ctypes.c_int, ctypes.c_size_t)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = (ctypes.c_void_p,)
libc.free(libc.malloc(30 << 20))  # from now on glibc trims no top below 60 MiB
held, ready, ends = [], threading.Barrier(5), threading.Event()

def leave():
    held.append(work.leave_top(300, 60_000))
    ready.wait()
    ends.wait()

before = rss()
threads = [threading.Thread(target=leave) for _ in range(4)]
for thread in threads:
    thread.start()
ready.wait()
grown = rss() - before
libc.malloc_trim(0)
trimmed = before + grown - rss()
receipt = dontneed.release(reasons=("malloc-free",))
for block in held:
    assert ctypes.string_at(block, 60_000) == b"\\7" * 60_000
ends.set()
tell(receipt, grown=grown, trimmed=trimmed)
"""


@needs_native
@pytest.mark.needs_command("cc")
def test_tops_of_thread_arenas_come_back_that_malloc_trim_keeps(malloc_work):
    """Each thread has freed all but its first block."""
    told = _told(TOPS, malloc_work)
    assert told["grown"] > 60 * MIB
    assert told["trimmed"] < told["grown"] * 0.1
    assert told["turns"]["malloc-free"]["freed"] > told["grown"] * 0.9
    assert told["turns"]["malloc-free"]["failed"] == ""


@needs_native
def test_an_allocator_beside_mallocs_is_asked_to_purge():
    """As pyarrow's own is: a plain call of its function."""
    pytest.importorskip("pyarrow")
    told = _told("""
import pyarrow
buffers = [pyarrow.allocate_buffer(200_000) for _ in range(300)]
for each in buffers:
    memoryview(each).cast("B")[:] = b"x" * 200_000
kept = buffers[:5]
del each
full = rss()
buffers.clear()
receipt = dontneed.release(reasons=("malloc-free",))
assert all(bytes(each) == b"x" * 200_000 for each in kept)
tell(receipt, returned=full - rss())
""")
    assert told["returned"] > 30 * MIB
    assert told["turns"]["malloc-free"]["failed"] == ""


@needs_native
def test_a_bound_on_the_pause_makes_more_and_shorter_holds():
    """All of it goes all the same."""
    told = _told("""
chance = random.Random(4)
kept = make(200_000, 0.002, chance)
first = dontneed.release(reasons=("free-pools",), evidence="none")
kept.update(make(200_000, 0.002, chance))
second = dontneed.release(reasons=("free-pools",), evidence="none", max_pause_seconds=0.0002)
verify(kept)
tell(second, unbounded=first.reasons[0].stops, before=first.reasons[0].advised)
""")
    turn = told["turns"]["free-pools"]
    assert turn["stops"] > told["unbounded"]
    assert turn["advised"] > told["before"] * 0.5


@needs_native
def test_children_that_fork_meanwhile_are_sound():
    """A fork waits for the lock of every arena, ours among them; and a child can release as its parent did."""
    told = _told("""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
ends, errors = threading.Event(), []
kept = make(50_000, 0.01, random.Random(1))

def releases():
    while not ends.is_set():
        try:
            dontneed.release(reasons=("free-pools", "malloc-free"), evidence="none")
        except BaseException as error:
            errors.append(repr(error))

dontneed.release(reasons=("free-pools", "malloc-free"))  # a fork while another thread imports breaks imports
thread = threading.Thread(target=releases)
thread.start()
codes = []
for number in range(20):
    child = os.fork()
    if not child:
        code = 1
        try:
            verify(kept)
            verify(make(2000, 0.5, random.Random(number)))
            if number % 10 == 0:
                receipt = dontneed.release(reasons=("free-pools", "malloc-free"), evidence="none")
                assert not any(each.failed for each in receipt.reasons), receipt.reasons
                verify(kept)
            code = 0
        finally:
            os._exit(code)
    codes.append(os.waitpid(child, 0)[1])
ends.set()
thread.join()
print(json.dumps({"codes": codes, "errors": errors}))
""")
    assert told == {"codes": [0] * 20, "errors": []}


@needs_native
@pytest.mark.parametrize(
    ("environment", "said"),
    [({"PYTHONMALLOC": "malloc"}, "PYTHONMALLOC=malloc"), ({"PYTHONDEVMODE": "1"}, "debug hooks")],
)
def test_pools_that_are_not_plain_are_refused(environment, said):
    """Nothing is touched, and the receipt says why."""
    told = _told(
        """
kept = make(50_000, 0.01, random.Random(1))
receipt = dontneed.release(reasons=("free-pools",))
verify(kept)
tell(receipt)
""",
        **environment,
    )
    turn = told["turns"]["free-pools"]
    assert (turn["advised"], turn["stops"]) == (0, 0)
    assert said in " ".join(turn["notes"])


# Who does what


def _order(*reasons, watch_seconds=0.0):
    with ProcessDirectory() as process:
        started = read_identity(process).started
    return Order(os.getpid(), started, reasons, {}, Limits(), watch_seconds, "auto")


@pytest.fixture
def helper():
    """Stands in for a helper process: remembers its orders, and says that it did them, or what it is told to say."""

    class Helper:
        orders = ()
        refuses = None

        def __call__(self, order):
            self.orders += (order,)
            if self.refuses is not None:
                raise self.refuses
            ours = release(reasons=("free-pools",), evidence="none")
            turn = ours.reasons[0]
            return ours.replace(reasons=tuple(turn.replace(reason=name, freed=PAGE) for name in order.reasons))

    return Helper()


PAGE = os.sysconf("SC_PAGESIZE")


@needs_native
def test_the_rest_is_done_by_one_helper_in_one_receipt(helper):
    """What we can do ourselves comes first."""
    receipt = in_process.carry_out_ourselves(_order("clean-file", "free-pools", "malloc-free", "zero-pages"), helper)
    assert [order.reasons for order in helper.orders] == [("clean-file", "zero-pages")]
    assert [each.reason for each in receipt.reasons] == ["free-pools", "malloc-free", "clean-file", "zero-pages"]
    assert receipt.freed >= 2 * PAGE
    assert receipt.exit_code == 0
    assert receipt.evidence == "none"


@needs_native
def test_what_we_did_is_told_though_the_helper_is_refused(helper):
    """It is done, and cannot be taken back."""
    helper.refuses = NotPermitted("no ptrace here", hint="run as root")
    receipt = in_process.carry_out_ourselves(_order("free-pools", "zero-pages"), helper)
    assert [(each.reason, each.failed) for each in receipt.reasons] == [
        ("free-pools", ""),
        ("zero-pages", "no ptrace here; run as root"),
    ]
    assert receipt.exit_code == 3


@needs_native
def test_the_helper_watches_for_both(helper):
    """It waits as long as was asked for; afterwards we count what was touched again of ours."""
    receipt = in_process.carry_out_ourselves(_order("free-pools", "zero-pages", watch_seconds=0.01), helper)
    assert [order.watch_seconds for order in helper.orders] == [0.01]
    assert [each.reason for each in receipt.reasons] == ["free-pools", "zero-pages"]


def test_without_the_native_part_a_helper_does_all(helper, monkeypatch):
    """As for any other process."""
    monkeypatch.setattr(in_process, "is_native", lambda: False)
    helper.refuses = NotPermitted("it would")
    with pytest.raises(NotPermitted, match="it would"):
        in_process.carry_out_ourselves(_order(*OWN), helper)
    assert [order.reasons for order in helper.orders] == [OWN]
    assert in_process.native_reason("free-pools") is None


def test_a_process_of_one_thread_gives_back_its_own_stack():
    """A deep call leaves its pages behind; the thread is here, and not deeper."""
    told = _told(
        """
def deep(count):
    return 0 if not count else ctypes.PYFUNCTYPE(ctypes.c_int)(lambda: deep(count - 1))()

sys.setrecursionlimit(100_000)
with ProcessDirectory() as process:
    threads = read_counters(process).threads
deep(3000)
tell(dontneed.release(reasons=("dead-stack",)), threads=threads)
""",
        OPENBLAS_NUM_THREADS="1",
    )
    assert told["threads"] == 1
    assert told["turns"]["dead-stack"]["freed"] > MIB // 2
