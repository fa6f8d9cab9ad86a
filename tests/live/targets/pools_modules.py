"""CPython's own tests, by the names of their modules, beside a thread that waits; says how each of them went."""

from __future__ import annotations

import io
import sys
import threading
import unittest
from contextlib import redirect_stdout


def main(names):
    """Run them one after the other."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    for name in names:
        said = io.StringIO()
        with redirect_stdout(said):
            result = unittest.TextTestRunner(said).run(unittest.defaultTestLoader.loadTestsFromName(f"test.{name}"))
        if not result.wasSuccessful():
            print(said.getvalue()[-4000:], file=sys.stderr)
        print(name, result.testsRun, len(result.failures) + len(result.errors), flush=True)


main(sys.argv[1:])
