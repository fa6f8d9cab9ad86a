"""The working set of a process: how much of each mapping it uses while it is watched for some seconds.

By default nothing of it is changed, and two bounds are told: what it used for certain, and what it may have used; by
root from its page tables, else from smaps. Two methods know better and disturb it; each is taken only when named:

  --method accessed   clears its marks of use first; reclaim takes its pages for idle for a while
  --method written    write-protects its pages by a userfaultfd; each costs it a short fault when it is written to

What a method misses is told with its result. Ctrl-C and SIGTERM end early, with what is known.
"""

from __future__ import annotations

from dontneed.cli.arguments import checked_pid, print_lines
from dontneed.errors import UsageError
from dontneed.observe.working_set import METHODS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from dontneed.observe.working_set import WorkingSet

_SECONDS = 10.0
_TOP = 20


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed wss`."""
    parser.add_argument("pid", metavar="PID", help="the process")
    parser.add_argument(
        "--seconds", type=float, default=_SECONDS, metavar="N", help=f"how long to watch it (default: {_SECONDS:g})"
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="auto",
        help="auto (default) is tables for root and smaps for others; accessed and written disturb the process",
    )
    parser.add_argument(
        "--split-huge-pages",
        action="store_true",
        help="with --method written: watch huge pages too; those that are written to are taken apart by that",
    )
    parser.add_argument(
        "--top", type=int, metavar="N", help=f"mappings to list, 0 for all (default: {_TOP}; all with --json)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed wss`; the exit code."""
    pid = checked_pid(arguments.pid)
    if arguments.top is not None and arguments.top < 0:
        msg = f"--top {arguments.top} is no number of mappings"
        raise UsageError(msg, hint="0 for all")
    if arguments.show_code:
        print_lines(_code(pid, arguments))
        return 0
    found = _watched(pid, arguments)
    if arguments.json:
        from dontneed.report.json import format_json
        from dontneed.report.working_set import working_set_document

        print_lines([format_json(working_set_document(found, arguments.top or 0))])
    else:
        from dontneed.report.working_set import format_working_set

        print_lines(format_working_set(found, _TOP if arguments.top is None else arguments.top))
    return 0


def _watched(pid: int, arguments: Namespace) -> WorkingSet:
    from dontneed.cli.interruption import told_by_sigterm_too, until_interrupted
    from dontneed.remote.working_set import working_set, working_set_until

    if arguments.method == "written":  # a Ctrl-C cancels the helper
        with told_by_sigterm_too():
            return working_set(pid, arguments.seconds, "written", split_huge_pages=arguments.split_huge_pages)
    with until_interrupted() as is_over:
        return working_set_until(
            pid, arguments.seconds, arguments.method, is_over, split_huge_pages=arguments.split_huge_pages
        )


def _code(pid: int, arguments: Namespace) -> list[str]:
    more = f", method={arguments.method!r}" if arguments.method != "auto" else ""
    more += ", split_huge_pages=True" if arguments.split_huge_pages else ""
    return [
        "import dontneed",
        "",
        f"found = dontneed.working_set({pid}, seconds={arguments.seconds:g}{more})",
        "print(found.touched_bytes, found.at_most_bytes, found.known_error)",
        "for use in found.mappings:",
        "    print(hex(use.start), use.kind, use.touched_bytes, use.at_most_bytes, use.written_bytes, use.name)",
    ]
