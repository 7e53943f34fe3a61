"""Boxes round the connected components of a mask of lesions."""

import numpy as np
from scipy import ndimage

from gcl_jax.errors import DataError

_TOUCHING = np.ones((3, 3), bool)  # pixels that share a corner are connected


def boxes_of(
  mask: np.ndarray,
  probability: np.ndarray | None = None,
  *,
  smallest: int = 1,
) -> np.ndarray:
  """Bounding boxes of the connected components of each class.

  Pixels of one class that share an edge or a corner belong together; two
  classes that touch are two components.

  Args:
    mask: bool or integer [H, W]; 0 is background, every other value a class.
    probability: [H, W] in [0, 1]; the confidence of a box is the greatest value
      within its component. None: every confidence is 1.
    smallest: number of pixels; smaller components are left out.

  Returns:
    float32 [K, 5]: top, left, bottom, right in pixels (bottom and right
    excluded) and the confidence, ordered by class, then as first met row by
    row.

  Raises:
    DataError: `mask` is not of two axes, or `probability` not of its shape.
  """
  mask = np.asarray(mask)
  if mask.ndim != 2:
    raise DataError(f"a mask of shape {mask.shape}: expected [height, width]")
  if probability is not None and np.shape(probability) != mask.shape:
    raise DataError(
      f"probabilities of shape {np.shape(probability)} for a mask of"
      f" {mask.shape}"
    )
  found = [
    _of_class(mask == value, probability, smallest)
    for value in np.unique(mask[mask != 0])
  ]
  return np.concatenate([np.zeros((0, 5), np.float32), *found])


def _of_class(
  mask: np.ndarray, probability: np.ndarray | None, smallest: int
) -> np.ndarray:
  """float32 [K, 5] of one class."""
  labels, count = ndimage.label(mask, _TOUCHING)
  boxes = [
    (rows.start, columns.start, rows.stop, columns.stop)
    for rows, columns in ndimage.find_objects(labels)
  ]
  confidence = np.ones(count)
  if probability is not None:
    confidence = ndimage.maximum(probability, labels, np.arange(count) + 1)
  pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
  found = np.column_stack([np.reshape(boxes, (count, 4)), confidence])
  return found[pixels >= smallest].astype(np.float32)
