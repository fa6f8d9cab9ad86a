"""The bench that an experiment works at: its process, its words, and the transcript that they write by themselves.

An experiment says what to do, when to look, and what it claims; the bench keeps the calls since the last look, takes
the snapshot, and makes a step of both. So no transcript can say anything but what was done.
"""

from __future__ import annotations

from dontneed.lab import spelling
from dontneed.lab.snapshot import take_snapshot
from dontneed.report.pmap import pmap_rows
from dontneed.report.transcript import Claim, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dontneed.abi.advice import Advice
    from dontneed.lab.machine import Faults, Kernel, Process, Reading, Region
    from dontneed.lab.snapshot import Snapshot
    from dontneed.lab.spelling import Spelling


class Bench:
    """One process of a machine, and what an experiment did with it.

    Attributes:
        kernel: the machine's.
        steps, claims: the transcript so far.
    """

    def __init__(self, process: Process, kernel: Kernel) -> None:
        self.kernel = kernel
        self.steps: list[Step] = []
        self.claims: list[Claim] = []
        self._process = process
        self._regions: list[Region] = []
        self._calls: list[Spelling] = []
        self._minor_faults = 0
        self._major_faults = 0

    def map(self, name: str, pages: int) -> Region:
        """Map private anonymous memory."""
        region = self._process.map(name, pages)
        self._regions.append(region)
        self._calls.append(spelling.mapping(region))
        return region

    def write(self, region: Region, letter: str) -> Faults:
        """Fill memory with a letter."""
        faults = self._process.write(region, ord(letter))
        self._calls.append(spelling.writing(region, letter))
        return self._counted(faults)

    def read(self, region: Region) -> Reading:
        """Read memory, every byte."""
        found = self._process.read(region)
        self._calls.append(spelling.reading(region))
        self._counted(found.faults)
        return found

    def advise(self, region: Region, advice: Advice) -> int:
        """Advise the kernel; the errno with which it refused, or 0."""
        refused = self._process.advise(region, advice)
        self._calls.append(spelling.advising(region, advice, refused))
        return refused

    def look(self, title: str) -> Snapshot:
        """See what became of the process, and call what was done since the last look a step with this title."""
        seen = take_snapshot(self._process, self._regions)
        rows = tuple(pmap_rows(seen.mappings))
        self.steps.append(
            Step(
                title=title,
                code="\n".join(call.c for call in self._calls),
                python="\n".join(call.python for call in self._calls),
                pmap=rows,
                regions=tuple(self._region_at(row.address) for row in rows),
                facts=self._facts(seen),
            )
        )
        self._calls.clear()
        self._minor_faults = self._major_faults = 0
        return seen

    def claim(self, text: str, expected: str, observed: str) -> None:
        """Claim that something is so; it holds if both say the same."""
        self.claims.append(Claim(text, expected, observed))

    def _counted(self, faults: Faults) -> Faults:
        self._minor_faults += faults.minor
        self._major_faults += faults.major
        return faults

    def _region_at(self, address: int) -> str:
        return next((region.name for region in self._regions if region.start <= address < region.end), "")

    def _facts(self, seen: Snapshot) -> dict[str, int]:
        """What pmap does not show."""
        held = [seen.held(region) for region in self._regions]
        facts = {
            "minor_faults": self._minor_faults,
            "major_faults": self._major_faults,
            "present_pages": sum(each.present_pages for each in held),
            "frames": sum(each.frames for each in held),
            "rss_bytes": seen.counters.rss_bytes,
            "page_table_bytes": seen.counters.page_table_bytes,
        }
        if not facts["frames"]:
            del facts["frames"]  # none, or hidden
        return facts
