"""Fills, sorts and multiplies numpy arrays beside dictionaries of strings, and forgets half of them now and then."""

from __future__ import annotations

import sys

import numpy as np

_WIDTH = 1 << 18


def main(rounds: int) -> None:
    """As many rounds, the same in every run."""
    chance = np.random.default_rng(1)
    kept: list[object] = []
    for nth in range(rounds):
        numbers = np.sort(chance.random(_WIDTH)) * 2
        kept.append({key: str(key) * 3 for key in range(3000)})
        if nth % 3 == 0:
            kept.append(numbers)
        if nth % 7 == 0:
            kept = kept[len(kept) // 2 :]
    square = np.ones((1500, 1500))
    print((square @ square).sum())


if __name__ == "__main__":
    main(int(sys.argv[1]))
