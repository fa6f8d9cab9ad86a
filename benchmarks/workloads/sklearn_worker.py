"""A worker that trains and predicts: a unit fits a forest by two threads; the model that serves stays in memory."""

from __future__ import annotations

import zlib

import numpy as np
from protocol import serve
from sklearn.ensemble import RandomForestClassifier

_ROWS, _COLUMNS = 12_000, 24


def main() -> None:
    """Train the model that serves, and serve."""
    features, labels = _examples(1)
    model = RandomForestClassifier(n_estimators=30, max_depth=12, random_state=1, n_jobs=2).fit(features, labels)
    serve({"unit": _unit, "check": lambda: _predicted(model, features)})


def _examples(seed: int) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(seed)
    features = source.normal(size=(_ROWS, _COLUMNS))
    return features, (features[:, :3].sum(axis=1) + source.normal(size=_ROWS) > 0).astype(int)


def _unit() -> int:
    """Fit on new examples and predict; the result is always the same."""
    features, labels = _examples(2)
    wide = np.hstack([features, features**2, np.abs(features)])
    forest = RandomForestClassifier(n_estimators=20, random_state=2, n_jobs=2).fit(wide, labels)
    return _predicted(forest, wide[:2000])


def _predicted(forest: RandomForestClassifier, features: np.ndarray) -> int:
    """What a forest says of these, in a number; one thread adds the trees up, for two do it in any order."""
    return zlib.crc32(forest.set_params(n_jobs=1).predict_proba(features).tobytes())


if __name__ == "__main__":
    main()
