"""What the measurements depend on: the machine, the interpreter, and the versions of all that was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version

from programs import BUILD

MEASURED_PACKAGES = ("dontneed", "numpy", "psutil")
SERVICE_PACKAGES = ("pandas", "scikit-learn", "distributed", "gunicorn", "flask")
MEASURED_COMMANDS = (("pmap", "-V"), ("gcc", "--version"))

_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"


def machine() -> dict[str, str | int | float]:
    """The machine, in a few words; `load` is what else it did in the last minute."""
    return {
        "kernel": ".".join(platform.release().split("-")[0].split(".")[:3]),
        "architecture": platform.machine(),
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "processors": os.cpu_count() or 0,
        "memory_bytes": memory_bytes("MemTotal"),
        "huge_pages": _chosen(_HUGE_PAGES),
        "python": platform.python_version(),
        "scheduling": "ordinary" if os.sched_getscheduler(0) == os.SCHED_OTHER else "real time",
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """What was measured, and what it was measured with."""
    packages = {name: version(name) for name in MEASURED_PACKAGES}
    commands = {command[0]: _last_word(*command) for command in MEASURED_COMMANDS}
    return packages | commands | _service_versions()


def _service_versions() -> dict[str, str]:
    """What is installed in the environment of the services."""
    ask = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    command = (BUILD / "services" / "bin" / "python", "-c", ask, *SERVICE_PACKAGES)
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(zip(SERVICE_PACKAGES, output.split(), strict=True))


def memory_bytes(field: str) -> int:
    """A line of /proc/meminfo, in bytes."""
    return int(_field("/proc/meminfo", field).split()[0]) * 1024


def _field(path: str, name: str) -> str:
    with open(path, encoding="utf-8") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _chosen(path: str) -> str:
    """The word in brackets, as sysfs marks a choice."""
    try:
        with open(path, encoding="utf-8") as choice:
            return choice.read().partition("[")[2].partition("]")[0]
    except FileNotFoundError:
        return "absent"


def _last_word(*command: str) -> str:
    """Where `pmap -V` and `gcc --version` have their version: at the end of the first line."""
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return output.splitlines()[0].split()[-1]
