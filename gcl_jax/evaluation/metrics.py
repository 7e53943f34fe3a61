"""Exact metrics with intervals by patient; undefined is None, never 0.5.

Labels and predictions are 1/0 (bool, int or float); scores are real numbers,
larger for "positive". Host code in numpy, float64.

All functions raise `DataError` for arrays of different length, for non-finite
values (drop unlabelled rows first) and, for binary metrics, for labels other
than 0 and 1.
"""

from collections.abc import Callable, Iterator

import numpy as np

from gcl_jax.data.text import one_forms
from gcl_jax.errors import DataError
from gcl_jax.evaluation import weighted
from gcl_jax.evaluation.overlap import dice as dice
from gcl_jax.evaluation.overlap import hd95 as hd95

_BLOCK = 2_000_000  # weights held at once while bootstrapping


def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None:
  """Area under the ROC curve by average ranks (ties count one half).

  Args:
    labels: [N] of 1/0.
    scores: float[N].

  Returns:
    A number in [0, 1], or None if only one class is present.

  Example:
    >>> auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
  """
  return _once(weighted.auroc, *_binary(labels, scores))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
  """Sum of (increase of recall) * precision, uninterpolated.

  It is None without a positive label.

  Args:
    labels: [N] of 1/0.
    scores: float[N].
  """
  return _once(weighted.average_precision, *_binary(labels, scores))


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float | None:
  """Share of rows in which both agree (any classes); None without rows."""
  return _once(weighted.accuracy, *_pair(labels, predictions))


def sensitivity(labels: np.ndarray, predictions: np.ndarray) -> float | None:
  """TP / (TP + FN), also called recall; None without a positive label."""
  return _once(weighted.sensitivity, *_binary(labels, predictions, True))


def specificity(labels: np.ndarray, predictions: np.ndarray) -> float | None:
  """TN / (TN + FP); None without a negative label."""
  return _once(weighted.specificity, *_binary(labels, predictions, True))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float | None:
  """2 TP / (2 TP + FP + FN) of pooled counts; None if all three are 0."""
  return _once(weighted.f1, *_binary(labels, predictions, True))


def kappa(
  labels: np.ndarray,
  predictions: np.ndarray,
  weights: str | None = None,
  grades: int | None = None,
) -> float | None:
  """Cohen's kappa, chance-corrected agreement, at most 1.

  Args:
    labels: [N] grades.
    predictions: [N] grades.
    weights: None (any disagreement costs 1), "linear" or "quadratic".
    grades: size K of the scale 0, 1, ..., K - 1, on which a grade that does
      not occur counts as a step too. None: the grades that occur, in order of
      their values and one step apart, which a test set without one of the
      grades of the scale changes.

  Returns:
    None when chance alone leaves no disagreement (one grade throughout).

  Raises:
    ValueError: unknown weights.
    DataError: a grade that is not on the scale.

  Example:
    >>> truth, found = np.array([0, 1, 4, 4]), np.array([0, 4, 4, 1])
    >>> round(kappa(truth, found, "quadratic", grades=5), 3)
    0.294
    >>> round(kappa(truth, found, "quadratic"), 3)
    0.636
  """
  if weights not in (None, "linear", "quadratic"):
    raise ValueError(
      f"kappa weights must be None, linear or quadratic: {weights}"
    )
  labels, predictions = _pair(labels, predictions)
  if grades is not None:
    both = np.concatenate([labels, predictions])
    odd = both[~np.isin(both, np.arange(grades))]
    if len(odd):
      raise DataError(f"grades must be 0 to {grades - 1}, found {odd[0]:g}")
  return _once(
    lambda a, b, w: weighted.kappa(a, b, w, weights, grades),
    labels,
    predictions,
  )


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
  """Rank correlation in [-1, 1] with average ranks; None if one is constant."""
  return _once(weighted.spearman, *_pair(first, second))


def bootstrap(
  metric: Callable[..., float | None],
  *arrays: np.ndarray,
  groups: np.ndarray | None = None,
  samples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, float | int | None]:
  """Metric with its percentile interval from resampled groups (patients).

  Images of one patient are correlated, so whole groups are drawn with
  replacement. Draws in which the metric is undefined are left out.

  Args:
    metric: function of the arrays, e.g. `auroc`.
    *arrays: [N, ...] each, with matching rows.
    groups: [N] patient of each row; None makes every row its own group.
    samples: number of draws.
    seed: seed of the draws.
    level: share of the draws inside the interval, in (0, 1).

  Returns:
    `value` on all rows, `low`, `high`, and `n`, the number of rows. `value` is
    None if undefined; `low` and `high` are None also if more than half of the
    draws are undefined or there are fewer than two groups.

  Example:
    >>> truth, score = np.array([0, 1, 0, 1]), np.array([0.1, 0.9, 0.6, 0.4])
    >>> bootstrap(auroc, truth, score)["value"]
    0.75
  """
  arrays = tuple(np.asarray(a) for a in arrays)
  value = metric(*arrays)
  rows = len(arrays[0])
  if value is None:
    return summary(None, np.array([]), rows, level)
  blocks = list(_evaluate(metric, arrays, groups, samples, seed))
  return summary(value, _join(blocks), rows, level)


def joint_bootstrap(
  evaluate: Callable[[np.ndarray], dict[str, np.ndarray]],
  rows: int,
  groups: np.ndarray | None,
  samples: int,
  seed: int,
) -> dict[str, dict[str, float | int | None]]:
  """Several metrics with intervals from the same draws of groups.

  Args:
    evaluate: weights float64[S, rows], how often each row counts -> {name:
      float64[S]}, NaN where undefined.
    rows: number of rows.
    groups, samples, seed: as for `bootstrap`.

  Returns:
    {name: {value, low, high, n}} as from `bootstrap`, n being `rows`.
  """
  point = evaluate(np.ones((1, rows)))
  draws = [evaluate(w) for w in resample(rows, groups, samples, seed)]
  result = {}
  for name, values in point.items():
    value = None if np.isnan(values[0]) else float(values[0])
    result[name] = summary(value, _join([d[name] for d in draws]), rows)
  return result


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


def _evaluate(metric, arrays, groups, samples, seed) -> Iterator[np.ndarray]:
  """Draws of a metric: all at once if `weighted` has it, else one by one."""
  fast = _WEIGHTED.get(metric)
  if fast:
    arrays = tuple(a.astype(np.float64) for a in arrays)
  positions = np.arange(len(arrays[0]))
  for weights in resample(len(positions), groups, samples, seed):
    if fast:
      yield fast(*arrays, weights)
      continue
    picked = (np.repeat(positions, w.astype(np.int64)) for w in weights)
    values = [metric(*(a[rows] for a in arrays)) for rows in picked]
    yield np.array([np.nan if v is None else v for v in values], np.float64)


def _join(blocks: list[np.ndarray]) -> np.ndarray:
  return np.concatenate(blocks) if blocks else np.array([])


def _once(function, *arrays) -> float | None:
  """Weighted metric with weight 1 for every row."""
  if not len(arrays[0]):
    return None
  value = function(*arrays, np.ones((1, len(arrays[0]))))[0]
  return None if np.isnan(value) else float(value)


def _pair(first, second) -> tuple[np.ndarray, np.ndarray]:
  first, second = np.asarray(first), np.asarray(second)
  if first.ndim != 1 or first.shape != second.shape:
    raise DataError(
      f"a metric needs two vectors of one length, got {first.shape} and"
      f" {second.shape}"
    )
  first, second = first.astype(np.float64), second.astype(np.float64)
  bad = int(np.sum(~(np.isfinite(first) & np.isfinite(second))))
  if bad:
    raise DataError(
      f"{bad} of {len(first)} rows hold a NaN or infinite label or score:"
      " drop them first"
    )
  return first, second


def _binary(labels, other, both: bool = False) -> tuple[np.ndarray, np.ndarray]:
  labels, other = _pair(labels, other)
  for name, values in [("labels", labels), ("predictions", other)][: 1 + both]:
    if not np.isin(values, (0.0, 1.0)).all():
      odd = values[~np.isin(values, (0.0, 1.0))][0]
      raise DataError(f"{name} must be 0 or 1, found {odd:g}")
  return labels, other


_WEIGHTED = {
  auroc: weighted.auroc,
  average_precision: weighted.average_precision,
  accuracy: weighted.accuracy,
  sensitivity: weighted.sensitivity,
  specificity: weighted.specificity,
  f1: weighted.f1,
  kappa: weighted.kappa,
  spearman: weighted.spearman,
}
