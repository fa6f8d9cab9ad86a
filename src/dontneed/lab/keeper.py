"""A process that keeps the machine otherwise than it was while somebody needs it, and puts it back when that one ends.

What swap there is, the hugetlb pool, khugepaged's pace: an experiment changes these for seconds, for everybody, and is
interrupted or killed as any program is. So it changes nothing itself: it starts a keeper, which hears no signal of the
terminal, and which puts everything back when its channel closes, whoever closed it.
"""

from __future__ import annotations

import json
import signal
import socket
from contextlib import contextmanager

from dontneed.errors import DontneedError, KernelLacks, NotPermitted
from dontneed.kernel.hugetlb import enlarged_pool
from dontneed.kernel.khugepaged import hurried_khugepaged
from dontneed.kernel.swap import swap_space
from dontneed.lab.channel import PACKET_BYTES, last_words, start_process

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

_CHANGES: dict[str, Callable[..., AbstractContextManager[None]]] = {
    "swap": swap_space,
    "hugetlb": enlarged_pool,
    "khugepaged": hurried_khugepaged,
}
_ERRORS: dict[str, type[DontneedError]] = {each.__name__: each for each in (DontneedError, KernelLacks, NotPermitted)}
_PATIENCE_SECONDS = 90.0
"""Longer than a keeper waits for another one to be done."""


@contextmanager
def kept(change: str, *numbers: int) -> Iterator[None]:
    """Have the machine changed for the time of a `with` block.

    Args:
        change: "swap", "hugetlb" or "khugepaged".
        *numbers: what the change takes.
    Raises:
        KernelLacks, NotPermitted: it cannot be; nothing is changed.
        DontneedError: the keeper does not answer, or could not put everything back.
    """
    channel, keeper = start_process(keep, change, *numbers, new_session=True)
    with _seen_out(keeper, change), channel:
        channel.settimeout(_PATIENCE_SECONDS)
        _raise_refusal(channel.recv(PACKET_BYTES))
        yield


def keep(channel_fd: int, change: str, *numbers: str) -> None:
    """Change the machine, say so, and put it back when the channel is closed.

    Args:
        channel_fd: an open SOCK_SEQPACKET socket.
        change: as `kept` takes it.
        *numbers: what the change takes, as text.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=channel_fd) as channel:
        try:
            with _CHANGES[change](*map(int, numbers)):
                _say(channel, {})
                channel.recv(PACKET_BYTES)
        except DontneedError as error:
            _say(channel, {"error": type(error).__name__, "message": error.message, "hint": error.hint})


def _say(channel: socket.socket, answer: dict[str, str]) -> None:
    try:
        channel.send(json.dumps(answer).encode("ascii"))
    except ConnectionError:  # whoever asked is gone; the block ends at once, and with it the change
        return


def _raise_refusal(packet: bytes) -> None:
    """Raise what a keeper was refused, or that it is no more."""
    answer = json.loads(packet or "null")
    if answer is None:
        raise DontneedError("the lab's keeper of settings ended at once")
    if answer:
        raise _ERRORS[answer["error"]](answer["message"], hint=answer["hint"])


@contextmanager
def _seen_out(keeper: subprocess.Popen[bytes], change: str) -> Iterator[None]:
    """Wait for a keeper at the end of a block, as long as it takes: it is never killed, since it puts things back."""
    try:
        yield
    finally:
        if keeper.wait():
            msg = f"the lab could not change the machine's {change} for a while: {last_words(keeper)}"
            raise DontneedError(msg, hint="`dontneed doctor` shows what swap and huge pages there are")
        last_words(keeper)
