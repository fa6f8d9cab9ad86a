"""What the kernel matrix is made of, as far as it can be tried without booting a kernel."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from expectations import TAKEN_BACK, disagreements
from initramfs import initramfs
from measurement import differences, kept, measurement_of
from packages import KERNELS

CONSOLE = """
[    1.000000] a message of the kernel
probe release 5.4.0-26-generic
probe version #30-Ubuntu SMP
probe signature Ubuntu 5.4.0-26.30-generic 5.4.30
probe errno.anon DONTNEED=ok FREE=ok 99=EINVAL
probe errno.secret absent
probe walk.dontneed.hole ENOMEM -----
probe done yes
"""


@pytest.mark.needs_command("cpio")
def test_cpio_reads_the_initramfs(tmp_path: Path) -> None:
    """Every file comes back with its contents and may be executed, whatever its size is modulo four."""
    programs = {"init": b"#!", "executor": bytes(range(7)), "sequences": b""}
    packed = gzip.decompress(initramfs(programs))
    listed = subprocess.run(
        ["cpio", "--list", "--quiet", "--verbose"], input=packed, capture_output=True, check=True, text=False
    ).stdout.decode()
    assert [line.split()[-1] for line in listed.splitlines()][:5] == ["dev", "proc", "sys", "tmp", "dev/console"]
    subprocess.run(["cpio", "-i", "--quiet", *programs], input=packed, check=True, cwd=tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in programs} == programs
    assert shutil.which("init", path=tmp_path)


def test_a_console_is_read_into_errnos_and_facts() -> None:
    """Messages of the kernel are passed over, and so are mappings that it does not have."""
    measured = measurement_of("5.4", "linux-image", CONSOLE)
    assert measured.upstream == "5.4.30"
    assert measured.errnos == {"anon": {"DONTNEED": "ok", "FREE": "ok", "99": "EINVAL"}}
    assert measured.facts == {"walk.dontneed.hole": "ENOMEM -----"}


@pytest.mark.parametrize(
    ("release", "version", "signature", "upstream"),
    [
        ("5.10.0-32-cloud-amd64", "#1 SMP Debian 5.10.223-1 (2024-08-10)", "none", "5.10.223"),
        ("6.12.107+deb13-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1", "none", "6.12.107"),
        ("6.8.0-31-generic", "#31-Ubuntu SMP PREEMPT_DYNAMIC", "Ubuntu 6.8.0-31.31-generic 6.8.1", "6.8.1"),
        ("6.18.44", "#1 SMP", "none", "6.18.44"),
    ],
)
def test_a_distribution_tells_what_its_kernel_is_made_from(
    release: str, version: str, signature: str, upstream: str
) -> None:
    """Each in a place of its own."""
    console = f"probe release {release}\nprobe version {version}\nprobe signature {signature}\nprobe done yes\n"
    assert measurement_of("", "", console).upstream == upstream


def test_differences_name_what_changed() -> None:
    """By probe, with both values."""
    before = measurement_of("5.4", "", CONSOLE)
    after = measurement_of("5.4", "", CONSOLE.replace("FREE=ok", "FREE=EINVAL"))
    assert differences(before, after) == {"errno.anon.FREE": ("ok", "EINVAL")}


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.series)
def test_every_kernel_of_the_matrix_was_measured(kernel) -> None:
    """What it did is kept, and is this kernel's."""
    measured = kept(kernel.series)
    assert measured is not None
    assert kernel.name_pattern.fullmatch(measured.package)
    assert measured.upstream.startswith(f"{kernel.series}.")


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.series)
def test_the_model_of_a_kernel_says_what_the_kernel_did(kernel) -> None:
    """Every probe that the model answers at all, by the table of versions and nothing else but what was taken back."""
    measured = kept(kernel.series)
    assert measured is not None
    assert disagreements(measured) == {}


@pytest.mark.parametrize("series", TAKEN_BACK)
def test_what_a_stable_release_took_back_is_needed(monkeypatch, series: str) -> None:
    """Without it the model would say something else than the kernel did."""
    monkeypatch.delitem(TAKEN_BACK, series)
    measured = kept(series)
    assert measured is not None
    assert disagreements(measured) != {}
