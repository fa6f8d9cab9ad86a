"""The mappings of an address space as CSV: a header, a row a mapping, sizes in bytes, addresses in hexadecimal."""

from __future__ import annotations

import csv
import io

from dontneed.kernel.smaps import SmapsCounters
from dontneed.observe.mapping import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_FIELDS = (*(field for field in Mapping._fields if field != "smaps"), "size_bytes")
_SMAPS_FIELDS = tuple(field for field in SmapsCounters._fields if field not in (*_FIELDS, "flags"))


def format_csv(mappings: Iterable[Mapping]) -> str:
    """The table; the columns of smaps and the flags are there if it was read."""
    mappings = list(mappings)
    detailed = any(mapping.smaps for mapping in mappings)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIELDS, *((*_SMAPS_FIELDS, "flags") if detailed else ())])
    for mapping in mappings:
        row = mapping.as_dict()
        row.update(start=f"{mapping.start:x}", end=f"{mapping.end:x}", name=escaped(mapping.name))
        row["size_bytes"] = mapping.size_bytes
        cells = [row[field] for field in _FIELDS]
        if detailed and mapping.smaps:
            cells += [getattr(mapping.smaps, field) for field in _SMAPS_FIELDS]
            cells.append("; ".join(mapping.smaps.flags))
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")


def escaped(name: str) -> str:
    r"""A name with control characters, and bytes that are no UTF-8, as the kernel prints a newline: `\012`.

    A table is also read on a terminal, which would obey them.
    """
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else _in_octal(letter) for letter in name)


def _in_octal(letter: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in letter.encode("utf-8", "surrogateescape"))
