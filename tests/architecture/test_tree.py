"""What is in the checkout may be published as it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Put together here, since this file is read by its own test.
MACHINE_PATHS = re.compile(
    rb"(?<![\w.}\]>*$-])/(?:" + b"|".join([b"wor" + b"k", b"roo" + b"t", b"far" + b"m"]) + rb")/"
)
"""Absolute paths of a developer's machine; the same words further down a path, as below /proc/PID, are none."""


def test_no_file_names_a_path_of_one_machine(checkout_files: list[Path], root: Path) -> None:
    """A captured text, a log line or a link that names somebody's home helps nobody else."""
    assert [str(path.relative_to(root)) for path in checkout_files if MACHINE_PATHS.search(path.read_bytes())] == []


def test_the_license_is_the_one_that_the_metadata_names(root: Path) -> None:
    """pyproject.toml says Apache-2.0, and LICENSE is its full text."""
    assert 'license = "Apache-2.0"' in (root / "pyproject.toml").read_text(encoding="utf-8")
    text = (root / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
