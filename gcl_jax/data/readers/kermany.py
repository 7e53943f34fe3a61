"""Kermany OCT2017 ("ZhangLabData"): CNV, DME, drusen and normal B-scans.

Kermany et al., Cell 172 (2018), CC BY 4.0. Files are named
CLASS-patient-number.jpeg in {train,val,test}/CLASS folders.
"""

import os
import pathlib
import re

import numpy as np
from absl import logging

from gcl_jax.data.file_names import class_columns, scan
from gcl_jax.data.files import folder_of
from gcl_jax.data.formats import read_image
from gcl_jax.data.source import Dataset
from gcl_jax.errors import ConfigError, DataError

CLASSES = ("CNV", "DME", "DRUSEN", "NORMAL")
_LAYOUTS = (".", "OCT2017", "OCT", "CellData/OCT", "ZhangLabData/CellData/OCT")
_PARTS = ("train", "val", "test")
_NAME = re.compile(r"(CNV|DME|DRUSEN|NORMAL)-(\d+)-(\d+)\.jpe?g", re.IGNORECASE)


def read(path: str | os.PathLike, *, overlap: str = "drop") -> Dataset:
  """Reads Kermany OCT2017 in the Kaggle or the Mendeley layout.

  Patients are the middle field of the names. Some patients of the published
  test (or val) folder are in train as well; their training images are
  dropped, with the number reported, or refused.

  Args:
    path: the folder that holds train/, or one above it (OCT2017, CellData).
    overlap: "drop" or "refuse".

  Returns:
    Labels CNV, DME, DRUSEN; `healthy` = NORMAL; `split` "train" for the train
    folder and "eval" for val and test; meta `part` (the folder); ids are the
    paths below the folder with train/.

  Raises:
    DataError: neither layout, a file with another name or in the folder of
      another class, or overlapping patients with overlap="refuse".
    ConfigError: any other `overlap`.
  """
  if overlap not in ("drop", "refuse"):
    raise ConfigError(f"overlap={overlap!r}; known: drop, refuse")
  root = _root(path)
  files = [f for part in _PARTS for f in scan(root / part)]
  if not files:
    raise DataError(f"{root}: no image in train, val or test")
  names = [file.relative_to(root).as_posix() for file in files]
  fields = np.array([_parsed(root, name) for name in names])
  part, classes, patient = fields.T
  keep = _without_overlap(root, part, patient, overlap)
  files = [files[i] for i in np.flatnonzero(keep)]
  columns, _ = class_columns(classes[keep])
  table = {c: columns.get(c, np.zeros(keep.sum())) for c in CLASSES}
  table["healthy"] = table.pop("NORMAL").astype(float)
  table = {
    "id": np.array(names)[keep],
    "group": patient[keep],
    "split": np.where(part[keep] == "train", "train", "eval"),
    "part": part[keep],
    **table,
  }
  return Dataset(
    "kermany", table, lambda row: read_image(files[row]), CLASSES[:3], ("part",)
  )


def _root(path: str | os.PathLike) -> pathlib.Path:
  for layout in _LAYOUTS:
    root = folder_of(path) / layout
    if (root / "train").is_dir():
      return root
  raise DataError(
    f"{path}: no folder train/ here or in {', '.join(_LAYOUTS[1:])}"
  )


def _parsed(root: pathlib.Path, name: str) -> tuple[str, str, str]:
  """Part, class and patient of train/CNV/CNV-53018-1.jpeg."""
  fields = name.split("/")
  match = _NAME.fullmatch(fields[-1])
  if not match or len(fields) != 3 or fields[1].upper() != match[1].upper():
    raise DataError(
      f"{root / name}: expected PART/CLASS/CLASS-patient-number.jpeg with a"
      f" class of {', '.join(CLASSES)}"
    )
  return fields[0], match[1].upper(), match[2]


def _without_overlap(
  root: pathlib.Path, part: np.ndarray, patient: np.ndarray, overlap: str
) -> np.ndarray:
  """bool [N]: all rows but training rows of patients held out elsewhere."""
  train = part == "train"
  crossing = train & np.isin(patient, patient[~train])
  if crossing.any():
    who = sorted(set(patient[crossing].tolist()))
    message = (
      f"{root}: {len(who)} patients of val or test are in train too"
      f" ({', '.join(who[:10])}{' ...' if len(who) > 10 else ''})"
    )
    if overlap == "refuse":
      raise DataError(message)
    logging.warning("%s; %d images dropped", message, crossing.sum())
  return ~crossing
