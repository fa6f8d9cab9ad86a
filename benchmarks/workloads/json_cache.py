"""A cache of JSON documents, filled by 16 threads: each unit parses many, keeps a few of them, and forgets as many."""

from __future__ import annotations

import json
import queue
import random
import threading
import zlib
from typing import Any

from protocol import serve

_THREADS, _DOCUMENTS, _KEPT_EVERY = 16, 40, 12


class Cache:
    """Documents by key; the checksum of each is known from before it was parsed."""

    def __init__(self) -> None:
        self._documents: dict[str, tuple[int, Any]] = {}
        self._lock = threading.Lock()
        self._orders: queue.Queue[tuple[int, int]] = queue.Queue()
        self._unit = 0
        for _ in range(_THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def unit(self) -> int:
        """Have every thread parse its documents; how many are kept then."""
        self._unit += 1
        for thread in range(_THREADS):
            self._orders.put((self._unit, thread))
        self._orders.join()
        return len(self._documents)

    def check(self) -> int:
        """Every document must give the text again that it was parsed from."""
        total = 0
        for key, (checksum, document) in sorted(self._documents.items()):
            if zlib.crc32(json.dumps(document).encode()) != checksum:
                message = f"{key} is not what was parsed"
                raise RuntimeError(message)
            total = zlib.crc32(key.encode(), total ^ checksum)
        return total

    def _work(self) -> None:
        while True:
            unit, thread = self._orders.get()
            try:
                self._parse(unit, thread)
            finally:
                self._orders.task_done()

    def _parse(self, unit: int, thread: int) -> None:
        source = random.Random(unit * _THREADS + thread)  # noqa: S311 - the same in each run
        parsed = []
        for nth in range(_DOCUMENTS):
            text = _text(source)
            parsed.append((f"{thread}/{nth}", zlib.crc32(text.encode()), json.loads(text)))
        with self._lock:
            # The same keys in every unit: what was kept before is forgotten.
            self._documents.update({key: (checksum, each) for key, checksum, each in parsed[::_KEPT_EVERY]})


def _text(source: random.Random) -> str:
    return json.dumps(
        [
            {
                "id": source.randrange(10**9),
                "name": f"name {source.random()}",
                "tags": [f"tag {nth}" for nth in range(6)],
            }
            for _ in range(source.randrange(100, 300))
        ]
    )


def main() -> None:
    """Serve, with a cache that is empty at first."""
    cache = Cache()
    serve({"unit": cache.unit, "check": cache.check})


if __name__ == "__main__":
    main()
