"""The course of a release: survey, witness, act, witness; with reasons that the tests make up, on their own process."""

from __future__ import annotations

import mmap
import os
from types import SimpleNamespace

import numpy as np
import pytest

from dontneed import Advice, ProcessGone, Span, TargetRefused, UsageError, advise, plan
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.reasons import catalogue
from dontneed.reasons.survey import Limits, Released, Survey
from dontneed.reclaim import carry_out as course
from dontneed.reclaim import plan as planning
from dontneed.reclaim.order import Order
from dontneed.spans import Spans

PAGE = mmap.PAGESIZE
PAGES = 256
QUEUED_PAGES = 31
"""As many as a processor keeps aside on their way to the kernel's lists."""


@pytest.fixture
def memory():
    """A megabyte of our own, touched."""
    with mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        array = np.frombuffer(held, np.uint8)
        array.flags.writeable = True
        array[:] = 7
        yield Span(array.ctypes.data, array.ctypes.data + array.size)
        del array


class Discarding:
    """A reason that gives up some memory; `fails` is raised when half of it has gone."""

    NAME, ACTS_INSIDE, WHY_SAFE = "zero-pages", False, "the test says so"

    def __init__(self, span, fails=None):
        self._span = span
        self._fails = fails

    def survey(self, _subject, _hint):
        """All of it."""
        return Survey("zero-pages", self._span.size_bytes, Spans([self._span]), self.WHY_SAFE, 0.0, 0.0)

    def release(self, _subject, found, _limits):
        """Half of it."""
        half = Span(self._span.start, self._span.start + self._span.size_bytes // 2)
        advised = advise(half, Advice.DONTNEED)
        if self._fails is not None:
            raise self._fails
        return Released(found.releasable_bytes, advised, Spans([half]), (0.001, 0.003), ("half of it",))


class Refusing:
    """A reason that cannot look."""

    NAME, ACTS_INSIDE, WHY_SAFE = "dead-stack", False, "the test says so"

    def survey(self, _subject, _hint):
        """Nothing."""
        message = "somebody else holds it"
        raise TargetRefused(message, hint="ask him")


@pytest.fixture
def reasons(monkeypatch):
    """Give every reason a stand-in: `reasons["zero-pages"] = …`."""
    standing_in = {}
    for module in (course, planning):
        monkeypatch.setattr(module, "reason_named", standing_in.__getitem__)
    return standing_in


def order_of(*names, **changes):
    with ProcessDirectory() as process:
        started = read_identity(process).started
    order = Order(os.getpid(), started, names, {}, Limits(), 0.0, "auto")
    return order.replace(**changes)


def carried_out(*names, **changes):
    return course.carry_out(order_of(*names, **changes), lambda: False)


def assert_half_has_gone(turn):
    """Freed; but for what waits in a queue of a processor that we have left since, which is deferred, and said."""
    assert turn.freed + turn.deferred == PAGES * PAGE // 2
    assert turn.deferred <= QUEUED_PAGES * PAGE


def test_what_a_reason_gave_up_is_witnessed_and_nothing_else(reasons, memory):
    """Half of what it found went: that half is judged."""
    reasons["zero-pages"] = Discarding(memory)
    receipt = carried_out("zero-pages")
    (turn,) = receipt.reasons
    assert (turn.asked, turn.advised) == (PAGES * PAGE, PAGES * PAGE // 2)
    assert_half_has_gone(turn)
    assert (turn.pause_seconds, turn.stops, turn.notes) == (0.003, 2, ("half of it",))
    assert receipt.exit_code == 0


def test_a_reason_that_fails_leaves_the_others_their_turn(reasons, memory):
    """It is told with its exit code, and what had gone before is told too."""
    reasons["free-pools"] = Discarding(memory, fails=TargetRefused("no thread is quiet", hint="try again"))
    reasons["zero-pages"] = Discarding(memory)
    receipt = carried_out("free-pools", "zero-pages")
    first, second = receipt.reasons
    assert (first.failed, first.exit_code) == ("no thread is quiet; try again", 1)
    assert_half_has_gone(first)
    assert second.failed == ""
    assert receipt.exit_code == 1


def test_a_surprise_ends_the_release(reasons, memory):
    """What nobody thought of may be anything: nothing more is begun."""
    reasons["free-pools"] = Discarding(memory, fails=ZeroDivisionError("of all things"))
    receipt = carried_out("free-pools", "zero-pages")
    (turn,) = receipt.reasons
    assert turn.failed == "unexpected ZeroDivisionError in release: of all things"
    assert receipt.exit_code == 1
    assert receipt.not_begun == ("zero-pages",)


def test_a_release_that_is_cancelled_begins_nothing_more(reasons, memory):
    """And says what it has not begun."""
    reasons["zero-pages"] = Discarding(memory)
    asked = iter([False, True])
    receipt = course.carry_out(order_of("zero-pages", "dead-stack"), lambda: next(asked))
    assert len(receipt.reasons) == 1
    assert receipt.not_begun == ("dead-stack",)


def test_what_is_touched_again_during_the_watch_is_refaulted(reasons, memory):
    """A reason whose pages come back at once has not gained much."""
    reasons["zero-pages"] = Discarding(memory)
    release = reasons["zero-pages"].release

    def release_and_touch(*arguments):
        released = release(*arguments)
        touched.append(advise(Span(memory.start, memory.start + 16 * PAGE), Advice.POPULATE_WRITE))
        return released

    touched = []
    reasons["zero-pages"].release = release_and_touch
    (turn,) = carried_out("zero-pages", watch_seconds=0.01).reasons
    assert touched == [16 * PAGE]
    assert turn.refaulted == 16 * PAGE


def test_another_process_with_the_same_number_is_left_alone(reasons, memory):
    """Between a plan and its release a pid may have been given anew."""
    reasons["zero-pages"] = Discarding(memory)
    with pytest.raises(ProcessGone, match="another one has its number"):
        carried_out("zero-pages", started=1)


def test_a_reason_that_cannot_look_says_so_in_the_plan(reasons, memory):
    """And the other reasons are planned all the same."""
    reasons.update(dict.fromkeys(catalogue.REASONS, Refusing()))
    reasons["zero-pages"] = Discarding(memory)
    planned = plan(reasons=("zero-pages", "dead-stack"))
    assert [survey.reason for survey in planned.surveys] == ["zero-pages", "dead-stack"]
    assert planned.surveys[1].refused == ("somebody else holds it; ask him",)
    assert planned.releasable_bytes == PAGES * PAGE


def test_reasons_are_carried_out_in_their_own_order():
    """Whatever order they are named in, and each once."""
    assert catalogue.in_order(["dead-stack", "clean-file", "dead-stack"]) == ("clean-file", "dead-stack")
    assert catalogue.in_order("cold") == ("cold",)
    assert "cold" not in catalogue.in_order(None)


def test_a_reason_that_there_is_not_is_refused():
    """With those that there are."""
    with pytest.raises(UsageError, match="no reason 'luck'") as refused:
        plan(reasons=["luck"])
    assert "zero-pages" in refused.value.hint


@pytest.mark.parametrize("name", catalogue.REASONS)
def test_every_reason_has_what_a_reason_has(name):
    """Its name, a sentence for people, and the two verbs."""
    reason = catalogue.reason_named(name)
    assert name == reason.NAME
    assert reason.WHY_SAFE.strip()
    assert SimpleNamespace(survey=reason.survey, release=reason.release)


def test_a_kernel_thread_has_nothing_to_plan_for():
    """It has no memory of its own."""
    from dontneed import NoAddressSpace

    with pytest.raises(NoAddressSpace, match="kernel thread"):
        plan(2)
