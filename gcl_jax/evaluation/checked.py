"""Checks of the arrays that a metric is given."""

import numpy as np

from gcl_jax.errors import DataError


def once(function, *arrays) -> float | None:
  """Value of a weighted metric with weight 1 for every row.

  Args:
    function: of the arrays and weights float64[1, N] -> float64[1].
    *arrays: [N] each.

  Returns:
    None without rows and where the metric is nan.
  """
  if not len(arrays[0]):
    return None
  value = function(*arrays, np.ones((1, len(arrays[0]))))[0]
  return None if np.isnan(value) else float(value)


def pair(first, second) -> tuple[np.ndarray, np.ndarray]:
  """Two vectors of one length as float64[N] each.

  Raises:
    DataError: other shapes, or a value that is not finite.
  """
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


def binary(labels, other, both: bool = False) -> tuple[np.ndarray, np.ndarray]:
  """Labels of 1 and 0 and scores or predictions, float64[N] each.

  Args:
    labels: [N].
    other: [N].
    both: the second must be of 1 and 0 too.

  Raises:
    DataError: other values, or as of `pair`.
  """
  labels, other = pair(labels, other)
  for name, values in [("labels", labels), ("predictions", other)][: 1 + both]:
    if not np.isin(values, (0.0, 1.0)).all():
      odd = values[~np.isin(values, (0.0, 1.0))][0]
      raise DataError(f"{name} must be 0 or 1, found {odd:g}")
  return labels, other
