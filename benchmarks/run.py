"""Run the benchmarks: every question is asked beside its peers, in one run.

    python benchmarks/run.py                  all; the results are kept in results/, in a file named for the kernel
    python benchmarks/run.py --quick          all, small: shows in a minute that everything works
    python benchmarks/run.py discard look     some: discard, and those that begin with look
    python benchmarks/run.py --keep release   some, and their results are kept in the place of older ones
    python benchmarks/run.py --table          make the tables of docs/benchmarks.md from the results that are kept

A promise that is not kept is a result and no failure: the exit code is 0. It is 1 when a question went unanswered.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import facts
from options import full_options, quick_options
from programs import BUILD, HeldProcesses
from tables import page_with_tables, terminal_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from options import Options

QUESTIONS = (
    "look_running",
    "look_cold",
    "look_all",
    "stall",
    "decode",
    "walk",
    "tracing",
    "replaying",
    "working_set",
    "startup",
    "cache",
    "discard",
    "model",
    "release_pools",
    "release_arenas",
    "release_stacks",
    "release_services",
    "release_cost",
)
"""In this order: a process of many gigabytes serves all who look at it, and is gone before others need as much."""

KEPT = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"

_BUSY = 0.5
"""Above this load the medians are those of a race."""


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = _parser()
    arguments = parser.parse_args()
    names = [name for name in QUESTIONS if name.startswith(tuple(arguments.questions or [""]))]
    if not names:
        parser.error(f"the questions are {', '.join(QUESTIONS)}")
    if arguments.table:
        _write_tables()
        return 0
    subprocess.run([Path(__file__).with_name("setup.sh"), sys.executable], check=True)
    results = _ask(names, quick=arguments.quick)
    if arguments.keep and not results["quick"] and not results["unanswered"]:
        results = _among_the_kept(results)
    complete = len(names) == len(QUESTIONS) or arguments.keep
    _write(results, arguments.output or _place(results, complete=complete))
    return 1 if results["unanswered"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "questions", nargs="*", metavar="QUESTION", help="by name, or how it begins; all when none is named"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds")
    parser.add_argument("--keep", action="store_true", help="keep the answers beside the older ones to other questions")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to write the results")
    parser.add_argument("--table", action="store_true", help="measure nothing, make the tables of the documentation")
    return parser


def _ask(names: Sequence[str], *, quick: bool) -> dict[str, Any]:
    """Ask each question, print its answer, and return all of them with what they depend on."""
    results: dict[str, Any] = {
        "schema": 1,
        "quick": quick,
        "machine": facts.machine(),
        "versions": facts.versions(),
        "unanswered": [],
        "comparisons": [],
    }
    _warn(results)
    questions = {name: importlib.import_module(name) for name in names}
    with HeldProcesses() as held:
        options = quick_options(held) if quick else full_options(held, facts.memory_bytes("MemAvailable"))
        for nth, (name, question) in enumerate(questions.items()):
            held.keep({kind for later in list(questions.values())[nth:] for kind in later.HOLDS})
            answer = _answer(question, options)
            results["comparisons"] += answer
            if not answer:
                results["unanswered"].append(name)
    return results


def _answer(question: ModuleType, options: Options) -> list[dict[str, Any]]:
    """The rows of one question, printed; none when it failed, which is told on standard error."""
    print(f"\n{str(question.__doc__).splitlines()[0]}\n", flush=True)
    try:
        rows = [comparison.as_dict() for comparison in question.run(options)]
    except Exception:  # noqa: BLE001 - whatever it is, the other questions can still be answered
        traceback.print_exc()
        return []
    print(terminal_table(rows), flush=True)
    return rows


def _warn(results: dict[str, Any]) -> None:
    """Say what makes these numbers worth less."""
    if results["machine"]["load"] > _BUSY:
        print(f"benchmarks: this machine is busy (load {results['machine']['load']})", file=sys.stderr)
    if results["quick"]:
        print("benchmarks: small sizes: what was promised is promised for the large ones", file=sys.stderr)


def _place(results: dict[str, Any], *, complete: bool) -> Path:
    """Where results go: only complete runs of the large sizes are kept."""
    if not complete or results["quick"] or results["unanswered"]:
        return BUILD / "latest.json"
    return _kept_file(results)


def _kept_file(results: dict[str, Any]) -> Path:
    return KEPT / f"{'.'.join(results['machine']['kernel'].split('.')[:2])}.json"


def _among_the_kept(results: dict[str, Any]) -> dict[str, Any]:
    """These results and those that are kept, but for the rows of the same questions."""
    path = _kept_file(results)
    if not path.exists():
        return results
    kept = json.loads(path.read_text(encoding="utf-8"))
    asked = list(dict.fromkeys(row["question"] for row in results["comparisons"]))
    earlier = [
        {**run, "questions": left}
        for run in kept.get("later_runs", [])
        if (left := [question for question in run["questions"] if question not in asked])
    ]
    return {
        **kept,
        "versions": kept["versions"] | results["versions"],
        "later_runs": [*earlier, {"questions": asked, "machine": results["machine"]}],
        "comparisons": [
            *(row for row in kept["comparisons"] if row["question"] not in asked),
            *results["comparisons"],
        ],
    }


def _write(results: dict[str, Any], path: Path) -> None:
    """Write JSON with a row a line, so that two runs can be compared by diff."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in results["comparisons"])
    frame = json.dumps({**results, "comparisons": ["rows"]}, indent=1, ensure_ascii=False)
    path.write_text(frame.replace('"rows"', rows) + "\n", encoding="utf-8")
    print(f"\nbenchmarks: written to {path}", file=sys.stderr)


def _write_tables() -> None:
    """Put the results of the newest kernel into the documentation."""
    newest = max(KEPT.glob("*.json"), key=lambda path: tuple(map(int, path.stem.split("."))))
    results = json.loads(newest.read_text(encoding="utf-8"))
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
