"""Agreement of two segmentation masks: Dice and Hausdorff distance.

Undefined is None. Both raise `DataError` for masks of different shape.
"""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from gcl_jax.errors import DataError


def dice(truth: np.ndarray, prediction: np.ndarray) -> float | None:
  """2 |A and B| / (|A| + |B|) of two masks of one shape; None if both empty."""
  truth, prediction = _masks(truth, prediction)
  size = int(truth.sum()) + int(prediction.sum())
  return 2 * int((truth & prediction).sum()) / size if size else None


def hd95(
  truth: np.ndarray,
  prediction: np.ndarray,
  spacing: float | Iterable[float] | None = None,
) -> float | None:
  """95th percentile Hausdorff distance of two masks' surfaces.

  The surface is the mask less its erosion by the axis cross, elements at the
  image border included. The 95th percentile (linear interpolation) is taken
  per direction and the larger one returned, as MONAI does; a percentile of both
  directions pooled (as medpy does) is smaller or equal.

  Args:
    truth: bool[...] of any number of axes.
    prediction: bool[...], the same shape.
    spacing: size of an element along each axis, in mm; None means 1.

  Returns:
    A distance in units of `spacing`, or None if either mask is empty: report
    the number of those cases with the mean.
  """
  truth, prediction = _masks(truth, prediction)
  if not truth.any() or not prediction.any():
    return None
  window = ndimage.find_objects((truth | prediction).astype(np.int8))[0]
  first, second = _surface(truth[window]), _surface(prediction[window])
  distances = (
    _distance_to(second, spacing)[first],
    _distance_to(first, spacing)[second],
  )
  return float(max(np.quantile(d, 0.95) for d in distances))


def _masks(truth, prediction) -> tuple[np.ndarray, np.ndarray]:
  truth, prediction = np.asarray(truth), np.asarray(prediction)
  if truth.shape != prediction.shape:
    raise DataError(f"masks differ: {truth.shape} and {prediction.shape}")
  return truth.astype(bool), prediction.astype(bool)


def _surface(mask: np.ndarray) -> np.ndarray:
  return mask & ~ndimage.binary_erosion(mask)


def _distance_to(surface: np.ndarray, spacing) -> np.ndarray:
  return ndimage.distance_transform_edt(~surface, sampling=spacing)
