"""Boot a kernel in an emulated machine, with one program of ours as its only process.

QEMU emulates (TCG): `/dev/kvm` may be there and not work. The kernel's messages and what the probes say come over the
first serial port; what an executor writes comes over the second, which passes every byte as it is.
"""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from initramfs import initramfs

if TYPE_CHECKING:
    from collections.abc import Mapping

GUEST = Path(__file__).with_name("guest")

BOOT_SECONDS = 300
"""Far more than any boot takes, so that a loaded machine passes."""

_COMPILE = ("cc", "-static", "-O2", "-Wall", "-Wextra", "-Werror")

_COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=1 panic=-1 nokaslr mitigations=off no_timer_check tsc=reliable random.trust_cpu=on"
)

_PROCESSOR = "max,cx16=off,la57=off,pku=off"
"""All that can be emulated, but for three things.

cx16: what QEMU 7.2 leaves in the flags behind cmpxchg16b is garbage, and kernels from 6.5 on, whose allocator uses it,
crash at random. la57: four levels of page tables are what most machines have. pku: smaps would have a line more.
"""

_MACHINE = (
    *("-machine", "pc", "-accel", "tcg", "-cpu", _PROCESSOR, "-m", "768", "-smp", "1"),
    *("-display", "none", "-nodefaults", "-monitor", "none", "-no-reboot"),
)


class GuestFailed(Exception):
    """The emulated machine did not do what it was started for; the text ends with what its console said."""


@dataclass(frozen=True)
class Guest:
    """What a machine left behind that has powered itself off."""

    console: str
    port: bytes
    """What came over the second serial port."""


def compile_init(place: Path) -> bytes:
    """The first process, with all probes, as one static program that is also kept at `place`."""
    sources = sorted(str(source) for source in GUEST.glob("*.c"))
    subprocess.run([*_COMPILE, "-o", str(place), *sources], check=True, timeout=BOOT_SECONDS)
    return place.read_bytes()


def boot(vmlinuz: Path, programs: Mapping[str, bytes], timeout: float = BOOT_SECONDS) -> Guest:
    """Start the kernel with these programs at the root of its initramfs, and wait until it powers off.

    Args:
        vmlinuz: the kernel's image.
        programs: contents by name; `init` is the first process.
        timeout: in seconds; the emulator is ended after it.
    Raises:
        GuestFailed: it took longer, or powered off before `init` was done.
    """
    with tempfile.TemporaryDirectory(prefix="dontneed-guest-") as scratch:
        archive, port = Path(scratch, "initramfs"), Path(scratch, "port")
        archive.write_bytes(initramfs(programs))
        console = _run_to_power_off(
            [
                *("qemu-system-x86_64", *_MACHINE),
                *("-serial", "stdio", "-serial", f"file:{port}"),
                *("-kernel", str(vmlinuz), "-initrd", str(archive), "-append", _COMMAND_LINE),
            ],
            timeout,
        )
        guest = Guest(console, port.read_bytes())
    if "probe done yes" not in console:
        msg = f"{vmlinuz} powered off before it was done:\n{_end_of(console)}"
        raise GuestFailed(msg)
    return guest


def run_in_kernel(vmlinuz: Path, executor: Path, sequences: bytes, timeout: float = BOOT_SECONDS) -> bytes:
    """What a static program writes that reads `sequences` on this kernel.

    Args:
        vmlinuz: the kernel's image.
        executor: the program; it reads its standard input to the end and writes to its standard output.
        sequences: what it reads.
        timeout: in seconds, for the boot and the program together.
    Raises:
        GuestFailed: it took longer, or the program did not end with 0.
    """
    with tempfile.TemporaryDirectory(prefix="dontneed-init-") as scratch:
        init = compile_init(Path(scratch, "init"))
    guest = boot(vmlinuz, {"init": init, "executor": executor.read_bytes(), "sequences": sequences}, timeout)
    if "probe init.executor 0" not in guest.console:
        msg = f"{executor} did not end well on {vmlinuz}:\n{_end_of(guest.console)}"
        raise GuestFailed(msg)
    return guest.port


def _run_to_power_off(command: list[str], timeout: float) -> str:
    """What the console said; carriage returns of the terminal are taken out."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as qemu:
        try:
            said, _ = qemu.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            qemu.kill()
            said, _ = qemu.communicate()
            msg = f"No power-off after {timeout:.0f} s:\n{_end_of(_as_text(said))}"
            raise GuestFailed(msg) from None
    return _as_text(said)


def _as_text(said: bytes) -> str:
    return said.decode(errors="replace").replace("\r", "")


def _end_of(console: str, lines: int = 20) -> str:
    return "\n".join(console.splitlines()[-lines:])
