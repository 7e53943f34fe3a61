"""Volumes in npz files, with the axes i, j, k in any order.

Arrays of a file: `image` or `label` (or both) [i, j, k]; `spacing` [3], mm
along i, j and k; and, where the axes of the body matter, `affine` [4, 4] from
(i, j, k, 1) to (R, A, S, 1), as in NIfTI.
"""

import pathlib

import numpy as np

from gcl_jax.data.files import (
  MAX_VOXELS,
  check_size,
  kind_of,
  npz_headers,
  read_npz,
)
from gcl_jax.data.nifti import Grid, as_slices, directions_of
from gcl_jax.data.optional import extra
from gcl_jax.data.quiet import one_error
from gcl_jax.errors import DataError


def is_npz(path: pathlib.Path) -> bool:
  """Whether the suffix of a file is .npz."""
  return path.suffix.lower() == ".npz"


def npz_grid(
  path: pathlib.Path, kind: str, spacing: tuple[float, ...] | None = None
) -> Grid:
  """Reads the grid of a volume without unpacking its voxels.

  Args:
    path: the file.
    kind: "image" or "label".
    spacing: (i, j, k) in mm, for a file without `spacing`.

  Raises:
    DataError: the array is missing or not a volume, the spacing is missing or
      not positive, or the affine is not valid.
  """
  headers = npz_headers(path)
  if kind not in headers:
    there = ", ".join(headers) or "nothing"
    raise DataError(f"{path}: no array {kind!r}; there is {there}")
  shape, dtype = headers[kind]
  if len(shape) != 3 or dtype.kind not in "biuf":
    raise DataError(
      f"{path}: {kind} {shape} of {kind_of(dtype)}; expected three axes of"
      " numbers"
    )
  check_size(path, shape, MAX_VOXELS)
  facts = read_npz(path, ("spacing", "affine"))
  spacing = facts.get("spacing", spacing)
  if spacing is None:
    raise DataError(
      f"{path}: no array 'spacing': store it, three numbers in mm along the"
      " axes as stored, or give the table spacing_1, spacing_2 and spacing_3"
    )
  spacing = _numbers(path, "spacing", spacing, (3,))
  if not (spacing > 0).all():
    raise DataError(f"{path}: spacing {spacing.tolist()} mm, expected above 0")
  directions = ()
  if "affine" in facts:
    directions = directions_of(path, _affine(path, facts))
  return Grid(shape, tuple(spacing.tolist()), directions, 1, dtype)


def read_npz_volume(
  path: pathlib.Path, kind: str, *, canonical: bool
) -> np.ndarray:
  """Reads [slices, H, W] of `image` or `label`, as `nifti.read_nifti`."""
  arrays = read_npz(path, (kind, "affine"))
  values = arrays[kind]
  if canonical:
    turn = extra("nibabel").orientations
    with one_error(path, "npz file"):
      axes = turn.io_orientation(_affine(path, arrays))
      values = turn.apply_orientation(values, axes)
  return as_slices(path, values, canonical)


def _affine(path: pathlib.Path, arrays: dict) -> np.ndarray:
  return _numbers(path, "affine", arrays["affine"], (4, 4))


def _numbers(path: pathlib.Path, name: str, values, shape: tuple) -> np.ndarray:
  values = np.asarray(values)
  fits = values.shape == shape and values.dtype.kind in "iuf"
  if not fits or not np.isfinite(values).all():
    raise DataError(f"{path}: {name} is not {shape} finite numbers")
  return values.astype(np.float64)
