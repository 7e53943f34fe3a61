"""IDRiD: colour fundus photographs with the pixels of diabetic lesions.

Porwal et al., Data 3(3):25 (2018), doi 10.3390/data3030025, CC BY 4.0: the
segmentation part, 81 images of 4288 x 2848, every one with retinopathy and none
with a grade. Read as published, or from a folder in which the masks of an image
are merged into one picture by colour.
"""

import functools
import os
import pathlib

import numpy as np
from absl import logging

from gcl_jax.data.components import boxes_of
from gcl_jax.data.file_names import scan
from gcl_jax.data.files import folder_of
from gcl_jax.data.formats import read_image
from gcl_jax.data.source import Dataset
from gcl_jax.errors import DataError

CLASSES = (
  "microaneurysm",
  "haemorrhage",
  "hard_exudate",
  "soft_exudate",
  "optic_disc",
)
LESIONS = 4  # the first so many classes; the optic disc is no lesion
_MERGED = "_lesions.png"
# Nearest colour. Magenta, where red and blue meet, is as near to white: the
# first of the list is taken.
_COLOURS = (
  ((0, 0, 0), 0),
  ((255, 0, 0), 2),
  ((0, 0, 255), 3),
  ((0, 255, 0), 4),
  ((255, 255, 0), 5),
  ((255, 255, 255), 1),
)
_IMAGES = "1. Original Images"
_MASKS = "2. All Segmentation Groundtruths"
_PARTS = {"a. Training Set": "train", "b. Testing Set": "eval"}
# Folder, ending of the file and class. Where masks overlap the later one
# stays: lesions before the optic disc, small ones before large ones.
_KINDS = (
  ("5. Optic Disc", "OD", 5),
  ("4. Soft Exudates", "SE", 4),
  ("2. Haemorrhages", "HE", 2),
  ("3. Hard Exudates", "EX", 3),
  ("1. Microaneurysms", "MA", 1),
)

Masks = tuple[tuple[pathlib.Path, int], ...]


def read(path: str | os.PathLike) -> Dataset:
  """Reads IDRiD's images, class maps and lesion boxes.

  Args:
    path: the folder "A. Segmentation" as published (`1. Original Images`,
      `2. All Segmentation Groundtruths`) or one above it, or a folder with
      NAME.jpg and NAME_lesions.png (white microaneurysm, red haemorrhage, blue
      hard exudate, green soft exudate, yellow optic disc, black none; mixed
      colours count as the nearest).

  Returns:
    Images uint8 [H, W, 3], `read_mask` with classes 1..5 = `CLASSES`, and
    `read_boxes`: the connected components of the first four, confidence 1. The
    id is the name of the file, and the group as well: the publisher names no
    patients, so each image counts as one, and a warning says so. `healthy` is 0
    everywhere. As published, `split` is "train" for the training set and "eval"
    for the testing set.

  Raises:
    DataError: neither layout, an image without masks or masks without an image,
      the folder of a class missing, or (on reading) a class map of another size
      than its image.
  """
  root = folder_of(path)
  published = _published_root(root)
  files = _merged(root) if published is None else _published(published)
  if not files:
    raise DataError(
      f"{path}: neither NAME.jpg with NAME{_MERGED} nor {_IMAGES!r} with"
      f" {_MASKS!r} in here"
    )
  logging.warning(
    "%s: IDRiD names no patients; each image counts as one patient", path
  )
  names = np.array([image.stem for image, _, _ in files])
  table = {"id": names, "group": names, "healthy": np.zeros(len(names))}
  if published is not None:
    table["split"] = np.array([part for _, _, part in files])

  def image(row: int) -> np.ndarray:
    return read_image(files[row][0])

  # Boxes are asked for after the mask of the same image.
  @functools.lru_cache(maxsize=2)
  def mask(row: int) -> np.ndarray:
    return _class_map(image(row).shape[:2], files[row][1])

  def boxes(row: int) -> np.ndarray:
    return boxes_of(np.where(mask(row) <= LESIONS, mask(row), 0))

  return Dataset(
    "idrid",
    table,
    image,
    read_mask=lambda row: mask(row).copy(),
    classes=CLASSES,
    read_boxes=boxes,
  )


def _merged(root: pathlib.Path) -> list[tuple[pathlib.Path, Masks, str]]:
  """Image, its one picture of masks and "" for every pair of a folder."""
  files = [file for file in scan(root) if file.parent == root]
  masks = {f.name.removesuffix(_MERGED): f for f in files if _is_merged(f)}
  images = _by_stem([file for file in files if not _is_merged(file)])
  alone = sorted(set(masks).symmetric_difference(images))
  if masks and alone:
    raise DataError(
      f"{root}: {len(alone)} files without their image or NAME{_MERGED}, such"
      f" as {alone[0]!r}"
    )
  return [(images[name], ((masks[name], 0),), "") for name in sorted(masks)]


def _is_merged(file: pathlib.Path) -> bool:
  return file.name.endswith(_MERGED)


def _by_stem(files: list[pathlib.Path]) -> dict[str, pathlib.Path]:
  """Name without suffix -> file; DataError for a name twice."""
  found: dict[str, pathlib.Path] = {}
  for file in files:
    if found.setdefault(file.stem, file) != file:
      raise DataError(f"{file}: {found[file.stem]} has the same name")
  return found


def _published_root(root: pathlib.Path) -> pathlib.Path | None:
  for folder in (root, root / "A. Segmentation"):
    if (folder / _IMAGES).is_dir() and (folder / _MASKS).is_dir():
      return folder
  return None


def _published(root: pathlib.Path) -> list[tuple[pathlib.Path, Masks, str]]:
  """Image, masks with their class, and part of the published layout."""
  files = []
  for folder, part in _PARTS.items():
    if not (root / _IMAGES / folder).is_dir():
      continue
    images = _by_stem(scan(root / _IMAGES / folder))
    masks: dict[str, list[tuple[pathlib.Path, int]]] = {n: [] for n in images}
    for kind, ending, value in _KINDS:
      for file in scan(folder_of(root / _MASKS / folder / kind)):
        name = file.stem.removesuffix(f"_{ending}")
        if name not in masks or name == file.stem:
          raise DataError(
            f"{file}: no image of this name in {_IMAGES}/{folder}"
          )
        masks[name].append((file, value))
    bare = [name for name in sorted(images) if not masks[name]]
    if bare:
      raise DataError(
        f"{images[bare[0]]}: no mask of any class ({len(bare)} such images)"
      )
    files += [(images[n], tuple(masks[n]), part) for n in sorted(images)]
  return files


def _class_map(shape: tuple[int, int], masks: Masks) -> np.ndarray:
  """uint8 [H, W] of the masks of an image; class 0 is a merged picture."""
  result = np.zeros(shape, np.uint8)
  for file, value in masks:
    picture = read_image(file)
    if picture.shape[:2] != shape:
      raise DataError(
        f"{file}: {picture.shape[:2]} pixels, its image has {shape}"
      )
    if value == 0:
      return _nearest(file, picture)
    marked = picture.any(axis=2) if picture.ndim == 3 else picture > 0
    result[marked] = value
  return result


def _nearest(file: pathlib.Path, picture: np.ndarray) -> np.ndarray:
  """Class of the nearest colour of each pixel."""
  if picture.ndim != 3:
    raise DataError(f"{file}: is grey; classes are told by their colour")
  result = np.zeros(picture.shape[:2], np.uint8)
  marked = picture.any(axis=2)
  colours, classes = (
    np.array(values) for values in zip(*_COLOURS, strict=True)
  )
  pixels = picture[marked].astype(np.int32)
  distance = [((pixels - colour) ** 2).sum(1) for colour in colours]
  result[marked] = classes[np.argmin(distance, axis=0)]
  return result
