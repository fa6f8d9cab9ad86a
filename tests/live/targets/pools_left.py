"""Many small objects, of which few survive; then gc and malloc_trim; at the end the survivors are checked.

Arguments: how many objects; `random` (0.2 % survive, anywhere) or `clustered` (5 %, in rows of 100).
Says, line by line: RSS before all objects, RSS when most have gone, RSS after gc.collect() and malloc_trim(0). Then
waits for input, checks, makes as many objects again, checks those, and says how many survivors were whole, and how many
there were.
"""

from __future__ import annotations

import ctypes
import gc
import random
import sys

OBJECTS_A_ROW = 4


def rss():
    """Resident bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def make(number):
    """Four small objects that hold each other."""
    return (number, f"row {number}", number * 0.5)


def survives(number, how):
    """Whether a row is kept."""
    return random.random() < 0.002 if how == "random" else number // 100 % 20 == 0  # noqa: S311 - a test that can be repeated


def main(count, how):
    """Make, drop, trim, wait, check."""
    random.seed(count)
    rows = count // OBJECTS_A_ROW
    trim = ctypes.CDLL(None).malloc_trim
    print(rss(), flush=True)
    made = [make(number) for number in range(rows)]
    kept = [row for row in made if survives(row[0], how)]
    del made
    print(rss(), flush=True)
    gc.collect()
    trim(0)
    print(rss(), flush=True)
    sys.stdin.readline()
    whole = sum(row == make(row[0]) for row in kept)
    again = [make(number) for number in range(rows)]
    assert all(row == make(number) for number, row in enumerate(again))
    print(whole, len(kept), flush=True)


main(int(sys.argv[1]), sys.argv[2])
