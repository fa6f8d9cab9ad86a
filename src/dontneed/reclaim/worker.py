"""The helper process's side of a release: takes an order, carries it out, answers with the receipt."""

from __future__ import annotations

from dontneed.reclaim.carry_out import carry_out
from dontneed.remote.helper import serve


def main() -> None:
    """Serve one order."""
    serve(carry_out)
