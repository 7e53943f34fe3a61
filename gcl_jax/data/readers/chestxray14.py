"""NIH ChestX-ray14: chest radiographs with findings mined from reports.

Wang et al., CVPR 2017: 112,120 images of 30,805 patients, 1024 x 1024 pixels,
14 findings read from reports by a program; 984 boxes of eight of them were
drawn by a radiologist in 880 images (BBox_List_2017.csv).
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from gcl_jax.data import box_files
from gcl_jax.data.file_names import files_by_stem
from gcl_jax.data.files import MAX_TABLE_BYTES, folder_of, read_bytes
from gcl_jax.data.formats import read_image, without_colour
from gcl_jax.data.published import check_lists
from gcl_jax.data.source import Dataset
from gcl_jax.data.table_files import Table, canonical, read_table
from gcl_jax.errors import ConfigError, DataError

# The findings with boxes, and the others.
FINDINGS = (
  *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration"),
  *("Mass", "Nodule", "Pneumonia", "Pneumothorax"),
)
OTHERS = (
  *("Consolidation", "Edema", "Emphysema", "Fibrosis"),
  *("Hernia", "Pleural_Thickening"),
)
NONE = "No Finding"
SIDE = 1024  # pixels of the published images, which the boxes refer to
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_LISTS = {"train": "train_val_list.txt", "eval": "test_list.txt"}


def read(
  path: str | os.PathLike,
  table: str | os.PathLike = "",
  *,
  label_columns: Sequence[str] = FINDINGS,
  boxes_path: str | os.PathLike = "",
  quality_table: str | os.PathLike = "",
) -> Dataset:
  """Reads the images that the table names, with findings and boxes.

  Args:
    path: the folder above the images (images/ or images_001/images/ ...), with
      the table and, where they are, train_val_list.txt and test_list.txt.
    table: a file like Data_Entry_2017.csv with the columns `Image Index`,
      `Finding Labels` and `Patient ID`, for example of a part of the images; ""
      takes Data_Entry_2017_v2020.csv or Data_Entry_2017.csv of the folder.
    label_columns: findings to keep as labels; the eight with boxes by default.
    boxes_path: BBox_List_2017.csv, or a file of any detector as in `box_files`,
      in pixels of the published 1024 x 1024 images.
    quality_table: a table with `image` and `quality` (numbers, 0 = good), one
      row for every image.

  Returns:
    ids are the file names, `group` the patient; labels 1 or 0, `healthy` = "No
    Finding"; `split` where the two lists are there; meta `quality` where there
    is a table of it; `read_boxes` with `boxes_path`: all boxes of the image,
    whatever their finding. Images with colour channels that all agree are read
    as grey.

  Raises:
    DataError: no table, images that are not there, an unknown finding, an image
      in neither list, a patient in both or one list alone, an image without a
      quality; on reading boxes, an image of another size than 1024 x 1024.
    ConfigError: a label that is no finding.
  """
  labels = tuple(label_columns)
  strange = set(labels) - {*FINDINGS, *OTHERS}
  if strange:
    raise ConfigError(
      f"no finding {min(strange)!r}; known: {', '.join((*FINDINGS, *OTHERS))}"
    )
  root = folder_of(path)
  rows = read_table(table or _found(root))
  names = rows.unique("Image Index")
  stems = [box_files.stem(name) for name in names.tolist()]
  findings = _findings(rows)
  columns = {"id": names, "group": rows.filled("Patient ID")}
  columns |= {
    name: np.array([float(name in found) for found in findings])
    for name in labels
  }
  columns["healthy"] = np.array([float(NONE in found) for found in findings])
  parts = _parts(root, rows)
  if parts is not None:
    columns["split"] = parts
    check_lists(root, columns["group"], parts)
  if quality_table:
    columns["quality"] = _quality(quality_table, stems)
  files = files_by_stem(root, stems)

  def image(row: int) -> np.ndarray:
    return without_colour(read_image(files[row]))

  return Dataset(
    "chestxray14",
    columns,
    image,
    labels,
    ("quality",) if quality_table else (),
    read_boxes=_boxes(boxes_path, names, files) if boxes_path else None,
  )


def _found(root: pathlib.Path) -> pathlib.Path:
  for name in _TABLES:
    if (root / name).exists():
      return root / name
  raise DataError(
    f"{root}: neither {_TABLES[0]} nor {_TABLES[1]} in here; give the table"
    " with data.table"
  )


def _findings(rows: Table) -> list[set[str]]:
  """The findings of each row; DataError for one that does not exist."""
  found = []
  for i, text in enumerate(rows.filled("Finding Labels").tolist()):
    found.append({part.strip() for part in text.split("|")})
    strange = found[-1] - {NONE, *FINDINGS, *OTHERS}
    if strange:
      raise rows.error(i, "Finding Labels", f"no finding {min(strange)!r}")
    if NONE in found[-1] and len(found[-1]) > 1:
      raise rows.error(i, "Finding Labels", f"{text!r} contradicts itself")
  return found


def _parts(root: pathlib.Path, rows: Table) -> np.ndarray | None:
  """Part of each row by the published lists; None without them."""
  lists = {
    part: root / name for part, name in _LISTS.items() if (root / name).exists()
  }
  if not lists:
    return None
  if len(lists) < len(_LISTS):
    raise DataError(
      f"{root}: of {' and '.join(_LISTS.values())} one is missing; add it, or"
      " remove the other to draw a split by patient"
    )
  part_of: dict[str, str] = {}
  for part, file in lists.items():
    for name in _lines(file):
      if part_of.setdefault(name, part) != part:
        raise DataError(f"{file}: {name!r} is in both lists")
  names = rows.text("Image Index").tolist()
  missing = [i for i, name in enumerate(names) if name not in part_of]
  if missing:
    raise rows.error(
      missing[0],
      "Image Index",
      f"{names[missing[0]]!r} is in neither list ({len(missing)} such images)",
    )
  return np.array([part_of[name] for name in names])


def _lines(file: pathlib.Path) -> list[str]:
  """Lines of a text file that are not blank."""
  try:
    text = read_bytes(file, MAX_TABLE_BYTES).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise DataError(f"{file}: is not UTF-8 text") from error
  return [name for name in map(canonical, text.splitlines()) if name]


def _quality(path: str | os.PathLike, stems: list[str]) -> np.ndarray:
  """float64 [N], the quality of each image."""
  rows = read_table(path)
  names = map(box_files.stem, rows.unique("image").tolist())
  values = dict(zip(names, rows.numbers("quality").tolist(), strict=True))
  result = np.array([values.get(name, np.nan) for name in stems])
  missing = np.flatnonzero(np.isnan(result))
  if missing.size:
    raise DataError(
      f"{path}: no quality of {stems[missing[0]]!r} ({missing.size} of"
      f" {len(stems)} images); give the images with one as data.table"
    )
  return result


def _boxes(path: str | os.PathLike, names: np.ndarray, files: list):
  """The function `read_boxes` of a data set."""
  boxes, _ = box_files.for_images(path, names.tolist())

  def read_boxes(row: int) -> np.ndarray:
    found = boxes[row]
    if len(found):
      size = read_image(files[row]).shape[:2]
      if size != (SIDE, SIDE):
        raise DataError(
          f"{files[row]}: {size[0]} x {size[1]} pixels, but boxes are given for"
          f" the published images of {SIDE} x {SIDE}"
        )
    return found.copy()

  return read_boxes
