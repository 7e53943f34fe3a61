"""Boxes round lesions from the file of any detector or annotator.

A CSV or .xlsx table has one row per box: the image (`image`, `file_name` or
`Image Index`), the place in pixels, `confidence` or `score` in [0, 1] (1 where
the column or the cell is blank), and other columns, which are not used. The
place is one of

  top, left, bottom, right        bottom and right excluded
  x1, y1, x2, y2                  left, top, right, bottom
  x, y, w, h                      left, top, width, height
  Bbox [x, y, w, h]               the list of NIH ChestX-ray14, BBox_List_2017

A row without any place says that the image has no box.

A .json file follows COCO: a list of detections {"image_id", "bbox": [x, y, w,
h], "score"}, where `image_id` is the name of the image, or an object with
`images` ({"id", "file_name"}) and `annotations` (like detections).
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from gcl_jax.data.file_names import known_suffix
from gcl_jax.data.files import MAX_TABLE_BYTES, read_bytes
from gcl_jax.data.table_files import Table, canonical, read_table
from gcl_jax.errors import DataError

_IMAGE = ("image", "file_name", "image index")
_SCORE = ("confidence", "score")
_PLACES = (
  ("top", "left", "bottom", "right"),
  ("x1", "y1", "x2", "y2"),
  ("x", "y", "w", "h"),
  ("bbox [x", "y", "w", "h]"),
)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the boxes of every image of a file.

  Args:
    path: a .csv, .xlsx or .json file, as above.

  Returns:
    `stem` of the name of an image (no suffix) -> float32 [K, 5]: top, left,
    bottom, right (excluded) in pixels and the confidence, in the order of the
    file. `for_images` looks names up with or without suffix.

  Raises:
    DataError: naming the row or entry: an unknown header or structure, a number
      that is not finite, a box without a positive height and width, a
      confidence outside [0, 1], or two images of one name but for the suffix.
  """
  path = pathlib.Path(path)
  of_json = path.suffix.lower() == ".json"
  entries = _of_json(path) if of_json else _of_table(read_table(path))
  found: dict[str, list] = {}
  written: dict[str, str] = {}
  for where, name, box in entries:
    key = stem(name)
    if written.setdefault(key, name) != name:
      raise DataError(
        f"{where}: {name!r} and {written[key]!r} count as one image; rename one"
      )
    boxes = found.setdefault(key, [])
    if box is not None:
      boxes.append(_checked(where, box))
  return {
    key: np.array(boxes, np.float32).reshape(-1, 5)
    for key, boxes in found.items()
  }


def for_images(
  path: str | os.PathLike, names: Sequence[str]
) -> tuple[list[np.ndarray], list[str]]:
  """Reads a file and looks the boxes of these images up.

  A name is compared without suffix, then also without folders.

  Args:
    path: as in `read`.
    names: str [N], ids or paths of the images.

  Returns:
    N arrays float32 [K, 5], with K = 0 for an image that the file does not
    name, and the names in the file that are none of these images.

  Raises:
    DataError: as `read`; no name in the file is one of the images; or two
      images are called the same in the file.
  """
  boxes = read(path)
  claimed: dict[str, str] = {}
  result = []
  for name in names:
    whole = stem(name)
    key = whole if whole in boxes else whole.rpartition("/")[2]
    if key in boxes and claimed.setdefault(key, name) != name:
      raise DataError(
        f"{path}: the boxes of {key!r} fit {claimed[key]!r} and {str(name)!r};"
        " name images with their folders"
      )
    result.append(boxes.get(key, np.zeros((0, 5), np.float32)))
  unknown = sorted(set(boxes) - set(claimed))
  if boxes and not claimed:
    raise DataError(
      f"{path}: boxes of {len(boxes)} images, such as {unknown[0]!r}, and none"
      f" of them is in the data set ({str(names[0])!r}, ...)"
    )
  if unknown:
    logging.warning(
      "%s: boxes of %d images that are not in the data set, such as %r",
      path,
      len(unknown),
      unknown[0],
    )
  return result, unknown


def stem(name: str) -> str:
  """Name of an image in canonical form: forward slashes and no suffix."""
  name = canonical(name).replace("\\", "/").removeprefix("./")
  return name[: len(name) - len(known_suffix(name))]


def _of_table(rows: Table) -> Iterable[tuple[str, str, list | None]]:
  """Row for messages, image, and (top, left, bottom, right, confidence)."""
  by_name = {name.lower(): name for name in rows.columns}
  image = next((by_name[n] for n in _IMAGE if n in by_name), None)
  places = [names for names in _PLACES if set(names) <= set(by_name)]
  if image is None or len(places) != 1:
    raise DataError(
      f"{rows.path}: expected a column 'image' and the columns of one way to"
      f" give a box: {'; '.join(map(', '.join, _PLACES))} (columns:"
      f" {', '.join(rows.columns)})"
    )
  (place,) = places
  score = next((by_name[n] for n in _SCORE if n in by_name), None)
  numbers = np.stack([rows.numbers(by_name[name]) for name in place], axis=1)
  given = np.full(len(rows), np.nan) if score is None else rows.numbers(score)
  confidence = np.where(np.isnan(given), 1, given)
  names = rows.filled(image).tolist()
  for i, (name, values) in enumerate(zip(names, numbers, strict=True)):
    where = f"{rows.path}, row {rows.rows[i]}"
    if np.isnan(values).all():
      yield where, name, None
    else:
      yield where, name, [*_sides(place, values), confidence[i]]


def _sides(place: tuple[str, ...], values: np.ndarray) -> list[float]:
  """Top, left, bottom, right of four numbers under these names."""
  first, second, third, fourth = values
  if place[0] == "top":
    return [first, second, third, fourth]
  if place[0] == "x1":
    return [second, first, fourth, third]
  return [second, first, second + fourth, first + third]


def _of_json(path: pathlib.Path) -> Iterable[tuple[str, str, list | None]]:
  """As `_of_table`, of COCO."""
  try:
    content = json.loads(read_bytes(path, MAX_TABLE_BYTES))
  except (ValueError, RecursionError) as error:
    raise DataError(f"{path}: is not readable JSON ({error})") from error
  names: dict[Any, str] = {}
  if isinstance(content, dict):
    for i, image in enumerate(_entries(path, content, "images")):
      names[_field(f"{path}, images[{i}]", image, "id")] = str(
        _field(f"{path}, images[{i}]", image, "file_name")
      )
    yield from ((str(path), name, None) for name in names.values())
  detections = _entries(path, content, "annotations")
  for i, entry in enumerate(detections):
    where = f"{path}, entry {i}"
    image = _field(where, entry, "image_id")
    if isinstance(content, dict) and image not in names:
      raise DataError(f"{where}: no image has the id {image!r}")
    values = _field(where, entry, "bbox")
    score = entry.get("score", 1)
    if not isinstance(values, list) or len(values) != 4:
      raise DataError(f"{where}: 'bbox' is not [x, y, width, height]")
    if not all(isinstance(v, int | float) for v in (*values, score)):
      raise DataError(f"{where}: 'bbox' or 'score' is not a number")
    sides = _sides(("x",), np.array(values, float))
    yield where, names.get(image, str(image)), [*sides, score]


def _entries(path: pathlib.Path, content: Any, name: str) -> list[Mapping]:
  """The list itself, or the list of this name in an object."""
  entries = content.get(name) if isinstance(content, dict) else content
  if not isinstance(entries, list) or not all(
    isinstance(entry, dict) for entry in entries
  ):
    raise DataError(
      f"{path}: expected a list of detections, or an object with the lists"
      " 'images' and 'annotations', as in COCO"
    )
  return entries


def _field(where: str, entry: Mapping, name: str) -> Any:
  """One value of an entry; DataError without it, or if it cannot be a name."""
  value = entry.get(name)
  if value is None or (name != "bbox" and not isinstance(value, int | str)):
    raise DataError(f"{where}: has no {name!r}, as COCO demands")
  return value


def _checked(where: str, box: Sequence[float]) -> list[float]:
  """The box; DataError for one that cannot be."""
  top, left, bottom, right, confidence = (float(value) for value in box)
  if not np.isfinite(box).all():
    raise DataError(f"{where}: a number of the box is missing or not finite")
  if not (bottom > top and right > left):
    raise DataError(
      f"{where}: a box of {bottom - top:g} rows and {right - left:g} columns"
    )
  if not 0 <= confidence <= 1:
    raise DataError(f"{where}: confidence {confidence:g} is not within [0, 1]")
  return [top, left, bottom, right, confidence]
