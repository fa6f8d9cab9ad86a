"""A worker that reads, merges and groups tables: a unit is a file of orders, joined to customers that stay."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pandas as pd
from protocol import serve

_CUSTOMERS, _ORDERS = 120_000, 400_000


def main() -> None:
    """Load the customers, and serve."""
    customers = _customers()
    serve({"unit": lambda: _unit(customers), "check": lambda: _checksum(customers)})


def _customers() -> pd.DataFrame:
    source = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "customer": np.arange(_CUSTOMERS),
            "name": [f"customer {nth:06d}" for nth in range(_CUSTOMERS)],
            "region": source.choice(["north", "east", "south", "west"], _CUSTOMERS),
            "limit": source.random(_CUSTOMERS),
        }
    )


def _unit(customers: pd.DataFrame) -> float:
    """Read a file of orders, join, group; the result is always the same."""
    orders = pd.read_csv(io.StringIO(_orders()))
    joined = orders.merge(customers, on="customer")
    joined["label"] = joined["name"] + " in " + joined["region"]
    grouped = joined.groupby(["region", "label"])["amount"].agg(["sum", "mean", "count"]).reset_index()
    by_region = joined.groupby("region")["amount"].sum()
    return round(float(by_region.sum()) + len(grouped), 3)


def _orders() -> str:
    source = np.random.default_rng(2)
    rows = zip(source.integers(_CUSTOMERS, size=_ORDERS), source.integers(100_000, size=_ORDERS), strict=True)
    return "customer,amount,note\n" + "".join(f"{who},{cents / 100},note {cents}\n" for who, cents in rows)


def _checksum(customers: pd.DataFrame) -> int:
    return zlib.crc32(pd.util.hash_pandas_object(customers).to_numpy().tobytes())


if __name__ == "__main__":
    main()
