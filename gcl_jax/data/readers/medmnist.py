"""MedMNIST-style npz files: {train,val,test}_images and _labels."""

import os

import numpy as np
from absl import logging

from gcl_jax.data.files import read_npz
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

_PARTS = ("train", "val", "test")


def read(path: str | os.PathLike, *, healthy_column: str = "") -> Dataset:
  """Reads a MedMNIST file of 2-D images.

  The files hold no patient numbers, so every image is a group of its own and
  a random split may put one patient on both sides: a warning says so.

  Args:
    path: the npz file. `*_images` are uint8 [N, H, W] or [N, H, W, 3],
      `*_labels` integer [N, 1] (a class) or [N, K] (K binary labels).
    healthy_column: the class that is healthy, as text ("0"); "" for none.

  Returns:
    ids `train/0`...; labels `class_c` for each class but the healthy one (for
    two classes `class_1` alone) or `label_k`; `split`: the published test
    images (the validation images if there are none) are "eval", all others
    "train"; meta `part` (train, val or test) to tell them apart.

  Raises:
    DataError: not a MedMNIST file, or arrays that do not match each other.
  """
  arrays = read_npz(path)
  parts = [p for p in _PARTS if f"{p}_images" in arrays]
  if not parts:
    raise DataError(
      f"{path}: no train_images; arrays: {', '.join(arrays) or 'none'}"
    )
  for part in parts:
    _check(path, part, arrays)
  logging.log_first_n(
    logging.WARNING,
    "%s holds no patient numbers: each image counts as one patient",
    1,
    path,
  )
  part_of = np.concatenate(
    [np.full(len(arrays[f"{p}_images"]), p) for p in parts]
  )
  numbers = np.concatenate(
    [np.arange(len(arrays[f"{p}_images"])) for p in parts]
  )
  ids = np.char.add(np.char.add(part_of, "/"), numbers.astype(str))
  columns, labels = _labels(path, arrays, parts, healthy_column)
  held_out = "test" if "test" in parts else "val"
  table = {
    "id": ids,
    "group": ids,
    "split": np.where(part_of == held_out, "eval", "train"),
    "part": part_of,
    **columns,
  }

  def image(row: int) -> np.ndarray:
    return arrays[f"{part_of[row]}_images"][numbers[row]]

  return Dataset("medmnist", table, image, labels, ("part",))


def _check(path, part: str, arrays: dict[str, np.ndarray]) -> None:
  images, labels = arrays[f"{part}_images"], arrays.get(f"{part}_labels")
  colour = images.ndim == 4 and images.shape[-1] == 3
  if images.ndim != 3 and not colour:
    raise DataError(
      f"{path}: {part}_images of shape {images.shape} are not 2-D images"
    )
  if images.dtype not in (np.uint8, np.uint16):
    raise DataError(f"{path}: {part}_images are {images.dtype}, not uint8")
  if labels is None or labels.ndim != 2 or len(labels) != len(images):
    shape = "missing" if labels is None else labels.shape
    raise DataError(
      f"{path}: {part}_labels {shape} for {len(images)} images; expected one"
      " row per image"
    )
  if labels.dtype.kind not in "iub":
    raise DataError(f"{path}: {part}_labels are {labels.dtype}, not integers")


def _labels(
  path, arrays: dict[str, np.ndarray], parts: list[str], healthy: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
  widths = {arrays[f"{p}_labels"].shape[1] for p in parts}
  if len(widths) > 1:
    raise DataError(f"{path}: the parts have {widths} labels")
  values = np.concatenate([arrays[f"{p}_labels"] for p in parts])
  values = values.astype(np.int64)  # classes may be stored as False and True
  if values.shape[1] > 1:
    if not np.isin(values, (0, 1)).all():
      raise DataError(f"{path}: labels other than 0 and 1 in {values.shape}")
    columns = {
      f"label_{k}": column.astype(float) for k, column in enumerate(values.T)
    }
    return columns, tuple(columns)
  classes = [str(c) for c in np.unique(values)]
  if healthy and healthy not in classes:
    raise DataError(f"{path}: no class {healthy!r}; classes: {classes}")
  # Two classes need one column; more need one each.
  dropped = healthy or (classes[0] if len(classes) == 2 else "")
  columns = {
    f"class_{c}": (values[:, 0] == int(c)).astype(float)
    for c in classes
    if c != dropped
  }
  labels = tuple(columns)
  if healthy:
    columns["healthy"] = (values[:, 0] == int(healthy)).astype(float)
  return columns, labels
