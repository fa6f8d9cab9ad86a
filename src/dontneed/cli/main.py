"""`dontneed`: finds the subcommand, runs it, and turns every failure into a sentence and an exit code.

Exit codes: 0 done, 1 failed, 2 usage, 3 not permitted, 4 the kernel lacks it, 5 the process is gone; 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys

from dontneed.cli import INTERRUPTED
from dontneed.errors import DontneedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, HelpFormatter
    from collections.abc import Sequence
    from types import ModuleType

COMMANDS = {
    "look": "what a process holds: its mappings, and what is behind them",
    "walk": "the page tables of a process on the way to one address, entry by entry; live, by root",
    "wss": "the working set of a process: how much of each mapping it uses, with the known error",
    "trace": "what happens to the memory of a process: calls, faults, RSS, frames, in one order; by root",
    "replay": "a kept trace in the model: RSS as it was beside what is predicted, and what each madvise did; what if",
    "cache": "what of files is in the page cache, and letting go of it",
    "plan": "what could go from a process, by reason, why that is safe, and what it costs",
    "release": "give that back, and prove what became of every frame",
    "lab": "experiments on kernel memory, with every claim checked",
    "model": "a scenario of one's own, in the model of a kernel",
    "doctor": "what this kernel, container and user allow, and how to get the rest",
    "demo": "the whole story on a real process, in under half a minute",
}
"""Subcommand to what it does; the module of the same name in this package has the rest."""

_COLUMNS = 100
_DEPENDENCY = "numpy"
"""The only one; whatever does without it does not import it."""
_OUTPUT_TROUBLES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (those of the process by default); its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _prepare_output()
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough (`| head`)
        _abandon_output()
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except DontneedError as error:
        _complain(error)
        return error.exit_code
    except ImportError as error:
        if not _is_of_dependency(error):
            raise
        missing = _without_dependency(error)
        _complain(missing)
        return missing.exit_code
    except OSError as error:
        if error.errno in _OUTPUT_TROUBLES:
            _abandon_output()
        refused = _in_words(error)
        _complain(refused)
        return refused.exit_code
    return code


def _is_of_dependency(error: ImportError) -> bool:
    """It is missing; or it is there, and says at length why it cannot be loaded."""
    if isinstance(error, ModuleNotFoundError):
        return error.name is not None and error.name.partition(".")[0] == _DEPENDENCY
    return _DEPENDENCY in str(error)


def _without_dependency(error: ImportError) -> DontneedError:
    """As with sudo, which may find another Python than the one that dontneed was installed for."""
    msg = f"this takes {_DEPENDENCY}, which {sys.executable} does not have"
    if not isinstance(error, ModuleNotFoundError):
        *_, last = str(error).strip().splitlines()
        msg = f"this takes {_DEPENDENCY}, which {sys.executable} cannot load: {last}"
    return DontneedError(msg, hint=f"{sys.executable} -m pip install {_DEPENDENCY}; or the Python that has it")


def build_parser(only: str | None = None) -> ArgumentParser:
    """The parser of the whole command.

    Args:
        only: fill in the arguments of this subcommand alone, since filling one in imports its module.
    """
    from argparse import ArgumentParser

    from dontneed import __version__

    parser = ArgumentParser(
        prog="dontneed",
        formatter_class=_formatter,
        description="Which page frames a Linux process holds, and how to give back those it does not need, with proof.",
        epilog="`dontneed COMMAND --help` says more.\n\n"
        "Exit codes: 0 done, 1 failed, 2 usage, 3 not permitted, 4 the kernel lacks it, 5 the process is gone.",
    )
    parser.add_argument("--version", action="version", version=f"dontneed {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help_line in COMMANDS.items():
        command = commands.add_parser(name, help=help_line, formatter_class=_formatter)
        if only in (name, None):
            module = _module(name)
            command.description = module.__doc__
            module.add_arguments(command)
    return parser


def _formatter(prog: str) -> HelpFormatter:
    """A formatter that knows the terminal's width: to ask, argparse would import shutil, and that every archiver."""
    from argparse import RawDescriptionHelpFormatter

    try:
        columns = os.get_terminal_size().columns
    except OSError:  # no terminal
        columns = _COLUMNS
    return RawDescriptionHelpFormatter(prog, width=columns - 2)


def _run(words: list[str]) -> int:
    if len(words) == 2 and words[0] == "look" and words[1].isdecimal():  # noqa: PLR2004 - `look PID`
        # The plainest calls need no parser, and argparse would be a third of their time.
        from dontneed.cli.look import show

        return show(words[1])
    if words == ["look", "--all"]:
        from dontneed.cli.look import show_all

        return show_all()
    try:
        parsed = build_parser(only=words[0] if words else "").parse_args(words)
    except SystemExit:
        sys.stdout.flush()  # the help, as long as someone is there to whom a full disk can be told
        raise
    code: int = _module(parsed.command).run(parsed)
    return code


def _module(command: str) -> ModuleType:
    from importlib import import_module

    return import_module(f"dontneed.cli.{command}")


# Output


def _prepare_output() -> None:
    """Print names that the terminal's encoding does not have as escapes, rather than fail on them."""
    if sys.stdout is None:
        msg = "standard output is closed: there is nowhere to write to"
        raise DontneedError(msg, hint="send it to a file, or to /dev/null if the exit code is enough")
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _abandon_output() -> None:
    """Let what is not yet written go nowhere: the interpreter flushes at its end, and would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_words(error: OSError) -> DontneedError:
    """What a system call refused that no floor below has words for: most often, the output has no room."""
    if error.errno in _OUTPUT_TROUBLES:
        return DontneedError(f"cannot write the result: {error.strerror}", hint="is there room where the output goes?")
    return DontneedError(f"the system refused: {error}")


def _complain(error: DontneedError) -> None:
    from dontneed.report.table import printable

    if sys.stderr is None:
        return
    print(f"dontneed: {printable(str(error))}", file=sys.stderr)
    if error.hint:
        print(f"  try: {printable(error.hint)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
