"""What this kernel, this container and this user allow: every interface tried, and what each refusal means.

Four states, since they call for four different things to do:

- present: the trial worked.
- absent: the kernel has it not: too old, or built without it (ENOSYS, ENOTTY, ENOENT, EINVAL, …).
- unprivileged: the kernel has it, and this user lacks the capability that opens it. sudo, or the container's options.
- forbidden: this user holds the capability, or none matters, and something between us and the kernel refuses: a seccomp
  filter, a security module, a mask over a file, or the edge of a user namespace. sudo does not help.

Never the kernel's version: distributions carry interfaces back, and configurations leave them out.
"""

from __future__ import annotations

import errno
import os

from dontneed.errors import KernelLacks, NotPermitted, UsageError
from dontneed.kernel.capabilities import read_privileges
from dontneed.kernel.interfaces import all_interfaces, interface_named
from dontneed.kernel.probes import Hidden, Lacking, SwitchedOff, TrialEnded, Untried
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.kernel.capabilities import Privileges
    from dontneed.kernel.interfaces import Interface

PRESENT = "present"
ABSENT = "absent"
FORBIDDEN = "forbidden"
UNPRIVILEGED = "unprivileged"


class Feature(Record):
    """One kernel interface as this process finds it.

    Attributes:
        name: what `feature()` takes.
        state: present, absent, forbidden or unprivileged.
        step: the step that uses it: look, prove, release, or environment.
        since: the kernel version that brought it.
        used_for: one phrase.
        detail: what the trial saw: an errno's name or a value.
        remedy: how to have it; "" when present.
    """

    name: str
    state: str
    step: str
    since: str
    used_for: str
    detail: str
    remedy: str = ""


class Verdict(Record):
    """What a refusal means: the part of a `Feature` that depends on the trial."""

    state: str
    detail: str
    remedy: str = ""


_found: dict[str, Feature] = {}
"""What was tried already in this process."""


def features(*, refresh: bool = False) -> tuple[Feature, ...]:
    """Every kernel interface that dontneed uses, tried harmlessly and remembered for the life of this process.

    Args:
        refresh: forget what was found and try again, as after a change of user or of settings.
    Returns:
        In the order of the steps: look, prove, release, environment. A few milliseconds the first time.
    """
    if refresh:
        _found.clear()
    return tuple(_tried(interface) for interface in all_interfaces())


def feature(name: str) -> Feature:
    """The one feature called `name`; only this one is tried.

    Raises:
        UsageError: there is none of this name; the hint lists them.
    """
    interface = interface_named(name)
    if interface is None:
        msg = f"there is no feature {name!r}"
        raise UsageError(msg, hint=f"one of {', '.join(interface.name for interface in all_interfaces())}")
    return _tried(interface)


def state_of(name: str) -> str:
    """The state of the feature called `name`: present, absent, forbidden or unprivileged.

    Raises:
        UsageError: there is none of this name.
    """
    return feature(name).state


def why_missing(names: Iterable[str], what: str) -> NotPermitted | KernelLacks | None:
    """The error for the first of these features that is not there; None if all are.

    Args:
        names: of features, in the order in which one builds on the other.
        what: cannot be done without them, as in "nothing can be traced".
    """
    for name in names:
        found = feature(name)
        if found.state != PRESENT:
            msg = f"{what}: {name} is {found.state} ({found.detail})"
            return (KernelLacks if found.state == ABSENT else NotPermitted)(msg, hint=found.remedy)
    return None


def judge(interface: Interface, refusal: OSError | TrialEnded, privileges: Privileges) -> Verdict:
    """What it means that the trial of `interface` ended with `refusal` for someone with `privileges`."""
    if isinstance(refusal, SwitchedOff):
        return Verdict(FORBIDDEN, str(refusal), refusal.remedy)
    if isinstance(refusal, Lacking) or (isinstance(refusal, OSError) and refusal.errno in _ABSENT_ERRNOS):
        return _absent(interface, refusal, privileges)
    if isinstance(refusal, (PermissionError, Hidden, Untried)):
        return _closed(interface, refusal, privileges)
    return Verdict(FORBIDDEN, _saw(refusal), "an errno that we did not expect; please report it")


_ABSENT_ERRNOS = frozenset((errno.ENOSYS, errno.ENOTTY, errno.ENOENT, errno.ENODEV, errno.EINVAL, errno.EOPNOTSUPP))


def _tried(interface: Interface) -> Feature:
    """The feature from memory, or from a trial now."""
    if interface.name not in _found:
        _found[interface.name] = _try(interface)
    return _found[interface.name]


def _try(interface: Interface) -> Feature:
    try:
        verdict = Verdict(PRESENT, interface.trial())
    except (OSError, TrialEnded) as refusal:
        verdict = judge(interface, refusal, read_privileges())
    return Feature(
        name=interface.name,
        state=verdict.state,
        step=interface.step,
        since=interface.since,
        used_for=interface.used_for,
        detail=verdict.detail,
        remedy=verdict.remedy,
    )


def _absent(interface: Interface, refusal: OSError | TrialEnded, privileges: Privileges) -> Verdict:
    """Not there; but a seccomp filter may say ENOSYS too, as container runtimes do for calls newer than they are."""
    remedy = f"Linux {interface.since} or newer"
    if interface.needs:
        remedy += f", with {interface.needs}"
    if interface.instead:
        remedy += f"; until then {interface.instead}"
    if isinstance(refusal, OSError) and refusal.errno == errno.ENOSYS and privileges.seccomp_filter:
        return Verdict(ABSENT, f"{_saw(refusal)}, which may be the seccomp filter's word", f"{remedy}; or {_SECCOMP}")
    if _of_a_file(refusal) and not os.path.exists("/proc/self"):
        return Verdict(ABSENT, "no /proc is mounted", "mount -t proc proc /proc")
    return Verdict(ABSENT, _saw(refusal), remedy)


def _closed(interface: Interface, refusal: OSError | TrialEnded, privileges: Privileges) -> Verdict:
    """The kernel has it and does not let us: for want of a capability, or in spite of it."""
    saw, capability = _saw(refusal), interface.capability
    if isinstance(refusal, OSError) and str(refusal.filename).startswith("/proc/self/"):
        saw, capability = f"{saw}: {_NOT_DUMPABLE}", "CAP_DAC_READ_SEARCH"
    if capability and not privileges.holds(capability):
        return Verdict(UNPRIVILEGED, f"{saw}; needs {capability}", _how_to_gain(capability, privileges))
    if capability and privileges.user_namespace:
        return Verdict(FORBIDDEN, f"{saw}; {capability} ends at this user namespace", _USER_NAMESPACE)
    if isinstance(refusal, Untried):
        return Verdict(PRESENT, saw)
    if privileges.seccomp_filter and not _of_a_file(refusal):
        return Verdict(FORBIDDEN, f"{saw}; a seccomp filter is on", _SECCOMP)
    return Verdict(FORBIDDEN, saw, _SECURITY_MODULE)


_NOT_DUMPABLE = "this process is not dumpable (its user changed, or its program has capabilities)"
"""The only way to be refused one's own files: /proc gives those of such a process to root."""
_USER_NAMESPACE = "run it outside this user namespace (rootless container, unshare): its root is not the machine's root"
_SECCOMP = "allow the call in the seccomp profile (docker run --security-opt seccomp=FILE, systemd SystemCallFilter=)"
_SECURITY_MODULE = "a security module refuses (SELinux, AppArmor, lockdown); `journalctl -k` names the rule"
_ROOT = "run it as root (sudo), or setcap the capability, with CAP_DAC_READ_SEARCH, on a copy of Python of your own"
"""CAP_DAC_READ_SEARCH too, because a program with capabilities is not dumpable."""


def _how_to_gain(capability: str, privileges: Privileges) -> str:
    """What could give this user `capability`: what helps depends on who took it away."""
    if privileges.user_namespace:
        return _USER_NAMESPACE
    if privileges.could_gain(capability):
        return _ROOT if privileges.uid else f"this root gave {capability} up; start from a root shell that has it"
    if privileges.no_new_privileges:
        return "start it outside this sandbox: no_new_privs is set, so sudo does not help here"
    word = capability.removeprefix("CAP_")
    return f"docker run --cap-add={word}, Kubernetes capabilities: add: [{word}], systemd CapabilityBoundingSet="


def _saw(refusal: OSError | TrialEnded) -> str:
    """The errno's name, with what was called or opened; or what the trial said."""
    if isinstance(refusal, TrialEnded):
        return str(refusal)
    number = refusal.errno or 0
    name = errno.errorcode.get(number, f"errno {number}")
    return f"{name} from {refusal.filename}" if refusal.filename else name


def _of_a_file(refusal: OSError | TrialEnded) -> bool:
    """Whether opening a path was refused: what no seccomp filter can do, since it does not see paths."""
    return isinstance(refusal, OSError) and str(refusal.filename).startswith("/")
