"""Builds the optional native part, `dontneed.kernel._native`, wherever a C compiler and Python's headers are.

Where they are not, or DONTNEED_PURE=1 is set, the wheel is pure Python, and everything works: a release of one's own
memory goes through a helper process then. `dontneed doctor` says which it is.

One binary serves every CPython from 3.10 on: it is built for the limited API. In an editable installation it lies in
the package, where git ignores it.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = "src/native"
BINARY = "dontneed/kernel/_native.abi3.so"
OLDEST = "cp310"
FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-s")


class CannotBuildError(Exception):
    """Why there will be no native part."""


class NativePart(BuildHookInterface[Any]):
    """The hook that hatchling calls for each wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and say what the wheel has become by it; `version` is `standard` or `editable`."""
        self._scratch = tempfile.TemporaryDirectory(prefix="dontneed-build-")  # goes with us, if not before
        built = os.path.join(self._scratch.name, os.path.basename(BINARY))
        in_package = os.path.join(self.root, "src", BINARY)
        if version == "editable" and os.path.exists(in_package):
            os.remove(in_package)  # of another source, perhaps; who has it loaded keeps it
        try:
            self._build(built)
        except CannotBuildError as reason:
            self.app.display_info(f"dontneed without its native part: {reason}")
            return
        if version == "editable":
            shutil.copy(built, f"{in_package}.new")
            os.replace(f"{in_package}.new", in_package)
            return
        build_data["force_include"][built] = BINARY
        build_data["pure_python"] = False
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"{OLDEST}-abi3-{system}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Clean up."""
        self._scratch.cleanup()

    def _build(self, binary: str) -> None:
        """Compile.

        Raises:
            CannotBuildError: it is not wanted, not possible or not made for this.
        """
        compiler = _compiler()
        include = sysconfig.get_path("include")
        directory = os.path.join(self.root, SOURCES)
        sources = sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".c"))
        flags = [*FLAGS, *shlex.split(os.environ.get("CFLAGS", "")), f"-I{include}"]
        command = [*compiler, *flags, *sources, "-o", binary, *shlex.split(os.environ.get("LDFLAGS", ""))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the user's compiler
        if done.returncode:
            msg = f"{shlex.join(command)} failed\n{done.stderr}"
            raise CannotBuildError(msg)


def _compiler() -> list[str]:
    """The command that compiles C.

    Raises:
        CannotBuildError: there is none, or what it is needed for cannot be.
    """
    if os.environ.get("DONTNEED_PURE", "0") not in ("", "0"):
        msg = "DONTNEED_PURE is set"
        raise CannotBuildError(msg)
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        msg = "it is for CPython with a GIL"
        raise CannotBuildError(msg)
    if (sys.platform, platform.machine(), sys.maxsize) != ("linux", "x86_64", 2**63 - 1):
        msg = "it is for 64-bit Linux on x86-64"
        raise CannotBuildError(msg)
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        msg = "Python's headers are not here (on Debian: python3-dev)"
        raise CannotBuildError(msg)
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(compiler[0]) is None:
        msg = f"there is no C compiler {compiler[0]!r}"
        raise CannotBuildError(msg)
    return compiler
