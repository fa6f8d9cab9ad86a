"""Acting inside another process: what is done there is done, and the process notices nothing of it."""

from __future__ import annotations

import pytest

from dontneed import Advice, Span, Spans, TargetRefused
from dontneed.abi.syscalls import X86_64 as NR
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote.advise import advise_inside
from dontneed.remote.call import call
from dontneed.remote.quiet import quiet_threads, still_quiet
from dontneed.remote.stop import Stop
from dontneed.remote.syscall import inject

PAGE = 4096


def numbers(line):
    """The integers of a line that a child printed."""
    return [int(word) for word in line.split()]


def test_an_injected_system_call_is_made_by_the_target(child):
    """The simplest proof: it answers with the target's own number, in every stop anew."""
    target = child()
    with ProcessDirectory(target.pid) as process:
        for _ in range(3):
            with Stop(process) as stop:
                assert inject(stop, NR.GETPID) == target.pid
                assert inject(stop, NR.GETPID) == target.pid
            assert stop.pause_seconds > 0


def test_an_injected_call_that_fails_returns_its_errno(child):
    """Negative, as the kernel has it."""
    with ProcessDirectory(child().pid) as process, Stop(process) as stop:
        assert inject(stop, NR.MADVISE, 1, PAGE, 4) == -22


def test_ranges_are_advised_inside(child):
    """What was advised reads as zeros afterwards, and what lies between does not."""
    target = child(
        "import ctypes, mmap\nheld = mmap.mmap(-1, 4 * 4096, flags=mmap.MAP_PRIVATE)\nheld.write(b'x' * len(held))\n"
        "print(ctypes.addressof(ctypes.c_char.from_buffer(held)))\npause()\nprint(*held[::4096])"
    )
    (start,) = numbers(target.said[0])
    spans = Spans([Span(start, start + PAGE), Span(start + 2 * PAGE, start + 3 * PAGE)])
    with ProcessDirectory(target.pid) as process, Stop(process) as stop:
        assert advise_inside(stop, spans, Advice.DONTNEED) == 2 * PAGE
    assert numbers(target.proceed()[0]) == [0, ord("x"), 0, ord("x")]


def test_a_function_is_called_on_a_quiet_thread(child):
    """With its arguments, and its result comes back whole."""
    target = child(
        "import ctypes\nlibc = ctypes.CDLL(None)\nfor name in ('toupper', 'labs', 'malloc_trim'):\n"
        "    print(ctypes.cast(getattr(libc, name), ctypes.c_void_p).value)\npause()\nprint('whole')"
    )
    toupper, labs, malloc_trim = map(int, target.said)
    with ProcessDirectory(target.pid) as process:
        (quiet,) = quiet_threads(process)
        assert (quiet.thread, quiet.call_name) == (target.pid, "read")
        with Stop(process, threads=[quiet.thread]) as stop:
            assert still_quiet(stop, quiet.thread)
            assert call(stop, toupper, ord("a")) == ord("A")
            assert call(stop, labs, -(1 << 40)) == 1 << 40
            assert call(stop, malloc_trim, 0) in (0, 1)
    assert target.proceed() == ["whole"]


def test_a_process_cannot_stop_itself():
    """Its own threads are not to be traced by it: the helper is there for that."""
    with ProcessDirectory() as ourselves, pytest.raises(TargetRefused, match="itself"), Stop(ourselves):
        pass
