"""Volumes from NIfTI and npz files; headers are read at once, voxels on demand.

Axes of a volume cut into slices, and the order of its slices, rows, columns:

  axial     foot to head; anterior row first; the patient's right first
  coronal   anterior to posterior; head row first; the patient's right first
  sagittal  right to left; head row first; anterior column first
  stored    the file's third axis; its second; its first (ignores the affine)

The first three follow the affine, so they do not depend on the order of the
axes in a file. "stored" is for stacks that are oblique to the axes of the body,
such as the short axis of the heart.
"""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from gcl_jax.data.files import existing, regular_file
from gcl_jax.data.nifti import Grid, nifti_grid, read_nifti, read_nifti_film
from gcl_jax.data.npz_volumes import is_npz, npz_grid, read_npz_volume
from gcl_jax.data.volumes import Volume, Voxels
from gcl_jax.errors import ConfigError, DataError

AXES = ("axial", "coronal", "sagittal", "stored")
# Of the canonical axes z, y, x: which become slices, rows and columns.
_ORDER = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
_BODY_AXES = ("IS", "PA", "LR")


def check_axis(axis: str) -> None:
  """Refuses an axis that is not in `AXES` (ConfigError)."""
  if axis not in AXES:
    raise ConfigError(f"axis {axis!r}; known: {', '.join(AXES)}")


def cut(volume: np.ndarray, axis: str) -> np.ndarray:
  """A canonical volume, cut along one of the first three axes.

  Args:
    volume: [S, P, L], as `formats.read_volume` returns it.
    axis: "axial", "coronal" or "sagittal".

  Returns:
    [slices, H, W], a view.
  """
  if axis == "axial":
    return volume
  # Row 0 is at the head.
  return volume.transpose(_ORDER[axis])[:, ::-1]


def nifti_volume(
  name: str,
  image: pathlib.Path,
  label: pathlib.Path | None = None,
  *,
  axis: str = "axial",
  frame: int | None = None,
  spacing: tuple[float, ...] | None = None,
  **facts,
) -> Volume:
  """Describes a volume of NIfTI or npz files; only their headers are read.

  Args:
    name: its id.
    image: the file of the image.
    label: the file of the class map, None if there is none.
    axis: one of `AXES`.
    frame: index in a time series (four axes), from 0; None for a file with
      three axes.
    spacing: mm along the stored axes, for an npz file without `spacing`.
    **facts: further fields of `Volume`.

  Raises:
    DataError: a file that is missing or damaged, or image and label whose
      axes differ in length or direction; an npz file without `affine`, unless
      the axis is "stored".
    ConfigError: an unknown axis.
  """
  check_axis(axis)
  grid = _grid(image, "image", axis, frame is not None, spacing)
  if frame is not None and not 0 <= frame < grid.frames:
    raise DataError(f"{image}: no frame {frame + 1}, there are {grid.frames}")
  masks = _label_voxels(image, grid, label, axis) if label else None
  pixels = functools.partial(_read, image, "image", axis, frame)
  return Volume(
    id=name,
    image=Voxels(str(image), _ordered(grid.shape, grid, axis), pixels),
    spacing=_ordered(grid.spacing, grid, axis),
    label=masks,
    **facts,
  )


def _grid(path, kind: str, axis: str, film: bool, spacing) -> Grid:
  if not is_npz(path):
    return nifti_grid(regular_file(path), film=film)
  grid = npz_grid(path, kind, spacing)
  if axis != "stored" and not grid.directions:
    raise DataError(
      f"{path}: no array 'affine', so which axis is {axis} is not known: store"
      " it, or use axis=stored"
    )
  return grid


def _label_voxels(image, grid: Grid, label, axis: str) -> Voxels:
  own = _grid(label, "label", axis, False, grid.spacing)
  if axis != "stored" and own.directions != grid.directions:
    raise DataError(
      f"{label}: axes run to {''.join(own.directions)}, those of {image} to"
      f" {''.join(grid.directions)}; store both alike, or use axis=stored"
    )
  read = functools.partial(_read, label, "label", axis, None)
  return Voxels(str(label), _ordered(own.shape, own, axis), read)


def _ordered(values: Sequence, grid: Grid, axis: str) -> tuple:
  """Reorders values of the stored axes (i, j, k) to slices, rows, columns."""
  if axis == "stored":
    return tuple(values[::-1])
  stored = [
    next(i for i, end in enumerate(grid.directions) if end in both)
    for both in _BODY_AXES
  ]
  return tuple(values[stored[i]] for i in _ORDER[axis])


def _read(
  path: pathlib.Path, kind: str, axis: str, frame: int | None
) -> np.ndarray:
  canonical = axis != "stored"
  if is_npz(path):
    volume = read_npz_volume(path, kind, canonical=canonical)
  elif frame is None:
    volume = read_nifti(path, canonical=canonical)
  else:
    changed = existing(path).stat().st_mtime_ns
    volume = _cached_film(path, canonical, changed)[frame]
  return cut(volume, axis) if canonical else volume


# A compressed time series can only be unpacked as a whole.
@functools.lru_cache(maxsize=1)
def _cached_film(path, canonical: bool, changed: int) -> np.ndarray:
  return read_nifti_film(path, canonical=canonical)
