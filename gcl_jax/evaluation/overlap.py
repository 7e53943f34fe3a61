"""Agreement of two segmentation masks: Dice, Hausdorff distance, surface Dice.

Undefined is None. All raise `DataError` for masks of different shape.

The surface of a mask is the mask less its erosion by the axis cross, elements
at the image border included.
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

  The 95th percentile (linear interpolation) is taken per direction and the
  larger one returned, as MONAI does; a percentile of both directions pooled (as
  medpy does) is smaller or equal.

  Args:
    truth: bool[...] of any number of axes.
    prediction: bool[...], the same shape.
    spacing: size of an element along each axis, in mm; None means 1.

  Returns:
    A distance in units of `spacing`, or None if either mask is empty: report
    the number of those cases with the mean.
  """
  return hd95_of(surface_distances(truth, prediction, spacing))


def surface_dice(
  truth: np.ndarray,
  prediction: np.ndarray,
  tolerance: float,
  spacing: float | Iterable[float] | None = None,
) -> float | None:
  """Surface Dice at a tolerance (Nikolov et al., J Med Internet Res 23:e26151,
  2021).

  With surfaces S_A and S_B, and D(x, S) the distance from x to the nearest
  element of S:

      (|{a in S_A: D(a, S_B) <= tolerance}| + |{b in S_B: D(b, S_A) <=
      tolerance}|) / (|S_A| + |S_B|)

  A surface element counts as one. The paper weighs it by its area, which
  matters most where elements are far from cubes.

  Args:
    truth: bool[...] of any number of axes.
    prediction: bool[...], the same shape.
    tolerance: distance that is accepted, in units of `spacing`.
    spacing: size of an element along each axis, in mm; None means 1.

  Returns:
    A share in [0, 1], 0 if one mask is empty, None if both are.
  """
  found = surface_distances(truth, prediction, spacing)
  return surface_dice_of(found, tolerance)


def surface_distances(
  truth: np.ndarray,
  prediction: np.ndarray,
  spacing: float | Iterable[float] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Distances between the surfaces of two masks, both ways.

  Args:
    truth, prediction, spacing: as for `hd95`.

  Returns:
    Of every element of the truth's surface, float64[S_A], the distance to the
    nearest of the prediction's, and the other way round, float64[S_B];
    infinite where the other mask is empty.
  """
  truth, prediction = _masks(truth, prediction)
  either = truth | prediction
  if not either.any():
    return np.empty(0), np.empty(0)
  window = ndimage.find_objects(either.astype(np.int8))[0]
  first, second = _surface(truth[window]), _surface(prediction[window])
  return (
    _distance_to(second, spacing)[first],
    _distance_to(first, spacing)[second],
  )


def hd95_of(distances: tuple[np.ndarray, np.ndarray]) -> float | None:
  """`hd95` of masks with these `surface_distances`."""
  if not min(map(len, distances)):
    return None
  return float(max(np.quantile(d, 0.95) for d in distances))


def surface_dice_of(
  distances: tuple[np.ndarray, np.ndarray], tolerance: float
) -> float | None:
  """`surface_dice` of masks with these `surface_distances`."""
  every = np.concatenate(distances)
  # A distance equal to the tolerance may come out above it by rounding.
  return float(np.mean(every <= tolerance * (1 + 1e-9))) if len(every) else None


def _masks(truth, prediction) -> tuple[np.ndarray, np.ndarray]:
  truth, prediction = np.asarray(truth), np.asarray(prediction)
  if truth.shape != prediction.shape:
    raise DataError(f"masks differ: {truth.shape} and {prediction.shape}")
  return truth.astype(bool), prediction.astype(bool)


def _surface(mask: np.ndarray) -> np.ndarray:
  return mask & ~ndimage.binary_erosion(mask)


def _distance_to(surface: np.ndarray, spacing) -> np.ndarray:
  if not surface.any():
    return np.full(surface.shape, np.inf)
  return ndimage.distance_transform_edt(~surface, sampling=spacing)
