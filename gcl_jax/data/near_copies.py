"""Near-duplicate images across the two parts of a split.

A scan that was exported twice may differ in brightness, compression, annotation
or by a slight crop, but its structure stays. Images are therefore compared by
the correlation of the differences between neighbouring cells of a coarse grid,
less what the training images have in common, such as the edge of a fundus disc,
which alone makes 86 of 140 photographs of other patients look like a copy.
On OCTDL (1,590 OCT B-scans) a correlation above 0.95 finds 104 of the 105 pairs
that correlate above 0.95 pixel by pixel, and 5 more between groups, all of
which show the same scan.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

GRID = (16, 32)  # cells, rows and columns
THRESHOLD = 0.95
_FEWEST = 20  # training images whose mean is what all have in common
_BLOCK = 1024  # images compared at once


class Pair(NamedTuple):
  """An evaluation image, its most similar training image, their correlation."""

  evaluation: str
  training: str
  correlation: float


def near_copies(
  images: np.ndarray,
  parts: np.ndarray,
  ids: Sequence,
  threshold: float = THRESHOLD,
) -> list[Pair]:
  """Finds evaluation images that are near-duplicates of a training image.

  Args:
    images: uint8[N, H, W, C], all prepared alike.
    parts: [N], "train" or "eval".
    ids: [N], of the images.
    threshold: pairs with a larger correlation are returned, 0 to 1.

  Returns:
    One pair per such evaluation image, in descending order of correlation. A
    constant image has correlation 0 with every other.
  """
  parts, ids = np.asarray(parts), np.asarray(ids)
  train, held_out = (np.flatnonzero(parts == p) for p in ("train", "eval"))
  if not len(train) or not len(held_out):
    return []
  known = _details(images, train)
  common = known.mean(axis=0) * (len(train) >= _FEWEST)
  known, found = _without(known, common), []
  for rows in _blocks(held_out):
    alike = _without(_details(images, rows), common) @ known.T
    nearest = alike.argmax(axis=1)
    for row, column, value in zip(
      rows, nearest, alike.max(axis=1), strict=True
    ):
      if value > threshold:
        found.append(Pair(str(ids[row]), str(ids[train[column]]), float(value)))
  return sorted(found, key=lambda pair: -pair.correlation)


def _details(images, rows) -> np.ndarray:
  """float32[len(rows), D]: unit vectors whose products are correlations."""
  return np.concatenate([_of_block(images[block]) for block in _blocks(rows)])


def _of_block(images) -> np.ndarray:
  cells = _cell_means(_cell_means(images.mean(axis=3), 1), 2)
  down, right = np.diff(cells, axis=1), np.diff(cells, axis=2)
  flat = [x.reshape(len(images), -1) for x in (down, right)]
  values = np.concatenate(flat, axis=1).astype(np.float32)
  return _unit(values - values.mean(axis=1, keepdims=True))


def _without(vectors: np.ndarray, common: np.ndarray) -> np.ndarray:
  """Unit vectors less what is common to all; a constant image stays 0."""
  some = vectors.any(axis=1, keepdims=True)
  return _unit(vectors - common * some)


def _unit(vectors: np.ndarray) -> np.ndarray:
  """Vectors divided by their length; the shortest become 0."""
  norms = np.linalg.norm(vectors, axis=1, keepdims=True)
  return vectors / np.where(norms > 1e-3, norms, np.inf)


def _cell_means(values, axis) -> np.ndarray:
  size = values.shape[axis]
  edges = np.linspace(0, size, min(GRID[axis - 1], size) + 1).astype(int)
  sums = np.add.reduceat(values, edges[:-1], axis=axis)
  shape = [1, 1, 1]
  shape[axis] = -1
  return sums / np.diff(edges).reshape(shape)


def _blocks(rows):
  return np.split(rows, range(_BLOCK, len(rows), _BLOCK))
