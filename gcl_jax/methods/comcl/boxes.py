"""Boxes of lesions, and which images are diseased, healthy or unknown."""

import numpy as np

from gcl_jax.data.source import Dataset
from gcl_jax.engine.context import Context
from gcl_jax.errors import DataError
from gcl_jax.pipeline.prepared import Prepared

DEFAULTS = ("grade", "quality")  # columns that a data set need not have


def boxes_of(context: Context) -> tuple[np.ndarray, np.ndarray]:
  """The boxes of the images of a run.

  Returns:
    float32[M, 5], top, left, bottom, right in pixels of the prepared image and
    the confidence; int[M], the image of each.
  """
  detected = context.config.boxes.source == "detector"
  found = context.load("detect" if detected else "data")
  if "boxes" not in found:
    return np.zeros((0, 5), np.float32), np.zeros(0, int)
  return np.asarray(found["boxes"]), np.asarray(found["boxes_row"])


def grades_of(images: Prepared, column: str) -> np.ndarray:
  """float[N], the grade of every image; nan where it is missing, -1 as well.

  Raises:
    DataError: the column holds text, or is not there though it is none of the
      defaults.
  """
  if column not in images.table:
    check_absent(images, "diagnosis.grade", column)
    return np.full(len(images), np.nan)
  grades = np.asarray(images.table[column])
  if grades.dtype.kind not in "fiub":
    raise DataError(
      f"diagnosis.grade {column!r} holds text such as {grades[0]!r}: grades are"
      " numbers from 0, and blank where missing"
    )
  return np.where(grades == -1, np.nan, np.asarray(grades, float))


def check_absent(images: Prepared | Dataset, setting: str, column: str) -> None:
  """Refuses the name of a column that is not in the table.

  `DEFAULTS` and "" may be absent.

  Raises:
    DataError: names the columns that there are.
  """
  if column not in ("", *DEFAULTS):
    known = ", ".join(images.table)
    raise DataError(f"{setting} {column!r}: no such column (columns: {known})")


def diseased_of(images: Prepared, column: str) -> np.ndarray:
  """float[N]: 1 diseased, 0 healthy, nan unknown.

  By the grade where there is one (above 0 is diseased), then by the column
  `healthy`, then by the labels (diseased with one that is positive, healthy
  where all are known and none is).

  Args:
    images: the prepared images.
    column: of the grade.
  """
  found = np.sign(grades_of(images, column))
  healthy = np.asarray(images.table.get("healthy", found * np.nan), float)
  found = np.where(np.isnan(found), 1 - healthy, found)
  if images.labels:
    columns = [np.asarray(images.table[name], float) for name in images.labels]
    positive = np.where((np.stack(columns) == 1).any(0), 1.0, np.nan)
    negative = (np.stack(columns) == 0).all(0)
    by_labels = np.where(negative, 0.0, positive)
    found = np.where(np.isnan(found), by_labels, found)
  return found
