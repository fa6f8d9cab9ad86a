"""Kernels of distributions, fetched as packages through apt and unpacked; nothing is installed.

Each archive is read by an apt of its own: own sources, own lists, own cache, and the archive's own keyring as the
only one it believes. Where the archives are is this machine's to say, in this order:

    DONTNEED_DEBIAN_MIRROR, DONTNEED_UBUNTU_MIRROR      if set
    the sources that apt has here                       for the distribution that this machine runs
    what debootstrap knows of Ubuntu                    on Debian, from the package, which Debian signs
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

UPDATE_SECONDS = 300
DOWNLOAD_SECONDS = 900


class PackagesUnreachable(Exception):
    """An archive, a keyring or a package is not to be had here; the text says which, and what to try."""


# Which kernels


@dataclass(frozen=True)
class Kernel:
    """One kernel of a distribution: the newest package of a series that a suite offers."""

    series: str
    """As in `6.1`: what it is called by."""
    archive: str
    suite: str
    flavour: str
    """How the package's name ends."""

    @property
    def name_pattern(self) -> re.Pattern[str]:
        """The names of packages that hold such a kernel, as in `linux-image-6.1.0-50-cloud-amd64`.

        Debian keeps the image in `linux-binary-…` since 6.19; `linux-image-…` then only depends on it.
        """
        return re.compile(rf"linux-(image|binary)-{re.escape(self.series)}\.\d+\S*-{self.flavour}")


def _debian(series: str, suite: str) -> Kernel:
    return Kernel(series, "debian", suite, "cloud-amd64")


def _ubuntu(series: str, suite: str) -> Kernel:
    return Kernel(series, "ubuntu", suite, "generic")


KERNELS = (
    _ubuntu("4.4", "xenial"),
    _ubuntu("4.15", "bionic"),
    _ubuntu("4.18", "bionic-updates"),
    _ubuntu("5.0", "bionic-updates"),
    _ubuntu("5.3", "bionic-updates"),
    _ubuntu("5.4", "focal"),
    _ubuntu("5.8", "focal-updates"),
    _debian("5.10", "bullseye"),
    _ubuntu("5.11", "focal-updates"),
    _ubuntu("5.13", "focal-updates"),
    _ubuntu("5.15", "jammy"),
    _ubuntu("5.19", "jammy-updates"),
    _debian("6.1", "bookworm"),
    _ubuntu("6.2", "jammy-updates"),
    _ubuntu("6.5", "jammy-updates"),
    _ubuntu("6.8", "noble"),
    _ubuntu("6.11", "noble-updates"),
    _debian("6.12", "trixie"),
    _ubuntu("6.14", "noble-updates"),
    _debian("6.16", "trixie-backports"),
    _debian("6.17", "trixie-backports"),
    _debian("6.18", "trixie-backports"),
    _debian("6.19", "trixie-backports"),
    _debian("7.0", "trixie-backports"),
    _debian("7.1", "trixie-backports"),
    _debian("7.2", "trixie-backports"),
    _debian("7.3", "trixie-backports"),
)
"""From the oldest that is still offered to the newest; what a suite no longer has is said when it is asked for."""


# Where the archives are, and whom to believe


@dataclass(frozen=True)
class Archive:
    """A distribution's archive: what apt calls it, and where the keys are that sign it."""

    origin: str
    mirror_variable: str
    keyring: str
    keyring_package: str


ARCHIVES = {
    "debian": Archive("Debian", "DONTNEED_DEBIAN_MIRROR", "debian-archive-keyring.gpg", "debian-archive-keyring"),
    "ubuntu": Archive("Ubuntu", "DONTNEED_UBUNTU_MIRROR", "ubuntu-archive-keyring.gpg", "ubuntu-keyring"),
}

_INSTALLED_KEYRINGS = Path("/usr/share/keyrings")
_DEBIAN_WITH_UBUNTU_KEYS = "trixie"
"""The suite of Debian that has the keyring of Ubuntu, and a debootstrap that knows where Ubuntu is."""


class Store:
    """A directory with everything that was fetched: what is in it needs no network."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fetch(self, kernel: Kernel) -> Path:
        """The directory that holds `vmlinuz` and `package` of this kernel.

        Raises:
            PackagesUnreachable: the archive, its keys or the package cannot be had.
        """
        place = self.directory / kernel.series
        if not (place / "vmlinuz").exists():
            unpacked = self._unpack_newest(kernel.archive, kernel.suite, kernel.name_pattern)
            _keep_image(unpacked, place)
        return place

    def package_of(self, kernel: Kernel) -> str:
        """The name of the package that this kernel is from; nothing when it was not fetched yet."""
        note = self.directory / kernel.series / "package"
        return note.read_text(encoding="utf-8").strip() if note.exists() else ""

    def _unpack_newest(self, archive: str, suite: str, name_pattern: re.Pattern[str]) -> Path:
        apt = self._apt(archive, suite)
        return self._unpack(apt, apt.newest(name_pattern))

    def _unpack(self, apt: Apt, package: str) -> Path:
        place = self.directory / "unpacked" / package
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
                unpacked = Path(scratch) / "content"
                _run(["dpkg-deb", "-x", str(apt.download(package, Path(scratch))), str(unpacked)], DOWNLOAD_SECONDS)
                unpacked.rename(place)
        return place

    def _apt(self, archive: str, suite: str) -> Apt:
        apt = Apt(
            self.directory / "apt" / f"{archive}-{suite}",
            f"deb [arch=amd64 signed-by={self._keyring(archive)}] {self._mirror(archive)} {suite} main",
        )
        apt.update_once()
        return apt

    def _keyring(self, archive: str) -> Path:
        wanted = ARCHIVES[archive]
        installed = _INSTALLED_KEYRINGS / wanted.keyring
        if installed.exists():
            return installed
        if archive == "ubuntu":
            unpacked = self._unpack(self._apt("debian", _DEBIAN_WITH_UBUNTU_KEYS), wanted.keyring_package)
            return unpacked / installed.relative_to("/")
        msg = f"{installed} is missing: install the package {wanted.keyring_package}."
        raise PackagesUnreachable(msg)

    def _mirror(self, archive: str) -> str:
        wanted = ARCHIVES[archive]
        if named := os.environ.get(wanted.mirror_variable):
            return named
        if configured := _configured_mirror(wanted.origin):
            return configured
        if archive == "ubuntu" and _configured_mirror(ARCHIVES["debian"].origin):
            return self._mirror_that_debootstrap_knows()
        msg = (
            f"Where {wanted.origin} is, apt does not know here: "
            f"set {wanted.mirror_variable} to the address of a mirror, or run apt-get update first."
        )
        raise PackagesUnreachable(msg)

    def _mirror_that_debootstrap_knows(self) -> str:
        unpacked = self._unpack(self._apt("debian", _DEBIAN_WITH_UBUNTU_KEYS), "debootstrap")
        script = (unpacked / "usr/share/debootstrap/scripts/noble").read_text(encoding="utf-8")
        found = re.search(r"\bamd64\b.*?default_mirror (\S+)", script, re.DOTALL)
        if found is None:
            raise PackagesUnreachable("debootstrap names no mirror of Ubuntu: set DONTNEED_UBUNTU_MIRROR to one.")
        return found[1]


def _configured_mirror(origin: str) -> str | None:
    """The mirror in this machine's apt sources that calls itself `origin`; the ones of security updates do not."""
    targets = _run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"], UPDATE_SECONDS)
    for line in targets.splitlines():
        found_origin, label, address = line.split("|")
        if found_origin == label == origin:
            return address
    return None


# An apt of our own


class Apt:
    """apt with one source, which sees nothing of the sources, lists and keys of this machine."""

    def __init__(self, directory: Path, source: str) -> None:
        self._directory = directory
        self._source = source
        self._sources = directory / "sources.list"
        options = {
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": getpass.getuser(),  # the keyring and the cache may be where only we can read
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::Languages": "none",
            "Dir::Cache": directory / "cache",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "Dir::Etc::SourceList": self._sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Trusted": "/dev/null",
            "Dir::Etc::TrustedParts": "/dev/null",
            "Dir::State": directory / "state",
            "Dir::State::Status": directory / "status",
        }
        self._options = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def update_once(self) -> None:
        """Read the archive's lists, unless they are here."""
        if self._sources.exists() and self._sources.read_text(encoding="utf-8") == self._source:
            return
        for needed in ("cache/archives/partial", "state/lists/partial"):
            (self._directory / needed).mkdir(parents=True, exist_ok=True)
        (self._directory / "status").touch()
        self._sources.write_text(self._source, encoding="utf-8")
        try:
            # Without this an archive that cannot be reached is only a warning.
            self._get("update", "-o", "APT::Update::Error-Mode=any", seconds=UPDATE_SECONDS)
        except PackagesUnreachable:
            self._sources.unlink()
            raise

    def newest(self, name_pattern: re.Pattern[str]) -> str:
        """The name of the newest package that is called so."""
        names = _run(["apt-cache", *self._options, "pkgnames", "linux-"], UPDATE_SECONDS).split()
        matching = sorted(filter(name_pattern.fullmatch, names), key=_age)
        if not matching:
            msg = f"No package is called {name_pattern.pattern} in: {self._source}"
            raise PackagesUnreachable(msg)
        return matching[-1]

    def download(self, package: str, directory: Path) -> Path:
        """Fetch the package into the directory; apt checks it against the signed lists."""
        self._get("download", package, seconds=DOWNLOAD_SECONDS, directory=directory)
        return next(directory.glob("*.deb"))

    def _get(self, verb: str, *words: str, seconds: float, directory: Path | None = None) -> str:
        return _run(["apt-get", "-qq", *self._options, verb, *words], seconds, directory)


def _age(name: str) -> tuple[list[int], bool]:
    """Sorts newer packages after older ones, and of two with one version the one that holds more."""
    return [int(number) for number in re.findall(r"\d+", name)], name.startswith("linux-binary-")


_IMAGES = ("boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz")
"""Where a package has the kernel's image; the second is Debian's since 7.2."""


def _keep_image(unpacked: Path, place: Path) -> None:
    """Move the kernel's image to its place, note which package it was, and let the rest go: modules are large."""
    image = next((found for where in _IMAGES for found in unpacked.glob(where)), None)
    if image is None:
        msg = f"No kernel image in the package {unpacked.name}."
        raise PackagesUnreachable(msg)
    place.mkdir(parents=True, exist_ok=True)
    (place / "package").write_text(f"{unpacked.name}\n", encoding="utf-8")
    image.rename(place / "vmlinuz")
    shutil.rmtree(unpacked)


def _run(command: list[str], seconds: float, directory: Path | None = None) -> str:
    """What the command prints."""
    try:
        done = subprocess.run(
            command, cwd=directory, timeout=seconds, check=False, capture_output=True, text=True, encoding="utf-8"
        )
    except FileNotFoundError as error:
        msg = f"The command {command[0]} is missing: this needs apt and dpkg."
        raise PackagesUnreachable(msg) from error
    except subprocess.TimeoutExpired as error:
        msg = f"{' '.join(command[-2:])} took more than {seconds:.0f} s."
        raise PackagesUnreachable(msg) from error
    if done.returncode:
        msg = f"{command[0]} {' '.join(command[-2:])} failed: {done.stderr.strip()}"
        raise PackagesUnreachable(msg)
    return done.stdout
