"""The mappings of an address space as CSV: a header, a row a mapping, sizes in bytes, addresses in hexadecimal."""

from __future__ import annotations

import csv
import io

from dontneed.kernel.smaps import SmapsCounters
from dontneed.observe.mapping import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_FIELDS = tuple(field for field in Mapping._fields if field != "smaps")
_SMAPS_FIELDS = tuple(field for field in SmapsCounters._fields if field not in (*_FIELDS, "flags"))


def format_csv(mappings: Iterable[Mapping]) -> str:
    """The table; the columns of smaps and the flags are there if it was read."""
    mappings = list(mappings)
    detailed = any(mapping.smaps for mapping in mappings)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIELDS, *((*_SMAPS_FIELDS, "flags") if detailed else ())])
    for mapping in mappings:
        cells = [f"{mapping.start:x}", f"{mapping.end:x}", *(getattr(mapping, field) for field in _FIELDS[2:])]
        if detailed and mapping.smaps:
            cells += [getattr(mapping.smaps, field) for field in _SMAPS_FIELDS]
            cells.append("; ".join(mapping.smaps.flags))
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")
