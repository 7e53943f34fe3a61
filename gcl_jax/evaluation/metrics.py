"""Exact metrics with intervals by patient; undefined is None, never 0.5.

Labels and predictions are 1/0 (bool, int or float); scores are real numbers,
larger for "positive". Host code in numpy, float64.

All functions raise `DataError` for arrays of different length, for non-finite
values (drop unlabelled rows first) and, for binary metrics, for labels other
than 0 and 1.
"""

from collections.abc import Callable

import numpy as np

from gcl_jax.errors import DataError
from gcl_jax.evaluation import comparisons, draws, intervals, weighted
from gcl_jax.evaluation.checked import binary, once, pair
from gcl_jax.evaluation.overlap import dice as dice
from gcl_jax.evaluation.overlap import hd95 as hd95


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
  return once(weighted.auroc, *binary(labels, scores))


def average_precision(labels: np.ndarray, scores: np.ndarray) -> float | None:
  """Sum of (increase of recall) * precision, uninterpolated.

  It is None without a positive label.

  Args:
    labels: [N] of 1/0.
    scores: float[N].
  """
  return once(weighted.average_precision, *binary(labels, scores))


def sensitivity_at_specificity(
  labels: np.ndarray, scores: np.ndarray, specificity: float = 0.9
) -> float | None:
  """Largest sensitivity of a threshold whose specificity is high enough.

  A row is called positive from a threshold of its score on; one above all
  scores always counts. The threshold is chosen on the rows that it is judged
  by; `jackknife` chooses it anew without each group.

  Args:
    labels: [N] of 1/0.
    scores: float[N].
    specificity: least share of negative rows below the threshold.

  Returns:
    A number in [0, 1], or None if only one class is present.

  Raises:
    ValueError: `specificity` is not in [0, 1].
  """
  if not 0 <= specificity <= 1:
    raise ValueError(f"specificity must be in [0, 1]: {specificity}")
  return once(
    lambda y, x, w: weighted.sensitivity_at_specificity(y, x, w, specificity),
    *binary(labels, scores),
  )


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float | None:
  """Share of rows in which both agree (any classes); None without rows."""
  return once(weighted.accuracy, *pair(labels, predictions))


def sensitivity(labels: np.ndarray, predictions: np.ndarray) -> float | None:
  """TP / (TP + FN), also called recall; None without a positive label."""
  return once(weighted.sensitivity, *binary(labels, predictions, True))


def specificity(labels: np.ndarray, predictions: np.ndarray) -> float | None:
  """TN / (TN + FP); None without a negative label."""
  return once(weighted.specificity, *binary(labels, predictions, True))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float | None:
  """2 TP / (2 TP + FP + FN) of pooled counts; None if all three are 0."""
  return once(weighted.f1, *binary(labels, predictions, True))


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
    grades: size K of the scale 0, 1, ..., K - 1, outside which a grade is
      refused. None: any numbers.

  Disagreements cost by the distance of the grades' values, so that a grade
  that does not occur counts as a step of the scale.

  Returns:
    None when chance alone leaves no disagreement (one grade throughout).

  Raises:
    ValueError: unknown weights.
    DataError: a grade that is not on the scale.

  Example:
    >>> truth, found = np.array([0, 1, 4, 4]), np.array([0, 4, 4, 1])
    >>> round(kappa(truth, found, "quadratic", grades=5), 3)
    0.294
  """
  if weights not in (None, "linear", "quadratic"):
    raise ValueError(
      f"kappa weights must be None, linear or quadratic: {weights}"
    )
  labels, predictions = pair(labels, predictions)
  if grades is not None:
    both = np.concatenate([labels, predictions])
    odd = both[~np.isin(both, np.arange(grades))]
    if len(odd):
      raise DataError(f"grades must be 0 to {grades - 1}, found {odd[0]:g}")
  return once(
    lambda a, b, w: weighted.kappa(a, b, w, weights),
    labels,
    predictions,
  )


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
  """Rank correlation in [-1, 1] with average ranks; None if one is constant."""
  return once(weighted.spearman, *pair(first, second))


def jackknife(
  metric: Callable[..., float | None],
  *arrays: np.ndarray,
  groups: np.ndarray | None = None,
) -> dict[str, float | int | None]:
  """Metric with its 95 % interval by the jackknife over groups (patients).

  Images of one patient are correlated, so whole groups are left out. The
  interval lies on the logit scale of this module's shares, on that of artanh
  for `kappa` and `spearman`, and on the plain one for any other metric.

  Args:
    metric: function of the arrays, e.g. `auroc`.
    *arrays: [N, ...] each, with matching rows; labels first.
    groups: [N] patient of each row; None makes every row its own group.

  Returns:
    {value, low, high, n, groups}, and for binary metrics {positive_groups,
    negative_groups}, as from `intervals.interval`: no interval for fewer than
    5 of any of them.

  Example:
    >>> truth, score = np.tile([0, 1], 8), np.arange(16.0)
    >>> found = jackknife(auroc, truth, score)
    >>> [round(found[key], 2) for key in ("value", "low", "high")]
    [0.56, 0.22, 0.85]
  """
  values, support = _left_out(metric, arrays, groups)
  return intervals.interval(values, support, _SCALES.get(metric, "plain"))


def paired(
  metric: Callable[..., float | None],
  labels: np.ndarray,
  first: np.ndarray,
  second: np.ndarray,
  groups: np.ndarray | None = None,
) -> dict[str, float | int | None]:
  """Difference of a metric between two predictions of the same rows.

  Args:
    metric: function of labels and scores or predictions, e.g. `auroc`.
    labels: [N].
    first, second: [N], the predictions; the second's metric is subtracted.
    groups: [N] patients; None makes every row its own group.

  Returns:
    An entry with `p` and `smallest`, as from `comparisons.difference`.
  """
  ours, support = _left_out(metric, (labels, first), groups)
  theirs, _ = _left_out(metric, (labels, second), groups)
  return comparisons.difference(ours - theirs, support)


def _left_out(metric, arrays, groups) -> tuple[np.ndarray, intervals.Support]:
  """A metric on all rows and without each group, and what it rests on."""
  arrays = tuple(np.asarray(a) for a in arrays)
  rows, sides = len(arrays[0]), _SIDES.get(metric)
  metric(*arrays)  # checks them
  values = intervals.leave_one_out(
    lambda weights: {"": of_weights(metric, arrays, weights)}, rows, groups
  )
  groups = np.arange(rows) if groups is None else groups
  labels = None if sides is None else arrays[0]
  tail = metric is sensitivity_at_specificity
  needed = intervals.FEWEST_IN_TAIL if tail else intervals.FEWEST
  support = intervals.support_of(groups, labels, sides or (), needed)
  return values[""], support


def bootstrap(
  metric: Callable[..., float | None],
  *arrays: np.ndarray,
  groups: np.ndarray | None = None,
  samples: int = 1000,
  seed: int = 0,
  level: float = 0.95,
) -> dict[str, float | int | None]:
  """Metric with its percentile interval from resampled groups (patients).

  Whole groups are drawn with replacement. Draws in which the metric is
  undefined are left out. With few groups such intervals are too narrow (of
  nominal 95 % they cover 0.79 to 0.94): `jackknife` is what reports use.

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
    return draws.summary(None, np.array([]), rows, level)
  found = [
    of_weights(metric, arrays, weights)
    for weights in draws.resample(rows, groups, samples, seed)
  ]
  return draws.summary(value, np.concatenate([[], *found]), rows, level)


def of_weights(metric, arrays, weights) -> np.ndarray:
  """A metric of each weighting, float64[S]: all at once if `weighted` has it,
  else one by one on rows repeated by their weights; nan where undefined."""
  if not len(arrays[0]):
    return np.full(len(weights), np.nan)
  if fast := _WEIGHTED.get(metric):
    return fast(*(a.astype(np.float64) for a in arrays), weights)
  positions = np.arange(len(arrays[0]))
  picked = (np.repeat(positions, w.astype(np.int64)) for w in weights)
  values = [metric(*(a[rows] for a in arrays)) for rows in picked]
  return np.array([np.nan if v is None else v for v in values], np.float64)


_WEIGHTED = {
  auroc: weighted.auroc,
  average_precision: weighted.average_precision,
  sensitivity_at_specificity: weighted.sensitivity_at_specificity,
  accuracy: weighted.accuracy,
  sensitivity: weighted.sensitivity,
  specificity: weighted.specificity,
  f1: weighted.f1,
  kappa: weighted.kappa,
  spearman: weighted.spearman,
}
_SCALES = dict.fromkeys(_WEIGHTED, "logit") | {
  kappa: "fisher",
  spearman: "fisher",
}
# Classes that a binary metric needs; accuracy is of any classes.
_SIDES = {
  auroc: (1, 0),
  average_precision: (1, 0),
  sensitivity_at_specificity: (1, 0),
  f1: (1, 0),
  sensitivity: (1,),
  specificity: (0,),
}
