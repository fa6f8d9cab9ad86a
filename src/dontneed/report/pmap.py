"""An address space as `pmap -x` of procps-ng 4 prints it, to the kilobyte and to the column."""

from __future__ import annotations

from dontneed.records import Record
from dontneed.report.table import printable
from dontneed.units import KIB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dontneed.observe.mapping import Mapping

HEADER = "Address           Kbytes     RSS   Dirty Mode  Mapping"
_RULE = "---------------- ------- ------- ------- "


class PmapRow(Record):
    """A line of `pmap -x`: sizes in KiB, the mode as `rw-s-`."""

    address: int
    kbytes: int
    rss_kbytes: int
    dirty_kbytes: int
    mode: str
    mapping: str


def pmap_rows(mappings: Iterable[Mapping]) -> list[PmapRow]:
    """The lines of `pmap -x`; Dirty is 0 for a mapping that was read without smaps."""
    return [
        PmapRow(
            address=mapping.start,
            kbytes=mapping.size_bytes // KIB,
            rss_kbytes=mapping.rss_bytes // KIB,
            dirty_kbytes=mapping.smaps.dirty_bytes // KIB if mapping.smaps else 0,
            mode=mapping.perms.replace("p", "-") + "-",
            mapping=_title(mapping),
        )
        for mapping in mappings
    ]


def format_pmap_row(row: PmapRow) -> str:
    """One line, aligned under `HEADER`."""
    return f"{row.address:016x} {row.kbytes:7d} {row.rss_kbytes:7d} {row.dirty_kbytes:7d} {row.mode} {row.mapping}"


def format_pmap_total(rows: Iterable[PmapRow]) -> list[str]:
    """The rule and the line of totals."""
    rows = list(rows)
    kbytes, rss, dirty = (
        sum(getattr(row, column) for row in rows) for column in ("kbytes", "rss_kbytes", "dirty_kbytes")
    )
    return [_RULE, f"{'total kB':16s} {kbytes:7d} {rss:7d} {dirty:7d}"]


def format_pmap(rows: Iterable[PmapRow]) -> str:
    """The table: header, a line a mapping, totals."""
    rows = list(rows)
    return "\n".join([HEADER, *map(format_pmap_row, rows), *format_pmap_total(rows)])


def _title(mapping: Mapping) -> str:
    """The last part of a path, or what pmap writes for memory without one."""
    if mapping.name.startswith("/SYSV"):
        return f"  [ shmid=0x{mapping.inode:x} ]"
    _, slash, last = mapping.name.rpartition("/")
    if slash:
        return printable(last) or slash
    return "  [ stack ]" if mapping.kind == "stack" else "  [ anon ]"
