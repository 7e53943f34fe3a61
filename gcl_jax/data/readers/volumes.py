"""Your own NIfTI or npz volumes, one row of a table each."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from gcl_jax.data.files import folder_of
from gcl_jax.data.intensity import CT_WINDOW
from gcl_jax.data.paths import Paths, several
from gcl_jax.data.source import Dataset
from gcl_jax.data.table_files import Table, read_table
from gcl_jax.data.unknown_patients import with_patients
from gcl_jax.data.volume_files import nifti_volume
from gcl_jax.data.volumes import volumes
from gcl_jax.errors import DataError


def read(
  path: str | os.PathLike,
  table: str | os.PathLike = "",
  *,
  classes: Sequence[str] = (),
  axis: str = "axial",
  meta_columns: Sequence[str] = (),
  ct_window: tuple[float, float] = CT_WINDOW,
  group_unknown: str = "refuse",
  name: str = "volumes",
) -> Dataset:
  """Your own NIfTI or npz volumes, one row of a table each.

  Columns of the table: `id`; `image`, the file below the folder; `patient`;
  and, where there are any, `label` (the file of the class map, blank for none),
  `phase`, and `modality` ("mr", the default, or "ct"). What arrays an npz file
  has: see `npz_volumes`; where it has no `spacing`, `spacing_1`, `spacing_2`
  and `spacing_3` give the mm along its axes.

  Args:
    path: the folder.
    table: a CSV or .xlsx file.
    classes: names of the label values 1, 2, ...; needed if there are labels.
    axis: one of `AXES`.
    meta_columns: further columns, numbers or text.
    ct_window: Hounsfield units that become 0 and 255.
    group_unknown: treatment of volumes without a patient, all of them if there
      is no such column: "refuse" them, "exclude" them, or make each "volume" a
      patient of its own.
    name: of the data set.

  Returns:
    As `volumes.volumes`.

  Raises:
    DataError: naming the row: a missing file or one outside the folder, an id
      twice, a blank patient; or what `nifti_volume` and `volumes` raise.
    ConfigError: an unknown axis or `group_unknown`.
  """
  if not table:
    raise DataError(
      "data set 'volumes' needs a table: --config.data.table=... with the"
      " columns id, image, label, patient, phase"
    )
  paths = Paths(folder_of(path))
  rows = with_patients(
    read_table(table), "patient", group_unknown, unit="volume"
  )
  texts = {c: _optional(rows, c) for c in ("label", "patient", "phase")}
  modality = _optional(rows, "modality")
  if taken := [name for name in meta_columns if name in _OURS]:
    raise DataError(
      f"meta column {taken[0]!r} of {table} has a name that the reader gives"
      " itself (the patient's group, geometry): rename it in the table"
    )
  extra = {column: rows.meta(column) for column in meta_columns}
  codes, spacings = dict(enumerate(classes, 1)), _spacings(rows)
  rows.filled("image")
  entries = [
    nifti_volume(
      volume,
      _file(paths, rows, i, "image"),
      _file(paths, rows, i, "label") if texts["label"][i] else None,
      axis=axis,
      spacing=spacings[i],
      codes=codes,
      patient=str(texts["patient"][i]),
      phase=str(texts["phase"][i]),
      modality=str(modality[i]) or "mr",
      columns={column: values[i] for column, values in extra.items()},
    )
    for i, volume in enumerate(rows.unique("id").tolist())
  ]
  return volumes(name, entries, ct_window=ct_window)


# Columns made of the volumes: the split, label draws and distances go by them.
_OURS = {"id", "group", "volume", "slice", "position", "labelled"}
_OURS |= {f"spacing_{axis}" for axis in "zyx"}


def _optional(rows: Table, column: str) -> np.ndarray:
  blank = np.full(len(rows), "")
  return rows.text(column) if column in rows.columns else blank


def _spacings(rows: Table) -> list[tuple[float, ...] | None]:
  """mm along the stored axes of every row; None where nothing is filled in."""
  names = [f"spacing_{axis}" for axis in (1, 2, 3)]
  if not any(name in rows.columns for name in names):
    return [None] * len(rows)
  found = np.stack([rows.numbers(name) for name in names], 1)
  return [None if np.isnan(mm).all() else tuple(mm.tolist()) for mm in found]


def _file(paths: Paths, rows: Table, i: int, column: str) -> pathlib.Path:
  written, text = paths.cell(rows, i, column)
  found = [f for f in paths.exact(written) if f.is_file()]
  found = found or [f for f in paths.alike(text) if f.is_file()]
  if len(found) != 1:
    value = str(rows.text(column)[i])
    raise rows.error(i, column, f"{value!r}: {several(found)} in {paths.root}")
  return found[0]
