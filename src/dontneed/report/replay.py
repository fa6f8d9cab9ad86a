"""A replayed trace: RSS as it was and as the model predicts it, what each madvise did; as text and as JSON."""

from __future__ import annotations

from itertools import pairwise

from dontneed.abi.advice import Advice
from dontneed.records import Record
from dontneed.report.table import format_table, printable
from dontneed.units import format_bytes, format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from dontneed.observe.trace.summary import AdviceUse

    Array = NDArray[Any]

_COLUMNS, _ROWS = 64, 12
_BARS = " ▁▂▃▄▅▆▇█"
_FULL = len(_BARS) - 1
_NONE = "-"
_GROUP_HEADER = ("CALLS", "ZAPPED", "TRACED", "LAZY", "REFAULTS", "TRACED", "REFAULTED", "TRACED", "ALL CALLS OF")
_ADVICE_HEADER = ("AT", "ZAPPED", "TRACED", "LAZY", "REFAULTS", "TRACED", "REFAULTED", "FIRST", "HALF", "MADVISE")
"""What is TRACED is what the trace says of the column before it."""


class ReplayedAdvice(Record):
    """What one madvise did, in the model, and how soon what it took away was touched again.

    Attributes:
        at: seconds from the start of the trace.
        thread: whose call.
        start, end: addresses.
        advice: number of the MADV_*.
        result: what the traced kernel answered: 0, or a negative errno.
        zapped_bytes: by how much RSS fell.
        lazy_bytes: of anonymous memory that MADV_FREE marked; that it was written again no fault tells.
        refaults: pages that it took away and that were touched before anything else became of them.
        refaulted_bytes: what these touches brought.
        first_seconds, median_seconds: from its return to the first of these touches, and to half of them; None: none.
        traced: what the trace says of the same call.
    """

    at: float
    thread: int
    start: int
    end: int
    advice: int
    result: int
    zapped_bytes: int
    lazy_bytes: int
    refaults: int
    refaulted_bytes: int
    first_seconds: float | None
    median_seconds: float | None
    traced: AdviceUse | None


class Prediction(Record):
    """What the model of one kernel makes of the trace.

    Attributes:
        kernel: its version.
        huge_pages: its word for transparent huge pages.
        rss_bytes: RSS at each moment.
        peak_rss_bytes, last_rss_bytes: the largest of these, and the last.
        huge_faults: faults that brought a huge page.
        otherwise: how many calls it answers otherwise than the traced kernel did, by name.
        advices: what each madvise did, in their order.
    """

    kernel: str
    huge_pages: str
    rss_bytes: Array
    peak_rss_bytes: int
    last_rss_bytes: int
    huge_faults: int
    otherwise: dict[str, int]
    advices: tuple[ReplayedAdvice, ...]


class Replay(Record):
    """A trace, replayed.

    Attributes:
        pid, command: whose events were replayed.
        kernel: the release of the traced one.
        seconds: how long the trace is.
        faults, calls: how many were replayed.
        times: of each moment the seconds from the start of the trace.
        rss_bytes: of each moment RSS as the kernel counted it.
        peak_rss_bytes, last_rss_bytes: the largest of these, and the last.
        predicted: what the model of the traced kernel comes to.
        mean_error: by how much that is off on average, as a share of RSS.
        largest_error_bytes: at most; positive where the model has more.
        largest_error_at: when, in seconds.
        what_if: what the model of another kernel comes to, or with another word for huge pages; None: not asked.
        notes: what is to be known of it, in sentences.
    """

    pid: int
    command: str
    kernel: str
    seconds: float
    faults: int
    calls: int
    times: Array
    rss_bytes: Array
    peak_rss_bytes: int
    last_rss_bytes: int
    predicted: Prediction
    mean_error: float
    largest_error_bytes: int
    largest_error_at: float
    what_if: Prediction | None
    notes: tuple[str, ...]


def format_replay(replay: Replay, top: int) -> list[str]:
    """The lines of a replay.

    Args:
        replay: what was replayed.
        top: how many madvise calls are listed; 0 for all.
    """
    return [*_head(replay), "", *_picture(replay), "", *_moments(replay), *_advices(_shown(replay).advices, top)]


def replay_document(replay: Replay) -> dict[str, Any]:
    """A replay as an object for JSON: RSS in equal steps, the most in each."""
    left_out = ("times", "rss_bytes", "predicted", "what_if", "notes")
    fields = {field: value for field, value in replay.as_dict().items() if field not in left_out}
    return {
        **fields,
        "moments": len(replay.times),
        "step_seconds": float(replay.times[-1]) / _COLUMNS,
        "rss_bytes": _columns(replay.times, replay.rss_bytes),
        "predicted": _prediction_document(replay, replay.predicted),
        "what_if": None if replay.what_if is None else _prediction_document(replay, replay.what_if),
        "notes": list(replay.notes),
    }


def _prediction_document(replay: Replay, prediction: Prediction) -> dict[str, Any]:
    return {
        **prediction.as_dict(),
        "rss_bytes": _columns(replay.times, prediction.rss_bytes),
        "advices": [{**each.as_dict(), "name": _advice_name(each.advice)} for each in prediction.advices],
    }


def _shown(replay: Replay) -> Prediction:
    """The prediction that was asked for."""
    return replay.what_if or replay.predicted


def _head(replay: Replay) -> Iterator[str]:
    yield (
        f"process {replay.pid} ({printable(replay.command)}), {format_seconds(replay.seconds)}: "
        f"{replay.faults:,} faults and {replay.calls:,} system calls replayed in {_words(replay.predicted)}"
    )
    worst = format_bytes(replay.largest_error_bytes)
    sign = "+" if replay.largest_error_bytes > 0 else ""
    yield (
        f"RSS is predicted at {len(replay.times):,} moments with an error of {replay.mean_error:.2%} on average, "
        f"of {sign}{worst} at most, at {format_seconds(replay.largest_error_at)}"
    )
    if replay.what_if is not None:
        yield f"what if: {_words(replay.what_if)}"
    yield from replay.notes


def _words(prediction: Prediction) -> str:
    return f"the model of Linux {prediction.kernel}, huge pages {prediction.huge_pages}"


def _lines(replay: Replay) -> list[tuple[str, Array, int, int]]:
    """What RSS was, and what is predicted: a word, the values, the largest, the last."""
    lines = [
        ("real", replay.rss_bytes, replay.peak_rss_bytes, replay.last_rss_bytes),
        (
            "predicted",
            replay.predicted.rss_bytes,
            replay.predicted.peak_rss_bytes,
            replay.predicted.last_rss_bytes,
        ),
    ]
    other = replay.what_if
    if other is not None:
        lines.append(("what if", other.rss_bytes, other.peak_rss_bytes, other.last_rss_bytes))
    return lines


def _picture(replay: Replay) -> Iterator[str]:
    """RSS over time, a line each, all by the same measure."""
    lines = _lines(replay)
    width = max(len(word) for word, *_ in lines)
    highest = max(1, *(peak for _, _, peak, _ in lines))
    for word, values, peak, last in lines:
        heights = _columns(replay.times, values)
        bar = "".join(_BARS[-(-height * _FULL // highest) if height > 0 else 0] for height in heights)
        yield f"{word:>{width}}  {bar}  at most {format_bytes(peak)}, at last {format_bytes(last)}"


def _moments(replay: Replay) -> list[str]:
    """Some moments, as far apart as can be."""
    import numpy as np

    times = np.linspace(0, float(replay.times[-1]), _ROWS + 1)[1:]
    places = np.unique(np.searchsorted(replay.times, times, side="right") - 1)
    lines = _lines(replay)
    header = ["AT", *(word.upper() for word, *_ in lines), "ERROR"]
    rows = []
    for place in places[places >= 0].tolist():
        real, predicted = int(replay.rss_bytes[place]), int(replay.predicted.rss_bytes[place])
        error = f"{(predicted - real) / real:+.2%}" if real else _NONE
        sizes = [format_bytes(int(values[place])) for _, values, *_ in lines]
        rows.append((format_seconds(float(replay.times[place])), *sizes, error))
    return format_table(header, rows)


def _columns(times: Array, values: Array) -> list[int]:
    """The largest value in each of equal spans of time; what it was before, where nothing changes."""
    import numpy as np

    edges = np.linspace(0, float(times[-1]), _COLUMNS + 1)[1:-1]
    cuts = [0, *np.searchsorted(times, edges, side="left").tolist(), len(times)]
    columns = []
    for begin, end in pairwise(cuts):
        first = max(begin - 1, 0)
        columns.append(int(values[first : max(end, first + 1)].max()) if end else 0)
    return columns


# What madvise did


def _advices(advices: Sequence[ReplayedAdvice], top: int) -> Iterator[str]:
    """The calls by advice, and each of them; of many those that zapped most, in their order."""
    if not advices:
        return
    yield ""
    numbers = sorted({each.advice for each in advices})
    groups = [_group_row([each for each in advices if each.advice == number]) for number in numbers]
    yield from format_table(_GROUP_HEADER, groups, left=(8,))
    doing = [each for each in advices if each.zapped_bytes or each.lazy_bytes or _of_trace(each, "zapped_bytes")]
    if not doing:
        return
    yield ""
    shown = doing
    if top and len(doing) > top:
        shown = sorted(sorted(doing, key=lambda each: -_done(each))[:top], key=lambda each: each.at)
    yield from format_table(_ADVICE_HEADER, [_advice_row(each) for each in shown], left=(9,))
    if len(shown) < len(doing):
        yield f"and {len(doing) - len(shown):,} more that did less: --top 0 shows all"


def _done(each: ReplayedAdvice) -> int:
    return max(each.zapped_bytes, each.lazy_bytes)


def _group_row(group: Sequence[ReplayedAdvice]) -> tuple[str, ...]:
    return (
        f"{len(group):,}",
        format_bytes(sum(each.zapped_bytes for each in group)),
        format_bytes(sum(_of_trace(each, "zapped_bytes") for each in group)),
        format_bytes(sum(each.lazy_bytes for each in group)),
        f"{sum(each.refaults for each in group):,}",
        f"{sum(_of_trace(each, 'refaults') for each in group):,}",
        format_bytes(sum(each.refaulted_bytes for each in group)),
        format_bytes(sum(_of_trace(each, "refaulted_bytes") for each in group)),
        _advice_name(group[0].advice),
    )


def _advice_row(each: ReplayedAdvice) -> tuple[str, ...]:
    return (
        format_seconds(each.at),
        format_bytes(each.zapped_bytes),
        _NONE if each.traced is None else format_bytes(each.traced.zapped_bytes),
        format_bytes(each.lazy_bytes) if each.lazy_bytes else _NONE,
        f"{each.refaults:,}",
        _NONE if each.traced is None else f"{each.traced.refaults:,}",
        format_bytes(each.refaulted_bytes),
        _NONE if each.first_seconds is None else format_seconds(each.first_seconds),
        _NONE if each.median_seconds is None else format_seconds(each.median_seconds),
        f"{each.start:x}-{each.end:x} {_advice_name(each.advice)}{_refusal(each.result)}",
    )


def _of_trace(each: ReplayedAdvice, field: str) -> int:
    """What the trace says, 0 where it says nothing."""
    use: AdviceUse | None = each.traced
    return 0 if use is None else int(getattr(use, field))


def _refusal(result: int) -> str:
    return "" if result == 0 else f", refused: errno {-result}"


def _advice_name(number: int) -> str:
    return next((advice.name for advice in Advice.all() if int(advice) == number), str(number))
