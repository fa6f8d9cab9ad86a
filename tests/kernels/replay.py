"""Sequences of the differential engine, carried out by a kernel in a guest and by the model of its version.

The engine's executor is a static program: it runs in the guest as it does beside the tests, all sequences in one boot.
Kinds that need swap are left out, since the guest has none.

What a record holds is cut to what can be foretold. smaps names flags that depend on how a kernel was built
(soft-dirty). The counters of status were kept in parts, summed up only now and then, from 2.6.34 until 6.16 and 6.12.y.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from boot import BOOT_SECONDS, run_in_kernel
from expectations import behaviour_of

sys.path.insert(0, str(Path(__file__).parents[1]))

from differential.engine import Disagreement
from differential.executor import build
from differential.generate import KINDS, generate
from differential.modelled import predict
from differential.sequences import COUNTERS, SMAPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measurement import Measurement

KINDS_WITHOUT_SWAP = tuple(name for name, kind in KINDS.items() if "swap" not in kind.needs)

LENGTH = 30
"""Operations in a sequence: what comes later hides behind what went wrong before."""

SEQUENCE_SECONDS = 2
"""What one may take at most, all in all."""

_ANSWER = struct.Struct("<I")
_FAILED = 0xFFFF_FFFF


def counts_exactly(measured: Measurement) -> bool:
    """Whether the kernel's status showed one page as soon as it was touched, and no more when it was zapped."""
    return measured.facts["counters.rss_kib_of_pages_touched_and_zapped"].startswith("1=+4-4 ")


def replay(vmlinuz: Path, measured: Measurement, kind: str, seed: int, count: int) -> list[Disagreement]:
    """Where this kernel and the model of its version say different things.

    Args:
        vmlinuz: the kernel's image.
        measured: what the probes found on it.
        kind: of sequences.
        seed: with it the same sequences are made again.
        count: how many.
    Raises:
        GuestFailed: the guest did not come to its end in time.
    """
    unforetold = SMAPS if counts_exactly(measured) else SMAPS | COUNTERS
    generated = (generate(KINDS[kind], seed, number, LENGTH) for number in range(count))
    sequences = [sequence.replace(parts=sequence.parts & ~unforetold) for sequence in generated]
    encoded = b"".join(sequence.encode() for sequence in sequences)
    said = run_in_kernel(vmlinuz, build(), encoded, BOOT_SECONDS + count * SEQUENCE_SECONDS)
    behaviour = behaviour_of(measured)
    found = []
    for sequence, live in zip(sequences, _answers(said), strict=True):
        predicted = predict(sequence, behaviour)
        if live != predicted:
            found.append(Disagreement(sequence, live, predicted))
    return found


def _answers(said: bytes) -> Iterator[bytes | None]:
    """What was said of each sequence; None where its process came to grief."""
    at = 0
    while at < len(said):
        (length,) = _ANSWER.unpack_from(said, at)
        at += _ANSWER.size
        if length == _FAILED:
            yield None
            continue
        yield said[at : at + length]
        at += length
