"""Say what could go from a process, by reason, why that is safe, what it costs, and what is refused.

Nothing is stopped, written or sent; `dontneed release PID` carries the plan out.
"""

from __future__ import annotations

from dontneed.cli.arguments import add_reason_argument, checked_pid, code_arguments, print_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed plan`."""
    parser.add_argument("pid", help="the process")
    add_reason_argument(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed plan`; the exit code."""
    pid = checked_pid(arguments.pid)
    if arguments.show_code:
        print_lines(["import dontneed", "", f"print(dontneed.plan({code_arguments(pid, arguments.reason)}))"])
        return 0
    show_plan(pid, arguments.reason, as_json=arguments.json)
    return 0


def show_plan(pid: int, reasons: Sequence[str] | None, *, as_json: bool) -> None:
    """Print a plan."""
    from dontneed.reclaim.plan import plan
    from dontneed.report.release import format_plan, plan_document

    planned = plan(pid, reasons=reasons)
    if as_json:
        from dontneed.report.json import format_json

        print_lines([format_json(plan_document(planned))])
    else:
        print_lines(format_plan(planned))
