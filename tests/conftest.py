"""What every test may ask for: needs that are named, a quiet child process, and the rights of nobody.

A test that needs something of its machine says so with a marker, and skips by that name where it is missing:

    @pytest.mark.needs_root
    @pytest.mark.needs_kernel("6.18")
    @pytest.mark.needs_command("pmap")
    @pytest.mark.needs_library("libjemalloc.so.2")
    @pytest.mark.needs_feature("PAGEMAP_SCAN")

Where DONTNEED_REQUIRE_ALL=1 the machine is promised to have everything, and a missing need is a failure.
"""

from __future__ import annotations

import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 60
"""How long a child may take before its test fails; far more than any needs, so that a loaded machine passes."""


# Needs


def _without_root() -> str | None:
    return None if os.geteuid() == 0 else "needs root"


def _without_kernel(version: str) -> str | None:
    running = platform.release()
    numbers = tuple(int(part) for part in re.findall(r"\d+", running)[:2])
    wanted = tuple(int(part) for part in version.split("."))
    return None if numbers >= wanted else f"needs Linux {version} or newer, this is {running}"


def _without_command(name: str) -> str | None:
    return None if shutil.which(name) else f"needs the command {name!r}"


def _without_library(name: str) -> str | None:
    found = any(Path(directory, name).exists() for directory in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"))
    return None if found else f"needs the library {name!r}"


def _without_feature(name: str) -> str | None:
    from dontneed.kernel.features import feature

    found = feature(name)
    return None if found.state == "present" else f"needs {name}, which is {found.state} here: {found.detail}"


NEEDS: dict[str, tuple[str, Callable[..., str | None]]] = {
    "needs_root": ("needs_root: runs as root, with every capability", _without_root),
    "needs_kernel": ("needs_kernel(version): runs on this Linux or a newer one, as in '6.18'", _without_kernel),
    "needs_command": ("needs_command(name): calls a program that is on PATH", _without_command),
    "needs_library": ("needs_library(name): preloads a shared library of the system", _without_library),
    "needs_feature": (
        "needs_feature(name): uses an interface that `dontneed doctor` lists as present",
        _without_feature,
    ),
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers, which `--strict-markers` asks for; let Ctrl-C reach what the tests start.

    A shell has what it runs in the background ignore it, and who is born ignoring a signal goes on so.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for description, _ in NEEDS.values():
        config.addinivalue_line("markers", description)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose needs are not met, or fail it where everything is required."""
    refuse = pytest.fail if os.environ.get("DONTNEED_REQUIRE_ALL") == "1" else pytest.skip
    for name, (_, missing) in NEEDS.items():
        for marker in item.iter_markers(name):
            if reason := missing(*marker.args):
                refuse(reason)


# A quiet child process


def _untraced_environment() -> dict[str, str]:
    """The environment without coverage's hooks: a process that is looked at holds its own memory and no tracer's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


class Child:
    """A Python process that stands still: it ran some code, said so, and is blocked reading its standard input.

    The code may call `pause()` to stand still half-way; `proceed()` lets it run to its next pause, and the last pause
    comes by itself when the code ends. Whatever the code printed before a pause is returned by the call that
    waited for it: `said` after the start, then each `proceed()`.
    """

    _PAUSE = """if True:
        import os, sys
        def pause():
            sys.stdout.flush()
            os.write(1, b"ready\\n")
            os.read(0, 1)
    """

    def __init__(self, code: str) -> None:
        program = f"{self._PAUSE}\nexec({code!r})\npause()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=_untraced_environment(),
        )
        self.pid = self._process.pid
        try:
            self.said = self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def proceed(self) -> list[str]:
        """Run on to the next pause; the lines printed on the way there."""
        self._process.stdin.write(b"\n")
        return self._wait_until_ready()

    def kill(self) -> None:
        """End the process now, by SIGKILL, and reap it."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    def _wait_until_ready(self) -> list[str]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        output = b""
        while not (output == b"ready\n" or output.endswith(b"\nready\n")):
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = self._process.stdout.read(65536) if readable else b""
            if not chunk:
                pytest.fail(f"the child did not become ready; it said {output!r} and on standard error what is below")
            output += chunk
        self._wait_until_asleep(deadline)
        return output.decode().splitlines()[:-1]

    def _wait_until_asleep(self, deadline: float) -> None:
        """Between 'ready' and the read that blocks, the process still runs, and may still touch a page."""
        stat = Path(f"/proc/{self.pid}/stat")
        while stat.read_bytes().rpartition(b") ")[2][:1] != b"S":
            assert time.monotonic() < deadline, "the child did not come to rest"
            time.sleep(0.001)


@pytest.fixture
def child() -> Iterator[Callable[[str], Child]]:
    """Start quiet children: `child("import mmap; held = mmap.mmap(-1, 1 << 22)").pid`; all end with the test."""
    children: list[Child] = []

    def start(code: str = "") -> Child:
        children.append(Child(code))
        return children[-1]

    yield start
    for each in children:
        each.kill()


# The rights of nobody


class AsNobody:
    """Runs Python code, or the `dontneed` command, in a process with the rights of `nobody`.

    Where the tests run without root, their own user is unprivileged enough, and is kept.
    """

    def __call__(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run `code` in this interpreter; its standard output and error are captured as text."""
        return self._run(sys.executable, "-c", code)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `dontneed` with `arguments`; its exit code is `returncode`."""
        return self._run(sys.executable, "-m", "dontneed", *arguments)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, Path(__file__).with_name("become_nobody.py"), *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
            env=_untraced_environment(),
        )


@pytest.fixture
def as_nobody() -> AsNobody:
    """Run things without rights: `as_nobody("import dontneed; dontneed.look(1)")`, `as_nobody.command("look", "1")`."""
    return AsNobody()
