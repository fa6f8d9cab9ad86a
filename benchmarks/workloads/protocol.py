"""How a workload is asked: a word on standard input, a line of JSON on standard output; it ends with its input.

Nothing but the standard library, and any Python: these are the programs whose memory is released.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def serve(words: dict[str, Callable[[], object]], pid: int | None = None) -> None:
    """Say who is ready, then answer until standard input ends.

    Args:
        words: what each word does; the answer has the result and the seconds that it took. All know `tidy` as well.
        pid: the process that does the work; None: this one.
    """
    known = {"tidy": tidy, **words}
    _answer({"pid": pid or os.getpid()})
    for line in sys.stdin:
        began = time.perf_counter()
        result = known[line.strip()]()
        _answer({"result": result, "seconds": time.perf_counter() - began})


def tidy() -> None:
    """What people do today: collect garbage, and have malloc trim."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _answer(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)
