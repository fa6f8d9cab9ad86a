"""Results as JSON: `"schema": 1`, sizes in bytes, addresses as integers; and an address space read back from it."""

from __future__ import annotations

import json

from dontneed.errors import UsageError
from dontneed.kernel.smaps import SmapsCounters
from dontneed.kernel.status import Counters
from dontneed.observe.mapping import Mapping
from dontneed.records import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from dontneed.observe.address_space import AddressSpace
    from dontneed.observe.difference import Difference

SCHEMA = 1
_SINCE_TABLES = ("accessed_bytes", "dirty_bytes")
"""Fields of a mapping that looks saved by 0.1 do not have."""
_COMPARED = (("start", int), ("end", int), ("rss_bytes", int), ("swap_bytes", int))
_SHOWN = (("perms", str), ("kind", str), ("name", str))


def format_json(document: dict[str, Any]) -> str:
    """A document with its schema number first; records in it become objects."""
    return json.dumps({"schema": SCHEMA, **document}, indent=2, default=_plain)


def address_space_document(space: AddressSpace, mappings: Iterable[Mapping]) -> dict[str, Any]:
    """What `look --json` says; the totals are those of the whole address space, whichever mappings are shown."""
    return {
        "pid": space.pid,
        "command": space.command,
        "method": space.method,
        "total": _without_nothing(space.total),
        "counters": space.counters,
        "drift": space.drift,
        "notes": space.notes,
        "mappings": [_mapping_document(mapping) for mapping in mappings],
        **({"pages": _page_rows(space)} if space.pages is not None else {}),
    }


def difference_document(difference: Difference) -> dict[str, Any]:
    """What `look --diff FILE --json` says."""
    return {
        "counters": difference.counters,
        "gone": [_mapping_document(mapping) for mapping in difference.gone],
        "come": [_mapping_document(mapping) for mapping in difference.come],
        "changed": [
            {
                **_mapping_document(change.after),
                "size_change_bytes": change.size_bytes,
                "rss_change_bytes": change.rss_bytes,
                "swap_change_bytes": change.swap_bytes,
            }
            for change in difference.changed
        ],
    }


def parse_address_space(text: str) -> tuple[int, list[Mapping], Counters]:
    """The pid, mappings and counters in what `look --json` said earlier.

    Raises:
        UsageError: the text is something else.
    """
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            msg = f"this is schema {document['schema']} of look --json, and schema {SCHEMA} is what I read"
            raise UsageError(msg, hint="save a new one with: dontneed look PID --json > FILE")
        mappings = [_parsed_mapping(row) for row in document["mappings"]]
        if sum(mapping.size_bytes for mapping in mappings) != document["total"]["size_bytes"]:
            msg = "the file holds some of the mappings only: it was saved with --top"
            raise UsageError(msg, hint="save all of them with: dontneed look PID --json > FILE")
        counters = Counters(**document["counters"])
        _check_types(counters, ((field, int) for field in Counters._fields))
        return document["pid"], mappings, counters
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        msg = "the file does not hold what `dontneed look PID --json` prints"
        raise UsageError(msg, hint="save one with: dontneed look PID --json > FILE") from None


def _mapping_document(mapping: Mapping) -> dict[str, Any]:
    """The fields of a mapping; smaps, if it was read, beside them instead of inside."""
    row = mapping.as_dict()
    smaps = row.pop("smaps")
    row["size_bytes"] = mapping.size_bytes
    if smaps is not None:
        row.update(smaps.as_dict())
    return row


def _parsed_mapping(row: dict[str, Any]) -> Mapping:
    smaps = None
    if "pss_bytes" in row:
        counted = {field: row[field] for field in SmapsCounters._fields}
        smaps = SmapsCounters(**{**counted, "flags": tuple(row["flags"])})
    fields = {field: row[field] for field in Mapping._fields if field not in ("smaps", *_SINCE_TABLES)}
    fields.update((field, row.get(field)) for field in _SINCE_TABLES)
    mapping = Mapping(**fields, smaps=smaps)
    _check_types(mapping, (*_COMPARED, *_SHOWN))
    return mapping


def _check_types(record: Record, types: Iterable[tuple[str, type]]) -> None:
    """A file that somebody has edited may have anything anywhere.

    Raises:
        TypeError: a field is of another type.
    """
    for field, kind in types:
        if not isinstance(getattr(record, field), kind):
            msg = f"{field} is no {kind.__name__}"
            raise TypeError(msg)


def _page_rows(space: AddressSpace) -> list[dict[str, Any]]:
    if space.pages is None:
        return []
    names = space.pages.runs.dtype.names or ()
    return [dict(zip(names, row, strict=True)) for row in space.pages.runs.tolist()]


def _without_nothing(record: Record) -> dict[str, Any]:
    return {field: value for field, value in record.as_dict().items() if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, Record):
        return value.as_dict()
    msg = f"{type(value).__name__} has no JSON form"
    raise TypeError(msg)
