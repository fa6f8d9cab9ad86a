"""Programs that are measured: started, asked line by line, and always ended; those in C are built when they are newer.

They end by themselves when their standard input does, and with this process, however it ends.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from typing_extensions import Self

_SOURCES = Path(__file__).parent / "native"
BUILD = Path(__file__).parents[1] / "build" / "benchmarks"
"""What the benchmarks make and nobody keeps."""

_PATIENCE_SECONDS = 20


class Running:
    """A running program that has said it is ready. A context manager.

    Args:
        command: what to start.
        environment: its variables; None: ours.
    Attributes:
        pid: of the process that was started.
        greeting: the line that it said first.
    Raises:
        RuntimeError: it ended instead; why stands on standard error.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment
        )
        self._input = cast("TextIO", self._process.stdin)
        self._output = cast("TextIO", self._process.stdout)
        self.pid = self._process.pid
        try:
            self.greeting = self.answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        self._input.write(f"{line}\n")

    def answer(self) -> str:
        """Wait for the next line that it prints."""
        line = self._output.readline()
        if not line:
            msg = f"{self._process.args!r} ended without an answer"
            raise RuntimeError(msg)
        return line

    def ask(self, line: str) -> str:
        """Tell it something, and wait for what it answers."""
        self.tell(line)
        return self.answer()

    @property
    def answer_file(self) -> int:
        """The file descriptor that becomes readable when an answer is there."""
        return self._output.fileno()

    def end(self) -> None:
        """Close its standard input, so that it ends itself and all that it started; if it does not, end it."""
        self._input.close()
        try:
            self._process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            print(f"benchmarks: {self._process.args!r} had to be killed", file=sys.stderr)
        self.close()

    def close(self) -> None:
        """End it, and let its memory go before anyone measures on."""
        self._process.kill()
        with self._process:  # closes the pipes and waits
            pass


class Program(Running):
    """A running C program.

    Args:
        name: of its source in `native/`.
        arguments: its own.
    Raises:
        RuntimeError: as `Running`.
    """

    def __init__(self, name: str, *arguments: str | int) -> None:
        super().__init__([str(_built(name)), *map(str, arguments)])


class HeldProcesses:
    """Processes that hold memory and stand still: started when first asked for, since filling gigabytes takes long.

    A context manager; all end with it.
    """

    def __init__(self) -> None:
        self._running: dict[str, Program] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.keep(())

    def pid(self, kind: str, amount: int = 0) -> int:
        """The process that holds this: `nothing`, `mappings` (how many), `pages` or `huge` (bytes)."""
        if kind not in self._running:
            self._running[kind] = Program("hold", kind, amount)
        return self._running[kind].pid

    def keep(self, kinds: Collection[str]) -> None:
        """End all others, whose memory is needed elsewhere."""
        for kind in self._running.keys() - kinds:
            self._running.pop(kind).close()


def shared_object(name: str) -> ctypes.CDLL:
    """The functions of a C program, for this process to call."""
    return ctypes.CDLL(str(_built(name, "-shared", "-fPIC", suffix=".so")), use_errno=True)


def _built(name: str, *options: str, suffix: str = "") -> Path:
    program = BUILD / f"{name}{suffix}"
    changed = max(source.stat().st_mtime for source in _SOURCES.iterdir())
    if not program.exists() or program.stat().st_mtime < changed:
        BUILD.mkdir(parents=True, exist_ok=True)
        source = _SOURCES / f"{name}.c"
        subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-pthread", *options, "-o", program, source], check=True)
    return program
