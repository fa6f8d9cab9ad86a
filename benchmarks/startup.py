"""What do `import dontneed` and `dontneed --help` cost, beside the bare interpreter of the same environment?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from comparing import Case, at_most_more
from look_cold import INSTALLED, SCRIPT
from measuring import alternate, command

if TYPE_CHECKING:
    from comparing import Comparison
    from options import Options

QUESTION = "start"
HOLDS = ()

BARE, IMPORT, HELP = "python -c pass", "import dontneed", "dontneed --help"


def run(options: Options) -> list[Comparison]:
    """Start each, several times as often as others are measured: it takes little, and differences are asked for."""
    python = str(INSTALLED / "python")
    runners = [
        command(BARE, python, "-c", "pass"),
        command(IMPORT, python, "-c", "import dontneed"),
        command(HELP, SCRIPT, "--help"),
    ]
    case = Case(QUESTION, "a fresh process", alternate(runners, 3 * options.rounds))
    return [case.compare(subject, BARE, at_most_more(0.025)) for subject in (IMPORT, HELP)]
