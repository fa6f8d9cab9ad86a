"""What this kernel, this container and this user allow, and how to get the rest.

Every kernel interface that dontneed uses is tried once, harmlessly, on memory of its own; nothing is changed. There
are four states, because they call for different things:

  present       it works
  absent        this kernel has it not: too old, or built without it
  unprivileged  the kernel has it, and you lack the capability that opens it: sudo, or an option of your container
  forbidden     something refuses although you have the right: seccomp, a security module, a user namespace, a mask

Below the tables stands what to do about each, and in the last line what all of it comes to.
"""

from __future__ import annotations

import os
import sys

from dontneed.kernel.capabilities import read_privileges
from dontneed.kernel.environment import read_environment
from dontneed.kernel.features import ABSENT, FORBIDDEN, PRESENT, UNPRIVILEGED, features
from dontneed.report.table import printable
from dontneed.units import format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator
    from typing import Any

    from dontneed.kernel.capabilities import Privileges
    from dontneed.kernel.environment import Environment
    from dontneed.kernel.features import Feature

_SHOW_CODE = """\
import dontneed

for feature in dontneed.features():
    print(f"{feature.name:24} {feature.state:13} {feature.detail}")
    if feature.remedy:
        print(f"{'':24} {feature.remedy}")
"""

_STEPS = {
    "look": "who holds which frames",
    "prove": "which frames really came back",
    "release": "give pages back",
    "environment": "what else decides",
}
_NAME_COLUMNS, _STATE_COLUMNS = 25, 14
_NARROW, _WIDE = 80, 120
_COLOURS = {PRESENT: "32", UNPRIVILEGED: "33", FORBIDDEN: "31", ABSENT: "2"}
_BOLD = "1"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed doctor`."""
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything, for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed doctor`; the exit code is 0, whatever is missing."""
    if arguments.show_code:
        sys.stdout.write(_SHOW_CODE)
        return 0
    found, privileges, environment = features(), read_privileges(), read_environment()
    if arguments.json:
        from dontneed.report.json import format_json

        print(format_json(document(found, privileges, environment)))
        return 0
    for line in diagnosis(found, privileges, environment, Sheet.for_stdout()):
        print(line)
    return 0


def document(found: tuple[Feature, ...], privileges: Privileges, environment: Environment) -> dict[str, Any]:
    """What `doctor --json` says."""
    surroundings = environment.as_dict()
    return {
        "kernel": surroundings.pop("kernel"),
        "user": {
            "uid": privileges.uid,
            "name": _user_name(privileges.uid),
            "capabilities": privileges.capabilities,
            "user_namespace": privileges.user_namespace,
            "seccomp_filter": privileges.seccomp_filter,
            "no_new_privileges": privileges.no_new_privileges,
        },
        "verdict": verdict(found, environment),
        "features": found,
        "environment": surroundings,
    }


def diagnosis(
    found: tuple[Feature, ...], privileges: Privileges, environment: Environment, sheet: Sheet
) -> Iterator[str]:
    """The diagnosis as lines of text."""
    yield f"Linux {environment.kernel}, {environment.machine}, as {_describe_user(privileges)}"
    for step, question in _STEPS.items():
        yield ""
        yield f"{sheet.coloured(f'{step:{_NAME_COLUMNS + 2}}', _BOLD)}{question}"
        yield from _step_rows([feature for feature in found if feature.step == step], sheet)
    for fact in (_own_release(environment), *_facts(privileges, environment)):
        yield from sheet.row(*fact)
    yield from _what_to_do(found, sheet)
    yield ""
    yield from sheet.paragraph(verdict(found, environment))


def verdict(found: Iterable[Feature], environment: Environment) -> str:
    """What the features come to, in one sentence."""
    present = {feature.name for feature in found if feature.state == PRESENT}
    release = _release(present, with_swap=environment.swap_bytes > 0)
    return f"look: {_look(present)}; proof: {_proof(present)}; release: {release}."


def _look(present: set[str]) -> str:
    if "all processes" in present:
        whose = "every process"
    else:
        whose = "your own processes" if "own processes" in present else "this process only"
    if {"PAGEMAP_SCAN", "/proc/PID/maps"} <= present:
        return f"exact and fast, {whose}"
    if "/proc/PID/smaps" in present:
        return f"exact and slow, {whose}"
    return f"mappings without their pages, {whose}" if "/proc/PID/maps" in present else "impossible"


def _proof(present: set[str]) -> str:
    return "by frames" if {"frame numbers", "/proc/kpageflags", "/proc/kpagecount"} <= present else "by counters"


def _release(present: set[str], *, with_swap: bool) -> str:
    if "madvise(DONTNEED)" not in present:
        return "impossible"
    own = "your own memory" + (", 1,024 ranges a call" if "process_madvise(self)" in present else ", range by range")
    if {"ptrace", "process_vm_readv"} <= present:
        return f"{own}, and by reason that of other processes"
    if {"process_madvise(other)", "madvise(PAGEOUT)"} <= present:
        return f"{own}, and other processes' {'memory' if with_swap else 'file pages'} by page-out"
    return f"{own}, not that of other processes"


# --- rows -----------------------------------------------------------------------------------------


class Sheet:
    """The sheet that is printed on: its width, and whether it takes colour."""

    __slots__ = ("_columns", "_in_colour")

    def __init__(self, columns: int, *, in_colour: bool = False) -> None:
        self._columns = min(max(columns, _NARROW), _WIDE)
        self._in_colour = in_colour

    @classmethod
    def for_stdout(cls) -> Sheet:
        """As wide as the terminal; in colour only on one, and without NO_COLOR (no-color.org)."""
        import shutil

        in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return cls(shutil.get_terminal_size((_WIDE, 24)).columns, in_colour=in_colour)

    def coloured(self, text: str, colour: str) -> str:
        """`text` in the colour with this number, if this sheet takes colour."""
        return f"\x1b[{colour}m{text}\x1b[0m" if self._in_colour and colour else text

    def row(self, name: str, state: str, text: str) -> Iterator[str]:
        """A name, a state or value, and a text that is broken to stay in its column."""
        state_cell = self.coloured(f"{state:{_STATE_COLUMNS}}", _COLOURS.get(state, ""))
        first, *others = self._broken(printable(text), _NAME_COLUMNS + _STATE_COLUMNS + 2)
        yield f"  {name:{_NAME_COLUMNS}}{state_cell}{first}".rstrip()
        for line in others:
            yield " " * (_NAME_COLUMNS + _STATE_COLUMNS + 2) + line

    def paragraph(self, text: str, indent: int = 0) -> Iterator[str]:
        """`text` broken into lines, each with `indent` spaces before it."""
        for line in self._broken(text, indent):
            yield " " * indent + line

    def _broken(self, text: str, indent: int) -> list[str]:
        import textwrap

        return textwrap.wrap(text, self._columns - indent, break_on_hyphens=False) or [""]


def _step_rows(step: list[Feature], sheet: Sheet) -> Iterator[str]:
    """One row a feature; the advices that work share one, as nobody reads twenty rows that say the same."""
    for feature in step:
        if feature.state != PRESENT:
            yield from sheet.row(feature.name, feature.state, f"{feature.used_for} ({feature.detail})")
        elif feature.step == "environment":
            yield from sheet.row(feature.name, feature.state, feature.detail)
        elif not _is_advice(feature):
            yield from sheet.row(feature.name, feature.state, feature.used_for)
    advices = [feature.name[len("madvise(") : -1] for feature in step if _is_advice(feature) and not feature.remedy]
    if advices:
        yield from sheet.row("madvise", PRESENT, f"{len(advices)} advices: {' '.join(advices)}")


def _is_advice(feature: Feature) -> bool:
    return feature.name.startswith("madvise(")


def _own_release(environment: Environment) -> tuple[str, str, str]:
    """By which way a process gives back its own pools, and what is free in its malloc."""
    name, why_not = "own pools and malloc", environment.why_not_native
    if why_not:
        return name, "helper", f"given back by a helper process, with ptrace; the native part is not here: {why_not}"
    return name, "native", "given back by dontneed.release() itself, without ptrace"


def _facts(privileges: Privileges, environment: Environment) -> Iterator[tuple[str, str, str]]:
    """Name, value and meaning of the settings that explain a result."""
    if environment.swap_bytes:
        swap, meaning = format_bytes(environment.swap_bytes), f"{format_bytes(environment.swap_used_bytes)} used"
    else:
        swap, meaning = "none", "anonymous pages cannot be paged out, only given up; file pages can"
    yield "swap", swap, meaning
    if environment.huge_pages_disabled and environment.huge_pages:
        yield "huge pages here", "off", "a parent switched them off for this process: prctl(PR_SET_THP_DISABLE)"
    if environment.khugepaged_max_ptes_none is not None:
        missing = environment.khugepaged_max_ptes_none
        refill = f"khugepaged may refill up to {missing} released pages of a huge page, within seconds"
        yield "max_ptes_none", str(missing), refill if missing else "khugepaged leaves released pages alone"
    if environment.cgroup:
        limit = environment.cgroup.limit_bytes
        yield "memory limit", "none" if limit is None else format_bytes(limit), "of the memory cgroup"
    if environment.yama_ptrace_scope is not None:
        yield "yama ptrace_scope", str(environment.yama_ptrace_scope), _YAMA[min(environment.yama_ptrace_scope, 3)]
    if environment.lockdown is not None:
        yield "lockdown", environment.lockdown, "limits kprobes, BPF and debugfs, not what is listed above"
    if privileges.user_namespace:
        yield "user namespace", "its own", "capabilities count inside it, not on the machine"
    if privileges.seccomp_filter:
        yield "seccomp", "filter", "a system call can be refused before the kernel sees it"
    if privileges.no_new_privileges:
        yield "no_new_privs", "set", "sudo and setcap have no effect from here"


_YAMA = (
    "whoever may read a process may also attach to it",
    "attaching (not looking) is for parents and root: sysctl kernel.yama.ptrace_scope=0 lifts it",
    "attaching (not looking) takes CAP_SYS_PTRACE",
    "nobody can attach until the next boot; looking is not affected",
)


def _what_to_do(found: Iterable[Feature], sheet: Sheet) -> Iterator[str]:
    """One entry a remedy, with all that it would bring."""
    brought: dict[str, list[str]] = {}
    for feature in found:
        if feature.remedy:
            brought.setdefault(feature.remedy, []).append(feature.name)
    if not brought:
        return
    yield ""
    yield sheet.coloured("what to do", _BOLD)
    for remedy, names in brought.items():
        yield from sheet.paragraph(f"for {', '.join(names)}:", 2)
        yield from sheet.paragraph(remedy, 4)


def _describe_user(privileges: Privileges) -> str:
    name = _user_name(privileges.uid)
    count = len(privileges.capabilities)
    rights = f"{count} capabilities" if count else "no capabilities"
    return f"{name} (uid {privileges.uid}, {rights})" if name else f"uid {privileges.uid} ({rights})"


def _user_name(uid: int) -> str | None:
    """The name of the user, if somebody gave one: containers run under uids that have none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
