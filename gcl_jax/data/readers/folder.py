"""Your own images: a folder, described by a table or by file names."""

import collections
import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from gcl_jax.data import formats
from gcl_jax.data.file_names import from_names, known_suffix, scan
from gcl_jax.data.files import folder_of
from gcl_jax.data.paths import Paths, several
from gcl_jax.data.source import Dataset
from gcl_jax.data.table_files import Table, read_table
from gcl_jax.data.text import one_form
from gcl_jax.data.unknown_patients import check_choice, with_patients
from gcl_jax.errors import DataError

_PARTS = {"train": "train", "eval": "eval", "": ""}
_PARTS |= dict.fromkeys(("val", "valid", "validation", "test"), "eval")


def read(
  path: str | os.PathLike,
  table: str | os.PathLike = "",
  *,
  id_column: str = "id",
  path_column: str = "path",
  group_column: str = "group",
  label_columns: Sequence[str] = (),
  meta_columns: Sequence[str] = (),
  healthy_column: str = "",
  split: str = "",
  pattern: str = "",
  group_unknown: str = "refuse",
  name: str = "folder",
) -> Dataset:
  r"""Reads the images of a folder, described by a table or by their names.

  With a table (CSV or .xlsx), one row is one image: `path_column` holds its
  path below the folder, or a file name without suffix that occurs once. A
  NIfTI file, a multi-frame DICOM file or a folder with a DICOM series is one
  row as well and becomes one image per slice, with the ids `id#0`, `id#1`...

  Without a table, every image below the folder is taken. The class is the
  sub-folder, or what `(?P<label>...)` of `pattern` matches in the path below
  the folder; the patient is what `(?P<group>...)` matches, for example
  r"(?P<label>[a-z]+)_(?P<group>\d+)_". Each class becomes a label column.

  Args:
    path: the folder.
    table: a CSV or .xlsx file; "" for names only.
    id_column: unique name of each image.
    path_column: where the image is.
    group_column: the patient. Rows of one patient never cross a split.
    label_columns: binary columns (1, 0, blank = unknown); without a table,
      the classes to keep as labels (all but the healthy one by default).
    meta_columns: further columns, numbers or text.
    healthy_column: binary column; without a table, the name of the class
      that is healthy.
    split: column of train, eval (or val, test), or blank.
    pattern: regular expression for file names, only without a table.
    group_unknown: treatment of images without a patient: "refuse" them,
      "exclude" them, or make each "image" a patient of its own.
    name: of the data set.

  Returns:
    The data set, in the order of the table or of the sorted paths.

  Raises:
    DataError: naming the row: a missing column or file, an id or path given
      twice, a label that is not 0, 1 or blank, a blank patient.
    ConfigError: an unknown `group_unknown` or a broken pattern.
  """
  check_choice(group_unknown, "image")
  root = folder_of(path)
  if not table:
    columns, files, labels = from_names(
      root, pattern, label_columns, healthy_column, group_unknown
    )
    return _dataset(name, columns, files, labels, ())
  rows = with_patients(
    read_table(table),
    group_column,
    group_unknown,
    unit="image",
    id_column=id_column,
  )
  labels, meta = tuple(label_columns), tuple(meta_columns)
  columns = {"id": rows.unique(id_column), "group": rows.text(group_column)}
  columns |= {label: rows.binary(label) for label in labels}
  columns |= {column: rows.meta(column) for column in meta}
  if healthy_column:
    columns["healthy"] = rows.binary(healthy_column)
  if split:
    columns["split"] = _parts(rows, split)
  return _dataset(name, columns, _files(root, rows, path_column), labels, meta)


def _parts(rows: Table, column: str) -> np.ndarray:
  values = [value.lower() for value in rows.text(column).tolist()]
  for i, value in enumerate(values):
    if value not in _PARTS:
      raise rows.error(i, column, f"{value!r} is not train, eval or blank")
  return np.array([_PARTS[value] for value in values])


def _files(root: pathlib.Path, rows: Table, column: str) -> list[pathlib.Path]:
  """Finds the file of each row; DataError if missing, outside or repeated."""
  paths, by_stem = Paths(root), functools.cache(lambda: _stems(root))
  files, seen = [], {}
  for i, value in enumerate(rows.filled(column).tolist()):
    written, text = paths.cell(rows, i, column)
    same = (
      paths.exact(written)
      or by_stem()[0].get(written)
      or paths.alike(text)
      or by_stem()[1].get(text, [])
    )
    if len(same) != 1:
      raise rows.error(i, column, f"{value!r}: {several(same)} in {root}")
    (file,) = same
    if file in seen:
      raise rows.error(i, column, f"{value!r} is already in row {seen[file]}")
    seen[file] = rows.rows[i]
    files.append(file)
  return files


def _stems(root: pathlib.Path) -> tuple[dict[str, list[pathlib.Path]], ...]:
  """Maps names and relative paths, without suffix, to files.

  Returns:
    The map by names as stored, and the map by names in canonical form.
  """
  stored, alike = collections.defaultdict(list), collections.defaultdict(list)
  for file in scan(root):
    name = file.relative_to(root).as_posix()
    short = name[: -len(known_suffix(name))]
    for key in {short, short.rpartition("/")[2]}:
      stored[key].append(file)
      alike[one_form(key)].append(file)
  return stored, alike


def _dataset(
  name: str,
  columns: dict[str, np.ndarray],
  files: list[pathlib.Path],
  labels: tuple[str, ...],
  meta: tuple[str, ...],
) -> Dataset:
  """Makes the data set; a volume is expanded to one row per slice."""
  rows, ids, reads = [], [], []
  for row, file in enumerate(files):
    for suffix, read in _entries(file):
      rows.append(row)
      ids.append(f"{columns['id'][row]}{suffix}")
      reads.append(read)
  table = {column: values[rows] for column, values in columns.items()}
  table["id"] = np.array(ids)
  return Dataset(name, table, lambda row: reads[row](), labels, meta)


def _entries(file: pathlib.Path) -> list[tuple[str, Callable]]:
  """(id suffix, reader) of one image, or of each slice of a volume."""
  try:
    slices = formats.count_slices(file)
  except DataError as error:
    # Reading this row raises the reason; all other images stay readable.
    return [("", functools.partial(_fail, str(error)))]
  if slices is None:
    return [("", functools.partial(formats.read_image, file))]
  return [
    (f"#{k}", functools.partial(formats.read_slice, file, k))
    for k in range(slices)
  ]


def _fail(reason: str) -> np.ndarray:
  raise DataError(reason)
