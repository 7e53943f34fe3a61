"""Volumes out of NIfTI files: headers at once, voxels when asked for.

Axes of a volume cut into slices, and the order of its slices, rows, columns:

  axial     foot to head; anterior row first; the patient's right first
  coronal   anterior to posterior; head row first; the patient's right first
  sagittal  right to left; head row first; anterior column first
  stored    the file's third axis; its second; its first (no look at the affine)

The first three follow the affine, so they do not depend on how a file is
stored. "stored" is for stacks that were tilted to fit an organ, such as the
short axis of the heart, whose slices follow no axis of the body.
"""

import functools
import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from gcl_jax.data.files import existing, folder_of, regular_file
from gcl_jax.data.names import scan
from gcl_jax.data.nifti import Grid, nifti_grid, read_nifti, read_nifti_film
from gcl_jax.data.source import Dataset
from gcl_jax.data.tables import Table, read_table
from gcl_jax.data.volumes import Volume, Voxels, volumes
from gcl_jax.data.windows import CT_WINDOW
from gcl_jax.errors import ConfigError, DataError

AXES = ("axial", "coronal", "sagittal", "stored")
# Of the canonical axes z, y, x: which become slices, rows and columns.
_ORDER = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
_BODY_AXES = ("IS", "PA", "LR")


def check_axis(axis: str) -> None:
  """Raises ConfigError unless the axis is one of `AXES`."""
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
  # The head row comes first, as it is drawn.
  return volume.transpose(_ORDER[axis])[:, ::-1]


def nifti_volume(
  name: str,
  image: pathlib.Path,
  label: pathlib.Path | None = None,
  *,
  axis: str = "axial",
  frame: int | None = None,
  **facts,
) -> Volume:
  """One volume of NIfTI files; only their headers are read.

  Args:
    name: its id.
    image: the file of the image.
    label: the file of the class map, None if there is none.
    axis: one of `AXES`.
    frame: of a film (four axes), from 0; None for a file with three axes.
    **facts: further fields of `Volume`.

  Raises:
    DataError: a file that is missing or damaged, or image and label whose
      axes differ in length or direction.
    ConfigError: an unknown axis.
  """
  check_axis(axis)
  grid = nifti_grid(regular_file(image), film=frame is not None)
  if frame is not None and not 0 <= frame < grid.frames:
    raise DataError(f"{image}: no frame {frame + 1}, there are {grid.frames}")
  masks = _label_voxels(image, grid, label, axis) if label else None
  pixels = functools.partial(_read, image, axis, frame)
  return Volume(
    id=name,
    image=Voxels(str(image), _ordered(grid.shape, grid, axis), pixels),
    spacing=_ordered(grid.spacing, grid, axis),
    label=masks,
    **facts,
  )


def _label_voxels(image, grid: Grid, label, axis: str) -> Voxels:
  own = nifti_grid(regular_file(label))
  if axis != "stored" and own.directions != grid.directions:
    raise DataError(
      f"{label}: axes run to {''.join(own.directions)}, those of {image} to"
      f" {''.join(grid.directions)}; store both alike, or use axis=stored"
    )
  read = functools.partial(_read, label, axis, None)
  return Voxels(str(label), _ordered(own.shape, own, axis), read)


def _ordered(values: Sequence, grid: Grid, axis: str) -> tuple:
  """Values of the stored axes (i, j, k) as those of slices, rows, columns."""
  if axis == "stored":
    return tuple(values[::-1])
  stored = [
    next(i for i, end in enumerate(grid.directions) if end in both)
    for both in _BODY_AXES
  ]
  return tuple(values[stored[i]] for i in _ORDER[axis])


def _read(path: pathlib.Path, axis: str, frame: int | None) -> np.ndarray:
  canonical = axis != "stored"
  if frame is None:
    volume = read_nifti(path, canonical=canonical)
  else:
    changed = existing(path).stat().st_mtime_ns
    volume = _cached_film(path, canonical, changed)[frame]
  return cut(volume, axis) if canonical else volume


# One frame cannot be read alone out of a packed film.
@functools.lru_cache(maxsize=1)
def _cached_film(path, canonical: bool, changed: int) -> np.ndarray:
  return read_nifti_film(path, canonical=canonical)


def files_named(
  folder: str | os.PathLike, pattern: str
) -> dict[str, pathlib.Path]:
  """NIfTI files below a folder whose name without suffix matches in full.

  Hidden files are passed over: archives packed on a Mac hold one of the same
  name, behind "._", for each file.

  Args:
    folder: where to look, at any depth.
    pattern: regular expression for the name without .nii or .nii.gz.

  Returns:
    name -> file, sorted.

  Raises:
    DataError: not a folder, or two files of one name.
  """
  found: dict[str, pathlib.Path] = {}
  for file in scan(folder_of(folder)):
    name = re.sub(r"(?i)\.nii(\.gz)?$", "", file.name)
    if name == file.name or not re.fullmatch(pattern, name):
      continue
    if name in found:
      raise DataError(f"{file}: {found[name]} has the same name; remove one")
    found[name] = file
  return dict(sorted(found.items()))


def volume_table(
  path: str | os.PathLike,
  table: str | os.PathLike,
  *,
  classes: Sequence[str] = (),
  axis: str = "axial",
  meta_columns: Sequence[str] = (),
  ct_window: tuple[float, float] = CT_WINDOW,
  name: str = "volumes",
) -> Dataset:
  """Your own NIfTI volumes, one row of a table each.

  Columns of the table: `id`; `image`, the file below the folder; and, where
  there are any, `label` (the file of the class map, blank for none),
  `patient` (blank: a patient of its own), `phase`, and `modality` ("mr", the
  default, or "ct").

  Args:
    path: the folder.
    table: a CSV or .xlsx file.
    classes: names of the label values 1, 2, ...; needed if there are labels.
    axis: one of `AXES`.
    meta_columns: further columns, numbers or text.
    ct_window: Hounsfield units that become 0 and 255.
    name: of the data set.

  Returns:
    As `volumes.volumes`.

  Raises:
    DataError: naming the row: a missing file or one outside the folder, an id
      twice; or what `nifti_volume` and `volumes` raise.
    ConfigError: an unknown axis.
  """
  root, rows = folder_of(path), read_table(table)
  texts = {c: _optional(rows, c) for c in ("label", "patient", "phase")}
  modality = _optional(rows, "modality")
  extra = {column: rows.meta(column) for column in meta_columns}
  codes = dict(enumerate(classes, 1))
  rows.filled("image")
  entries = [
    nifti_volume(
      volume,
      _file(root, rows, i, "image"),
      _file(root, rows, i, "label") if texts["label"][i] else None,
      axis=axis,
      codes=codes,
      patient=str(texts["patient"][i]),
      phase=str(texts["phase"][i]),
      modality=str(modality[i]) or "mr",
      columns={column: values[i] for column, values in extra.items()},
    )
    for i, volume in enumerate(rows.unique("id").tolist())
  ]
  return volumes(name, entries, ct_window=ct_window)


def _optional(rows: Table, column: str) -> np.ndarray:
  blank = np.full(len(rows), "")
  return rows.text(column) if column in rows.columns else blank


def _file(root: pathlib.Path, rows: Table, i: int, column: str) -> pathlib.Path:
  value = str(rows.text(column)[i])
  relative = os.path.normpath(value.replace("\\", "/"))
  if os.path.isabs(relative) or relative.startswith(".."):
    raise rows.error(i, column, f"{value!r} is outside the folder {root}")
  if not (root / relative).is_file():
    raise rows.error(i, column, f"{value!r}: no such file in {root}")
  return root / relative
