"""Four threads that make, keep, change and check small objects without end, while the main thread waits for input.

Argument: the seconds for which each rests after every round. Each object says what it must be: whatever is not, is an
error. At the end: how many operations, how many errors.
"""

from __future__ import annotations

import random
import sys
import threading
from itertools import islice

WORKERS = 4
KEPT = 6000


class Node:
    """An object of pools of its own size class, with slots that know each other."""

    __slots__ = ("double", "number", "word")

    def __init__(self, number):
        self.number = number
        self.word = f"node {number}"
        self.double = float(number) * 2

    def sound(self):
        """Whether nothing of it has changed."""
        return self.word == f"node {self.number}" and self.double == self.number * 2.0


def make(number):
    """An object of one of several sizes, which `sound` can check."""
    shapes = (
        Node(number),
        (number, str(number), float(number)),
        {"number": number, "word": str(number)},
        bytes([number % 251]) * (number % 480 + 1),
        [number] * (number % 50),
    )
    return number, shapes[number % len(shapes)]


def sound(number, thing):
    """Whether `thing` is still what `make(number)` made."""
    if isinstance(thing, Node):
        return thing.sound() and thing.number == number
    return thing == make(number)[1]


def work(seed, rest_seconds, stopped, results):
    """Make, keep, drop and check until stopped; leaves the numbers of operations and of errors."""
    rng = random.Random(seed)  # noqa: S311 - a test that can be repeated
    kept = {}
    operations = errors = 0
    while not stopped.is_set():
        for _ in range(400):
            number = rng.randrange(1 << 40)
            kept[number] = make(number)[1]
        if len(kept) > KEPT:  # a wave: most go, here and there one stays
            for number in list(kept):
                if rng.random() < 0.9:
                    errors += not sound(number, kept.pop(number))
        for number in list(islice(kept, 50)):
            errors += not sound(number, kept[number])
        operations += 450
        if rest_seconds:
            stopped.wait(rest_seconds)
    errors += sum(not sound(*item) for item in kept.items())
    results[seed] = operations, errors


def main(rest_seconds=0.0):
    """Run the workers until a line comes in."""
    sys.setswitchinterval(0.001)
    stopped, results = threading.Event(), {}
    workers = [threading.Thread(target=work, args=(seed, rest_seconds, stopped, results)) for seed in range(WORKERS)]
    for worker in workers:
        worker.start()
    print("ready", flush=True)
    sys.stdin.readline()
    stopped.set()
    for worker in workers:
        worker.join()
    print(*(sum(column) for column in zip(*results.values(), strict=True)), flush=True)


main(*map(float, sys.argv[1:]))
