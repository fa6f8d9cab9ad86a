"""objects.py COUNT clustered|random: many small objects, most of them freed; those that survive keep their arenas.

`clustered`: 5 % survive, a hundred neighbours in every two thousand. `random`: 0.2 %, anywhere.
"""

from __future__ import annotations

import random
import sys
import zlib

from protocol import serve

_CLUSTER, _NEIGHBOURS = 100, 2000


def main() -> None:
    """Make the objects, free most, and serve."""
    count, kind = int(sys.argv[1]), sys.argv[2]
    survivors = _survivors(count, kind)
    serve({"check": lambda: _checksum(survivors), "unit": lambda: _use(survivors)})


def _survivors(count: int, kind: str) -> list[str]:
    objects = [f"object number {nth:09d} of {count}, with a text" for nth in range(count)]
    if kind == "clustered":
        return [each for nth, each in enumerate(objects) if nth % _NEIGHBOURS < _CLUSTER]
    return random.Random(1).sample(objects, count // 500)  # noqa: S311 - the same in each run


def _checksum(survivors: list[str]) -> int:
    total = 0
    for each in survivors:
        total = zlib.crc32(each.encode(), total)
    return total


def _use(survivors: list[str]) -> int:
    """Make and free objects of all small sizes, as a program that goes on would; it always comes to the same."""
    made = [each[: nth % len(each)] * (1 + nth % 5) for nth, each in enumerate(survivors)]
    made += [bytes([nth % 256]) * (nth % 500) for nth in range(50_000)]  # type: ignore[list-item]
    return sum(map(len, made))


if __name__ == "__main__":
    main()
