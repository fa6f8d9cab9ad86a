"""CPythons to act upon, of every version there is here: told what to run, and what they said."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest

from dontneed.errors import ProcessGone, TargetRefused
from dontneed.kernel.procfs import ProcessDirectory
from dontneed.observe.subject import read_subject
from dontneed.reasons import free_pools
from dontneed.reasons.survey import Limits

TARGETS = Path(__file__).parent / "targets"
FINDER = Path(__file__).parents[2] / "tools" / "interpreters.sh"
PATIENCE_SECONDS = 120
STRESS = os.environ.get("DONTNEED_STRESS") == "1"
"""Whether to take minutes where seconds are usual."""

VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
"""What free-pools knows. 3.14 is looked for on PATH, and at $DONTNEED_PYTHON_3_14."""

MODULES = (
    *("test_list", "test_dict", "test_set", "test_tuple", "test_bytes", "test_int", "test_float", "test_long"),
    *("test_deque", "test_heapq", "test_json", "test_pickle", "test_re", "test_struct", "test_itertools", "test_iter"),
    *("test_functools", "test_generators", "test_weakref", "test_memoryview", "test_array", "test_bisect", "test_copy"),
    *("test_ordered_dict", "test_sort", "test_string", "test_textwrap", "test_fractions", "test_csv", "test_queue"),
)
"""CPython's own tests that are run while pools are given back."""
FEW_MODULES = ("test_dict", "test_deque", "test_struct", "test_textwrap")


@lru_cache
def interpreters():
    """Paths by version."""
    found = subprocess.run(["sh", FINDER], capture_output=True, text=True, check=True).stdout.split()
    by_version = {version_of(path): path for path in found}
    newest = os.environ.get("DONTNEED_PYTHON_3_14", "python3.14")
    if version_of(newest) == "3.14":
        by_version["3.14"] = newest
    return by_version


def version_of(path):
    """As 3.12; nothing if it is no Python, or is not there."""
    try:
        said = subprocess.run(
            [path, "-c", "import sys; print(sys.version)"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return re.match(r"\d+\.\d+", said.stdout)[0]


def interpreter(version):
    """The path of one; skips the test where it is missing."""
    if version == "{}.{}".format(*sys.version_info):
        return sys.executable
    if version not in interpreters():
        pytest.skip(f"needs CPython {version}")
    return interpreters()[version]


class PythonTarget:
    """A running program, which says lines and is told lines."""

    def __init__(self, python, *arguments, **environment):
        variables = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        self._process = subprocess.Popen(
            [python, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=variables | environment,
        )
        self.pid = self._process.pid
        self._said = b""

    def line(self):
        """The next line that it says."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\n" not in self._said:
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = self._process.stdout.read(65536) if readable else b""
            if not chunk:
                pytest.fail(f"the target said nothing more than {self._said!r}: {self._errors()}")
            self._said += chunk
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def numbers(self):
        """The integers of the next line."""
        return [int(word) for word in self.line().split()]

    def tell(self, line=""):
        """Say a line to it."""
        self._process.stdin.write(f"{line}\n".encode())

    def runs(self):
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def ended_well(self):
        """Whether it ends by itself, as it should; what it said on standard error fails the test otherwise."""
        assert self._process.wait(PATIENCE_SECONDS) == 0, self._errors()

    def threads_stand(self):
        """Whether a thread of it is stopped, or traced."""
        for status in Path(f"/proc/{self.pid}/task").glob("*/status"):
            text = status.read_text()
            if "TracerPid:\t0" not in text or re.search(r"State:\s[Tt]", text):
                return True
        return False

    def kill(self):
        """End it now, and reap it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            stream.close()

    def _errors(self):
        self._process.kill()
        return self._process.stderr.read().decode(errors="replace")[-2000:]


@contextmanager
def running(version, name, *arguments, **environment):
    """The target `name` (a file, or code) under a version of CPython."""
    what = ("-c", name) if "\n" in name or " " in name else (TARGETS / name,)
    target = PythonTarget(interpreter(version), *what, *arguments, **environment)
    try:
        yield target
    finally:
        target.kill()


def surveyed(target, hint=None):
    """What a survey finds in it now."""
    with ProcessDirectory(target.pid) as process:
        return free_pools.survey(read_subject(process), hint)


def released(target, found=None, max_pause_seconds=None):
    """Survey, unless that is done, and release: what was found, and what was given back."""
    with ProcessDirectory(target.pid) as process:
        subject = read_subject(process)
        found = found or free_pools.survey(subject)
        return found, free_pools.release(subject, found, Limits(max_pause_seconds))


def release_until(target, ended):
    """Give pools back every few milliseconds until `ended()`: how many bytes, in how many holds of the GIL."""
    advised, holds, hint = 0, 0, None
    while not ended() and target.runs():
        try:
            with ProcessDirectory(target.pid) as process:
                subject = read_subject(process)
                found = free_pools.survey(subject, hint)
                hint = found.hint
                given = free_pools.release(subject, found, Limits())
        except TargetRefused:  # nobody waits just now, or the target is about to end
            continue
        except ProcessGone:
            break
        advised += given.advised
        holds += len(given.pauses)
        time.sleep(0.002)
    return advised, holds
