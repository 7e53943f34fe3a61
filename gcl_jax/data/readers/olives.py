"""OLIVES: OCT volumes with biomarkers, of the trials PRIME and TREX-DME.

Prabhushankar et al., NeurIPS Datasets and Benchmarks 2022, arXiv 2209.11195;
images and label tables: Zenodo, doi 10.5281/zenodo.7105232. Images, tables and
published split files must be downloaded by the user.
"""

import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np
from absl import logging

from gcl_jax.data.files import folder_of
from gcl_jax.data.formats import read_image
from gcl_jax.data.paths import Paths, several
from gcl_jax.data.source import Dataset
from gcl_jax.data.splits import check_groups, split_by_group
from gcl_jax.data.table_files import Table, read_table
from gcl_jax.errors import ConfigError, DataError

SPLITS = ("2", "3", "1-clean", "1-published")
# Short name -> column of the biomarker table.
BIOMARKERS = {
  "IRF": "Fluid (IRF)",
  "DME": "DRT/ME",
  "IRHRF": "IR HRF",
  "FAVF": "Fully attached vitreous face",
  "PAVF": "Partially attached vitreous face",
  "VD": "Vitreous debris",
  "atrophy": "Atrophy / thinning of retinal layers",
  "EZ": "Disruption of EZ",
  "DRIL": "DRIL",
  "IR_hemorrhages": "IR hemorrhages",
  "preretinal": "Preretinal tissue/hemorrhage",
  "VMT": "VMT",
  "SRF": "Fluid (SRF)",
  "RPE": "Disruption of RPE",
  "PED_serous": "PED (serous)",
  "SHRM": "SHRM",
}
LABELS = ("IRF", "DME", "IRHRF", "FAVF", "PAVF")  # those of the ICIP paper
META = ("CST", "BCVA", "Eye_ID", "visit", "trial")

_TABLE_FOLDERS = (
  ".",
  "full_labels",
  "OLIVES_Dataset_Labels/full_labels",
  "OLIVES_Dataset_Labels/ml_centric_labels",
)
_CLINICAL = ("Clinical_Data_Images.xlsx", "Clinical_Data_Images.csv")
_BIOMARKER = ("Biomarker_Clinical_Data_Images.csv",)
_PATH_COLUMNS = ("File_Path", "Path (Trial/Arm/Folder/Visit/Eye/Image Name)")
_TRIALS = {"Prime_FULL": "PRIME", "TREX DME": "TREX-DME"}
_SUFFIXES = (".tif", ".png", ".jpg", ".tiff", ".jpeg")
_EVAL_FRACTION = 0.23  # 20 of 87 patients, as in the published splits


def read(
  path: str | os.PathLike,
  split: str = "2",
  label_columns: Sequence[str] = LABELS,
  *,
  table: str | os.PathLike = "",
  biomarker_table: str | os.PathLike = "",
  train_table: str | os.PathLike = "",
  test_table: str | os.PathLike = "",
) -> Dataset:
  """Reads all B-scans of the clinical table, with biomarkers where available.

  Tables are read by column name, with 16 or 20 biomarker columns. A leading
  slash, or everything up to a folder `Datasets`, is removed from paths; a file
  may be stored as .tif, .png or .jpg; fundus images are left out.

  Args:
    path: the folder with Prime_FULL/ and "TREX DME"/, or the one above an
      OLIVES/ folder with them.
    split: the evaluation part, by whole patients except in "1-published":
      "2", "3": the patients of `test_table`; without tables 23 % of the
        patients, drawn with this number as seed and stratified by trial (not
        the published list, and a warning says so);
      "1-clean": the eyes of `test_table`; the other eyes of their patients
        are left out;
      "1-published": the eyes of `test_table`; the fellow eyes of 4 patients
        stay in training, which `splits.check_groups` refuses by default.
    label_columns: short names out of `BIOMARKERS`.
    table, biomarker_table: the clinical and the biomarker table, where they
      are not beside the images in
      OLIVES_Dataset_Labels/{full_labels,ml_centric_labels}/.
    train_table, test_table: the published split files, as published; only
      their paths are used, labels come from the biomarker table.

  Returns:
    ids are the paths below the folder; `group` is Patient_ID; biomarkers are
    1, 0 or nan (not labelled); meta CST (um), BCVA (letters), Eye_ID, visit
    ("W24", "V3") and trial.

  Raises:
    DataError: a missing file, table, column or patient, naming the row, or
      split files that do not fit the tables or each other.
    ConfigError: an unknown split or biomarker.
  """
  labels = tuple(label_columns)
  _check_names(split, labels)
  folder = _images_root(path)
  where = (folder, pathlib.Path(path), folder.parent)
  clinical = _scans(_found(where, table, _CLINICAL))
  names = _paths(clinical)
  columns = {
    "id": names,
    "group": clinical.filled("Patient_ID"),
    "CST": clinical.numbers("CST"),
    "BCVA": clinical.numbers("BCVA"),
    "Eye_ID": clinical.filled("Eye_ID"),
    "visit": np.array([_visit(name) for name in names.tolist()]),
    "trial": np.array([_trial(name) for name in names.tolist()]),
  }
  _check_unique(clinical, names)
  columns |= _biomarkers(
    _found(where, biomarker_table, _BIOMARKER), columns["id"]
  )
  files = _files(folder, clinical, names)
  parts, keep = _split(columns, split, train_table, test_table)
  columns = {c: v[keep] for c, v in {**columns, "split": parts}.items()}
  files = [files[i] for i in np.flatnonzero(keep)]
  return Dataset(
    "olives", columns, lambda row: read_image(files[row]), labels, META
  )


def clean_path(text: str) -> str:
  """Converts a path of any table to "Prime_FULL/..." or "TREX DME/..."."""
  text = re.sub(r"^(?:.*/)?Datasets/", "", text.replace("\\", "/"))
  return text.lstrip("/")


def _check_names(split: str, labels: tuple[str, ...]) -> None:
  if split not in SPLITS:
    raise ConfigError(f"split {split!r} of OLIVES; known: {', '.join(SPLITS)}")
  strange = set(labels) - set(BIOMARKERS)
  if strange:
    raise ConfigError(
      f"no biomarker {strange.pop()!r}; known: {', '.join(BIOMARKERS)}"
    )


def _images_root(root: str | os.PathLike) -> pathlib.Path:
  for folder in (folder_of(root), pathlib.Path(root) / "OLIVES"):
    if any((folder / trial).is_dir() for trial in _TRIALS):
      return folder
  raise DataError(f"{root}: neither Prime_FULL/ nor 'TREX DME'/ in here")


def _found(where: tuple, given: str | os.PathLike, names: tuple) -> Table:
  """Reads the given table, or the first of these names in the usual folders."""
  if given:
    return read_table(given)
  for folder in where:
    for place in _TABLE_FOLDERS:
      for name in names:
        if (folder / place / name).is_file():
          return read_table(folder / place / name)
  raise DataError(
    f"{where[0]}: no {names[0]} in here or in {_TABLE_FOLDERS[2]}; download"
    " OLIVES_Dataset_Labels and put it beside the images"
  )


def _scans(table: Table) -> Table:
  """The rows that are B-scans."""
  names = _paths(table)
  fundus = np.array(["fundus" in name.lower() for name in names.tolist()])
  return table.select(~fundus)


def _paths(table: Table) -> np.ndarray:
  """str [N], cleaned; the path column goes by several names."""
  columns = [
    c for c in table.columns if c in _PATH_COLUMNS or c.startswith("Path (")
  ]
  column = columns[0] if columns else _PATH_COLUMNS[0]
  return np.array([clean_path(text) for text in table.filled(column).tolist()])


def _check_unique(table: Table, names: np.ndarray) -> None:
  first: dict[str, int] = {}
  for i, name in enumerate(names.tolist()):
    if name in first:
      row = table.rows[first[name]]
      raise table.error(i, "path", f"{name!r} is already in row {row}")
    first[name] = i


def _stem(name: str) -> str:
  """The path without its suffix, which differs between tables and disk."""
  return name.rpartition(".")[0] or name


def _biomarkers(table: Table, ids: np.ndarray) -> dict[str, np.ndarray]:
  """Each biomarker of the table as float64 [N], nan where not labelled."""
  row_of = {_stem(name): i for i, name in enumerate(ids.tolist())}
  table = _scans(table)
  rows = _rows(table, row_of)
  columns = {}
  for short, column in BIOMARKERS.items():
    columns[short] = np.full(len(ids), np.nan)
    columns[short][rows] = table.binary(column)
  return columns


def _rows(table: Table, row_of: dict[str, int]) -> np.ndarray:
  """int [n]: rows of the clinical table; DataError for an unknown path."""
  names = _paths(table)
  _check_unique(table, names)
  rows = [row_of.get(_stem(name), -1) for name in names.tolist()]
  if -1 in rows:
    i = rows.index(-1)
    raise table.error(
      i, "path", f"{str(names[i])!r} is not in the clinical table"
    )
  return np.array(rows)


def _files(
  root: pathlib.Path, table: Table, names: np.ndarray
) -> list[pathlib.Path]:
  """The stored file of each row, under the suffix it has on disk."""
  files, missing = [], []
  # Lists every folder once: not up to six look-ups for each of 78,185 files.
  paths, folders = Paths(root), {}
  for i, name in enumerate(names.tolist()):
    parent, _, last = name.rpartition("/")
    if parent not in folders:
      folders[parent] = paths.alike(parent)
    found = _stored(paths, folders[parent], last)
    if len(found) > 1:
      raise table.error(i, "path", f"{name!r}: {several(found)} in {root}")
    missing += [] if found else [i]
    files += found
  if missing:
    raise table.error(
      missing[0],
      "path",
      f"no image {str(names[missing[0]])!r} in {root} ({len(missing)} of"
      f" {len(names)} are missing); extract all of Prime_FULL and TREX DME",
    )
  return files


def _stored(
  paths: Paths, folders: list[pathlib.Path], name: str
) -> list[pathlib.Path]:
  """Files of this name, or else of this name with another suffix."""
  for option in (name, *(_stem(name) + suffix for suffix in _SUFFIXES)):
    found = [file for f in folders for file in paths.inside(f, option)]
    if found:
      return found
  return []


def _trial(name: str) -> str:
  return _TRIALS.get(name.partition("/")[0], "")


def _visit(name: str) -> str:
  """The folder W<week> (PRIME) or V<visit> (TREX-DME), "" if there is none."""
  folders = name.split("/")[:-1]
  return next((f for f in folders if re.fullmatch(r"[WV]\d+", f)), "")


def _split(
  table: dict[str, np.ndarray], split: str, train_table, test_table
) -> tuple[np.ndarray, np.ndarray]:
  """str [N] train or eval, and bool [N] rows to keep."""
  groups, everything = table["group"], np.ones(len(table["id"]), bool)
  if not test_table:
    return _own_split(table, split), everything
  row_of = {_stem(name): i for i, name in enumerate(table["id"].tolist())}
  tested = _rows(_scans(read_table(test_table)), row_of)
  column = "group" if split in ("2", "3") else "Eye_ID"
  held_out = np.isin(table[column], table[column][tested])
  parts = np.where(held_out, "eval", "train")
  if train_table:
    trained = _rows(_scans(read_table(train_table)), row_of)
    _check_tables(groups, trained, tested, held_out, split)
  if split != "1-clean":
    return parts, everything
  fellow = np.isin(groups, groups[held_out]) & ~held_out
  return parts, ~fellow


def _own_split(table: dict[str, np.ndarray], split: str) -> np.ndarray:
  """Draws a split by patient where the published files are missing."""
  if split not in ("2", "3"):
    raise DataError(
      f"split {split!r} of OLIVES needs the published files: give train_table"
      " and test_table, or use split 2 or 3"
    )
  logging.warning(
    "OLIVES without split files: a patient-wise split of our own, not the"
    " published split %s",
    split,
  )
  held_out = split_by_group(
    table["group"], _EVAL_FRACTION, int(split), stratify=table["trial"]
  )
  return np.where(held_out, "eval", "train")


def _check_tables(groups, trained, tested, held_out, split: str) -> None:
  """Refuses published files that overlap in rows or (2, 3) in patients."""
  if split in ("2", "3"):
    parts = np.repeat(["train", "eval"], [len(trained), len(tested)])
    check_groups(np.concatenate([groups[trained], groups[tested]]), parts)
  elif held_out[trained].any():
    raise DataError(
      f"{held_out[trained].sum()} rows of the training file are of eyes in the"
      " test file: are these the files of one split?"
    )
