"""Every way in which dontneed says no: what happened, why (the message), what to try (`hint`), and an exit code.

Each error is also the builtin that it resembles, so that a caller who knows nothing of dontneed catches it too.
"""

from __future__ import annotations

from errno import EPERM, ESRCH


class DontneedError(Exception):
    """The root: `str()` says what happened and why, `.hint` what to try, `.exit_code` how the command ends."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    @property
    def in_words(self) -> str:
        """The message, and what to try, in one line."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(DontneedError, ValueError):
    """The call itself is wrong: no state of the system would make it right."""

    exit_code = 2


class WrongType(UsageError, TypeError):
    """An argument is of a type that the call cannot take."""


class NotPermitted(DontneedError, PermissionError):
    """The kernel knows how, and this user may not."""

    exit_code = 3
    errno = EPERM


class KernelLacks(DontneedError, NotImplementedError):
    """This kernel, or this build of it, has no such interface."""

    exit_code = 4


class ProcessGone(DontneedError, ProcessLookupError):
    """No such process, or it ended while we looked."""

    exit_code = 5
    errno = ESRCH


class NoAddressSpace(DontneedError, LookupError):
    """The process exists and has no memory of its own: a kernel thread."""


class BufferRefused(DontneedError, BufferError):
    """The contents of this buffer cannot be given up; nothing was changed."""


class TargetRefused(DontneedError, RuntimeError):
    """This process cannot be acted on, or not now; whatever was begun is undone, and it runs on as before."""


class Unreadable(DontneedError, LookupError):
    """An address of another process that nothing is mapped at, or nothing readable: it moved while it was read."""


class AdviceRefused(DontneedError, OSError):
    """The kernel refused an advice for some part of the range.

    Attributes:
        errno: the kernel's error number.
        advised: bytes that were advised before the refusal; an aborted walk keeps its earlier effects.
    """

    def __init__(self, message: str, *, errno: int, advised: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
        self.advised = advised

    def __reduce__(self) -> tuple[object, ...]:
        return _revive, (type(self), self.message, self.errno), self.__dict__


def _revive(kind: type[AdviceRefused], message: str, errno: int) -> AdviceRefused:
    """Make an unpickled error: unlike the others it cannot be made of its message alone."""
    return kind(message, errno=errno)
