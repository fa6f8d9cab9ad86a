"""A thread that does nothing but look at the clock: how long it stands still is how long everyone else would."""

from __future__ import annotations

import threading
from time import perf_counter, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SETTLING_SECONDS = 0.02


def longest_standstill(call: Callable[[], object]) -> float:
    """The longest time for which another Python thread could not run while this one was in `call`, in seconds."""
    watched, ended = threading.Event(), threading.Event()
    longest = [0.0]
    thread = threading.Thread(target=_tick, args=(watched, ended, longest))
    thread.start()
    try:
        sleep(_SETTLING_SECONDS)  # a thread that has just started has not got its turn yet
        watched.set()
        call()
    finally:
        ended.set()
        thread.join()
    return longest[0]


def _tick(watched: threading.Event, ended: threading.Event, longest: list[float]) -> None:
    last = perf_counter()
    going = True
    while going:
        # Asked before the clock is read: a standstill that lasts until the call has ended is counted too.
        going = not ended.is_set()
        now = perf_counter()
        if now - last > longest[0] and watched.is_set():
            longest[0] = now - last
        last = now
