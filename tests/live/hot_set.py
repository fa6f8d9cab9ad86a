"""A target whose working set is known, what is found of it, and waiting for it without a clock."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import dontneed
from dontneed.errors import ProcessGone, TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.kernel.status import read_identity
from dontneed.observe import working_set as observed
from dontneed.remote import written
from dontneed.remote.working_set import _columns, working_set_until
from dontneed.spans import Span

from .native_target import PAGE, SWAPPED, entries_of, running

PATIENCE_SECONDS = 60


class HotSet:
    """The target, where its memory is, and whether it is well."""

    def __init__(self, target):
        self.target = target
        self.pid = target.pid
        self.start = target.named()["memory"][0]

    def use(self, found):
        """What was found of its memory."""
        return use_at(found, self.start)

    def turns(self):
        """How often it has touched its hot set."""
        turns, errors = map(int, self.target.tell("?")[0].split())
        assert errors == 0
        return turns

    def goes_round(self, times=2):
        """Wait until it has touched all of its hot set, however busy the machine is; True."""
        enough = self.turns() + times
        await_that(lambda: self.turns() > enough)
        return True

    def assert_well(self):
        """It goes on, and finds its memory as it wrote it."""
        self.goes_round()

    def is_watched(self):
        """Whether any of its memory is registered with a userfaultfd, or it has one open."""
        with ProcessDirectory(self.pid) as process:
            try:
                return " uw" in smaps_of(self.pid) or written._uses_userfaultfd(process)
            except ProcessGone:  # or a descriptor of it, closed while it was asked about
                return False

    def order(self, **options):
        """That its writes be watched."""
        with ProcessDirectory(self.pid) as process:
            started = read_identity(process).started
        return written.WriteOrder(self.pid, started, 60.0, **{"split_huge_pages": False, **options})

    def watch(self, method, action=lambda: None, **options):
        """A working set; as soon as it is watched `action` is called, and it has gone round, it is over."""

        def is_over():
            action()
            return self.goes_round()

        if method != "written":
            return working_set_until(self.pid, 60.0, method, is_over)
        found = patient(lambda: written._watch(self.order(**options), is_over))
        return observed_writes(self.pid, found)


def observed_writes(pid, found):
    """What the helper found, as the caller shows it."""
    mappings = dontneed.look(pid).mappings
    uses = tuple(observed.use_of(*each) for each in _columns(mappings, found))
    return SimpleNamespace(mappings=uses, notes=found.notes)


def use_at(found, address):
    """The use of the mapping at an address."""
    return next(use for use in found.mappings if use.start <= address < use.end)


@contextmanager
def hot_set(tmp_path, *arguments):
    """A running target."""
    with running(tmp_path, "hot_set", *arguments) as target:
        yield HotSet(target)


def patient(action):
    """What an action returns; a thread that cannot be borrowed at this moment can be at the next."""
    for _ in range(20):
        with ignored("no thread that could run"):
            return action()
    raise AssertionError("no thread could be borrowed, twenty times")


@contextmanager
def ignored(words):
    """A refusal with these words is none."""
    try:
        yield
    except TargetRefused as refusal:
        if words not in str(refusal):
            raise


def await_that(condition):
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def page_out(hot, first, last):
    """Have pages go to swap, and wait until they are there."""
    span = Span(hot.start + first * PAGE, hot.start + last * PAGE)

    def are_out():
        dontneed.advise(span, dontneed.Advice.PAGEOUT, pid=hot.pid)
        return bool((entries_of(hot.pid, span.start, span.end) & np.uint64(SWAPPED) != 0).all())

    await_that(are_out)


def smaps_of(pid):
    """With the flags of every mapping."""
    return Path(f"/proc/{pid}/smaps").read_text()


def maps_of(pid):
    """Its mappings, as text; of a zombie there are none."""
    return Path(f"/proc/{pid}/maps").read_text()
