"""mixture.py BYTES: a process that holds some of everything.

Small objects and blocks of malloc, freed in part; arrays, some full and some all zero; threads that wait.
"""

from __future__ import annotations

import random
import sys
import threading
import zlib

from protocol import serve

_OBJECT_BYTES, _BLOCK_BYTES, _ARRAY_BYTES = 128, 8192, 1 << 24
_THREADS = 16


def main() -> None:
    """Fill each quarter, start the threads, and serve."""
    quarter = int(sys.argv[1]) // 4
    source = random.Random(1)  # noqa: S311 - the same in each run
    objects = [
        f"object number {nth:09d}, with a text that is neither short nor long"
        for nth in range(quarter // _OBJECT_BYTES)
    ]
    blocks = [source.randbytes(_BLOCK_BYTES) for _ in range(quarter // _BLOCK_BYTES)]
    full = [bytearray(source.randbytes(_ARRAY_BYTES)) for _ in range(quarter // _ARRAY_BYTES)]
    empty = [bytearray(b"\1") * _ARRAY_BYTES for _ in range(quarter // _ARRAY_BYTES)]
    for array in empty:
        array[:] = bytes(_ARRAY_BYTES)
    live = [each for nth, each in enumerate(objects) if nth % 1000 < 500]
    kept = blocks[::2]
    del objects, blocks
    ended = threading.Event()
    for _ in range(_THREADS):
        threading.Thread(target=ended.wait, daemon=True).start()
    serve({"check": lambda: _checksum(live, [*kept, *full, *empty])})


def _checksum(texts: list[str], contents: list[bytes | bytearray]) -> int:
    total = zlib.crc32("".join(texts).encode())
    for each in contents:
        total = zlib.crc32(each, total)
    return total


if __name__ == "__main__":
    main()
