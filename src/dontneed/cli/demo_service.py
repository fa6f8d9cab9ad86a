"""The service of the demo: a cache of JSON documents that has grown, and shrunk again. Knows nothing of dontneed.

Run as a program of its own: `python demo_service.py DOCUMENTS`. It says what it holds, and then answers every line on
its standard input with a line: `get` with a document, `digest` with one over all documents, `cure` after the usual
cures, gc.collect() and malloc_trim(0).
"""

import ctypes
import gc
import hashlib
import json
import random
import sys
import threading

SURVIVORS_PER_MILLE = 3
LOADERS = 4
_TEXT = '{"user": %d, "name": "user %d", "tags": ["a%d", "b%d"], "score": 0.5, "visits": [%d, %d, %d], "note": "%s"}'


def document(number: int) -> str:
    """The JSON text of one document, as it comes from a database."""
    return _TEXT % (*(number,) * 7, f"{number:x}" * 8)


class Cache:
    """Documents by number; most of them expire."""

    def __init__(self) -> None:
        self._documents: dict[int, object] = {}

    def load(self, count: int) -> None:
        """Parse `count` documents, on several threads as a server does."""
        threads = [
            threading.Thread(target=self._load, args=(range(first, count, LOADERS),)) for first in range(LOADERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _load(self, numbers: range) -> None:
        for number in numbers:
            self._documents[number] = json.loads(document(number))

    def expire(self) -> None:
        """Drop most documents: of those in use some are left anywhere, as it happens."""
        dice = random.Random(1)  # noqa: S311 - which ones is of no importance
        kept = [number for number in self._documents if dice.randrange(1000) < SURVIVORS_PER_MILLE]
        self._documents = {number: self._documents[number] for number in kept}

    def get(self) -> str:
        """Any document."""
        return json.dumps(random.choice(list(self._documents.values())))  # noqa: S311 - the same

    def digest(self) -> str:
        """One over all documents: it changes if a bit of any does."""
        return hashlib.sha256(json.dumps(self._documents).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._documents)


def cure() -> str:
    """What people paste, and hope."""
    gc.collect()
    return str(ctypes.CDLL(None).malloc_trim(0))


def serve(count: int) -> None:
    """Fill the cache, let it expire, and answer until nobody asks."""
    cache = Cache()
    cache.load(count)
    cache.expire()
    answers = {"get": cache.get, "digest": cache.digest, "cure": cure}
    print(f"{len(cache)} of {count} documents are left", flush=True)
    for line in sys.stdin:
        print(answers[line.strip()](), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
