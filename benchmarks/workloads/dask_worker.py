"""A Dask worker of two threads in a local cluster: each unit is a shuffle of many small tables; some data stays there.

The process that is released is the worker; this one has the scheduler and asks.
"""

from __future__ import annotations

import os
import zlib
from tempfile import TemporaryDirectory

import dask
import numpy as np
import pandas as pd
from distributed import Client, LocalCluster
from protocol import serve, tidy

_PARTS, _ROWS = 8, 80_000


def main() -> None:
    """Start the cluster, leave data with the worker, and serve."""
    with (
        TemporaryDirectory() as room,
        dask.config.set(temporary_directory=room),
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, memory_limit="4GB") as cluster,
        Client(cluster) as client,
    ):
        kept = client.map(table, range(100, 104), pure=False)
        client.gather(client.map(checksum, kept, pure=False))
        (pid,) = client.run(os.getpid).values()
        serve(
            {
                "unit": lambda: _unit(client),
                "check": lambda: client.gather(client.map(checksum, kept, pure=False)),
                "tidy": lambda: client.run(tidy) and None,
            },
            pid,
        )


def _unit(client: Client) -> float:
    """Make tables, group each, and put the groups together; the result is always the same."""
    tables = client.map(table, range(_PARTS), pure=False)
    return client.submit(together, client.map(grouped, tables, pure=False), pure=False).result()


def table(seed: int) -> pd.DataFrame:
    """A table with keys, numbers and texts."""
    source = np.random.default_rng(seed)
    keys = source.integers(20_000, size=_ROWS)
    return pd.DataFrame({"key": keys, "amount": source.random(_ROWS), "text": [f"text of {key}" for key in keys]})


def grouped(part: pd.DataFrame) -> dict[str, float]:
    """The sum of each text's amounts, as a dict of Python objects."""
    return part.groupby("text")["amount"].sum().to_dict()


def together(parts: list[dict[str, float]]) -> float:
    """The sums of all parts."""
    total: dict[str, float] = {}
    for part in parts:
        for text, amount in part.items():
            total[text] = total.get(text, 0.0) + amount
    return round(sum(total.values()) + len(total), 3)


def checksum(part: pd.DataFrame) -> int:
    """What a table holds, in a number."""
    return zlib.crc32(pd.util.hash_pandas_object(part).to_numpy().tobytes())


if __name__ == "__main__":
    main()
