"""Harmless trials of perf events and tracepoints; as those of `probes`, and with the same outcomes.

An event that is tried is one of ours, never switched on, and closed at once.
"""

from __future__ import annotations

import errno
import os

from dontneed.kernel.probes import Lacking, SwitchedOff

_LOCKDOWN = "/sys/kernel/security/lockdown"
_PARANOID = "/proc/sys/kernel/perf_event_paranoid"
_TRIED = "kmem:rss_stat"
_MISSING = "tracefs has no kmem:rss_stat"
_REFUSED = (errno.EACCES, errno.EPERM)


def try_perf_events() -> str:
    """Open an event that never happens."""
    from dontneed.abi import perf_event as abi
    from dontneed.kernel.perf import open_event

    try:
        os.close(open_event(abi.NOTHING, 0, -1, options=abi.DISABLED | abi.EXCLUDE_KERNEL))
    except PermissionError as refusal:
        raise _with_setting(refusal) from None
    return f"opened an event{_setting()}"


def try_tracefs() -> str:
    """Read the description of one tracepoint."""
    from dontneed.kernel.tracefs import read_tracepoints

    try:
        found = read_tracepoints([_TRIED])
    except PermissionError as refusal:
        _judge_lockdown(refusal)
        raise
    if not found:
        raise Lacking(_MISSING)
    return f"{_TRIED} is number {found[_TRIED].number}"


def try_tracepoints() -> str:
    """Open a tracepoint with all its data, for ourselves."""
    from dontneed.abi import perf_event as abi
    from dontneed.kernel.perf import open_event
    from dontneed.kernel.tracefs import read_tracepoints

    found = read_tracepoints([_TRIED])
    if not found:
        raise Lacking(_MISSING)
    try:
        os.close(open_event((abi.TRACEPOINT, found[_TRIED].number), 0, -1, options=abi.DISABLED))
    except PermissionError as refusal:
        raise _with_setting(refusal) from None
    return f"opened {_TRIED}"


def _judge_lockdown(refusal: OSError) -> None:
    """Lockdown refuses even those who may everything."""
    from dontneed.kernel.environment import chosen_word

    if refusal.errno in _REFUSED and chosen_word(_read(_LOCKDOWN)) == "confidentiality":
        raise SwitchedOff(
            "lockdown=confidentiality keeps tracefs from everyone",
            "a kernel without lockdown=confidentiality: it is on its command line, or comes with Secure Boot",
        ) from None


def _with_setting(refusal: PermissionError) -> PermissionError:
    return PermissionError(refusal.errno, refusal.strerror, f"{refusal.filename}{_setting()}")


def _setting() -> str:
    """What decides besides capabilities."""
    value = _read(_PARANOID)
    return f", with kernel.perf_event_paranoid={value.strip()}" if value else ""


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:  # not there, or covered: the setting is not to be seen
        return None
