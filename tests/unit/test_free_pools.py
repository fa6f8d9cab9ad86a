"""free-pools, without a process: how long a hold is made, what is refused, which threads are never borrowed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from dontneed.abi.syscalls import X86_64 as NR
from dontneed.errors import NotPermitted, ProcessGone, TargetRefused
from dontneed.observe.protected import Protected
from dontneed.reasons import free_pools
from dontneed.reasons.free_pools import _paced
from dontneed.reasons.survey import Limits
from dontneed.remote import gil
from dontneed.remote.gil import Gil
from dontneed.spans import Spans


def subject(whole=""):
    """Nobody's."""
    return SimpleNamespace(protected=Protected(Spans(), (), whole), process=None, pid=0)


def refuse(error):
    """A step that fails."""

    def step(*_arguments):
        raise error

    return step


def test_a_process_whose_memory_is_protected_altogether_is_refused_at_once():
    """With the sentence that says why; nothing of it is read."""
    found = free_pools.survey(subject("a device writes into it"))
    assert (found.releasable_bytes, found.refused) == (0, ("a device writes into it",))
    with pytest.raises(TargetRefused, match="a device writes"):
        free_pools.release(subject(), found, Limits())


@pytest.mark.parametrize("error", [TargetRefused("it is PyPy"), NotPermitted("it is somebody else's")])
def test_what_cannot_be_looked_at_is_a_sentence_of_the_survey(error, monkeypatch):
    """A plan has other reasons, and goes on with them."""
    monkeypatch.setattr(free_pools, "find_runtime", refuse(error))
    assert free_pools.survey(subject()).refused == (str(error),)


def test_a_process_that_has_ended_is_no_survey(monkeypatch):
    """There is nothing to plan any more."""
    monkeypatch.setattr(free_pools, "find_runtime", refuse(ProcessGone("it has ended")))
    with pytest.raises(ProcessGone):
        free_pools.survey(subject())


def test_a_hold_that_was_fast_is_believed_at_once():
    """The next slice is as long as fits."""
    assert _paced(measured=1e-6, expected=8e-6, at_first=8e-6) == 1e-6


def test_a_hold_that_was_slow_is_believed_by_and_by():
    """We had to wait for a processor: shorter holds would be the more, and wait as long each."""
    expected, paces = 8e-6, []
    for _ in range(20):
        expected = _paced(measured=1e-3, expected=expected, at_first=8e-6)
        paces.append(expected)
    assert paces[0] == pytest.approx(8e-6 * 1.3)
    assert paces[-1] == 4 * 8e-6
    assert _paced(measured=7e-6, expected=expected, at_first=8e-6) == 7e-6


@pytest.mark.parametrize("refused_at", [0, 1])
def test_a_refusal_half_way_is_a_note(refused_at, monkeypatch):
    """What was given back before is said; and a release that could not even begin is refused."""

    class Task:
        dropped, advised, pauses, refusals = (), 0, [], set()

        def __init__(self, *_arguments):
            pass

        def give_up(self, _batch, _seconds):
            if len(self.pauses) == refused_at:
                raise TargetRefused("nobody waits any more")
            self.pauses.append(0.01)

        def notes(self, _found):
            return self.refusals

    Task.pauses = []
    for name in ("read_protected", "read_maps", "read_counters"):
        monkeypatch.setattr(free_pools, name, lambda *_: Protected(Spans()))
    monkeypatch.setattr(free_pools, "_Task", Task)
    details = SimpleNamespace(runtime=None, batches=("one", "two"))
    found = SimpleNamespace(details=details, spans=Spans(), refused=())
    if refused_at:
        assert free_pools.release(subject(), found, Limits()).notes == ("nobody waits any more",)
    else:
        with pytest.raises(TargetRefused, match="nobody waits any more"):
            free_pools.release(subject(), found, Limits())


# Which threads


CODE = SimpleNamespace(contains=lambda address: 0x1000 <= address < 0x2000)
MAIN, OTHER, WORKER = 7, 8, 9


@pytest.fixture
def the_gil():
    """Of a process that is only asked for its number."""
    runtime = SimpleNamespace(mapped=CODE, finalizing=1, symbols={})
    return Gil(SimpleNamespace(pid=MAIN, read=lambda _: b""), runtime)


def waits(thread, number=NR.READ, first=0):
    """A quiet thread."""
    return SimpleNamespace(thread=thread, number=number, arguments=(first, 0, 0, 0, 0, 0))


def test_a_thread_that_waits_for_the_gil_is_never_borrowed(the_gil, monkeypatch):
    """A release inside that wait would wait for the thread itself. Also where the stop has made it restart_syscall."""
    quiet = [
        waits(WORKER, NR.FUTEX, 0x1800),
        waits(10, NR.RESTART_SYSCALL, 0x1800),
        waits(11, NR.FUTEX, 0x7000),
        waits(12, NR.READ, 0x1800),
    ]
    monkeypatch.setattr(gil, "quiet_threads", lambda _: quiet)
    assert the_gil._candidates() == [11, 12]


def test_the_main_thread_is_asked_first(the_gil, monkeypatch):
    """While it waits, no interpreter begins to shut down; the others keep the order of those that know them."""
    monkeypatch.setattr(gil, "quiet_threads", lambda _: [waits(WORKER), waits(OTHER), waits(MAIN)])
    assert the_gil._candidates() == [MAIN, WORKER, OTHER]


def test_a_thread_that_cannot_be_stopped_is_passed_over(the_gil, monkeypatch):
    """Another may do; what it was is said if none does."""

    class Stubborn:
        def __init__(self, *_arguments):
            pass

        def __enter__(self):
            raise TargetRefused("it sleeps uninterruptibly")

        def __exit__(self, *_arguments):
            pass

    monkeypatch.setattr(gil, "quiet_threads", lambda _: [waits(MAIN)])
    monkeypatch.setattr(gil, "Stop", Stubborn)
    with pytest.raises(TargetRefused, match="sleeps uninterruptibly"), the_gil.held(0):
        pytest.fail("nobody holds it")
