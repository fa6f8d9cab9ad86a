"""Processes to act upon that are written in C: compiled once a session, told what to do line by line."""

from __future__ import annotations

import os
import select
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.subject import read_subject

SOURCES = Path(__file__).parent / "targets"
PATIENCE_SECONDS = 60
ROUNDS = int(os.environ.get("DONTNEED_ROUNDS", "25"))
"""How often a test acts on a target that is busy meanwhile."""

PAGE = 4096
PRESENT, SWAPPED, OF_FILE, ALONE = 1 << 63, 1 << 62, 1 << 61, 1 << 56
"""Bits of the page map."""


class Target:
    """A running target: what it said until it was ready, and whether it is well.

    It says lines and then `ready`; a command makes it say more, until it is ready again.
    """

    def __init__(self, program, *arguments):
        command = [program, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.pid = self._process.pid
        self.said = self._until_ready()

    def tell(self, command):
        """Give it a command; the lines that it says until it is ready again."""
        self._process.stdin.write(f"{command}\n".encode())
        return self._until_ready()

    def kill(self):
        """End it now, and reap it."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def named(self):
        """What it said first, line by line: the numbers behind each name."""
        return {line.split()[0]: [int(word, 0) for word in line.split()[1:]] for line in self.said}

    def wait_until_asleep(self):
        """Wait until every thread sleeps."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        tasks = Path(f"/proc/{self.pid}/task")
        while any(path.read_bytes().rpartition(b") ")[2][:1] != b"S" for path in tasks.glob("*/stat")):
            assert time.monotonic() < deadline, "the target did not come to rest"
            time.sleep(0.001)

    def _until_ready(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        output = b""
        while not (output == b"ready\n" or output.endswith(b"\nready\n")):
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = self._process.stdout.read(65536) if readable else b""
            if not chunk:
                pytest.fail(f"the target did not become ready (status {self._process.poll()}); it said {output!r}")
            output += chunk
        return output.decode().splitlines()[:-1]


@contextmanager
def running(tmp_path, source, *arguments):
    """A target made of `targets/SOURCE.c`, as long as the block runs."""
    program = tmp_path.parent / f"{source}.target"
    if not program.exists():
        flags = ["-O0", "-g", "-pthread", "-Wall", "-Werror"]
        subprocess.run(["cc", *flags, SOURCES / f"{source}.c", "-o", program], check=True)
    target = Target(program, *arguments)
    try:
        yield target
    finally:
        target.kill()


@contextmanager
def subject_of(pid):
    """A process as reasons see it."""
    with ProcessDirectory(pid) as process:
        yield read_subject(process)


def entries_of(pid, start, end):
    """Its page map, read by the tests' own means."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        return np.frombuffer(os.pread(file.fileno(), (end - start) // PAGE * 8, start // PAGE * 8), np.uint64)


def present_pages(pid, start, end):
    """How many pages of a range are there."""
    return int(np.count_nonzero(entries_of(pid, start, end) & np.uint64(PRESENT)))


def resident_bytes(pid):
    """Its RSS."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
