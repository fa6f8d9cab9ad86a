"""mapped_file.py PATH: maps a file and has read all of it, as a program reads its data."""

from __future__ import annotations

import mmap
import sys
import zlib

from protocol import serve


def main() -> None:
    """Map, read, and serve."""
    with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        zlib.crc32(mapped)
        serve({"check": lambda: zlib.crc32(mapped)})


if __name__ == "__main__":
    main()
