"""A kept trace, replayed in the model: RSS as it was beside what the executable kernel comes to, and what madvise did.

FILE is what `dontneed trace --output FILE` wrote. It takes no rights, and nothing is touched. With --kernel or --thp it
is predicted, too, what RSS would have been under another kernel, or another word for huge pages: the same calls and
touches under another policy. What another allocator, or another setting of it, would do cannot be asked of a trace: it
would have placed things elsewhere.
"""

from __future__ import annotations

from dontneed.cli.arguments import checked_pid, print_lines
from dontneed.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_TOP = 20
_HUGE_PAGES = {"on": "always", "off": "never", "madvise": "madvise"}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed replay`."""
    parser.add_argument("file", metavar="FILE", help="a trace that was kept")
    parser.add_argument("--kernel", metavar="VERSION", help="what if this one had run, as 2.6.32 or 6.1")
    parser.add_argument("--thp", choices=_HUGE_PAGES, metavar="WORD", help="what if huge pages were on, off or madvise")
    parser.add_argument("--pid", metavar="PID", help="of a trace with several processes: which (that with most faults)")
    parser.add_argument("--top", type=int, default=_TOP, metavar="N", help=f"madvise calls to list, 0 for all ({_TOP})")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs; sizes in bytes")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed replay`; the exit code."""
    if arguments.top < 0:
        msg = f"--top {arguments.top} is no number of calls"
        raise UsageError(msg, hint="0 for all")
    pid = None if arguments.pid is None else checked_pid(arguments.pid)
    huge_pages = _HUGE_PAGES.get(arguments.thp)
    if arguments.show_code:
        print_lines(_code(arguments.file, arguments.kernel, huge_pages, pid))
        return 0
    from dontneed.lab.replay import replay
    from dontneed.report.json import format_json
    from dontneed.report.replay import format_replay, replay_document

    replayed = replay(arguments.file, kernel=arguments.kernel, huge_pages=huge_pages, pid=pid)
    if arguments.json:
        print_lines([format_json(replay_document(replayed))])
    else:
        print_lines(format_replay(replayed, arguments.top))
    return 0


def _code(path: str, kernel: str | None, huge_pages: str | None, pid: int | None) -> list[str]:
    options = {"kernel": kernel, "huge_pages": huge_pages, "pid": pid}
    words = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
    return [
        "import dontneed",
        "",
        f"replay = dontneed.replay({path!r}{words})",
        "print(replay.mean_error, replay.peak_rss_bytes, replay.predicted.peak_rss_bytes, replay.what_if)",
    ]
