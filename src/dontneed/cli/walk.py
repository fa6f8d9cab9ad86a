"""Follow the page tables of a process to one address, entry by entry, as the processor does: live, by root.

PGD, (P4D,) PUD, PMD, PTE: the 64 bits of each entry, what they say, the frame, and what that means. Nothing is stopped
or changed. With --before-after a child of our own maps memory, reads it, writes to it and gives it back, and the way to
its first page is shown after each of these; with --machine the model of a kernel does the same, without any rights.
"""

from __future__ import annotations

from dontneed.cli.arguments import checked_pid, print_lines
from dontneed.errors import KernelLacks, NotPermitted, UsageError
from dontneed.report.json import format_json
from dontneed.report.walk import format_moments, format_walk, walk_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_LIVE = "live"
_MODEL = "dontneed walk --before-after --machine 6.18"
_HEXADECIMAL = 16
_LONGEST_ADDRESS = 18


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed walk`."""
    parser.add_argument("pid", nargs="?", metavar="PID", help="the process")
    parser.add_argument(
        "address", nargs="?", metavar="ADDRESS", help="in hexadecimal, as `dontneed look` and /proc/PID/maps print it"
    )
    parser.add_argument(
        "--before-after", action="store_true", help="no PID: touch and discard in a child, walking after each step"
    )
    parser.add_argument(
        "--machine",
        default=_LIVE,
        metavar="MACHINE",
        help="with --before-after: what it is done on, live (default) or a version of Linux, as 6.18, in the model",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed walk`; the exit code."""
    _refuse_what_does_not_go_together(arguments)
    try:
        if arguments.before_after:
            _before_after(arguments)
        else:
            _walk(arguments)
    except (NotPermitted, KernelLacks) as error:
        hint = f"{error.hint}; " if error.hint else ""
        raise type(error)(error.message, hint=f"{hint}`{_MODEL}` shows such walks in the model") from None
    return 0


def _walk(arguments: Namespace) -> None:
    pid, address = checked_pid(arguments.pid), checked_address(arguments.address)
    if arguments.show_code:
        print_lines(_code(pid, address))
        return
    from dontneed.observe.tables.page_tables import walk

    found = walk(pid, address)
    print_lines([format_json(walk_document(found))] if arguments.json else format_walk(found))


def _before_after(arguments: Namespace) -> None:
    from dontneed.lab.before_after import before_after
    from dontneed.lab.catalogue import machine_named

    done = before_after(machine_named(arguments.machine))
    if arguments.json:
        print_lines([format_json({**done.as_dict(), "note": done.note or None})])
        return
    where = f"Linux {done.kernel} ({done.note or done.machine}), {done.moments[0].levels} levels of page tables"
    moments = [(moment.title, moment.code, moment.entries) for moment in done.moments]
    print_lines(format_moments(moments, where, done.skipped))


def checked_address(text: str) -> int:
    """An address from the command line.

    Raises:
        UsageError: it is no hexadecimal number.
    """
    digits = text.removeprefix("0x")
    if not digits.isalnum() or not digits.isascii() or len(text) > _LONGEST_ADDRESS:
        raise _no_address(text)
    try:
        return int(digits, _HEXADECIMAL)
    except ValueError:
        raise _no_address(text) from None


def _no_address(text: str) -> UsageError:
    msg = f"an address is a hexadecimal number, and {text[:_LONGEST_ADDRESS]!r} is none"
    return UsageError(msg, hint="`dontneed look PID` shows the addresses of its mappings")


def _refuse_what_does_not_go_together(arguments: Namespace) -> None:
    if not arguments.before_after and arguments.address is None:
        msg = "a walk takes a PID and an ADDRESS"
        raise UsageError(msg, hint="dontneed walk PID ADDRESS; or dontneed walk --before-after")
    if arguments.before_after and (arguments.pid is not None or arguments.show_code):
        msg = f"--before-after goes without {'--show-code' if arguments.show_code else 'a PID'}: it has its own child"
        raise UsageError(msg, hint="dontneed walk --before-after, with --machine or without")
    if not arguments.before_after and arguments.machine != _LIVE:
        msg = "--machine goes with --before-after: the model has no processes of this machine"
        raise UsageError(msg, hint=f"dontneed walk --before-after --machine {arguments.machine}")


def _code(pid: int, address: int) -> list[str]:
    return [
        "import dontneed",
        "",
        f"walk = dontneed.walk({pid}, {address:#x})",
        "print(walk.levels, walk.frame)",
        "for entry in walk.entries:",
        "    print(entry.table, entry.index, hex(entry.raw), *entry.flags, entry.meaning)",
    ]
