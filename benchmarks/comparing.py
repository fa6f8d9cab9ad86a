"""`Comparison`: a subject beside a peer, by the medians of their samples, and whether that meets what we promised."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from dontneed.records import Record
from dontneed.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from measuring import Samples

SECONDS = "s"
THROUGHPUT = "GiB/s"
HELD = "B held"
GIVEN_BACK = "B given back"
FOUND = "B found"

_MORE_IS_BETTER = (THROUGHPUT, GIVEN_BACK, FOUND)
_NEXT_TO_NOTHING = {SECONDS: 1e-6, THROUGHPUT: 1e-6, HELD: 1.0, GIVEN_BACK: 1.0, FOUND: 1.0}
"""What a ratio takes for a median of 0: there are pauses that never happen, and peers that give nothing back."""


class Target(Record):
    """A promise.

    Attributes:
        text: in words, as it stands in the table.
        holds: whether it is kept, by the medians of the subject and of its peer, and by their ratio.
    """

    text: str
    holds: Callable[[float, float, float], bool]


class Comparison(Record):
    """One row of the results.

    Attributes:
        question, case: what was asked, and of what.
        subject, peer: whose samples these are.
        median, peer_median, unit: of their samples, in `SECONDS`, `THROUGHPUT`, `HELD`, `GIVEN_BACK` or `FOUND`.
        ratio: how many times as good the subject is as its peer: above 1 it is better, whatever the unit.
        target, met: the promise in words, and whether it is kept; None where nothing was promised.
        samples, peer_samples: all that was measured, in order.
    """

    question: str
    case: str
    subject: str
    peer: str
    median: float
    peer_median: float
    unit: str
    ratio: float
    target: str | None
    met: bool | None
    samples: list[float]
    peer_samples: list[float]


def at_least_times(factor: float) -> Target:
    """At least `factor` times as good as the peer."""
    return Target(f"≥ {factor:g} times", lambda _subject, _peer, ratio: ratio >= factor)


def no_worse() -> Target:
    """As good as the peer, or better; a hundredth may be chance."""
    return Target("no worse", lambda _subject, _peer, ratio: ratio >= 0.99)


def all_proven(proven: Sequence[float]) -> Target:
    """Every frame that is called free was looked up, in each sample."""
    return Target("all, by frames", lambda _subject, _peer, _ratio: all(proven))


def gives_back(before: Sequence[float], share: float, peer_share: float, *, of: float | None = None) -> Target:
    """At least this share comes back of what is held, or of an amount, where the peer gives back no more than that."""
    start = median(before)
    whole = start if of is None else of
    return Target(
        f"≥ {100 * share:.0f} % back, the peer ≤ {100 * peer_share:.0f} %",
        lambda subject, peer, _ratio: start - subject >= share * whole and start - peer <= peer_share * whole,
    )


def at_most(seconds: float) -> Target:
    """No longer than this, whatever the peer takes."""
    return Target(f"≤ {format_seconds(seconds)}", lambda subject, _peer, _ratio: subject <= seconds)


def at_most_more(seconds: float) -> Target:
    """No longer than the peer and this."""
    return Target(f"≤ {format_seconds(seconds)} more", lambda subject, peer, _ratio: subject - peer <= seconds)


class Case:
    """What was measured in one go: the samples of subjects and peers, to be set side by side in pairs."""

    def __init__(self, question: str, case: str, samples: Samples, unit: str = SECONDS) -> None:
        self._question = question
        self._case = case
        self._samples = samples
        self._unit = unit

    def compare(self, subject: str, peer: str, target: Target | None = None) -> Comparison:
        """Set one name's samples beside another's."""
        ours, theirs = self._samples[subject], self._samples[peer]
        middle, peer_middle = median(ours), median(theirs)
        least = _NEXT_TO_NOTHING[self._unit]
        times = max(middle, least) / max(peer_middle, least)
        ratio = times if self._unit in _MORE_IS_BETTER else 1 / times
        return Comparison(
            question=self._question,
            case=self._case,
            subject=subject,
            peer=peer,
            median=_rounded(middle),
            peer_median=_rounded(peer_middle),
            unit=self._unit,
            ratio=_rounded(ratio),
            target=target.text if target else None,
            met=target.holds(middle, peer_middle, ratio) if target else None,
            samples=[_rounded(sample) for sample in ours],
            peer_samples=[_rounded(sample) for sample in theirs],
        )


def _rounded(value: float) -> float:
    """Four digits: more than any of these measurements can be trusted with."""
    return float(f"{value:.4g}")
