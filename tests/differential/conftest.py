"""The engine is a package of its own, `differential`, found from the directory above."""

from __future__ import annotations

import os
import random
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from differential.environment import Missing, environment
from differential.executor import Executor, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from differential.generate import Kind

_FRESH_SEED = random.SystemRandom().randrange(1 << 31)


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    """A running executor; needs_command("cc") belongs beside it."""
    with Executor(build()) as running:
        yield running


@pytest.fixture(scope="session")
def fresh_seed() -> int:
    """A seed of this run; the summary says it, so that what it found can be looked at again."""
    return _FRESH_SEED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say the seed of this run."""
    terminalreporter.write_line(f"differential: sequences never seen before are of seed {_FRESH_SEED}")


@pytest.fixture
def provided() -> Iterator[Callable[[Kind], None]]:
    """Give a kind what it needs of the machine until the test ends; a skip by name where that cannot be."""
    with ExitStack() as stack:

        def provide(kind: Kind) -> None:
            try:
                stack.enter_context(environment(kind))
            except Missing as missing:
                (pytest.fail if os.environ.get("DONTNEED_REQUIRE_ALL") == "1" else pytest.skip)(str(missing))

        yield provide
