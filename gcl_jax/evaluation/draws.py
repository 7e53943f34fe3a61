"""Bootstrap draws of groups (patients), and percentile intervals."""

from collections.abc import Iterator

import numpy as np

from gcl_jax.data.text import one_forms
from gcl_jax.errors import DataError

_BLOCK = 2_000_000  # weights held at once


def resample(
  rows: int, groups: np.ndarray | None, samples: int, seed: int
) -> Iterator[np.ndarray]:
  """Yields blocks float64[s, rows], the count of each row in each draw.

  Yields nothing for fewer than two groups, which have no spread.
  """
  groups = np.arange(rows) if groups is None else one_forms(groups, "groups")
  if len(groups) != rows:
    raise DataError(f"{len(groups)} groups for {rows} rows")
  _, member = np.unique(groups, return_inverse=True)
  count = int(member.max()) + 1 if rows else 0
  if count < 2:
    return
  rng = np.random.default_rng(seed)
  size = max(1, _BLOCK // max(rows, count))
  for start in range(0, samples, size):
    block = min(size, samples - start)
    drawn = rng.integers(count, size=(block, count))
    drawn += np.arange(block)[:, None] * count
    times = np.bincount(drawn.ravel(), minlength=block * count)
    yield times.reshape(block, count)[:, member].astype(np.float64)


def summary(
  value: float | None, draws: np.ndarray, rows: int, level: float = 0.95
) -> dict[str, float | int | None]:
  """Value and percentile interval of draws float[S] (NaN for undefined)."""
  result = {"value": value, "low": None, "high": None, "n": rows}
  defined = draws[np.isfinite(draws)]
  if value is not None and len(defined) and 2 * len(defined) >= len(draws):
    tail = (1 - level) / 2
    low, high = np.quantile(defined, [tail, 1 - tail])
    result |= {"low": float(low), "high": float(high)}
  return result
