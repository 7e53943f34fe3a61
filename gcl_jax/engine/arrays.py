"""Arrays made of other arrays, read when they are indexed.

`feed.batches_from` and `Context.map` take them like memory maps.
"""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Mixed:
  """Rows of one of two arrays, chosen row by row.

  Attributes:
    first, second: array-like [N, ...] of one shape.
    chosen: bool[N], rows that are taken of the second.
  """

  first: Any
  second: Any
  chosen: np.ndarray

  def __len__(self) -> int:
    return len(self.chosen)

  @property
  def shape(self) -> tuple[int, ...]:
    return self.first.shape

  @property
  def dtype(self) -> np.dtype:
    return self.first.dtype

  def __getitem__(self, index) -> np.ndarray:
    rows = np.arange(len(self))[index]
    if rows.ndim == 0:
      return (self.second if self.chosen[rows] else self.first)[rows]
    found = np.array(self.first[rows])
    other = self.chosen[rows]
    if other.any():
      found[other] = self.second[rows[other]]
    return found


@dataclasses.dataclass(frozen=True)
class Rows:
  """Some rows of an array, in an order of their own.

  Attributes:
    whole: array-like [N, ...].
    rows: int[R], of the array.
  """

  whole: Any
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  @property
  def shape(self) -> tuple[int, ...]:
    return len(self.rows), *self.whole.shape[1:]

  @property
  def dtype(self) -> np.dtype:
    return self.whole.dtype

  def __getitem__(self, index) -> np.ndarray:
    return self.whole[self.rows[index]]


@dataclasses.dataclass(frozen=True)
class Regions:
  """Regions of images, all of one size.

  Attributes:
    images: array-like [N, H, W, ...].
    rows: int[P], the image of each region.
    corners: int[P, 2], row and column of its first pixel; the region lies
      inside the image.
    side: of a region in pixels, one for a square or (rows, columns).
  """

  images: Any
  rows: np.ndarray
  corners: np.ndarray
  side: int | tuple[int, int]

  def __len__(self) -> int:
    return len(self.rows)

  @property
  def shape(self) -> tuple[int, ...]:
    sides = np.broadcast_to(self.side, 2).tolist()
    return len(self.rows), *sides, *self.images.shape[3:]

  def __getitem__(self, index) -> np.ndarray:
    chosen = np.arange(len(self))[index]
    pairs = zip(self.rows[chosen], self.corners[chosen], strict=True)
    found = np.zeros((len(chosen), *self.shape[1:]), self.images.dtype)
    height, width = self.shape[1:3]
    for k, (row, (top, left)) in enumerate(pairs):
      image = self.images[int(row)]
      found[k] = image[top : top + height, left : left + width]
    return found
