"""Scaling of MR and CT intensities to 8 bits, one mapping per volume.

CT has a physical scale (Hounsfield units), so a fixed window is used. MR has
none, so every volume is clipped to percentiles and z-scored. Statistics are
those of the volume and not of a slice, which depend on how much of the body the
slice shows.
"""

import numpy as np

from gcl_jax.errors import DataError

# Hounsfield units: from below fat to above a chamber full of contrast agent;
# one grey level is 3.9 HU.
CT_WINDOW = (-200.0, 800.0)
MR_PERCENTILES = (1.0, 99.0)
# A z-score of -3 becomes 0 and one of 3 becomes 255: a grey level is 0.024.
Z_LIMIT = 3.0


def window_ct(
  volume: np.ndarray,
  window: tuple[float, float] = CT_WINDOW,
  where: str = "a volume",
) -> np.ndarray:
  """Clips Hounsfield units to a window and maps it to 0..255.

  u = floor(255 clip((x - low) / (high - low), 0, 1) + 1/2).

  Args:
    volume: real [S, H, W], Hounsfield units.
    window: low and high end in Hounsfield units.
    where: name for messages.

  Returns:
    uint8 [S, H, W].

  Raises:
    DataError: NaN or infinite voxels, a constant volume, or an empty window.
  """
  low, high = (float(end) for end in window)
  if not low < high:
    raise DataError(f"CT window {window}: the first must be smaller")
  _check(volume, where)
  return _to_uint8(volume, low, high, low, high)


def window_mr(
  volume: np.ndarray,
  percentiles: tuple[float, float] = MR_PERCENTILES,
  where: str = "a volume",
) -> np.ndarray:
  """Clips to two percentiles, takes the z-score and maps [-3, 3] to 0..255.

  x' = clip(x, p_low, p_high); z = (x' - mean x') / std x', both over the
  volume; u = floor(255 clip((z + 3) / 6, 0, 1) + 1/2). A z-score outside
  [-3, 3] is clipped.

  Args:
    volume: real [S, H, W], any scale.
    percentiles: low and high, of all voxels; (0, 100) clips nothing.
    where: name for messages.

  Returns:
    uint8 [S, H, W]; unchanged by a * volume + b with a > 0, up to rounding.

  Raises:
    DataError: NaN or infinite voxels, or a volume that is constant between
      the percentiles.
  """
  _check(volume, where)
  low, high = (float(v) for v in np.percentile(volume, percentiles))
  if not low < high:
    raise DataError(
      f"{where}: constant between its percentiles {percentiles}; no z-score"
    )
  # Slice by slice, to avoid a second copy of a large volume.
  mean = sum(_clipped(s, low, high).sum() for s in volume) / volume.size
  square = sum(((_clipped(s, low, high) - mean) ** 2).sum() for s in volume)
  spread = Z_LIMIT * (square / volume.size) ** 0.5
  return _to_uint8(volume, low, high, mean - spread, mean + spread)


def _check(volume: np.ndarray, where: str) -> None:
  bad = 0 if volume.dtype.kind in "iub" else np.sum(~np.isfinite(volume))
  if bad:
    raise DataError(
      f"{where}: {bad} voxels are NaN or infinite; fill or drop them first"
    )
  if volume.min() == volume.max():
    raise DataError(f"{where}: constant, all voxels are {volume.min()}")


def _to_uint8(
  volume: np.ndarray, low: float, high: float, black: float, white: float
) -> np.ndarray:
  """Clips to [low, high], then maps [black, white] to 0..255."""
  result = np.empty(volume.shape, np.uint8)
  for target, values in zip(result, volume, strict=True):
    values = _clipped(values, low, high)
    unit = np.clip((values - black) / (white - black), 0, 1)
    target[...] = np.floor(255 * unit + 0.5)
  return result


def _clipped(values: np.ndarray, low: float, high: float) -> np.ndarray:
  return np.clip(values.astype(np.float64), low, high)
