"""`kernel.madvise` against a kernel that returns short, refuses, or lies: what is cut, continued and counted."""

from __future__ import annotations

import ctypes
import errno
import os

import numpy as np
import pytest

from dontneed import Advice, AdviceRefused, KernelLacks, NotPermitted, ProcessGone, Span, Spans
from dontneed.abi.syscalls import PIDFD_SELF, PROCESS_MADVISE
from dontneed.kernel import libc, madvise
from dontneed.kernel.madvise import BYTES_A_CALL, RANGES_A_CALL, advise_range, advise_spans, refusal
from dontneed.units import PAGE_BYTES

OWN_PIDFD, OTHER_PIDFD = 7, 8
GIB = 1 << 30


class Kernel:
    """Takes process_madvise as the kernel does: it stops at the first range that fails, and counts those before it.

    Attributes:
        taken: every range that was finished, as (start, length).
        calls: the number of ranges of each call.
        fails: the errno of a range, by its start.
        most: how many ranges it finishes in one call, at most.
    """

    def __init__(self):
        self.taken, self.calls, self.fails, self.most = [], [], {}, RANGES_A_CALL
        self.target = None

    def syscall(self, number, target, vector, count, advice, flags):
        """Advise the ranges at `vector`, as process_madvise(2)."""
        assert (number, flags) == (PROCESS_MADVISE, 0)
        assert count <= RANGES_A_CALL
        self.target, self.advice = target, advice
        self.calls.append(count)
        words = (ctypes.c_uint64 * (2 * count)).from_address(vector)
        ranges = list(zip(words[::2], words[1::2], strict=True))
        assert sum(length for _, length in ranges) <= BYTES_A_CALL
        return self.finish(ranges[: self.most])

    def finish(self, ranges):
        """Take ranges until one fails; the bytes of those before it, or -1."""
        done = 0
        for start, length in ranges:
            if start in self.fails:
                ctypes.set_errno(self.fails[start])
                return done or -1
            self.taken.append((start, length))
            done += length
        return done

    def madvise(self, start, length, advice):
        """Advise one range, as the plain call does."""
        self.advice = advice
        return min(self.finish([(start, length)]), 0)


@pytest.fixture
def kernel(monkeypatch):
    """A kernel whose process_madvise takes any advice on oneself."""
    fake = Kernel()
    monkeypatch.setattr(libc, "syscall", fake.syscall)
    monkeypatch.setattr(libc, "madvise", fake.madvise)
    monkeypatch.setattr(madvise, "_own_target", lambda *_asked: OWN_PIDFD)
    return fake


def scattered(count):
    """Every second page, from the second on."""
    return Spans.of_pages((np.arange(count) * 2 + 1) * PAGE_BYTES)


def rows(spans):
    return [(span.start, span.size_bytes) for span in spans]


# How vectors are cut


@pytest.mark.parametrize(("count", "calls"), [(2, [2]), (1024, [1024]), (1025, [1024, 1]), (5000, [1024] * 4 + [904])])
def test_ranges_are_given_1024_a_call(kernel, count, calls):
    """UIO_MAXIOV: one more is EINVAL."""
    spans = scattered(count)
    assert advise_spans(spans, Advice.DONTNEED) == count * PAGE_BYTES
    assert kernel.calls == calls
    assert kernel.taken == rows(spans)
    assert (kernel.target, kernel.advice) == (OWN_PIDFD, int(Advice.DONTNEED))


@pytest.mark.parametrize("most", [1, 2, 7, 1000])
def test_a_short_return_is_continued_where_it_stopped(kernel, most):
    """The kernel may finish fewer ranges than it was given; none is left out, and none is given twice."""
    kernel.most = most
    spans = scattered(3000)
    assert advise_spans(spans, Advice.COLD) == spans.size_bytes
    assert kernel.taken == rows(spans)
    assert len(kernel.calls) == -(-3000 // most)


def test_a_vector_is_cut_where_the_kernel_would_cut_it(kernel):
    """By bytes: 0x7ffff000 a call, ranges and parts of ranges."""
    spans = Spans([(0, 5 * GIB), (6 * GIB, 7 * GIB), (8 * GIB, 9 * GIB), (10 * GIB, 11 * GIB)])
    assert advise_spans(spans, Advice.DONTNEED) == 8 * GIB
    assert sum(length for _, length in kernel.taken) == 8 * GIB
    assert Spans((start, start + length) for start, length in kernel.taken) == spans


def test_a_single_span_of_ours_is_one_plain_madvise(kernel):
    """Which has no bound, and which every kernel has."""
    assert advise_spans(Spans([(PAGE_BYTES, 5 * GIB)]), Advice.DONTNEED) == 5 * GIB - PAGE_BYTES
    assert kernel.calls == []
    assert kernel.taken == [(PAGE_BYTES, 5 * GIB - PAGE_BYTES)]


def test_a_single_span_of_another_process_is_a_vector_all_the_same(kernel):
    """There is no other way."""
    assert advise_spans(Spans([(PAGE_BYTES, 5 * GIB)]), Advice.COLD, pidfd=OTHER_PIDFD) == 5 * GIB - PAGE_BYTES
    assert (kernel.target, len(kernel.calls)) == (OTHER_PIDFD, 3)


def test_no_spans_are_no_call(kernel):
    """Nothing to say."""
    assert advise_spans(Spans(), Advice.DONTNEED) == advise_spans(Spans(), Advice.COLD, pidfd=OTHER_PIDFD) == 0
    assert (kernel.calls, kernel.taken) == ([], [])


@pytest.mark.parametrize("target", [None, OWN_PIDFD])
@pytest.mark.parametrize("nth", [0, 1, 1023, 1024, 2999])
def test_the_range_that_fails_is_named_with_what_was_advised_before_it(kernel, monkeypatch, nth, target):
    """An error behind the first range of a call is not reported by the kernel, only not counted."""
    monkeypatch.setattr(madvise, "_own_target", lambda *_asked: target)
    spans = scattered(3000)
    start = rows(spans)[nth][0]
    kernel.fails[start] = errno.EINVAL
    with pytest.raises(AdviceRefused) as refused:
        advise_spans(spans, Advice.DONTNEED)
    assert (refused.value.errno, refused.value.advised) == (errno.EINVAL, nth * PAGE_BYTES)
    assert f"MADV_DONTNEED of {PAGE_BYTES} bytes at {start:#x}" in refused.value.message
    assert kernel.taken == rows(spans)[:nth]


def test_a_call_that_finishes_nothing_and_says_no_error_ends(kernel):
    """So answers a seccomp filter that fakes success; asked again it would answer the same for ever."""
    kernel.most = 0
    with pytest.raises(KernelLacks, match="seccomp"):
        advise_spans(scattered(2), Advice.DONTNEED)
    assert len(kernel.calls) == 1


# Who we are to the kernel


@pytest.mark.parametrize(
    ("known", "found", "tried"),
    [
        ({PIDFD_SELF, OWN_PIDFD}, PIDFD_SELF, [PIDFD_SELF]),
        ({OWN_PIDFD}, OWN_PIDFD, [PIDFD_SELF, OWN_PIDFD]),
        (set(), None, [PIDFD_SELF, OWN_PIDFD]),
    ],
    ids=["Linux 6.14", "Linux 6.13", "older"],
)
def test_the_kernel_is_tried_by_an_advice_on_nothing(monkeypatch, known, found, tried):
    """PIDFD_SELF where it is known, else a pidfd, else none: then madvise is called for each range."""
    asked = []

    def syscall(number, target, vector, count, advice, flags):
        assert (number, count, advice, flags) == (PROCESS_MADVISE, 1, int(Advice.DONTNEED), 0)
        assert list((ctypes.c_uint64 * 2).from_address(vector)) == [0, 0]
        asked.append(target)
        return 0 if target in known else -1

    monkeypatch.setattr(libc, "syscall", syscall)
    monkeypatch.setattr(madvise, "_own_pidfd", lambda _pid: OWN_PIDFD)
    assert madvise._own_target.__wrapped__(Advice.DONTNEED, os.getpid()) == found
    assert asked == tried


@pytest.mark.parametrize("error", [OSError(errno.ENOSYS, "before 5.3"), AttributeError("a Python built before 5.3")])
def test_without_a_pidfd_ranges_are_advised_one_by_one(monkeypatch, error):
    """An old kernel, or a filter in a container, is no reason to refuse."""

    def pidfd_open(_pid):
        raise error

    monkeypatch.setattr(libc, "syscall", lambda *_asked: -1)
    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    madvise._own_pidfd.cache_clear()
    assert madvise._own_target.__wrapped__(Advice.DONTNEED, os.getpid()) is None


# What an errno means


@pytest.mark.parametrize(
    ("number", "remote", "kind", "word"),
    [
        (errno.EPERM, False, NotPermitted, "sealed"),
        (errno.EPERM, True, NotPermitted, "CAP_SYS_NICE"),
        (errno.EACCES, True, NotPermitted, "root"),
        (errno.EACCES, False, AdviceRefused, ""),
        (errno.ESRCH, True, ProcessGone, ""),
        (errno.ENOSYS, False, KernelLacks, "5.10"),
        (errno.EBADF, False, AdviceRefused, ""),
        (errno.EINVAL, False, AdviceRefused, "locked"),
        (errno.ENOMEM, False, AdviceRefused, "not mapped"),
        (errno.EAGAIN, False, AdviceRefused, "max_map_count"),
        (errno.EFAULT, False, AdviceRefused, ""),
    ],
)
def test_an_errno_becomes_an_error_with_what_to_try(number, remote, kind, word):
    """EBADF is what WILLNEED answers on a kernel without swap: no process is gone."""
    error = refusal(number, Advice.WILLNEED, 0x1000, 8192, remote=remote)
    assert type(error) is kind
    assert "MADV_WILLNEED of 8192 bytes at 0x1000" in error.message or kind is KernelLacks
    assert word in error.hint
    if kind is AdviceRefused:
        assert error.errno == number
        assert os.strerror(number) in error.message


def test_a_range_that_is_refused_names_itself(kernel):
    """What was refused stands in the message, and nothing else was touched."""
    kernel.fails[PAGE_BYTES] = errno.EPERM
    with pytest.raises(NotPermitted, match=f"MADV_FREE of {PAGE_BYTES} bytes at {PAGE_BYTES:#x}"):
        advise_range(PAGE_BYTES, PAGE_BYTES, Advice.FREE)
    assert advise_range(2 * PAGE_BYTES, PAGE_BYTES, Advice.FREE) == PAGE_BYTES
    assert kernel.taken == [(2 * PAGE_BYTES, PAGE_BYTES)]


def test_spans_that_touch_are_one_range(kernel):
    """The set is in normal form, so 5,000 neighbouring pages are one call."""
    spans = Spans.of_pages(np.arange(1, 5001) * PAGE_BYTES)
    assert list(spans) == [Span(PAGE_BYTES, 5001 * PAGE_BYTES)]
    assert advise_spans(spans, Advice.DONTNEED) == 5000 * PAGE_BYTES
    assert len(kernel.taken) == 1
