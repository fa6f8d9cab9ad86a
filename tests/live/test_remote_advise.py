"""Many ranges advised from inside: as many as there are, but never the ground that the borrowed thread stands on."""

from __future__ import annotations

import pytest

from dontneed import Advice, AdviceRefused, Span, Spans
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote import advise
from dontneed.remote.advise import advise_inside
from dontneed.remote.lender import stack_of
from dontneed.remote.passage import Passage
from dontneed.remote.stop import Stop

from .native_target import PAGE, running

HOLDS = """if True:
    import ctypes, mmap, sys
    held = mmap.mmap(-1, {pages} * 4096, flags=mmap.MAP_PRIVATE)
    held.write(b"x" * len(held))
    print(ctypes.addressof(ctypes.c_char.from_buffer(held)))
    pause()
    print(held[::4096].count(b"x"), held[4096::8192].count(b"x"))
    pause()
"""


def every_other_page(start, pages):
    """Ranges that do not touch."""
    return Spans([Span(start + n * PAGE, start + (n + 1) * PAGE) for n in range(0, pages, 2)])


@pytest.mark.parametrize("pages", [2, 20, 2048, 5000])
def test_as_many_ranges_as_there_are(child, pages):
    """One call takes 1,024; their addresses lie below the borrowed thread's stack, and nothing is mapped for them."""
    target = child(HOLDS.format(pages=pages))
    spans = every_other_page(int(target.said[0]), pages)
    with ProcessDirectory(target.pid) as process:
        before = process.read("maps")
        with Stop(process) as stop:
            assert advise_inside(stop, spans, Advice.DONTNEED) == spans.size_bytes
        assert process.read("maps") == before
    assert target.proceed() == [f"{pages // 2} {pages // 2}"]


@pytest.mark.parametrize("by_vector", [True, False])
def test_beside_others_a_call_takes_little(child, monkeypatch, by_vector):
    """Whoever is killed within one lets the others run while it goes on; where there are none, it may take long."""
    lengths = []
    real = Passage.system_call

    def noted(passage, number, *arguments):
        advised = real(passage, number, *arguments)
        lengths.append(advised if number == advise.PROCESS_MADVISE else arguments[1])
        return advised

    monkeypatch.setattr(Passage, "system_call", noted)
    if not by_vector:
        monkeypatch.setattr(advise, "RANGES_A_CALL", 1)
    another = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    target = child(another + HOLDS.format(pages=6000))
    start = int(target.said[0])
    spans = Spans([Span(start, start + 5000 * PAGE), Span(start + 5500 * PAGE, start + 6000 * PAGE)])
    with ProcessDirectory(target.pid) as process:
        with Stop(process) as stop:
            assert len(stop.registers) > 1
            assert advise_inside(stop, spans, Advice.DONTNEED) == spans.size_bytes
        assert max(lengths) <= 8 << 20
        assert sum(lengths) == spans.size_bytes
        lengths.clear()
        with Stop(process, [target.pid]) as stop:
            assert advise_inside(stop, Spans([Span(start, start + 5000 * PAGE)]), Advice.DONTNEED) == 5000 * PAGE
        assert lengths == [5000 * PAGE]


def test_where_the_kernel_takes_no_vector_each_range_is_advised_alone(child, monkeypatch):
    """Before 6.13: the result is the same."""
    monkeypatch.setattr(advise, "PROCESS_MADVISE", 9999)
    target = child(HOLDS.format(pages=50))
    spans = every_other_page(int(target.said[0]), 50)
    with ProcessDirectory(target.pid) as process, Stop(process) as stop:
        assert advise_inside(stop, spans, Advice.DONTNEED) == spans.size_bytes
    assert target.proceed() == ["25 25"]


def test_a_refusal_says_what_was_done_before_it(child):
    """A hole behind ten ranges that are there."""
    target = child(HOLDS.format(pages=20))
    start = int(target.said[0])
    with ProcessDirectory(target.pid) as process, Stop(process) as stop:
        with pytest.raises(AdviceRefused) as refused:
            advise_inside(stop, every_other_page(start, 20) | Spans([Span(1 << 40, (1 << 40) + PAGE)]), Advice.DONTNEED)
        assert refused.value.errno == 12
        spans = every_other_page(start, 20)
        assert advise_inside(stop, spans, Advice.DONTNEED) == spans.size_bytes
    assert target.proceed() == ["10 10"]


def test_no_ranges_disturb_nobody(child):
    """Nothing is borrowed for them."""
    with ProcessDirectory(child().pid) as process, Stop(process) as stop:
        assert advise_inside(stop, Spans(), Advice.DONTNEED) == 0
        assert stop.passage is None


def dead_stacks_of(stop):
    """The whole pages below the stack pointer of every thread."""
    spans = {}
    for thread, registers in stop.registers.items():
        stack = stack_of(stop, registers)
        if stack:
            spans[thread] = Span.inward(stack[0], registers.rsp - 128 - stack[0])
    return spans


@pytest.mark.needs_command("cc")
def test_a_borrowed_thread_does_not_drop_the_ground_it_stands_on(tmp_path):
    """Its way home lies where its dead stack is. Another thread drops those pages, if there is one."""
    with running(tmp_path, "callable") as target, ProcessDirectory(target.pid) as process:
        names = {thread: name for name, (thread,) in target.named().items()}
        with Stop(process) as stop:
            dead = dead_stacks_of(stop)
            assert {names.get(thread, "main") for thread in dead} >= {"main", "sleeper", "holder"}
            spans = Spans(dead.values())
            first = advise_inside(stop, spans, Advice.DONTNEED)
            assert spans.size_bytes - 2 * PAGE <= first <= spans.size_bytes  # two grounds may share the last page
        sleeper = next(thread for thread, name in names.items() if name == "sleeper")
        with Stop(process, threads=[sleeper]) as stop:
            dead = Spans([dead_stacks_of(stop)[sleeper]])
            passage = Passage(stop, sleeper)
            ground = Spans([Span.outward(passage.path.start, passage.path.end - passage.path.start)])
            assert advise_inside(stop, dead, Advice.DONTNEED) == (dead - ground).size_bytes
        assert target.tell("?")[-1] == "errors 0"


@pytest.mark.needs_command("cc")
def test_threads_that_the_kernel_made_for_io_uring_are_held_too(tmp_path):
    """They have no registers worth the name, and are never borrowed; what they read arrives."""
    with running(tmp_path, "uring") as target, ProcessDirectory(target.pid) as process:
        if target.said == ["absent"]:
            pytest.skip("needs io_uring")
        most = 0
        for _ in range(50):
            with Stop(process) as stop:
                dead = dead_stacks_of(stop)
                assert target.pid in dead
                advise_inside(stop, Spans(dead.values()), Advice.DONTNEED)
                most = max(most, len(stop.registers))
        reads, errors = target.tell("end")
    assert most > 1
    assert int(reads.split()[1]) > 0
    assert errors == "errors 0"
