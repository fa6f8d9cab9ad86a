"""What a receipt says of itself."""

from __future__ import annotations

import pytest

from dontneed.kernel.status import Counters
from dontneed.reclaim.receipt import Receipt

NOTHING = dict.fromkeys(("freed", "deferred", "shared", "lazy", "cached", "refaulted"), 0)


def receipt(evidence="frames", **amounts):
    """A receipt for 12 KiB, of which 8 KiB were advised."""
    times = {"pause_seconds": 0.0, "cost_seconds": 0.0}
    return Receipt(
        asked=12288,
        advised=8192,
        **{**NOTHING, **amounts},
        **times,
        evidence=evidence,
        before=Counters(),
        after=Counters(),
    )


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (receipt(freed=8192), "8.0 KiB advised: 8.0 KiB freed (evidence: frames)"),
        (receipt(freed=4096, deferred=4096), "8.0 KiB advised: 4.0 KiB freed, 4.0 KiB deferred (evidence: frames)"),
        (receipt("counters"), "8.0 KiB advised: nothing freed (evidence: counters)"),
        (receipt("none"), "8.0 KiB advised; nobody looked what became of it"),
    ],
)
def test_a_receipt_is_a_sentence(what, sentence):
    """What came of it and how we know; what is 0 is left out."""
    assert str(what) == sentence
