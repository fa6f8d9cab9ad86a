"""While others stand still for us, we go first; and only then."""

from __future__ import annotations

import os

import pytest

from dontneed.kernel.procfs import ProcessDirectory
from dontneed.remote import scheduling
from dontneed.remote.stop import Stop

pytestmark = pytest.mark.needs_root


def test_a_stop_goes_first_and_is_ordinary_again_afterwards(child):
    """Also if the block fails."""
    target = child()
    with ProcessDirectory(target.pid) as process:
        with Stop(process):
            assert os.sched_getscheduler(0) == os.SCHED_RR
        assert os.sched_getscheduler(0) == os.SCHED_OTHER
        with pytest.raises(ZeroDivisionError), Stop(process):
            raise ZeroDivisionError
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_without_the_right_all_goes_on_in_its_turn(monkeypatch):
    """A stop is no less sound for it."""

    def refuse(*_arguments):
        raise PermissionError

    monkeypatch.setattr(scheduling.os, "sched_setscheduler", refuse)
    assert scheduling.go_first() is None


def test_a_policy_that_somebody_chose_is_left_alone(monkeypatch):
    """Batch, idle, or real time with a priority of its own."""
    monkeypatch.setattr(scheduling.os, "sched_getscheduler", lambda _thread: os.SCHED_BATCH)
    assert scheduling.go_first() is None
