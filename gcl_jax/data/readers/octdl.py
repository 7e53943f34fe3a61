"""OCTDL: retinal OCT B-scans, healthy and six diseases.

Kulyabin et al., Scientific Data 11:365 (2024), doi
10.1038/s41597-024-03182-7, CC BY 4.0. Read either from one npz file (grey,
96 rows) or from the JPEG files, whose names start with the class.
"""

import os

import numpy as np

from gcl_jax.data.files import existing, read_npz
from gcl_jax.data.readers import folder
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

CLASSES = ("NO", "AMD", "DME", "ERM", "RAO", "RVO", "VID")
LABELS = (*CLASSES[1:], "diseased")
META = ("overlay", "source_width", "source_height")
# 256 of the 264 columns, so that four halvings leave a whole number.
_COLUMNS = slice(4, 260)
_WANTED = ("images", "labels", "group", "names", "is_val", "overlay")


def read(path: str | os.PathLike) -> Dataset:
  """Reads OCTDL from the npz file, or from a folder of its JPEG files.

  The npz file: uint8 images of 96 x 256 (the middle columns), `group` = the
  patient numbers that share a scan, `split` from the group-wise validation
  mark, meta `overlay` (1 = arrow and slice number drawn into the scan),
  `source_width`, `source_height` (pixels of the original).

  A folder: RGB images in their own sizes, `group` = the patient number in
  the name (the release holds some scans under two numbers), no split, no
  meta.

  Args:
    path: the file or the folder.

  Returns:
    Labels AMD, DME, ERM, RAO, RVO, VID (one against the rest) and `diseased`;
    `healthy` is class NO; ids are the file names.

  Raises:
    DataError: neither of the two, or arrays of another shape or type.
  """
  if existing(path).is_dir():
    return _from_files(path)
  arrays = read_npz(path)
  missing = {*_WANTED, "source_width_height"} - set(arrays)
  if missing:
    raise DataError(f"{path}: not OCTDL, no array {sorted(missing)[0]!r}")
  _check(path, arrays)
  images, labels = arrays["images"], arrays["labels"]
  width, height = arrays["source_width_height"].T.astype(float)
  table = {
    "id": arrays["names"].astype(str),
    "group": arrays["group"].astype(str),
    "split": np.where(arrays["is_val"], "eval", "train"),
    "overlay": arrays["overlay"].astype(float),
    "source_width": width,
    "source_height": height,
    **_columns(np.array(CLASSES)[labels]),
  }
  return Dataset(
    "octdl", table, lambda row: images[row, :, _COLUMNS], LABELS, META
  )


def _check(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
  """Refuses arrays whose shape, type or classes differ from the release."""
  images, labels = arrays["images"], arrays["labels"]
  if images.ndim != 3 or images.dtype != np.uint8 or images.shape[2] < 260:
    raise DataError(
      f"{path}: images {images.shape} of {images.dtype}; expected [N, H, 264]"
      " of uint8"
    )
  for name in (*_WANTED[1:], "source_width_height"):
    axes = (2,) if name == "source_width_height" else ()
    kinds = "US" if name == "names" else "iubfUS" if name == "group" else "iubf"
    values = arrays[name]
    if values.shape != (len(images), *axes) or values.dtype.kind not in kinds:
      raise DataError(
        f"{path}: {name} {values.shape} of {values.dtype} do not fit"
        f" {len(images)} images"
      )
  if labels.dtype.kind not in "iu" or not np.isin(labels, range(7)).all():
    raise DataError(
      f"{path}: classes up to {labels.max(initial=0)} of {labels.dtype} in"
      " labels; expected 0..6"
    )


def _from_files(path: str | os.PathLike) -> Dataset:
  """Reads class and patient from names class_patient_number.jpg."""
  found = folder.read(
    path,
    pattern=r"(?i)(?P<label>no|amd|dme|erm|rao|rvo|vid)_(?P<group>\d+)_\d+\.",
    name="octdl",
  )
  prefixes = [name.rpartition("/")[2] for name in found.ids.tolist()]
  classes = np.array([name.partition("_")[0].upper() for name in prefixes])
  table = {"id": found.ids, "group": found.groups, **_columns(classes)}
  return Dataset("octdl", table, found.read, LABELS)


def _columns(classes: np.ndarray) -> dict[str, np.ndarray]:
  """Columns of every class, including those without an image."""
  columns = {c: (classes == c).astype(float) for c in CLASSES[1:]}
  columns["healthy"] = (classes == "NO").astype(float)
  columns["diseased"] = 1 - columns["healthy"]
  return columns
