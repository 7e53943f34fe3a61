"""EyeQ: quality labels and grades of EyePACS fundus photographs.

Fu et al., MICCAI 2019: 28,792 images of the Kaggle set of diabetic retinopathy
(EyePACS), graded 0 to 4, with a quality: 0 good, 1 usable, 2 reject.
"""

import os
import pathlib
import re

import numpy as np

from gcl_jax.data.file_names import files_by_stem
from gcl_jax.data.files import existing, folder_of
from gcl_jax.data.formats import read_image
from gcl_jax.data.published import check_lists
from gcl_jax.data.source import Dataset
from gcl_jax.data.table_files import Table, read_table
from gcl_jax.errors import DataError

_TABLES = ("Label_EyeQ_train.csv", "Label_EyeQ_test.csv")
_NAME = re.compile(r"(\d+)_(left|right)(?:\.\w+)?", re.IGNORECASE)
_PART = {"train": "train", "test": "eval"}


def read(path: str | os.PathLike, table: str | os.PathLike = "") -> Dataset:
  """Reads the images that the label files name.

  Args:
    path: the folder of the images, NUMBER_left.jpeg or .jpg, .png, at any
      depth.
    table: the folder with Label_EyeQ_train.csv and Label_EyeQ_test.csv (or with
      one of them), or one such file; "" looks for them in `path`. Columns
      `image`, `quality` and `DR_grade`; a column of row numbers is ignored.

  Returns:
    ids are the names without suffix, `group` the patient's number; `grade` 0-4
    and `quality` 0-2 (float, nan where blank), `eye` L or R, `healthy` = grade
    0, `split` = "train" or "eval" after the file's name. No labels; meta grade,
    quality and eye.

  Raises:
    DataError: no label file, one whose name says neither train nor test, images
      that are not in the folder or twice in it, a name, grade or quality of
      another kind, or a patient in both files.
  """
  root = folder_of(path)
  parts = [_columns(read_table(file)) for file in _tables(root, table)]
  columns = {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
  check_lists(root, columns["group"], columns["split"])
  files = files_by_stem(root, columns["id"])
  return Dataset(
    "eyeq",
    columns,
    lambda row: read_image(files[row]),
    meta=("grade", "quality", "eye"),
  )


def _tables(root: pathlib.Path, table: str | os.PathLike) -> list[pathlib.Path]:
  where = existing(table) if table else root
  if not where.is_dir():
    return [where]
  found = [where / name for name in _TABLES if (where / name).exists()]
  if not found:
    raise DataError(
      f"{where}: neither {_TABLES[0]} nor {_TABLES[1]} in here; give the folder"
      " or the file of EyeQ's labels with data.table"
    )
  return found


def _columns(rows: Table) -> dict[str, np.ndarray]:
  """Columns of one label file."""
  named = [word for word in _PART if word in rows.path.name.lower()]
  if len(named) != 1:
    raise DataError(
      f"{rows.path}: the name says neither train nor test, so its part is not"
      " known"
    )
  matches = []
  for i, name in enumerate(rows.unique("image").tolist()):
    matches.append(_NAME.fullmatch(name))
    if matches[-1] is None:
      raise rows.error(i, "image", f"{name!r} is not NUMBER_left or _right")
  grade = _whole(rows, "DR_grade", 4)
  return {
    "id": np.array([m[0].partition(".")[0] for m in matches]),
    "group": np.array([m[1] for m in matches]),
    "eye": np.array([m[2][0].upper() for m in matches]),
    "grade": grade,
    "quality": _whole(rows, "quality", 2),
    "healthy": np.where(np.isnan(grade), np.nan, grade == 0),
    "split": np.full(len(rows), _PART[named[0]]),
  }


def _whole(rows: Table, column: str, largest: int) -> np.ndarray:
  """float64 [N] of 0..largest and nan; DataError for any other value."""
  values = rows.numbers(column)
  wrong = ~np.isin(values, np.arange(largest + 1)) & ~np.isnan(values)
  if wrong.any():
    row = np.flatnonzero(wrong)[0]
    raise rows.error(
      row, column, f"{str(rows.text(column)[row])!r} is not 0 to {largest}"
    )
  return values
