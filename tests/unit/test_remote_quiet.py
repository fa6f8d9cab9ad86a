"""Which calls are quiet, by number and arguments; and what a signal frame on a stack looks like."""

from __future__ import annotations

import struct

import pytest

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.remote.quiet import has_signal_frame, quiet_threads, waits_in

RESTORER = 0x7F00_1234_5670


class FakeProcess:
    """A process with these threads in these calls, and these files open."""

    pid = 10

    def __init__(self, calls=(), files=()):
        self._calls = dict(calls)
        self._files = dict(files)

    def threads(self):
        """Their ids."""
        return sorted(self._calls)

    def read(self, name):
        """`task/TID/syscall`."""
        return self._calls[int(name.split("/")[1])]

    def link(self, name):
        """`fd/N`."""
        return self._files.get(name, "")


@pytest.mark.parametrize(
    ("number", "arguments", "name"),
    [
        (NR.EPOLL_WAIT, (), "epoll_wait"),
        (NR.CLOCK_NANOSLEEP, (), "clock_nanosleep"),
        (NR.FUTEX, (1, 0x189), "futex"),
        (NR.FUTEX, (1, 0x86), "futex"),
        (NR.FUTEX, (1, 0x80), ""),  # malloc's own lock
        (NR.FUTEX, (1, 0x0), ""),
        (NR.READ, (0,), "read"),
        (NR.READ, (5,), ""),
        (NR.READ, (0xFFFF_FFFF_0000_0005,), ""),  # the kernel takes the lower half
        (NR.MADVISE, (), ""),
        (NR.MUNMAP, (), ""),
        (NR.GETPID, (), ""),
    ],
)
def test_a_call_is_quiet_if_malloc_never_makes_it(number, arguments, name):
    """Descriptor 5 is the setting that malloc reads when it gives memory back."""
    process = FakeProcess(files={"fd/0": "pipe:[7]", "fd/5": "/proc/sys/vm/overcommit_memory"})
    assert waits_in(process, number, (*arguments, 0, 0, 0, 0, 0, 0)[:6]) == name


def test_threads_that_wait_for_others_come_first():
    """Rather than those that wait for a lock, or for a time."""
    process = FakeProcess(
        {
            11: b"202 0x1 0x189 0x0 0x0 0x0 0xffffffff 0x7ffd 0x7f00\n",
            12: b"running\n",
            13: b"230 0x1 0x0 0x1 0x0 0x0 0x0 0x7ffd 0x7f00\n",
            14: b"-1 0x7ffd 0x7f00\n",
            15: b"232 0x4 0x1 0x1 0xffffffffffffffff 0x0 0x8 0x7ffd 0x7f00\n",
            16: b"202 0x1 0x80 0x0 0x0 0x0 0xffffffff 0x7ffd 0x7f00\n",
        }
    )
    found = quiet_threads(process)
    assert [(each.thread, each.call_name) for each in found] == [
        (15, "epoll_wait"),
        (13, "clock_nanosleep"),
        (11, "futex"),
    ]
    assert found[0].arguments == (4, 1, 1, (1 << 64) - 1, 0, 8)


def stack_with(at, data):
    """A stack of words that mean nothing, with some bytes at one place."""
    stack = bytearray(b"\x11" * 4096)
    stack[at : at + len(data)] = data
    return bytes(stack)


def test_a_return_address_of_a_handler_gives_its_frame_away():
    """If it is where a return address can be."""
    word = struct.pack("<Q", RESTORER)
    assert has_signal_frame(stack_with(512, word), RESTORER)
    assert not has_signal_frame(stack_with(516, word), RESTORER)
    assert has_signal_frame(stack_with(516, word)[:1024] + stack_with(512, word), RESTORER)
    assert not has_signal_frame(stack_with(512, word), 0)


def test_so_does_the_mark_of_its_vector_state():
    """Whatever the handler returns to."""
    mark = struct.pack("<I", 0x46505853)
    assert has_signal_frame(stack_with(464, mark), RESTORER)
    assert has_signal_frame(stack_with(464, mark), 0)
    assert not has_signal_frame(stack_with(465, mark), RESTORER)


def test_a_stack_without_either_has_none():
    """As nearly all have."""
    assert not has_signal_frame(stack_with(0, b""), RESTORER)
    assert not has_signal_frame(b"", RESTORER)
