"""Starts a command that waits, before its program begins, until it is told to go: so that nothing of it is missed.

The one who waits is a bare Python, which then replaces itself by the program: same process, same number. If we end
before it was told to go, it ends too.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys

from dontneed.errors import DontneedError, NotPermitted, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Self

_WAITER = """
import os, signal, sys
go, failed, words = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if not os.read(go, 1):
    os._exit(1)
for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
    signal.signal(number, signal.SIG_DFL)
os.close(go)
os.set_inheritable(failed, False)
try:
    os.execvp(words[0], words)
except OSError as error:
    os.write(failed, str(error.errno).encode())
os._exit(127)
"""
_NOT_FOUND = (errno.ENOENT, errno.ENOTDIR)


class WaitingCommand:
    """A command that has not begun. A context manager; what was never told to go is ended.

    Args:
        words: the program and its arguments.
        output: a file descriptor for its standard output; None: ours.
    """

    def __init__(self, words: Sequence[str], output: int | None = None) -> None:
        self._words = words
        go, self._go = os.pipe()
        self._failed, failed = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the user's own command
                [sys.executable, "-ISc", _WAITER, str(go), str(failed), *words],
                pass_fds=(go, failed),
                stdout=output,
            )
        except BaseException:  # whatever it was, there is no process that would close them
            os.close(self._go)
            os.close(self._failed)
            raise
        finally:
            os.close(go)
            os.close(failed)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in (self._go, self._failed):
            if fd >= 0:
                os.close(fd)
        self._go = self._failed = -1
        if kind is not None:
            self.end()
        self._process.wait()

    def begin(self) -> None:
        """Let the program begin.

        Raises:
            UsageError: there is no such program.
            NotPermitted: it may not be run.
            DontneedError: it cannot be run.
        """
        os.write(self._go, b"!")
        refusal = os.read(self._failed, 16)
        if not refusal:
            return
        number, name = int(refusal), self._words[0]
        if number in _NOT_FOUND:
            msg = f"there is no program {name!r}"
            raise UsageError(msg, hint="its path, or a name that is on PATH")
        msg = f"{name!r} cannot be run: {os.strerror(number)}"
        raise (NotPermitted if number == errno.EACCES else DontneedError)(msg)

    def end(self) -> None:
        """Ask it to end, by SIGTERM, if it still runs."""
        if self.exit_code is None:
            self._process.terminate()

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()
