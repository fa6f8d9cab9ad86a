"""What every error promises: a message, a hint, an exit code, and a builtin that catches it."""

from __future__ import annotations

import copy
import errno
import pickle

import pytest

from dontneed import errors
from dontneed.errors import AdviceRefused, DontneedError

PROMISES = [
    (errors.DontneedError, Exception, 1),
    (errors.UsageError, ValueError, 2),
    (errors.WrongType, TypeError, 2),
    (errors.NotPermitted, PermissionError, 3),
    (errors.KernelLacks, NotImplementedError, 4),
    (errors.ProcessGone, ProcessLookupError, 5),
    (errors.NoAddressSpace, LookupError, 1),
    (errors.BufferRefused, BufferError, 1),
    (errors.TargetRefused, RuntimeError, 1),
    (errors.Unreadable, LookupError, 1),
    (errors.AdviceRefused, OSError, 1),
]
each_error = pytest.mark.parametrize("kind", [kind for kind, _, _ in PROMISES])


def make(kind):
    """An error of this kind with everything filled in."""
    needed = {"errno": errno.EINVAL, "advised": 4096} if kind is AdviceRefused else {}
    return kind("it is locked", hint="unlock it", **needed)


def test_none_is_forgotten():
    """Every exception of the module is in the table above."""
    public = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)}
    assert public == {kind for kind, _, _ in PROMISES}


@pytest.mark.parametrize(("kind", "builtin", "exit_code"), PROMISES)
def test_is_the_builtin_that_it_resembles(kind, builtin, exit_code):
    """Whoever knows only the builtin catches it, and so does who knows only the root; the exit code is its own."""
    for caught_as in (builtin, DontneedError):
        with pytest.raises(caught_as) as caught:
            raise make(kind)
        assert type(caught.value) is kind
    assert kind.exit_code == exit_code


@each_error
def test_str_is_the_message(kind):
    """`str` is the message alone, also where the builtin would add an errno or quotes; the hint stands apart."""
    error = make(kind)
    assert str(error) == error.message == "it is locked"
    assert error.hint == "unlock it"
    assert error.args == ("it is locked",)


@each_error
def test_hint_is_optional_and_never_none(kind):
    """Without a hint it is the empty string, so that a report need not ask."""
    assert (AdviceRefused("no", errno=1) if kind is AdviceRefused else kind("no")).hint == ""


@each_error
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_survives_pickle(kind, protocol):
    """An error crosses to another process whole, as multiprocessing and concurrent.futures need."""
    error = make(kind)
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):  # noqa: S301 - our own bytes
        assert type(again) is kind
        assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
        assert getattr(again, "errno", None) == getattr(error, "errno", None)


def test_wrong_type_is_a_usage_error():
    """A wrong type is caught with the other wrong calls, and ends the command as they do."""
    assert issubclass(errors.WrongType, errors.UsageError)


def test_advice_refused_says_what_was_done():
    """The kernel's errno, and the bytes advised before it said no: none unless told."""
    error = make(AdviceRefused)
    assert (error.errno, error.advised) == (errno.EINVAL, 4096)
    assert AdviceRefused("no", errno=errno.EINVAL).advised == 0
