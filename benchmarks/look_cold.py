"""How long does the command `dontneed look PID` take from start to end, beside `pmap -x PID`?

Both write to a file; the interpreter's start is in the time.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import dontneed
from comparing import Case, Target, at_least_times, at_most
from look_running import described
from measuring import alternate, command
from programs import BUILD

if TYPE_CHECKING:
    from comparing import Comparison
    from options import Options

QUESTION = "look, as a command"
HOLDS = ("mappings", "pages", "nothing")

COMMAND, PMAP = "dontneed look", "pmap -x"

INSTALLED = BUILD / "installed" / "bin"
"""dontneed as a user installs it; `setup.sh` makes it."""
SCRIPT = str(INSTALLED / "dontneed")


def run(options: Options) -> list[Comparison]:
    """Look at each process by each command."""
    held = options.held
    return [
        _compare(options, held.pid("mappings", options.mappings), at_least_times(1)),
        _compare(options, held.pid("pages", options.resident_bytes), at_least_times(1)),
        _compare(options, held.pid("nothing"), at_most(0.060)),
    ]


def _compare(options: Options, pid: int, target: Target) -> Comparison:
    runners = [
        command(COMMAND, SCRIPT, "look", str(pid)),
        command(PMAP, shutil.which("pmap") or "pmap", "-x", str(pid)),
    ]
    case = Case(QUESTION, described(dontneed.look(pid)), alternate(runners, options.rounds))
    return case.compare(COMMAND, PMAP, target)
