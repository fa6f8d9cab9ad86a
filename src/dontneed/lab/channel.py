"""Processes of the lab's own, and the channels to them: sockets that keep packets apart.

What such a process runs is a function of ours, in an interpreter that is isolated (`-I`) from the directory and the
environment that it is started in, and with the dontneed that started it. It ends when its channel is closed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import dontneed
from dontneed.errors import DontneedError, NotPermitted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PACKET_BYTES = 1 << 16
"""More than any packet holds: memory never travels, only what was found in it."""

FAREWELL_SECONDS = 10.0
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from {module} import {function}; {function}(int(sys.argv[2]), *sys.argv[3:])"
)


def make_channel() -> tuple[socket.socket, socket.socket]:
    """Two ends of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def start_process(
    function: Callable[..., None], *arguments: object, new_session: bool = False
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start an interpreter that runs `function`, with its end of a channel, as a number, before `arguments`, as text.

    Args:
        function: of a module of ours.
        arguments: what it takes besides.
        new_session: no terminal's signals reach it.
    Returns:
        Our end, and the process.
    Raises:
        NotPermitted, DontneedError: it cannot be started.
    """
    package_parent = os.path.dirname(next(iter(dontneed.__path__)))
    program = _PROGRAM.format(module=function.__module__, function=function.__name__)
    ours, theirs = make_channel()
    with theirs:
        try:
            child = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-I", "-c", program, package_parent, str(theirs.fileno()), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=new_session,
            )
        except OSError as error:
            ours.close()
            msg = f"the lab cannot start a process of its own: {sys.executable}: {error.strerror}"
            if isinstance(error, PermissionError):
                raise NotPermitted(msg, hint="it runs the Python that runs this; may this user run it?") from None
            raise DontneedError(msg, hint="is there memory, and room for one more process (`ulimit -u`)?") from None
    return ours, child


def say_goodbye(channel: socket.socket) -> None:
    """Close a channel, and wait for the other end to be closed: a process does that after it gave its memory back."""
    with channel:
        channel.settimeout(FAREWELL_SECONDS)
        try:
            channel.shutdown(socket.SHUT_WR)
            channel.recv(PACKET_BYTES)
        except OSError:  # it is gone already, or stuck; whoever started it sees to it
            return


def see_out(child: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait for a process that has been told to end, and kill it if it does not; its exit code, and its last words."""
    try:
        code = child.wait(FAREWELL_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    return code, last_words(child)


def last_words(child: subprocess.Popen[bytes]) -> str:
    """The last line that a process that has ended wrote to its standard error; nothing if it has been asked before."""
    if child.stderr is None or child.stderr.closed:
        return ""
    with child.stderr:
        return (child.stderr.read().splitlines() or [b""])[-1].decode("utf-8", "replace")
