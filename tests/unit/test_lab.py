"""Experiments, their claims and their transcripts, on a machine of paper: nothing here asks a kernel.

The paper machine prints procfs bytes of a process with one region, and can be told to misbehave in one way at a time:
so we see that a claim which holds is one that could have failed.
"""

from __future__ import annotations

import errno
import gzip
import json
import os
from array import array
from typing import TYPE_CHECKING

import pytest

from dontneed.abi.advice import Advice
from dontneed.abi.page_table import SLOT_BYTES, TABLE_BYTES, frees_emptied_tables, whole_slots
from dontneed.errors import KernelLacks, NotPermitted, UsageError
from dontneed.kernel.build import parse_build_option, parse_version, read_build_option
from dontneed.lab import spelling
from dontneed.lab.catalogue import NAMES, experiment_named, machine_named, run_experiment
from dontneed.lab.experiments.anonymous import EXPERIMENT, PAGES, SIZE
from dontneed.lab.machine import PRIVATE_ANONYMOUS, Faults, Kernel, Reading, Region
from dontneed.lab.snapshot import take_snapshot
from dontneed.report.transcript import Claim, Run, format_run, run_document
from dontneed.units import KIB, PAGE_BYTES

if TYPE_CHECKING:
    from dontneed.model.views.descent import Stage

START = 0x7F00_0000_0000
HOME = 0x40_0000
ZERO_FRAME, FIRST_FRAME = 7, 1000
PRESENT = 1 << 63
RSS = "RSS of the region"
DIRTY = "Dirty of the region"
CONTENTS = "bytes found afterwards"
ZERO_RSS = "RSS that reading brings"
FAULTS = "minor faults to fill, read, refill"
TABLES = "VmPTE changes as this kernel's version predicts"

OLD = Kernel(release="6.12.0-paper", version=(6, 12), architecture="x86_64", pt_reclaim=None)
NEW = Kernel(release="6.14.0-paper", version=(6, 14), architecture="x86_64", pt_reclaim=None)


class _PaperProcess:
    """One region of pages: a byte each, or 0, the zero page, or None, nothing. `flaw` says what it does wrong."""

    def __init__(self, *, frees_tables: bool, flaw: str, frames_shown: bool) -> None:
        self._frees_tables = frees_tables
        self._flaw = flaw
        self._frames_shown = frames_shown
        self._pages: list[int | None] = []
        self._tables = 10
        self.ended = False

    def map(self, name: str, pages: int, **kinds: object) -> Region:
        assert kinds.get("kind", PRIVATE_ANONYMOUS) == PRIVATE_ANONYMOUS
        self._pages = [None] * pages
        return Region(name, START, pages * PAGE_BYTES)

    def write(self, region: Region, byte: int) -> Faults:
        if self._flaw == "is written to once" and 0 in self._pages:
            return self._faults(0)
        taken = sum(page in (None, 0) for page in self._pages)
        self._make_tables()
        self._pages = [byte] * region.pages
        return self._faults(taken)

    def read(self, region: Region) -> Reading:
        assert region.pages == len(self._pages)
        values = tuple(sorted({page or 0 for page in self._pages}))
        taken = sum(page is None for page in self._pages)
        self._make_tables()
        if self._flaw != "reading maps nothing":
            self._pages = [page or 0 for page in self._pages]
        if self._flaw == "reading brings frames":
            self._pages = [page or 255 for page in self._pages]
        return Reading(values, self._faults(taken))

    def advise(self, region: Region, advice: Advice) -> int:
        assert advice is Advice.DONTNEED
        if self._flaw == "does nothing":
            return 0
        if self._flaw == "refuses":
            return errno.EINVAL
        keep = 1 if self._flaw == "forgets a page" else 0
        self._pages = [90] * keep + [None] * (region.pages - keep)
        if self._frees_tables:
            self._tables -= region.size_bytes // SLOT_BYTES
        return 0

    def smaps(self) -> bytes:
        size, rss = len(self._pages) * PAGE_BYTES // KIB, sum(bool(page) for page in self._pages) * PAGE_BYTES // KIB
        end = START + len(self._pages) * PAGE_BYTES
        if self._flaw == "unmaps the last page" and not rss:
            end -= PAGE_BYTES
        perms = "r--p" if self._flaw == "takes the right to write" and None in self._pages else "rw-p"
        dirty = 0 if self._flaw == "never dirty" else rss
        return (
            f"{HOME:08x}-{HOME + 0x2000:08x} r-xp 00000000 fe:00 42   /bin/paper\n"
            "Rss:                   8 kB\nPrivate_Clean:         8 kB\nVmFlags: rd ex \n"
            f"{START:x}-{end:x} {perms} 00000000 00:00 0 \n"
            f"Size: {size} kB\nRss: {rss} kB\nPrivate_Dirty: {dirty} kB\nVmFlags: rd wr \n"
        ).encode()

    def status(self) -> bytes:
        rss = 8 + sum(bool(page) for page in self._pages) * PAGE_BYTES // KIB
        return f"Name:\tpaper\nVmRSS:\t{rss} kB\nVmPTE:\t{self._tables * TABLE_BYTES // KIB} kB\n".encode()

    def pagemap(self, region: Region) -> bytes:
        assert region.start == START
        return array("Q", [self._entry(number, page) for number, page in enumerate(self._pages)]).tobytes()

    def end(self) -> None:
        self.ended = True

    def __enter__(self) -> _PaperProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _make_tables(self) -> None:
        if not any(page is not None for page in self._pages) and (self._frees_tables or self._tables == 10):
            self._tables += len(self._pages) * PAGE_BYTES // SLOT_BYTES

    def _faults(self, taken: int) -> Faults:
        return Faults(taken + (self._flaw == "faults once too often"), 0)

    def _entry(self, number: int, page: int | None) -> int:
        frame = FIRST_FRAME + number if page else ZERO_FRAME
        return 0 if page is None else PRESENT | (frame if self._frames_shown else 0)


class _PaperMachine:
    """A machine whose kernel is `kernel`, and whose process has at most one flaw."""

    name = "paper"

    def __init__(self, kernel: Kernel = NEW, *, flaw: str = "", frames_shown: bool = True) -> None:
        self.kernel = kernel
        self.process = _PaperProcess(
            frees_tables=bool(kernel.frees_emptied_tables) and flaw != "keeps tables",
            flaw=flaw,
            frames_shown=frames_shown,
        )
        self.process.machine = self

    def start(self) -> _PaperProcess:
        return self.process

    def way(self) -> tuple[Stage, ...]:
        return ()


class _BarredMachine(_PaperMachine):
    """A machine on which nothing can be started, for the reason that it is given."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self._reason = reason

    def start(self) -> _PaperProcess:
        raise self._reason


def _failed(run: Run) -> list[str]:
    return [claim.text for claim in run.claims if not claim.holds]


# The seed's experiment


@pytest.mark.parametrize("kernel", [OLD, NEW])
def test_the_experiment_passes_on_a_kernel_of_paper(kernel):
    """The machine is an interface: a model of either kernel takes the place of the live one."""
    machine = _PaperMachine(kernel)
    run = run_experiment(EXPERIMENT, machine)
    assert (_failed(run), run.passed, run.skipped) == ([], True, None)
    assert (run.experiment, run.machine, run.kernel) == ("anonymous", "paper", kernel.release)
    assert machine.process.ended


@pytest.mark.parametrize(
    ("flaw", "claims"),
    [
        ("forgets a page", {RSS, DIRTY, CONTENTS, ZERO_RSS, FAULTS}),
        ("does nothing", {RSS, DIRTY, CONTENTS, ZERO_RSS, FAULTS, TABLES}),
        ("refuses", {RSS, DIRTY, CONTENTS, ZERO_RSS, FAULTS, TABLES}),
        ("never dirty", {DIRTY}),
        ("takes the right to write", {"the mapping"}),
        ("unmaps the last page", {"virtual size of the region", "the mapping"}),
        ("reading maps nothing", {"pages that reading maps to the zero page"}),
        ("reading brings frames", {ZERO_RSS, FAULTS}),
        ("is written to once", {"RSS that writing brings back", FAULTS}),
        ("faults once too often", {FAULTS}),
        ("keeps tables", {TABLES}),
    ],
)
def test_a_kernel_that_does_it_differently_fails_the_claims_about_that(flaw, claims):
    """Every claim can fail, and fails for its own reason."""
    run = run_experiment(EXPERIMENT, _PaperMachine(flaw=flaw))
    assert not run.passed
    assert set(_failed(run)) == claims


def test_page_tables_are_claimed_by_the_kernel_and_not_by_hope():
    """The same process fails under a kernel that promises more, and passes under one that promises what it does."""
    changes = {
        kernel.version: next(
            claim for claim in run_experiment(EXPERIMENT, _PaperMachine(kernel)).claims if "VmPTE" in claim.text
        )
        for kernel in (OLD, NEW)
    }
    assert changes[6, 12].observed == "0 KiB"
    assert changes[6, 14].observed == f"{-whole_slots(START, START + SIZE) * TABLE_BYTES // KIB} KiB"


def test_what_nobody_can_predict_is_not_claimed():
    """A kernel of the future, of another architecture, that hides its configuration: nine claims instead of ten."""
    unknown = Kernel(release="7.9.0", version=(7, 9), architecture="riscv64", pt_reclaim=None)
    run = run_experiment(EXPERIMENT, _PaperMachine(unknown))
    assert run.passed
    assert not any("VmPTE" in claim.text for claim in run.claims)


@pytest.mark.parametrize("reason", [KernelLacks("it has no smaps"), NotPermitted("it is not yours")])
def test_what_a_machine_or_a_right_cannot_give_is_skipped_with_the_reason(reason):
    """A skipped run says why, and has neither passed nor claimed anything."""
    run = run_experiment(EXPERIMENT, _BarredMachine(reason))
    assert run.skipped == str(reason)
    assert not run.passed
    assert run.claims == ()
    assert str(reason) in run.verdict


def test_frames_are_counted_where_they_are_shown():
    """With frame numbers, 1,024 pages are as many frames, or one; without, nothing is said of frames."""
    shown = [step.facts.get("frames") for step in run_experiment(EXPERIMENT, _PaperMachine()).steps]
    hidden = [step.facts.get("frames") for step in run_experiment(EXPERIMENT, _PaperMachine(frames_shown=False)).steps]
    assert shown == [None, PAGES, None, 1, PAGES]
    assert hidden == [None] * 5


def test_a_snapshot_counts_a_region_and_nothing_beside_it():
    """The other mapping of the process is in the snapshot, and not in what the region holds."""
    process = _PaperMachine().process
    region = process.map("p", 3)
    process.write(region, 1)
    snapshot = take_snapshot(process, [region])
    held = snapshot.held(region)
    assert [mapping.start for mapping in snapshot.mappings] == [HOME, START]
    assert (held.size_bytes, held.rss_bytes, held.dirty_bytes) == (3 * PAGE_BYTES,) * 3
    assert (held.present_pages, held.frames) == (3, 3)
    assert held.mappings == (f"{START:x}-{START + 3 * PAGE_BYTES:x} rw-p",)


# Transcripts


def test_the_document_has_what_programs_need():
    """Sizes are bytes, addresses integers, and the rows of the experiment's own memory are marked."""
    document = json.loads(json.dumps(run_document(run_experiment(EXPERIMENT, _PaperMachine()))))
    rows = [next(row for row in step["pmap"] if row["region"] == "p") for step in document["steps"]]
    assert [row["rss_bytes"] for row in rows] == [0, SIZE, 0, 0, SIZE]
    assert [row["dirty_bytes"] for row in rows] == [0, SIZE, 0, 0, SIZE]
    assert {row["size_bytes"] for row in rows} == {SIZE}
    assert {row["address"] for row in rows} == {START}
    assert all(len(step["pmap"]) == 2 for step in document["steps"])
    assert "MADV_DONTNEED" in document["steps"][2]["code"]
    assert document["passed"] is True
    assert document["skipped"] is None
    assert all(set(claim) == {"text", "holds", "expected", "observed"} for claim in document["claims"])


def test_the_transcript_reads_like_a_session():
    """The call, then what pmap prints of the region before the total; other mappings are one line."""
    lines = format_run(run_experiment(EXPERIMENT, _PaperMachine()))
    call = lines.index("   madvise(p, 4 MiB, MADV_DONTNEED);")
    assert lines[call + 2 : call + 7] == [
        "   Address           Kbytes     RSS   Dirty Mode  Mapping",
        "   00007f0000000000    4096       0       0 rw---   [ anon ]   ← p",
        "   … 1 other mappings, RSS 8 KiB",
        "   ---------------- ------- ------- ------- ",
        "   total kB            4104       8       0",
    ]
    assert lines[-1] == "All 10 claims hold on Linux 6.14.0-paper (paper)."


def test_a_claim_that_does_not_hold_says_what_was_expected():
    """And the verdict counts it."""
    lines = format_run(run_experiment(EXPERIMENT, _PaperMachine(flaw="never dirty")))
    assert "✗ Dirty of the region: expected 4096 → 0 KiB, observed 0 → 0 KiB" in lines
    assert lines[-1] == "1 of 10 claims does not hold on Linux 6.14.0-paper (paper)."


def test_a_plain_terminal_gets_plain_letters():
    """Without arrows and check marks the transcript says the same."""
    text = "\n".join(format_run(run_experiment(EXPERIMENT, _PaperMachine()), ascii_only=True))
    assert text.isascii()
    assert "+ RSS of the region: 4096 -> 0 KiB" in text


def test_a_run_without_claims_has_not_passed():
    """Nothing claimed is nothing shown."""
    assert not Run("empty", "?", "paper", "6.14").passed
    assert Run("one", "?", "paper", "6.14", claims=(Claim("it is", "so", "so"),)).passed


# Names and spellings


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_is_found_by_its_name(name):
    """Names are unique, and each has a question."""
    experiment = experiment_named(name)
    assert experiment.name == name
    assert NAMES.count(name) == 1
    assert experiment.question.endswith("?")


@pytest.mark.parametrize(("find", "there_is"), [(experiment_named, "anonymous"), (machine_named, "live")])
def test_an_unknown_name_is_refused_with_those_there_are(find, there_is):
    """A misspelling costs one look at the message."""
    with pytest.raises(UsageError, match="'anonymuos'") as refused:
        find("anonymuos")
    assert there_is in refused.value.hint


def test_a_part_of_a_region_is_a_region():
    """Under a name of its own, with addresses within the whole."""
    part = Region("p", START, 8 * PAGE_BYTES).part("q", 2, 3)
    assert (part.name, part.pages) == ("q", 3)
    assert (part.start, part.end) == (START + 2 * PAGE_BYTES, START + 5 * PAGE_BYTES)


def test_a_refused_advice_is_spelled_with_its_errno():
    """The C of the transcript says what the kernel answered; the Python does what was done."""
    said = spelling.advising(Region("p", START, 3 * PAGE_BYTES), Advice.FREE).refused(errno.EINVAL)
    assert said.c == f"madvise(p, {3 * PAGE_BYTES // KIB} KiB, MADV_FREE);  /* EINVAL */"
    assert said.python == "with suppress(OSError): dontneed.advise(p, Advice.FREE)"


# Facts of kernels


@pytest.mark.parametrize(
    ("start", "end", "slots"),
    [
        (0, SLOT_BYTES, 1),
        (0, 2 * SLOT_BYTES, 2),
        (0, SLOT_BYTES - PAGE_BYTES, 0),
        (PAGE_BYTES, SLOT_BYTES, 0),
        (PAGE_BYTES, 2 * SLOT_BYTES - PAGE_BYTES, 0),
        (PAGE_BYTES, 3 * SLOT_BYTES + PAGE_BYTES, 2),
    ],
)
def test_only_whole_slots_have_a_table_of_their_own(start, end, slots):
    """A table that also maps a page outside serves that page too."""
    assert whole_slots(start, end) == slots


@pytest.mark.parametrize(
    ("version", "architecture", "pt_reclaim", "frees"),
    [
        ((2, 6), "x86_64", None, False),
        ((6, 13), "x86_64", None, False),
        ((6, 14), "x86_64", None, True),
        ((6, 18), "x86_64", False, False),
        ((6, 12), "x86_64", True, True),
        ((6, 18), "aarch64", None, False),
        ((7, 0), "aarch64", None, None),
        ((7, 0), "aarch64", True, True),
    ],
)
def test_the_configuration_decides_and_the_version_stands_in_for_it(version, architecture, pt_reclaim, frees):
    """Who leaves PT_RECLAIM out of 6.18, or takes it back to 6.12, is believed."""
    assert frees_emptied_tables(version, architecture, pt_reclaim=pt_reclaim) is frees


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-generic", (6, 18)),
        ("2.6.32-431.el6.x86_64", (2, 6)),
        ("6.1.0-9-amd64", (6, 1)),
        ("7.0-rc1", (7, 0)),
        ("7", (7, 0)),
    ],
)
def test_a_release_begins_with_its_version(release, version):
    """Distributions append what they like."""
    assert parse_version(release) == version


@pytest.mark.parametrize(
    ("files", "built_in"),
    [
        ({"/proc/config.gz": gzip.compress(b"CONFIG_KSM=y\n")}, True),
        ({"/proc/config.gz": gzip.compress(b"CONFIG_SMP=y\n")}, False),
        ({f"/boot/config-{os.uname().release}": b"CONFIG_KSM=y\n"}, True),
        ({}, None),
    ],
)
def test_the_configuration_is_read_where_the_kernel_or_its_distribution_put_it(monkeypatch, files, built_in):
    """What is in neither place is not known, which is not the same as not set."""
    monkeypatch.setattr("dontneed.kernel.build._read", files.get)
    assert read_build_option("KSM") is built_in


def test_an_option_is_set_or_it_is_not():
    """`y` and `m` are; a comment, another option that begins alike, and a word are not."""
    text = b'CONFIG_SMP=y\nCONFIG_ZRAM=m\n# CONFIG_PT_RECLAIM is not set\nCONFIG_KSM_MORE=y\nCONFIG_HOST="y"\n'
    options = ("SMP", "ZRAM", "PT_RECLAIM", "KSM", "HOST")
    assert [parse_build_option(text, name) for name in options] == [True, True, False, False, False]
