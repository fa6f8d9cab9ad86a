"""What the probes found on one kernel: read from its console, kept in a file, compared."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = Path(__file__).with_name("measured")

_LINE = re.compile(r"^probe (\S+) (.*?) *$", re.MULTILINE)
_ERRNO = "errno."
_OF_THE_KERNEL = ("release", "version", "signature", "done")


@dataclass(frozen=True)
class Measurement:
    """The facts of one kernel."""

    series: str
    package: str
    release: str
    upstream: str
    """The release of kernel.org that it is made from, as in `5.10.223`; later changes may be in it too."""
    errnos: dict[str, dict[str, str]]
    """What each advice answers, by kind of mapping; a kind that the kernel does not have is missing."""
    facts: dict[str, str]
    """All else that was found, by the name of the probe."""

    def items(self) -> Iterator[tuple[str, str]]:
        """Everything that can be compared, by name, as in `errno.anon.FREE`."""
        for kind, answers in self.errnos.items():
            for advice, answer in answers.items():
                yield f"{_ERRNO}{kind}.{advice}", answer
        yield from self.facts.items()


def measurement_of(series: str, package: str, console: str) -> Measurement:
    """Read what the probes said on a console."""
    said = dict(_LINE.findall(console))
    return Measurement(
        series=series,
        package=package,
        release=said["release"],
        upstream=_upstream(said["release"], said["version"], said["signature"]),
        errnos={
            name.removeprefix(_ERRNO): dict(pair.split("=") for pair in value.split())
            for name, value in said.items()
            if name.startswith(_ERRNO) and value != "absent"
        },
        facts={
            name: value for name, value in said.items() if not name.startswith(_ERRNO) and name not in _OF_THE_KERNEL
        },
    )


def _upstream(release: str, version: str, signature: str) -> str:
    """What a distribution says of where its kernel is from, each in its own place.

    Ubuntu: /proc/version_signature ends with it. Debian: the version, until the release had it.
    """
    for text, pattern in ((signature, r" ([\d.]+)$"), (version, r"Debian ([\d.]+)-"), (release, r"^([\d.]+)")):
        if found := re.search(pattern, text):
            return found[1]
    return release


def differences(one: Measurement, other: Measurement) -> dict[str, tuple[str | None, str | None]]:
    """What the two do not agree on, by name; None where one of them did not ask."""
    mine, theirs = dict(one.items()), dict(other.items())
    return {name: (mine.get(name), theirs.get(name)) for name in (mine | theirs) if mine.get(name) != theirs.get(name)}


def keep(measured: Measurement) -> None:
    """Write it where `kept` finds it."""
    KEPT.mkdir(exist_ok=True)
    text = json.dumps(vars(measured), indent=1, ensure_ascii=False)
    _file_of(measured.series).write_text(text + "\n", encoding="utf-8")


def kept(series: str) -> Measurement | None:
    """What was found the last time, if it was kept."""
    file = _file_of(series)
    return Measurement(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _file_of(series: str) -> Path:
    return KEPT / f"{series}.json"
