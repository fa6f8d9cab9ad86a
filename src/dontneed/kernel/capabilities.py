"""What this process may do, and who took the rest away: capabilities, seccomp, user namespaces.

The kernel answers EPERM for many reasons and names none. These facts tell them apart: without the capability in CapEff
the answer is *unprivileged*; with it, something else *forbids* it: a seccomp filter, a security module, or a user
namespace, whose root holds every capability over the namespace and none over the machine.

Kernel:
    fs/proc/array.c task_cap(), task_seccomp(); capabilities(7), user_namespaces(7), seccomp(2).
"""

from __future__ import annotations

import os

from dontneed.abi.capabilities import bit_of, names_in
from dontneed.records import Record

_INITIAL_USER_NAMESPACE = "user:[4026531837]"
"""PROC_USER_INIT_INO, 0xEFFFFFFD, in include/linux/proc_ns.h: the same on every machine."""

_SECCOMP_FILTER = 2
"""SECCOMP_MODE_FILTER in include/uapi/linux/seccomp.h, as the Seccomp line of status says it."""


class Privileges(Record):
    """The rights of this process at one moment.

    Attributes:
        uid: the effective user id, inside its user namespace.
        effective, bounding: capability masks; what it holds, and what it could ever gain by a setuid program.
        user_namespace: it lives in a user namespace of its own, so its capabilities end at that namespace's edge.
        seccomp_filter: a seccomp filter may answer system calls in the kernel's place.
        no_new_privileges: sudo and setcap cannot help it any more.
    """

    uid: int
    effective: int
    bounding: int
    user_namespace: bool = False
    seccomp_filter: bool = False
    no_new_privileges: bool = False

    def holds(self, capability: str) -> bool:
        """Whether `capability` (a name) is effective; in a user namespace it counts only there."""
        return bool(self.effective & bit_of(capability))

    def could_gain(self, capability: str) -> bool:
        """Whether a setuid program, such as sudo, could still give `capability` to this user."""
        return bool(self.bounding & bit_of(capability)) and not self.no_new_privileges

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The names of the effective capabilities."""
        return names_in(self.effective)


def parse_privileges(status: bytes, *, uid: int, user_namespace: bool) -> Privileges:
    """The privileges that the text of a status file tells, with two facts that it does not.

    Args:
        status: the text of /proc/PID/status; a line that is missing counts as no privilege and no restriction.
        uid: the effective user id.
        user_namespace: whether the process is outside the initial user namespace.
    """
    lines = dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)
    return Privileges(
        uid=uid,
        effective=int(lines.get(b"CapEff", b"0"), 16),
        bounding=int(lines.get(b"CapBnd", b"0"), 16),
        user_namespace=user_namespace,
        seccomp_filter=int(lines.get(b"Seccomp", b"0")) == _SECCOMP_FILTER,
        no_new_privileges=int(lines.get(b"NoNewPrivs", b"0")) == 1,
    )


def read_privileges() -> Privileges:
    """The privileges of this process, as its main thread has them; none where no /proc is mounted.

    Kernel:
        CapBnd since 2.6.26, Seccomp 3.8, NoNewPrivs 4.10; user namespaces 3.8; proc(5).
    """
    try:
        with open("/proc/self/status", "rb") as file:
            status = file.read()
    except FileNotFoundError:  # no /proc: every interface will say so by itself
        status = b""
    return parse_privileges(status, uid=os.geteuid(), user_namespace=_in_user_namespace())


def _in_user_namespace() -> bool:
    """Whether this is not the initial user namespace: by its number, since an identity uid_map proves nothing."""
    try:
        return os.readlink("/proc/self/ns/user") != _INITIAL_USER_NAMESPACE
    except FileNotFoundError:  # a kernel built without user namespaces has only the one
        return False
