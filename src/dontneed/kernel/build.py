"""How the running kernel was built: its version, and the options of its configuration where it shows them.

Never to decide what to try, only to predict what will be seen.

Kernel:
    kernel/configs.c: /proc/config.gz with CONFIG_IKCONFIG_PROC; distributions install /boot/config-RELEASE instead.
"""

from __future__ import annotations

import os


def parse_version(release: str) -> tuple[int, int]:
    """The first two numbers of a release as uname -r says it: (6, 18) of '6.18.44-generic', (6, 0) of '6-rc1'."""
    import re

    major, minor = (*re.findall(r"\d+", release), "0", "0")[:2]
    return int(major), int(minor)


def read_build_option(name: str) -> bool | None:
    """Whether the running kernel was built with an option.

    Args:
        name: without its prefix, as `PT_RECLAIM`.
    Returns:
        True for `y` and `m`; False where the configuration can be read and does not set it; None where it cannot.
    """
    text = _read_configuration()
    return None if text is None else parse_build_option(text, name)


def parse_build_option(text: bytes, name: str) -> bool:
    """Whether the text of a configuration sets the option `name`."""
    wanted = f"CONFIG_{name}=".encode("ascii")
    return any(line.startswith(wanted) and line[len(wanted) :] in (b"y", b"m") for line in text.splitlines())


def _read_configuration() -> bytes | None:
    import gzip

    if packed := _read("/proc/config.gz"):
        return gzip.decompress(packed)
    return _read(f"/boot/config-{os.uname().release}")


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # absent or closed to us: not to be seen
        return None
