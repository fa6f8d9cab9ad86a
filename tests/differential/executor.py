"""The live side, from Python: builds the executor, keeps it running, hands it sequences and takes its answers."""

from __future__ import annotations

import hashlib
import os
import select
import shutil
import struct
import subprocess
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from differential.sequences import Sequence

SOURCES = tuple(Path(__file__).with_name("native") / name for name in ("main.c", "operations.c", "record.c"))
HEADER = SOURCES[0].with_name("executor.h")
FLAGS = ("-static", "-O2", "-Wall", "-Wextra", "-pthread")
PATIENCE_SECONDS = 60
"""How long one sequence may take; they take milliseconds."""

_LENGTH = struct.Struct("<I")
_FAILED = 0xFFFF_FFFF


class ExecutorStuck(Exception):
    """The executor did not answer in time."""


def build() -> Path:
    """The executor, compiled: static, so that it also runs in a guest with nothing else in it. Kept by its source."""
    compiler = os.environ.get("CC", "cc")
    text = b"".join(path.read_bytes() for path in (HEADER, *SOURCES))
    key = hashlib.sha256(" ".join((compiler, *FLAGS)).encode() + text).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dontneed"
    program = cache / f"executor-{key}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as directory:
            fresh = Path(directory) / "executor"
            subprocess.run([compiler, *FLAGS, "-o", fresh, *SOURCES], check=True)
            fresh.replace(program)  # at once: another process may be building it too
    return program


def can_build() -> bool:
    """Whether there is a C compiler."""
    return shutil.which(os.environ.get("CC", "cc")) is not None


class Executor:
    """A running executor. Sequences may be submitted ahead of their answers, a few at a time.

        with Executor() as executor:
            answer = executor.run(sequence)

    Args:
        program: what `build` gave.
        cpu: the one that it stays on; by default the one where it happens to start.
    """

    def __init__(self, program: Path | None = None, cpu: int | None = None) -> None:
        self._command = [str(program or build()), *([] if cpu is None else [str(cpu)])]
        self._submitted: deque[bytes] = deque()
        self._start()

    def submit(self, sequence: Sequence) -> None:
        """Hand a sequence over; its answer comes after those of the sequences before it."""
        encoded = sequence.encode()
        self._submitted.append(encoded)
        self._write(encoded)

    def answer(self) -> bytes | None:
        """The records of the sequence submitted first; None if it came to grief, or took the executor with it.

        Raises:
            ExecutorStuck: no answer in a minute.
        """
        try:
            (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
            said = None if length == _FAILED else self._read(length)
        except EOFError:
            said = None
            self._restart_behind_the_first()
        self._submitted.popleft()
        return said

    def run(self, sequence: Sequence) -> bytes | None:
        """Submit one sequence and wait for its answer; nothing else may be under way."""
        self.submit(sequence)
        return self.answer()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._buffer = bytearray()

    def _restart_behind_the_first(self) -> None:
        self.close()
        self._start()
        for encoded in list(self._submitted)[1:]:
            self._write(encoded)

    def _write(self, encoded: bytes) -> None:
        try:
            rest = memoryview(encoded)
            while rest:
                rest = rest[self._process.stdin.write(rest) :]
        except BrokenPipeError:
            pass  # it died of an earlier sequence, as answer() will find and mend

    def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE_SECONDS)
            if not readable:
                msg = f"no answer in {PATIENCE_SECONDS} s; send it the same sequence under strace"
                raise ExecutorStuck(msg)
            chunk = self._process.stdout.read(1 << 18)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
