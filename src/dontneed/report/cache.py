"""What of files is in the page cache: as text, as text with a bar a file, and as JSON."""

from __future__ import annotations

from dontneed.report.table import format_table, printable
from dontneed.units import PAGE_BYTES, format_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from dontneed.observe.cache.cached_file import CachedFile, CacheTotal
    from dontneed.observe.cache.file_tree import Unread
    from dontneed.observe.cache.page_cache import PageCache

    Run = tuple[int, int]

_BAR_COLUMNS = 60
_SHOWN = 3
"""Of those that refused, by name."""


def format_cache(found: PageCache, shown: Sequence[CachedFile], *, bars: bool = False) -> list[str]:
    """The lines of a look at the page cache, or of an eviction.

    Args:
        found: all of it.
        shown: the files that get a row.
        bars: a bar each instead, of which pages are cached.
    """
    total = found.total
    lines = [_headline(found, total), ""] if shown else [_headline(found, total)]
    if bars:
        for file in shown:
            lines += [printable(file.path), _bar_line(file)]
    elif shown:
        lines += _table(shown, evicted=total.left_bytes is not None)
    if 0 < len(shown) < total.files:
        lines.append(f"… and {total.files - len(shown):,} more; --top 0 shows all")
    notes = list(_notes(found, total))
    return [*lines, *([""] if notes else []), *notes]


def format_bar(runs: Sequence[Run], pages: int) -> str:
    """A bar as vmtouch prints it: a letter for so many pages, `O` if all are cached, `o` if some are, a space if none.

    Args:
        runs: of cached pages, in order.
        pages: of the file.
    """
    each = 1 if pages <= _BAR_COLUMNS else pages // _BAR_COLUMNS + 1
    cached = [0] * -(-pages // each)
    for start, count in runs:
        first, last = start // each, (start + count - 1) // each
        for cell in range(first, last + 1):
            cached[cell] += min(start + count, (cell + 1) * each) - max(start, cell * each)
    whole = [min(each, pages - cell * each) for cell in range(len(cached))]
    letters = ("O" if some == all_ else "o" if some else " " for some, all_ in zip(cached, whole, strict=True))
    return f"[{''.join(letters)}] {sum(cached)}/{pages}"


def cache_document(found: PageCache, shown: Sequence[CachedFile]) -> dict[str, Any]:
    """A look at the page cache, or an eviction, as an object for JSON."""
    return {
        "method": found.method,
        "page_bytes": PAGE_BYTES,
        "total": found.total,
        "directories": found.directories,
        "hard_links": found.hard_links,
        "symlinks": found.symlinks,
        "special": found.special,
        "vanished": found.vanished,
        "other_file_systems": found.other_file_systems,
        "unread": found.unread,
        "in_memory_bytes": found.in_memory_bytes,
        "files": shown,
    }


def _headline(found: PageCache, total: CacheTotal) -> str:
    things = [_counted(total.files, "file")]
    if found.directories:
        things.append(_counted(found.directories, "directory", "directories"))
    whole = total.pages * PAGE_BYTES
    share = f" ({_percent(total.cached_bytes, whole)} %)" if whole else ""
    line = f"{', '.join(things)}: {format_bytes(total.cached_bytes)} of {format_bytes(whole)} cached{share}"
    if total.left_bytes is not None:
        gone = max(0, total.cached_bytes - total.left_bytes)
        return f"{line}; {format_bytes(gone)} evicted, {format_bytes(total.left_bytes)} left"
    return f"{line}, {format_bytes(total.dirty_bytes)} of that dirty" if total.dirty_bytes else line


def _table(shown: Sequence[CachedFile], *, evicted: bool) -> list[str]:
    dirty = any(file.dirty_bytes or file.writeback_bytes for file in shown)
    header = ["CACHED", "SIZE", "%"]
    header += ["LEFT"] if evicted else []
    header += ["DIRTY"] if dirty else []
    rows = []
    for file in shown:
        row = [format_bytes(file.cached_bytes), format_bytes(file.size_bytes)]
        row.append(_percent(file.cached_pages, file.pages) if file.pages else "")
        row += [format_bytes(file.left_bytes or 0)] if evicted else []
        row += [_known(file.dirty_bytes, file.writeback_bytes)] if dirty else []
        rows.append([*row, printable(file.path)])
    return format_table([*header, "FILE"], rows, left={len(header)})


def _bar_line(file: CachedFile) -> str:
    if file.runs is None:
        return (
            f"{format_bytes(file.cached_bytes)} cached; which pages, the kernel tells its owner, or who may write to it"
        )
    return format_bar(file.runs, file.pages)


def _notes(found: PageCache, total: CacheTotal) -> Iterator[str]:
    """What was left out, and why something is left: a sentence each."""
    if total.left_bytes:
        written = (total.dirty_bytes or 0) + (total.writeback_bytes or 0)
        if written:
            yield (
                f"{format_bytes(written)} left: dirty, or being written. Nothing was waited for: evict again a little "
                "later, or after `sync`"
            )
        if found.in_memory_bytes:
            yield f"{format_bytes(found.in_memory_bytes)} left: files in memory only (tmpfs), which are nowhere else"
        rest = total.left_bytes - written - found.in_memory_bytes
        if rest > 0:
            dirty = "dirty (mincore cannot tell), " if "mincore" in found.method else ""
            yield f"{format_bytes(rest)} left: {dirty}mapped, locked, in use, or read again meanwhile"
    yield from _grouped(found.unread, "could not be read, and is in no sum", "could not be read, and are in no sum")
    yield from _grouped(found.other_file_systems, "was not descended into", "were not descended into")
    passed = [
        (found.hard_links, "further name of a file that was counted", "further names of files that were counted"),
        (found.symlinks, "symbolic link", "symbolic links"),
        (found.special, "special file", "special files"),
        (found.vanished, "file that went meanwhile", "files that went meanwhile"),
    ]
    words = [_counted(count, one, many) for count, one, many in passed if count]
    if words:
        yield f"passed by: {', '.join(words)}"
    if "mincore" in found.method and total.left_bytes is None and total.dirty_bytes is None and total.files:
        yield "asked by mincore, which cannot tell what is dirty"


def _grouped(unread: Sequence[Unread], one: str, many: str) -> Iterator[str]:
    """A sentence for those that have the same reason."""
    by_reason: dict[str, list[str]] = {}
    for each in unread:
        by_reason.setdefault(each.why, []).append(each.path)
    for why, paths in by_reason.items():
        names = ", ".join(map(printable, paths[:_SHOWN]))
        more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
        yield f"{names}{more} {one if len(paths) == 1 else many}: {why}"


def _known(*counts: int | None) -> str:
    known = [count for count in counts if count is not None]
    return format_bytes(sum(known)) if known else "?"


def _percent(part: int, whole: int) -> str:
    """Rounded so that 100 is all, and 0 nothing."""
    if part in (0, whole):
        return "100" if part else "0"
    return str(min(99, max(1, round(100 * part / whole))))


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"
