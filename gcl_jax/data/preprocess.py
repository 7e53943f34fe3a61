"""Preparation of images in numpy on the host; flattening of OCT B-scans.

A B-scan shows the retina as a bright, curved band. Position and curvature of
the band depend on the alignment of the eye more than on disease, and an
autoencoder of healthy scans would spend its capacity on them. The steps below
flatten the band, normalise intensities, crop rows far from the band and
downsample. They use neither labels nor other scans.

All functions take one image, rows (depth) first, and do not modify it.
"""

import functools

import numpy as np
from scipy import ndimage, sparse

from gcl_jax.errors import ConfigError, DataError

# A smaller range of intensities is the rounding error of a constant image.
_FLAT = 1e-9

# Columns with a residual above this multiple of the root mean square are left
# out of the second fit. Strict, as oedema and bright vitreous distort the first
# one.
_OUTLIER = 1.25


def centre_row(image: np.ndarray) -> np.ndarray:
  """Estimates the row of the band's centre in each column as a smooth curve.

  Per column: the mean row weighted by the squared excess of the smoothed image
  over its median; then a quadratic over the columns, fitted twice, the second
  time without outlying columns.

  Args:
    image: real [H, W], any intensity scale, finite.

  Returns:
    float64 [W], rows in [0, H - 1]. The middle row, (H - 1) / 2, everywhere
    if the scan is constant. Unchanged by a * image + b with a > 0.
  """
  height, width = image.shape
  scan = _scaled(image)
  smooth = ndimage.gaussian_filter(scan, (height / 48, width / 64))
  weight = np.clip(smooth - np.median(smooth), 0, None) ** 2
  total = weight.sum(0)
  seen = total > _FLAT**2 * height
  if not seen.any():
    return np.full(width, (height - 1) / 2)
  rows = np.arange(height) @ weight[:, seen] / total[seen]
  curve = _robust_quadratic(np.flatnonzero(seen), rows, width)
  return np.clip(curve, 0, height - 1)


def flatten(image: np.ndarray) -> np.ndarray:
  """Shifts each column so that the band's centre lies on the middle row.

  Columns are shifted by linear interpolation; rows that come from outside
  the scan are filled with its 20th percentile (the dark background).

  Args:
    image: real [H, W], any intensity scale, finite.

  Returns:
    float64 [H, W] on the scale of the input, within its range.
  """
  scan = np.asarray(image, np.float64)
  height = scan.shape[0]
  source = np.arange(height)[:, None] + (
    centre_row(scan)[None, :] - (height - 1) / 2
  )
  lower = np.clip(np.floor(source).astype(int), 0, height - 1)
  upper = np.minimum(lower + 1, height - 1)
  part = np.clip(source - lower, 0, 1)
  below = np.take_along_axis(scan, lower, 0)
  above = np.take_along_axis(scan, upper, 0)
  inside = (source > -0.5) & (source < height - 0.5)
  # One product, not two: equal neighbours then give exactly their value.
  shifted = below + part * (above - below)
  return np.where(inside, shifted, np.percentile(scan, 20))


def normalise(
  image: np.ndarray, low: float = 20, high: float = 99.5
) -> np.ndarray:
  """Maps two percentiles of the scan to 0 and 1 and clips.

  Args:
    image: real [H, W], any intensity scale, finite.
    low: percentile that becomes 0; the default lies in the background.
    high: percentile that becomes 1; below 100, so that specks do not count.

  Returns:
    float64 [H, W] in [0, 1]; zeros if the two percentiles are equal.
    Unchanged by a * image + b with a > 0.
  """
  scan = _scaled(image)
  bottom, top = np.percentile(scan, (low, high))
  if top - bottom <= _FLAT:
    return np.zeros(scan.shape)
  return np.clip((scan - bottom) / (top - bottom), 0, 1)


def crop_band(image: np.ndarray, rows_fraction: float = 2 / 3) -> np.ndarray:
  """Crops to the centre rows, which hold the band of a flattened scan.

  Args:
    image: [H, W].
    rows_fraction: share of the rows to keep, in (0, 1].

  Returns:
    [max(1, round(H * rows_fraction)), W], dtype of the input.
  """
  height = image.shape[0]
  keep = max(1, round(height * rows_fraction))
  first = (height - keep) // 2
  return image[first : first + keep]


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resamples by box average (shrinking axes) or linear interpolation (others).

  Args:
    image: real [H, W].
    size: rows and columns of the result, both positive.

  Returns:
    float64 [size[0], size[1]], within the range of the input.
  """
  rows = _resampling(image.shape[0], size[0])
  columns = _resampling(image.shape[1], size[1])
  # Sparse products: a dense one of this size starts a thread per core, which
  # takes a hundred times as long on a busy machine.
  return (columns @ (rows @ np.asarray(image, np.float64)).T).T


# Arguments of `prepare` have the names of these functions.
_flatten, _normalise = flatten, normalise


def prepare(
  image: np.ndarray,
  *,
  size: tuple[int, int] = (48, 128),
  flatten: bool = True,
  normalise: bool = True,
  crop: bool = True,
  channels: int = 1,
) -> np.ndarray:
  """Prepares one stored image for the networks.

  Order: grey, resize to twice `size`, flatten, normalise, crop to the centre
  two thirds of the rows, resize to `size`. With `channels=3` every channel is
  resized and cropped by itself, so hue is kept.

  Args:
    image: [H, W] or [H, W, C] of any real or boolean dtype. Without
      `normalise`, integers are read as a share of the greatest value of their
      dtype and floats as lying in [0, 1].
    size: rows and columns of the result.
    flatten: straighten the retinal band of an OCT B-scan.
    normalise: map the 20th and 99.5th percentile to 0 and 1.
    crop: keep the centre two thirds of the rows.
    channels: 1 averages the channels of a colour image. 3 keeps RGB, and
      repeats a grey image three times; `flatten` and `normalise` are defined
      for grey B-scans alone and must then be False.

  Returns:
    uint8 [size[0], size[1]], or [size[0], size[1], 3] with `channels=3`.

  Raises:
    DataError: no pixels, not two or three axes, NaN or infinite values, or
      with `channels=3` a number of channels other than 1 and 3.
    ConfigError: `channels` is neither 1 nor 3, or is 3 together with `flatten`
      or `normalise`.

  Example:
    >>> image = np.full((96, 96, 3), (200, 100, 0), np.uint8)
    >>> prepare(
    ...   image, size=(2, 2), flatten=False, normalise=False, channels=3
    ... )[0, 0]
    array([200, 100,   0], dtype=uint8)
  """
  steps = (size, flatten, normalise, crop)
  if channels == 1:
    return _prepared(_grey(image), *steps)
  _check_colour_steps(channels, flatten, normalise)
  planes = np.moveaxis(_rgb(image), -1, 0)
  return np.stack([_prepared(plane, *steps) for plane in planes], axis=-1)


def _prepared(
  scan: np.ndarray,
  size: tuple[int, int],
  flatten: bool,
  normalise: bool,
  crop: bool,
) -> np.ndarray:
  """The steps of `prepare` on one channel: float64 [H, W] to uint8."""
  scan = resize(scan, (2 * size[0], 2 * size[1]))
  if flatten:
    scan = _flatten(scan)
  if normalise:
    scan = _normalise(scan)
  if crop:
    scan = crop_band(scan)
  scan = np.clip(resize(scan, size), 0, 1)
  return np.floor(scan * 255 + 0.5).astype(np.uint8)


def _check_colour_steps(channels: int, flatten: bool, normalise: bool) -> None:
  if channels != 3:
    raise ConfigError(f"channels={channels}: give 1 (grey) or 3 (RGB)")
  if flatten or normalise:
    raise ConfigError(
      f"flatten={flatten} and normalise={normalise} with channels=3: both are"
      " defined for grey OCT B-scans; set them to False, or channels to 1"
    )


def _grey(image: np.ndarray) -> np.ndarray:
  """float64 [H, W], the mean over the channels."""
  scan = _unit(image)
  return scan.mean(2) if scan.ndim == 3 else scan


def _rgb(image: np.ndarray) -> np.ndarray:
  """float64 [H, W, 3], a grey image repeated."""
  scan = _unit(image)
  scan = scan[..., None] if scan.ndim == 2 else scan
  if scan.shape[2] not in (1, 3):
    raise DataError(
      f"an image of shape {scan.shape} is neither grey nor RGB: convert it, or"
      " use channels=1"
    )
  return np.broadcast_to(scan, (*scan.shape[:2], 3))


def _unit(image: np.ndarray) -> np.ndarray:
  """float64; integers as a share of the greatest value of their dtype."""
  image = np.asarray(image)
  if image.ndim not in (2, 3) or image.size == 0:
    raise DataError(
      f"a scan of shape {image.shape} cannot be used:"
      " give rows x columns or rows x columns x channels, none of them empty"
    )
  top = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1
  scan = image.astype(np.float64) / top
  if not np.isfinite(scan).all():
    raise DataError("a scan holds NaN or infinite values: repair or drop it")
  return scan


def _scaled(image: np.ndarray) -> np.ndarray:
  """Scales to [0, 1], so that thresholds do not depend on the unit."""
  scan = np.asarray(image, np.float64)
  low, high = scan.min(), scan.max()
  # Rounding errors give a constant image a range of about 1e-16.
  if high - low <= 1e-12 * max(abs(low), abs(high)):
    return np.zeros(scan.shape)
  return (scan - low) / (high - low)


def _robust_quadratic(
  columns: np.ndarray, rows: np.ndarray, width: int
) -> np.ndarray:
  """Quadratic through (columns, rows), re-fitted without outliers: [width]."""
  terms = np.vander(np.linspace(-1, 1, width), 3, increasing=True)
  keep = np.ones(len(columns), bool)
  for _ in range(2):
    # With too few columns lstsq returns the minimum-norm solution.
    found = np.linalg.lstsq(terms[columns[keep]], rows[keep], rcond=None)[0]
    off = np.abs(rows - terms[columns] @ found)
    keep = off <= _OUTLIER * np.sqrt(np.mean(off**2)) + _FLAT
  return terms @ found


@functools.lru_cache(maxsize=64)
def _resampling(old: int, new: int) -> sparse.csr_array:
  """Weights [new, old] with rows that sum to 1."""
  if new > old:
    where = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    near = 1 - np.abs(where[:, None] - np.arange(old))
    return sparse.csr_array(np.clip(near, 0, None))
  edges = np.arange(new + 1) * old / new
  left = np.maximum(edges[:-1, None], np.arange(old))
  right = np.minimum(edges[1:, None], np.arange(old) + 1)
  return sparse.csr_array(np.clip(right - left, 0, None) * new / old)
