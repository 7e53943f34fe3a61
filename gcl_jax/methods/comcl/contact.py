"""Windows, boxes and circles: what touches, and what lies nearest."""

import numpy as np
from scipy import optimize
from scipy.spatial import distance


def touching_boxes(
  corners: np.ndarray, side: int, boxes: np.ndarray
) -> np.ndarray:
  """bool[W]: windows that have an area in common with any box.

  Args:
    corners: float[W, 2], first row and column.
    side: of the windows.
    boxes: float[K, 4 or more].
  """
  low = np.maximum(corners[:, None], boxes[None, :, :2])
  high = np.minimum(corners[:, None] + side, boxes[None, :, 2:4])
  return (low < high).all(-1).any(1)


def touching_circles(
  corners: np.ndarray, side: int, circles: np.ndarray
) -> np.ndarray:
  """bool[W]: windows that any circle reaches into.

  Args:
    corners: float[W, 2].
    side: of the windows.
    circles: float[K, 3], row, column and radius.
  """
  centres = circles[None, :, :2]
  first = corners[:, None]
  nearest = np.clip(centres, first, first + side)
  gap = np.linalg.norm(nearest - centres, axis=-1)
  return (gap < circles[None, :, 2]).any(1)


def nearest_pairs(
  first: np.ndarray, second: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of positions, each in one pair at most.

  The sum of squared distances is the least that is possible for as many pairs
  as the smaller side has; pairs farther apart than `reach` are left out.

  Args:
    first: float[K, 2].
    second: float[L, 2].
    reach: greatest distance.

  Returns:
    int[M], int[M]: places in `first` and in `second`.
  """
  gaps = distance.cdist(first, second)
  left, right = optimize.linear_sum_assignment(gaps**2)
  near = gaps[left, right] <= reach
  return left[near], right[near]
