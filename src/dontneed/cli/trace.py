"""What happens to the memory of a process, in one order: system calls, faults, RSS, frames, TLB flushes. By root.

Of a process that runs, until it ends, --seconds are over, or Ctrl-C; or of a command, from its first instruction to its
end. Its threads, and whatever they start meanwhile, are traced with it. Nothing is stopped; each event takes the
process less than a microsecond. What the kernel has no room to record is counted and told.
"""

from __future__ import annotations

import sys

from dontneed.cli.arguments import checked_pid, print_lines
from dontneed.cli.interruption import until_interrupted
from dontneed.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from dontneed.observe.trace.timeline import Limits, Timeline

_TOP = 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `dontneed trace`."""
    parser.usage = "dontneed trace [OPTION…] PID\n       dontneed trace [OPTION…] -- COMMAND [ARGUMENT…]"
    parser.add_argument("words", nargs="*", metavar="PID | -- COMMAND", help="a process, or a command to run")
    parser.add_argument("--seconds", type=float, metavar="N", help="of a PID: end after so long")
    parser.add_argument("--output", metavar="FILE", help="keep the trace; nothing else is printed, but with --json")
    parser.add_argument("--top", type=int, default=_TOP, metavar="N", help=f"mappings to list, 0 for all ({_TOP})")
    parser.add_argument("--most", type=int, metavar="N", help="end after so many events (20,000,000)")
    parser.add_argument("--buffer", metavar="SIZE", help="memory for the records of each CPU, as 64M")
    parser.add_argument("--events", action="store_true", help="every event: a line each, or in the JSON")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs; what a COMMAND prints goes to standard error")
    form.add_argument("--show-code", action="store_true", help="print the Python that does the same")


def run(arguments: Namespace) -> int:
    """Carry out `dontneed trace`; the exit code."""
    pid = _checked(arguments)
    if arguments.show_code:
        print_lines(_code(pid, arguments))
        return 0
    if arguments.output is not None:
        from dontneed.observe.trace.trace_file import check_place

        check_place(arguments.output)
    timeline = _traced(pid, arguments)
    if timeline.lost:
        print(f"dontneed: {timeline.lost:,} records were lost; a larger --buffer helps", file=sys.stderr)
    if arguments.output is not None:
        from dontneed.observe.trace.trace_file import write_trace

        write_trace(arguments.output, timeline)
        print(f"dontneed: {len(timeline.events):,} events kept in {arguments.output}", file=sys.stderr)
        if not arguments.json:
            return 0
    _show(timeline, arguments)
    return 0


def _checked(arguments: Namespace) -> int | None:
    """The process; None for a command.

    Raises:
        UsageError: there is neither, or options do not go together.
    """
    words = arguments.words = [word for nth, word in enumerate(arguments.words) if nth or word != "--"]
    if not words:
        msg = "a trace is of a PID or of a COMMAND"
        raise UsageError(msg, hint="dontneed trace PID --seconds 5; or dontneed trace -- COMMAND")
    if arguments.top < 0:
        msg = f"--top {arguments.top} is no number of mappings"
        raise UsageError(msg, hint="0 for all")
    if len(words) == 1 and words[0].isdecimal():
        return checked_pid(words[0])
    if arguments.seconds is not None:
        msg = "--seconds goes with a PID: a command is traced to its end"
        raise UsageError(msg, hint="dontneed trace -- timeout 5 COMMAND")
    return None


def _traced(pid: int | None, arguments: Namespace) -> Timeline:
    from dontneed.observe.trace.timeline import trace_new_process, trace_process

    with until_interrupted() as is_over:
        limits = _limits(arguments).replace(is_over=is_over)
        if pid is not None:
            return trace_process(pid, limits)
        return trace_new_process(arguments.words, limits, sys.stderr.fileno() if arguments.json else None)


def _limits(arguments: Namespace) -> Limits:
    from dontneed.observe.trace.timeline import MOST_EVENTS, Limits

    most = MOST_EVENTS if arguments.most is None else arguments.most
    return Limits(arguments.seconds, most, _size(arguments.buffer))


def _size(text: str | None) -> int | None:
    """Bytes of a size as 64M.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    digits = text.rstrip("KMG")
    unit = text[len(digits) :]
    if not digits.isdecimal() or len(digits) > _TOP or unit not in _UNITS:
        msg = f"{text!r} is no size"
        raise UsageError(msg, hint="a number, and K, M or G, as in 64M")
    return int(digits) * _UNITS[unit]


def _show(timeline: Timeline, arguments: Namespace) -> None:
    from dontneed.observe.trace.summary import summarize
    from dontneed.report.json import format_json
    from dontneed.report.timeline import format_timeline, timeline_document

    if arguments.events and not arguments.json:
        for piece in _pieces(timeline):
            print_lines(piece)
        return
    summary = summarize(timeline)
    if arguments.json:
        print_lines([format_json(timeline_document(timeline, summary, events=arguments.events))])
    else:
        print_lines(format_timeline(timeline, summary, arguments.top))


def _pieces(timeline: Timeline) -> Iterator[list[str]]:
    """The lines of all events, some thousands at a time."""
    from itertools import islice

    from dontneed.report.trace_events import format_events

    lines = format_events(timeline)
    while piece := list(islice(lines, 4096)):
        yield piece


def _code(pid: int | None, arguments: Namespace) -> list[str]:
    if pid is None:
        traced = f"dontneed.trace_command({arguments.words!r})"
    else:
        traced = f"dontneed.trace({pid}, seconds={arguments.seconds})"
    return [
        "import dontneed",
        "from dontneed.observe.trace.trace_file import write_trace",
        "from dontneed.observe.trace.summary import summarize",
        "",
        f"timeline = {traced}",
        "print(len(timeline.events), timeline.lost, summarize(timeline).advices)",
        f"write_trace({arguments.output or 'trace.dontneed'!r}, timeline)",
    ]
