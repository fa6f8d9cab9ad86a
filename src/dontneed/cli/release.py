"""Give back what a process does not need, by reason, and prove what became of every frame.

The plan is made anew and carried out by a short-lived helper process, which stops threads for milliseconds, checks
again what it saw, acts, and lets them go on as if nothing had happened. On any surprise the process is left as it was,
and the exit code is 1.
"""

from __future__ import annotations

from dontneed.cli import INTERRUPTED
from dontneed.cli.arguments import add_reason_argument, checked_pid, code_arguments, parse_duration, print_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed release`."""
    parser.add_argument("pid", help="the process")
    add_reason_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="plan only: the same as `dontneed plan`")
    parser.add_argument("--max-pause", metavar="TIME", help="stop no thread for longer at a stretch, as in 20ms")
    parser.add_argument("--watch", metavar="TIME", help="wait, as in 30s, and say what was touched again meanwhile")
    parser.add_argument(
        "--evidence",
        choices=("auto", "frames", "counters", "none"),
        default="auto",
        help="auto: every frame is looked up where the kernel shows them (root), else bounded by counters",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="the receipt, for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed release`; the exit code."""
    pid = checked_pid(arguments.pid)
    max_pause = parse_duration(arguments.max_pause) if arguments.max_pause else None
    watch = parse_duration(arguments.watch) if arguments.watch else 0.0
    if arguments.show_code:
        print_lines([_code(pid, arguments, max_pause, watch)])
        return 0
    if arguments.dry_run:
        from dontneed.cli.plan import show_plan

        show_plan(pid, arguments.reason, as_json=arguments.json)
        return 0
    from dontneed.reclaim.release import release

    receipt = release(
        pid,
        reasons=arguments.reason,
        max_pause_seconds=max_pause,
        watch_seconds=watch,
        evidence=arguments.evidence,
    )
    from dontneed.report.release import format_release, release_document

    if arguments.json:
        from dontneed.report.json import format_json

        print_lines([format_json(release_document(receipt))])
    else:
        print_lines(format_release(receipt))
    cancelled = bool(receipt.not_begun) and not receipt.exit_code
    return INTERRUPTED if cancelled else receipt.exit_code


def _code(pid: int, arguments: Namespace, max_pause: float | None, watch: float) -> str:
    options = [code_arguments(pid, arguments.reason)]
    options += [f"max_pause_seconds={max_pause}"] if max_pause is not None else []
    options += [f"watch_seconds={watch}"] if watch else []
    options += [f"evidence={arguments.evidence!r}"] if arguments.evidence != "auto" else []
    call = "plan" if arguments.dry_run else "release"
    return f"import dontneed\n\nprint(dontneed.{call}({', '.join(options)}))"
