"""`advise` and `posix_madvise`: every advice on this process, the few that another takes, and what a refusal leaves."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest

from dontneed import (
    Advice,
    AdviceRefused,
    BufferRefused,
    KernelLacks,
    PosixAdvice,
    ProcessGone,
    Span,
    Spans,
    UsageError,
    WrongType,
    advise,
    look,
    posix_madvise,
)
from dontneed.kernel import libc, madvise, mappings

from .conftest import MIB, PAGE, PRIVATE, address_of, buffer_at, fill, forked, raw, small_pages, without_whole_pages

GIB = 1 << 30
OURS_TO_TRY = [advice for advice in Advice.all() if advice.name not in ("HWPOISON", "SOFT_OFFLINE")]
DROPPING = (Advice.DONTNEED, Advice.DONTNEED_LOCKED, Advice.GUARD_INSTALL)


@contextmanager
def mapped_pages(count):
    """Anonymous pages that are filled: their span, and their bytes page by page."""
    start = mappings.map_memory(count * PAGE)
    buffer = buffer_at(start, count * PAGE)
    fill(buffer)
    yield Span(start, start + count * PAGE), raw(buffer).reshape(count, PAGE)
    mappings.unmap_memory(start, count * PAGE)


def nth_pages(span, *numbers):
    """The set of these pages of a span."""
    starts = [span.start + nth * PAGE for nth in numbers]
    return Spans((start, start + PAGE) for start in starts)


# This process


@pytest.mark.parametrize(
    "advice",
    [
        pytest.param(advice, marks=pytest.mark.needs_feature(f"madvise({advice.name})"), id=advice.name)
        for advice in OURS_TO_TRY
    ],
)
def test_every_advice_takes_a_buffer_and_does_what_its_row_says(advice):
    """Its whole pages, and only those; a refusal has the errno of the table."""
    memory = small_pages(4 * PAGE)
    contents = fill(memory)
    part = memoryview(memory)[100:-100]
    if refusal := advice.refusal({"no-file", "small", "no-huge"}):
        with pytest.raises(AdviceRefused) as refused:
            advise(part, advice)
        assert refused.value.errno == getattr(errno, refusal.errno)
    else:
        assert advise(part, advice) == 2 * PAGE
        advise(part, Advice.GUARD_REMOVE)
    if advice in DROPPING:
        contents[100:-100] = without_whole_pages(part, contents[100:-100])
    assert np.array_equal(raw(memory), contents)


def test_a_buffer_without_a_whole_page_is_advised_nothing():
    """Zero bytes, and no error."""
    assert advise(bytearray(100), Advice.DONTNEED) == 0
    assert advise(bytearray(), Advice.DONTNEED) == 0
    assert advise(Spans(), Advice.DONTNEED) == 0


def test_our_own_pid_is_ourselves():
    """Any advice, and a buffer too."""
    memory = small_pages(PAGE)
    fill(memory)
    assert advise(memory, Advice.DONTNEED, pid=os.getpid()) == PAGE
    assert not raw(memory).any()


def test_an_advice_that_destroys_takes_no_read_only_buffer():
    """The others do: no byte of it changes."""
    for advice in Advice.all():
        if advice.destructive:
            with pytest.raises(BufferRefused):
                advise(b"x" * MIB, advice)
    assert advise(b"x" * MIB, Advice.WILLNEED) > 0


# Many spans


@pytest.fixture(
    params=[pytest.param("process_madvise", marks=pytest.mark.needs_feature("process_madvise(self)")), "madvise"]
)
def calls(request, monkeypatch):
    """Both ways to advise many spans: one by vectors, one by one; the number of system calls that they take."""
    if request.param == "madvise":
        monkeypatch.setattr(madvise, "_own_target", lambda *_asked: None)
    else:
        assert madvise._own_target(Advice.DONTNEED, os.getpid()) is not None
    made = []
    for name in ("syscall", "madvise"):
        monkeypatch.setattr(libc, name, counting(getattr(libc, name), made))
    return lambda: len(made)


def counting(function, made):
    def call(*arguments):
        made.append(arguments)
        return function(*arguments)

    return call


def test_five_thousand_scattered_pages_go_and_their_neighbours_stay(calls, request):
    """1,024 ranges a call where the kernel takes them."""
    memory = small_pages(10_000 * PAGE)
    expected = fill(memory).reshape(10_000, PAGE)
    scattered = np.arange(0, 10_000, 2)
    spans = Spans.of_pages(address_of(memory) + scattered * PAGE)
    made_before = calls()
    assert advise(spans, Advice.DONTNEED) == 5_000 * PAGE
    assert calls() - made_before == (5 if "process_madvise" in request.node.name else 5_000)
    expected[scattered] = 0
    assert np.array_equal(raw(memory).reshape(10_000, PAGE), expected)


@pytest.mark.usefixtures("calls")
def test_spans_before_a_hole_are_advised_and_counted():
    """The mapped part of the span with the hole is advised too; what comes behind it is not."""
    with mapped_pages(7) as (span, page):
        mappings.unmap_memory(span.start + 3 * PAGE, PAGE)
        with pytest.raises(AdviceRefused) as refused:
            advise(nth_pages(span, 0, 2, 3, 4, 6), Advice.DONTNEED)
        assert (refused.value.errno, refused.value.advised) == (errno.ENOMEM, PAGE)
        assert "not mapped" in refused.value.hint
        assert page[[0, 1, 2, 4, 5, 6]].any(axis=1).tolist() == [False, True, False, False, True, True]


@pytest.mark.usefixtures("calls")
def test_spans_before_a_locked_one_are_advised_and_counted():
    """EINVAL; the locked one and those behind it keep their contents."""
    with mapped_pages(7) as (span, page):
        mappings.lock_memory(span.start + 4 * PAGE, PAGE)
        with pytest.raises(AdviceRefused) as refused:
            advise(nth_pages(span, 0, 2, 4, 6), Advice.DONTNEED)
        assert (refused.value.errno, refused.value.advised) == (errno.EINVAL, 2 * PAGE)
        assert "locked" in refused.value.hint
        assert f"{span.start + 4 * PAGE:#x}" in refused.value.message
        assert page.any(axis=1).tolist() == [False, True, False, True, True, True, True]


@pytest.mark.usefixtures("calls")
def test_spans_of_more_than_a_call_takes_are_advised_whole():
    """The kernel cuts a vector at 0x7ffff000 bytes, without a word."""
    length = 3 * GIB
    start = mappings.map_memory(length, flags=PRIVATE | mappings.MAP_NORESERVE)
    touched = [start, start + 2 * GIB - 2 * PAGE, start + 2 * GIB - PAGE, start + 2 * GIB, start + length - 3 * PAGE]
    kept = start + length - 2 * PAGE
    last = start + length - PAGE
    for address in (*touched, kept, last):
        buffer_at(address, 1)[0] = b"x"
    spans = Spans([(start, kept), (last, start + length)])
    assert advise(spans, Advice.DONTNEED) == length - PAGE
    assert [buffer_at(address, 1)[0] for address in (*touched, last)] == [b"\0"] * 6
    assert buffer_at(kept, 1)[0] == b"x"
    mappings.unmap_memory(start, length)


@pytest.mark.needs_feature("process_madvise(self)")
@pytest.mark.parametrize("target", ["PIDFD_SELF", "a pidfd"])
def test_a_forked_child_advises_itself_and_not_its_parent(monkeypatch, target):
    """A child inherits what its parent remembers, its pidfd for one; process_madvise on that is remote."""
    if target == "a pidfd":
        monkeypatch.setattr(madvise, "PIDFD_SELF", -1)
    madvise._own_target.cache_clear()
    with mapped_pages(6) as (span, page):
        spans = nth_pages(span, 1, 3, 5)
        assert advise(spans, Advice.WILLNEED) == 3 * PAGE
        assert advise(nth_pages(span, 5), Advice.DONTNEED) == PAGE

        def advises_itself():
            advised = advise(spans, Advice.DONTNEED)
            return advised == 3 * PAGE and page.any(axis=1).tolist() == [True, False, True, False, True, False]

        with forked(advises_itself):
            pass
        assert page.any(axis=1).tolist() == [True] * 5 + [False]
    madvise._own_target.cache_clear()


# A single span


def test_a_hole_in_a_span_is_told_after_all_that_is_mapped_was_advised():
    """ENOMEM is no failure to act."""
    with mapped_pages(5) as (span, page):
        mappings.unmap_memory(span.start + 2 * PAGE, PAGE)
        with pytest.raises(AdviceRefused) as refused:
            advise(span, Advice.DONTNEED)
        assert refused.value.errno == errno.ENOMEM
        assert "the mapped part was advised" in refused.value.hint
        assert not page[[0, 1, 3, 4]].any()


def test_a_span_of_more_than_a_call_of_process_madvise_takes_is_advised_whole():
    """There is no such bound for madvise."""
    start = mappings.map_memory(3 * GIB, flags=PRIVATE | mappings.MAP_NORESERVE)
    last = buffer_at(start + 3 * GIB - 1, 1)
    last[0] = b"x"
    assert advise(Span(start, start + 3 * GIB), Advice.DONTNEED) == 3 * GIB
    assert last[0] == b"\0"
    mappings.unmap_memory(start, 3 * GIB)


# Another process

HOLDS_PAGES = f"""
import ctypes, mmap
held = mmap.mmap(-1, {8 * PAGE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held[:] = b"x" * len(held)
print(ctypes.addressof(ctypes.c_char.from_buffer(held)))
pause()
print(held[:].count(b"x"))
"""


@pytest.fixture
def other(child):
    """A process that holds eight pages, and their span."""
    process = child(HOLDS_PAGES)
    start = int(process.said[0])
    return process, Span(start, start + 8 * PAGE)


@pytest.mark.needs_feature("process_madvise(other)")
@pytest.mark.parametrize("advice", [Advice.COLD, Advice.PAGEOUT, Advice.WILLNEED], ids=str)
def test_another_process_is_given_advice_that_loses_nothing(other, advice):
    """One span or many, by its pid."""
    process, span = other
    assert advise(span, advice, pid=process.pid) == 8 * PAGE
    assert advise(nth_pages(span, 1, 3, 6), advice, pid=process.pid) == 3 * PAGE
    assert process.proceed() == [str(8 * PAGE)]


@pytest.mark.needs_feature("process_madvise(other)")
@pytest.mark.usefixtures("one_processor")
def test_cold_pages_of_another_process_count_as_unreferenced(child):
    """They stay, and are the first to go."""
    process = child(HOLDS_PAGES)
    start = int(process.said[0])

    def mapping():
        return next(each for each in look(process.pid, smaps=True).mappings if each.start <= start < each.end)

    before = mapping()
    advise(Span(start, start + 8 * PAGE), Advice.COLD, pid=process.pid)
    assert before.smaps.referenced_bytes - mapping().smaps.referenced_bytes == 8 * PAGE
    assert mapping().rss_bytes == before.rss_bytes


@pytest.mark.needs_feature("process_madvise(other)")
@pytest.mark.usefixtures("one_processor")
def test_pages_of_a_file_that_another_process_maps_are_paged_out(child, tmp_path):
    """As from here, by PAGEOUT; it needs no swap."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"F" * MIB)
        os.fsync(file.fileno())  # a dirty page is not paged out
    process = child(f"""if True:
        import mmap
        with open({str(path)!r}) as file:
            held = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        sum(held[:])
    """)

    def mapping():
        return next(each for each in look(process.pid).mappings if each.name == str(path))

    assert mapping().rss_bytes == MIB
    assert advise(Span(mapping().start, mapping().end), Advice.PAGEOUT, pid=process.pid) == MIB
    assert mapping().rss_bytes == 0


@pytest.mark.needs_feature("process_madvise(other)")
def test_a_hole_in_another_process_is_told(other):
    """With what was advised before it."""
    process, span = other
    (stack,) = [each for each in look(process.pid).mappings if each.kind == "stack"]
    gap = Span(stack.start - 16 * PAGE, stack.start - 15 * PAGE)  # kept free, for the stack to grow into
    with pytest.raises(AdviceRefused) as refused:
        advise(nth_pages(span, 0, 2) | Spans([gap]), Advice.COLD, pid=process.pid)
    assert (refused.value.errno, refused.value.advised) == (errno.ENOMEM, 2 * PAGE)


@pytest.mark.parametrize("advice", [advice for advice in Advice.all() if not advice.remote], ids=str)
def test_other_advice_cannot_be_given_to_another_process(other, advice):
    """The hint says which can; the process keeps what it has."""
    process, span = other
    with pytest.raises(UsageError) as refused:
        advise(span, advice, pid=process.pid)
    assert "WILLNEED, COLD, PAGEOUT, COLLAPSE" in refused.value.hint
    assert process.proceed() == [str(8 * PAGE)]


def test_a_buffer_is_no_address_in_another_process(other):
    """The same address means something else there."""
    process, _ = other
    with pytest.raises(UsageError, match="named by its addresses") as refused:
        advise(bytearray(MIB), Advice.COLD, pid=process.pid)
    assert "Span" in refused.value.hint


@pytest.mark.needs_root
@pytest.mark.needs_feature("process_madvise(other)")
def test_nobody_may_advise_neither_roots_process_nor_its_own(other, as_nobody):
    """EACCES for lack of rights on the process, EPERM for lack of CAP_SYS_NICE: both say what to try."""
    process, span = other
    done = as_nobody(f"""if True:
        import os
        from dontneed import Advice, NotPermitted, Span, advise
        own = os.fork() or os.read(os.pipe()[0], 1)
        for pid in ({process.pid}, own):
            try:
                advise(Span({span.start}, {span.end}), Advice.COLD, pid=pid)
            except NotPermitted as refused:
                print(refused.message, "|", refused.hint)
        os.kill(own, 9)
    """)
    assert done.returncode == 0, done.stderr
    others, own = done.stdout.splitlines()
    assert "EACCES" in others
    assert "EPERM" in own
    assert all("sudo" in line.split("|")[1] for line in (others, own))


def test_a_process_that_is_gone_is_told_gone():
    """A pid that was never reused, and a zombie, which has a pid and no memory."""
    span = Span(PAGE, 2 * PAGE)
    with subprocess.Popen(["true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessGone):
            advise(span, Advice.COLD, pid=ended.pid)
    with pytest.raises(ProcessGone):
        advise(span, Advice.COLD, pid=ended.pid)


def test_a_process_cannot_be_named_without_pidfd_open(monkeypatch, other):
    """The kernel is too old, or a filter hides the call."""
    process, span = other

    def pidfd_open(_pid):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    with pytest.raises(KernelLacks, match=f"no pidfd for process {process.pid}") as refused:
        advise(span, Advice.COLD, pid=process.pid)
    assert "5.3" in refused.value.hint


# What cannot be meant


@pytest.mark.parametrize("advice", [4, "DONTNEED", None, PosixAdvice.DONTNEED], ids=repr)
def test_an_advice_by_any_other_name_is_the_wrong_type(advice):
    """A number may be another advice in another header; the hint names the right thing."""
    memory = small_pages(PAGE)
    fill(memory)
    with pytest.raises(WrongType) as refused:
        advise(memory, advice)
    assert "Advice.DONTNEED" in refused.value.hint
    assert raw(memory).all()


@pytest.mark.parametrize("target", [None, 4096, (4096, 8192), [1], "text"], ids=repr)
def test_a_target_that_is_neither_span_nor_buffer_is_the_wrong_type(target):
    """A pair of numbers could be start and end, or start and length."""
    with pytest.raises(WrongType):
        advise(target, Advice.COLD)
    with pytest.raises(WrongType):
        posix_madvise(target, PosixAdvice.NORMAL)


@pytest.mark.parametrize("pid", ["1", 1.0, True], ids=repr)
def test_a_pid_is_an_integer(pid):
    """Not a text, and not a truth."""
    with pytest.raises(WrongType):
        advise(Span(0, PAGE), Advice.COLD, pid=pid)


# POSIX


def test_posix_dontneed_destroys_nothing():
    """No system call is made for it, and what is not mapped does not matter."""
    memory = small_pages(4 * PAGE)
    contents = fill(memory)
    posix_madvise(memory, PosixAdvice.DONTNEED)
    posix_madvise(Span(PAGE, 2 * PAGE), PosixAdvice.DONTNEED)
    assert np.array_equal(raw(memory), contents)


def test_posix_advice_reaches_the_kernel():
    """RANDOM shows in the flags of the mapping; a read-only buffer is taken, for nothing can be lost."""
    with mapped_pages(3) as (span, _):
        for advice, shows in ((PosixAdvice.RANDOM, True), (PosixAdvice.NORMAL, False)):
            posix_madvise(memoryview(buffer_at(span.start, 3 * PAGE)).toreadonly(), advice)
            flags = next(each.smaps.flags for each in look(smaps=True).mappings if each.start <= span.start < each.end)
            assert any("random" in flag for flag in flags) == shows


def test_posix_advice_on_what_is_not_mapped_is_refused():
    """With the errno that libc returns, since it sets none."""
    with pytest.raises(AdviceRefused) as refused:
        posix_madvise(Span(PAGE, 2 * PAGE), PosixAdvice.WILLNEED)
    assert refused.value.errno == errno.ENOMEM


@pytest.mark.parametrize("advice", [4, "DONTNEED", Advice.DONTNEED], ids=repr)
def test_a_kernels_advice_is_no_posix_advice(advice):
    """They have the same names and do not do the same."""
    with pytest.raises(WrongType):
        posix_madvise(bytearray(PAGE), advice)
