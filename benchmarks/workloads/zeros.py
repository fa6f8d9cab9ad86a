"""zeros.py BYTES: memory that was written once and is all zero again, beside some that is not."""

from __future__ import annotations

import random
import sys
import zlib

from protocol import serve

_FULL_BYTES = 1 << 24


def main() -> None:
    """Fill with ones, clear, and serve."""
    size = int(sys.argv[1])
    cleared = bytearray(b"\1") * size
    cleared[:] = bytes(size)
    full = random.Random(1).randbytes(_FULL_BYTES)  # noqa: S311 - the same in each run
    serve({"check": lambda: zlib.crc32(cleared, zlib.crc32(full))})


if __name__ == "__main__":
    main()
