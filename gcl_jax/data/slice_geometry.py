"""Resampling of slices to a common spacing and size, and its inverse.

A slice is resampled about its centre, then cropped or padded by whole pixels
about its centre, so that a slice of the target spacing is not shifted by half a
pixel. `restore` inverts both for a predicted class map.
"""

import numpy as np

from gcl_jax.errors import DataError


def spacing_of(table: dict[str, np.ndarray], row: int) -> tuple[float, float]:
  """(y, x) of a slice in mm, from the table of a data set."""
  return float(table["spacing_y"][row]), float(table["spacing_x"][row])


def prepare_slice(
  image: np.ndarray,
  mask: np.ndarray | None,
  spacing: tuple[float, float],
  target_spacing: tuple[float, float] | None,
  size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray | None]:
  """Resamples a slice and its mask, then crops or pads both to `size`.

  Along an axis of n pixels of spacing s, the resampled axis has
  m = max(1, round(n s / t)) pixels of spacing t; its pixel i lies at
  (n - 1) / 2 + (i - (m - 1) / 2) t / s of the source, kept within it. The
  image is interpolated linearly, the mask takes the nearest pixel. The border
  that padding adds is the slice's least value in the image, 0 in the mask.

  Args:
    image: real [H, W].
    mask: uint8 [H, W], or None.
    spacing: (y, x) of the slice in mm.
    target_spacing: (y, x) in mm; None keeps the slice's own.
    size: (rows, columns) of the result.

  Returns:
    image [rows, columns] of its own dtype (integers rounded, halves up) and
    mask uint8 [rows, columns] or None.

  Raises:
    DataError: shapes that differ, or a spacing or size that is not positive.
  """
  if mask is not None and mask.shape != image.shape:
    raise DataError(f"mask {mask.shape} for an image {image.shape}")
  middle = _resampled_shape(image.shape, spacing, target_spacing, size)
  steps = _steps(spacing, target_spacing)
  values = image.astype(np.float64)
  for axis in (0, 1):
    values = _linear(values, middle[axis], steps[axis], axis)
  if image.dtype.kind in "iu":
    values = np.floor(values + 0.5)
  image = _fit(values.astype(image.dtype), size, image.min())
  if mask is None:
    return image, None
  for axis in (0, 1):
    mask = _nearest(mask, middle[axis], steps[axis], axis)
  return image, _fit(mask, size, 0)


def restore(
  mask: np.ndarray,
  shape: tuple[int, int],
  spacing: tuple[float, float],
  target_spacing: tuple[float, float] | None,
) -> np.ndarray:
  """Maps a class map of a prepared slice back to the grid of the stored slice.

  The inverse of `prepare_slice` with the same spacings: exact if the spacing
  was kept and nothing was cropped; cropped pixels become 0, background.

  Args:
    mask: integer [rows, columns], classes of a prepared slice.
    shape: (H, W) of the stored slice.
    spacing: (y, x) of the stored slice in mm.
    target_spacing: (y, x) given to `prepare_slice`.

  Returns:
    [H, W] of the dtype of `mask`; each value is one of `mask` or 0.

  Raises:
    DataError: a spacing or shape that is not positive.
  """
  middle = _resampled_shape(shape, spacing, target_spacing, mask.shape)
  mask = _fit(mask, middle, 0)
  for axis, step in enumerate(_steps(spacing, target_spacing)):
    mask = _nearest(mask, shape[axis], 1 / step, axis)
  return mask


def moved(
  places: np.ndarray,
  shape: tuple[int, int],
  spacing: tuple[float, float],
  target_spacing: tuple[float, float] | None,
  size: tuple[int, int],
) -> np.ndarray:
  """Where places of a stored slice lie in the prepared one.

  Args:
    places: float[..., 2], (row, column) in pixels of the stored slice, 0 the
      centre of the first one.
    shape: (H, W) of the stored slice.
    spacing, target_spacing, size: as for `prepare_slice`.

  Returns:
    float64[..., 2], in pixels of the prepared slice; outside it where the
    place was cropped away.
  """
  middle = _resampled_shape(shape, spacing, target_spacing, size)
  steps = np.array(_steps(spacing, target_spacing))
  centres = [(np.array(sides) - 1) / 2 for sides in (shape, middle)]
  offsets = [int((m - n) / 2) for m, n in zip(middle, size, strict=True)]
  return (np.asarray(places) - centres[0]) / steps + centres[1] - offsets


def _steps(spacing, target_spacing) -> tuple[float, float]:
  """Source pixels per target pixel, along rows and columns."""
  return tuple(
    t / s for s, t in zip(spacing, target_spacing or spacing, strict=True)
  )


def _resampled_shape(shape, spacing, target_spacing, size) -> tuple[int, int]:
  """(rows, columns) that cover the slice at the target spacing."""
  numbers = (*shape, *spacing, *(target_spacing or spacing), *size)
  if not all(0 < number < np.inf for number in numbers):
    raise DataError(
      f"a slice of {tuple(shape)} pixels of {tuple(spacing)} mm cannot become"
      f" {tuple(size)} pixels of {target_spacing} mm: all must be above 0"
    )
  return tuple(
    max(1, int(np.floor(n / step + 0.5)))
    for n, step in zip(shape, _steps(spacing, target_spacing), strict=True)
  )


def _places(old: int, new: int, step: float) -> np.ndarray:
  """float64 [new]: coordinates of the new pixels on the old grid."""
  centred = np.arange(new) - (new - 1) / 2
  return np.clip((old - 1) / 2 + centred * step, 0, old - 1)


def _linear(values: np.ndarray, new: int, step: float, axis: int) -> np.ndarray:
  places = _places(values.shape[axis], new, step)
  lower = np.floor(places).astype(int)
  upper = np.minimum(lower + 1, values.shape[axis] - 1)
  part = (places - lower).reshape(-1, 1) if axis == 0 else places - lower
  below, above = values.take(lower, axis), values.take(upper, axis)
  return below + part * (above - below)


def _nearest(mask: np.ndarray, new: int, step: float, axis: int) -> np.ndarray:
  places = _places(mask.shape[axis], new, step)
  return mask.take(np.floor(places + 0.5).astype(int), axis)


def _fit(values: np.ndarray, size: tuple[int, int], fill) -> np.ndarray:
  """Crops or pads about the centre; `_fit` to the old shape puts it back."""
  result = np.full(size, fill, values.dtype)
  inner, outer = [], []
  for old, new in zip(values.shape, size, strict=True):
    # Rounded towards zero, so that there and back is the same offset.
    offset = int((old - new) / 2)
    length = min(old, new)
    inner.append(slice(max(offset, 0), max(offset, 0) + length))
    outer.append(slice(max(-offset, 0), max(-offset, 0) + length))
  result[tuple(outer)] = values[tuple(inner)]
  return result
