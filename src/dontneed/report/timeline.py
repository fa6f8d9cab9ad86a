"""A timeline as text: RSS over time as a picture, what was called, where faults were, what each madvise did; events."""

from __future__ import annotations

from itertools import pairwise

from dontneed.abi.advice import Advice
from dontneed.observe.trace.summary import in_rss
from dontneed.report.table import format_table, printable
from dontneed.report.trace_events import events_of
from dontneed.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from dontneed.observe.trace.summary import AdviceUse, MappingUse, Summary
    from dontneed.observe.trace.timeline import Timeline

_COLUMNS, _ROWS = 64, 8
_BARS = " ▁▂▃▄▅▆▇█"
_FULL = len(_BARS) - 1
_SHARES = ("anonymous", "file", "shmem", "swap")
_NONE = "-"


def format_timeline(timeline: Timeline, summary: Summary, top: int) -> list[str]:
    """The lines of a trace.

    Args:
        timeline: what was traced.
        summary: what it comes to.
        top: how many mappings and madvise calls are listed; 0 for all.
    """
    return [
        *_head(timeline, summary),
        "",
        *_picture(summary),
        *_calls(summary),
        *_mappings(summary.mappings, top, several=len({use.pid for use in summary.mappings if use.pid}) > 1),
        *_advices(summary.advices, top),
    ]


def timeline_document(timeline: Timeline, summary: Summary, *, events: bool) -> dict[str, Any]:
    """A trace as an object for JSON.

    Args:
        timeline: what was traced.
        summary: what it comes to.
        events: whether every event is in it, too.
    """
    left_out = ("events", "threads", "maps", "names", "rss")
    head = {field: value for field, value in timeline.as_dict().items() if field not in left_out}
    return {
        **head,
        "seconds": timeline.seconds,
        "counts": summary.counts,
        "peak_rss_bytes": summary.peak_rss_bytes,
        "last_rss_bytes": summary.last_rss_bytes,
        "rss": _rss_document(summary),
        "calls": list(summary.calls),
        "mappings": list(summary.mappings),
        "advices": [{**use.as_dict(), "name": _advice_name(use.advice)} for use in summary.advices],
        **({"events": list(events_of(timeline))} if events else {}),
    }


# The head and the picture


def _head(timeline: Timeline, summary: Summary) -> Iterator[str]:
    counts = summary.counts
    seconds = format_seconds(timeline.seconds)
    yield (
        f"process {timeline.pid} ({printable(timeline.command)}), {seconds}: {len(timeline.events):,} events, "
        f"{counts['fault']:,} faults, {counts['call']:,} system calls, "
        f"{counts['allocated']:,} allocations and {counts['freed']:,} frees of frames"
    )
    if timeline.lost:
        yield f"LOST: {timeline.lost:,} records found no room; what follows is incomplete (a larger --buffer helps)"
    else:
        yield "nothing was lost"
    if timeline.exit_code:
        yield f"it ended with {_exit_words(timeline.exit_code)}"
    yield from timeline.notes


def _exit_words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _picture(summary: Summary) -> Iterator[str]:
    """RSS over time, and a line for each kind of memory in it."""
    heights = _columns(summary, in_rss(summary.rss))
    peak = max(*heights, 1)
    label = format_bytes(peak)
    width = max(len(label), *map(len, _SHARES))
    yield f"{'RSS':>{width}}  at most {label}, at last {format_bytes(summary.last_rss_bytes)}"
    eighths = [round(height * _ROWS * _FULL / peak) for height in heights]
    for row in range(_ROWS - 1, -1, -1):
        bar = "".join(_BARS[min(max(height - row * _FULL, 0), _FULL)] for height in eighths)
        yield f"{label if row == _ROWS - 1 else '':>{width}} ┤{bar}".rstrip()
    seconds = format_seconds(float(summary.rss_times[-1]))
    yield f"{'0':>{width}} └{'─' * (_COLUMNS - len(seconds) - 1)} {seconds}"
    for name in _SHARES:
        values = _columns(summary, summary.rss[name])
        most = max(values)
        if most > 0:
            bar = "".join(_BARS[-(-value * _FULL // most) if value > 0 else 0] for value in values)
            yield f"{name:>{width}}  {bar}  at most {format_bytes(most)}"


def _columns(summary: Summary, values: NDArray[Any]) -> list[int]:
    """The largest value in each of equal spans of time; what it was before, where nothing changes."""
    import numpy as np

    times = summary.rss_times
    edges = np.linspace(0, float(times[-1]), _COLUMNS + 1)[1:-1]
    cuts = [0, *np.searchsorted(times, edges, side="left").tolist(), len(times)]
    return [
        int(values[max(begin - 1, 0) : max(end, 1)].max()) if nth else int(values[: max(end, 1)].max())
        for nth, (begin, end) in enumerate(pairwise(cuts))
    ]


def _rss_document(summary: Summary) -> dict[str, Any]:
    """RSS over time in equal steps, as in the picture: the most in each."""
    return {
        "step_seconds": float(summary.rss_times[-1]) / _COLUMNS,
        **{f"{name}_bytes": _columns(summary, values) for name, values in summary.rss.items()},
    }


# The tables


def _calls(summary: Summary) -> Iterator[str]:
    if not summary.calls:
        return
    yield ""
    rows = [
        (
            f"{use.count:,}",
            f"{use.failed:,}" if use.failed else _NONE,
            format_seconds(use.seconds),
            format_bytes(use.rss_bytes),
            f"{use.freed_frames:,}",
            f"{use.flushes:,}",
            use.name,
        )
        for use in summary.calls
    ]
    yield from format_table(("CALLS", "FAILED", "TIME", "RSS", "FREED FRAMES", "TLB FLUSHES", "CALL"), rows, left=(6,))


def _mappings(uses: Sequence[MappingUse], top: int, *, several: bool) -> Iterator[str]:
    if not uses:
        return
    yield ""
    shown = uses[:top] if top else uses
    rows = [
        (
            f"{use.faults:,}",
            f"{use.reads:,}",
            f"{use.writes:,}",
            f"{use.fetches:,}",
            format_bytes(use.brought_bytes),
            format_bytes(use.zapped_bytes),
            _place(use, several=several),
        )
        for use in shown
    ]
    header = ("FAULTS", "READ", "WRITE", "FETCH", "BROUGHT", "ZAPPED", "MAPPING")
    yield from format_table(header, rows, left=(6,))
    if len(shown) < len(uses):
        yield f"and {len(uses) - len(shown):,} more mappings: --top 0 shows all"


def _place(use: MappingUse, *, several: bool) -> str:
    if not use.end:
        return "in no mapping that is known"
    whose = f"{use.pid}: " if several else ""
    return f"{whose}{use.start:x}-{use.end:x} {use.perms} {printable(use.name)}".rstrip()


def _advices(uses: Sequence[AdviceUse], top: int) -> Iterator[str]:
    """Each madvise; of many those that zapped most, in their order."""
    if not uses:
        return
    yield ""
    shown = list(uses)
    if top and len(uses) > top:
        shown = sorted(sorted(uses, key=lambda use: -use.zapped_bytes)[:top], key=lambda use: use.at)
    rows = [
        (
            format_seconds(use.at),
            format_bytes(use.zapped_bytes),
            f"{use.freed_frames:,}",
            f"{use.refaults:,}",
            format_bytes(use.refaulted_bytes),
            _NONE if use.first_seconds is None else format_seconds(use.first_seconds),
            _NONE if use.median_seconds is None else format_seconds(use.median_seconds),
            format_seconds(use.seconds),
            f"{use.start:x}-{use.end:x} {_advice_name(use.advice)}{_result_words(use.result)}",
        )
        for use in shown
    ]
    header = ("AT", "ZAPPED", "FREED FRAMES", "REFAULTS", "REFAULTED", "FIRST", "HALF", "TOOK", "MADVISE")
    yield from format_table(header, rows, left=(8,))
    if len(shown) < len(uses):
        yield f"and {len(uses) - len(shown):,} more that zapped less: --top 0 shows all"


def _result_words(result: int | None) -> str:
    if result is None:
        return ", did not return"
    return "" if result == 0 else f", refused: errno {-result}"


def _advice_name(number: int) -> str:
    return next((advice.name for advice in Advice.all() if int(advice) == number), str(number))
