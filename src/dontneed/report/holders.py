"""What all processes hold: as text, as JSON, as CSV."""

from __future__ import annotations

from dontneed.observe.holders.holder import Holder
from dontneed.report.table import format_table, printable
from dontneed.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dontneed.observe.holders.holder import Holders

_UNKNOWN = "-"


def format_holders(holders: Holders, shown: Sequence[Holder]) -> list[str]:
    """The lines of a look at all processes: the sums, a row a process, and how it was read.

    Args:
        holders: all of them.
        shown: those that get a row, in this order.
    """
    lines = [_headline(holders), "", *_table(shown)]
    if hidden := len(holders.processes) - len(shown):
        lines.append(f"… {hidden:,} more {_rest(holders, shown)}(--top 0 shows all)")
    read = f"read by {holders.method} in {format_seconds(holders.seconds)}"
    return [*lines, "", read, *(f"note: {note}" for note in holders.notes)]


def holders_document(holders: Holders, shown: Sequence[Holder]) -> dict[str, Any]:
    """A look at all processes as an object for JSON; the sums are those of all, whichever are shown."""
    return {
        "method": holders.method,
        "seconds": holders.seconds,
        "notes": holders.notes,
        "total": holders.total,
        "processes": shown,
    }


def format_holders_csv(shown: Sequence[Holder]) -> str:
    """A header, and a row a process; a cell is empty where an amount is not known."""
    import csv
    import io

    from dontneed.report.csv import escaped

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Holder._fields)
    for holder in shown:
        writer.writerow(holder.replace(command=escaped(holder.command)).as_dict().values())
    return text.getvalue().rstrip("\n")


def _headline(holders: Holders) -> str:
    total = holders.total
    count = f"{total.processes:,} process{'' if total.processes == 1 else 'es'}"
    parts = []
    if total.unknown < total.processes:
        whose = f" of {total.processes - total.unknown:,} of them" if total.unknown else ""
        parts.append(f"{format_bytes(total.pss_bytes)} PSS, {format_bytes(total.uss_bytes)} USS{whose}")
    else:
        parts.append(f"{format_bytes(total.rss_bytes)} RSS, shared pages once a process")
    if total.swap_bytes:
        parts.append(f"{format_bytes(total.swap_bytes)} in swap")
    if total.hugetlb_bytes:
        parts.append(f"{format_bytes(total.hugetlb_bytes)} of hugetlb")
    parts.append(f"{format_bytes(total.page_table_bytes)} of page tables")
    return f"{count}: {', '.join(parts)}"


def _rest(holders: Holders, shown: Sequence[Holder]) -> str:
    """What those hold that are not shown, as far as it is known."""
    pids = {holder.pid for holder in shown}
    rest = [holder for holder in holders.processes if holder.pid not in pids]
    if all(holder.pss_bytes is None for holder in rest):
        return ""
    return f"hold {format_bytes(sum(holder.pss_bytes or 0 for holder in rest if holder.same_as is None))} PSS "


def _table(shown: Sequence[Holder]) -> list[str]:
    """A row a process; a column that is empty everywhere is left out."""
    columns = [
        ("RSS", [format_bytes(holder.rss_bytes) for holder in shown]),
        ("USS", [_known(holder.uss_bytes) for holder in shown]),
        ("PSS", [_known(holder.pss_bytes) for holder in shown]),
        ("SWAP", [format_bytes(holder.swap_bytes) for holder in shown]),
        ("HUGETLB", [format_bytes(holder.hugetlb_bytes) for holder in shown]),
        ("TABLES", [format_bytes(holder.page_table_bytes) for holder in shown]),
        ("PID", [str(holder.pid) for holder in shown]),
        ("COMMAND", [_name(holder) for holder in shown]),
    ]
    columns = [
        (title, cells) for title, cells in columns if title not in ("SWAP", "HUGETLB") or {*cells} - {format_bytes(0)}
    ]
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    return format_table([title for title, _ in columns], rows, left=(len(columns) - 1,))


def _known(amount: int | None) -> str:
    return _UNKNOWN if amount is None else format_bytes(amount)


def _name(holder: Holder) -> str:
    name = printable(holder.command)
    return name if holder.same_as is None else f"{name} (in the memory of {holder.same_as})"
