"""What lies at the cells of a view: classes, and a marker inside it or not.

Places are (row, column) in pixels of the prepared slice and affine in the index
of the cell, as `augment.two_turned_crops` gives them. Host code in numpy.
"""

from collections.abc import Sequence

import numpy as np

OUTSIDE = -1  # class of a cell that lies outside its slice
_POINTS = 8  # rows and columns of points that stand for the area of a box


def classes_at(masks: np.ndarray, places: np.ndarray) -> np.ndarray:
  """Class of the pixel nearest to each place, `OUTSIDE` beyond the slice.

  Args:
    masks: uint8[N, H, W].
    places: float[N, ..., 2].

  Returns:
    int16[N, ...].
  """
  nearest = np.floor(places + 0.5).astype(int)
  size = np.array(masks.shape[1:])
  inside = ((nearest >= 0) & (nearest < size)).all(-1)
  row, column = np.moveaxis(np.clip(nearest, 0, size - 1), -1, 0)
  image = np.arange(len(masks)).reshape(-1, *[1] * (row.ndim - 1))
  found = masks[image, row, column].astype(np.int16)
  return np.where(inside, found, np.int16(OUTSIDE))


def share_inside(places: np.ndarray, boxes: np.ndarray) -> np.ndarray:
  """Share of a box that lies inside the area of each view.

  Args:
    places: float[N, V, h, w, 2], cells of V views; h and w at least 2. The area
      ends half a cell beyond the outermost centres.
    boxes: float[N, 4], (top, left, bottom, right), edges in pixels of the
      slice; nan where there is none.

  Returns:
    float32[N, V]; nan where there is no box.
  """
  steps = (np.arange(_POINTS) + 0.5) / _POINTS
  steps = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
  first, last = boxes[:, None, :2], boxes[:, None, 2:]
  points = first + steps * (last - first)  # [N, P, 2]
  index = _cells_at(np.asarray(places, np.float64), points[:, None])
  cells = np.array(places.shape[2:4])
  inside = ((index >= -0.5) & (index <= cells - 0.5)).all(-1)
  share = inside.mean(-1)
  known = np.isfinite(boxes).all(-1)
  return np.where(known[:, None], share, np.nan).astype(np.float32)


def _cells_at(places: np.ndarray, points: np.ndarray) -> np.ndarray:
  """Index of the cell, not rounded, at points [N, 1, P, 2] of the slice."""
  h, w = places.shape[2:4]
  down = (places[:, :, -1, 0] - places[:, :, 0, 0]) / (h - 1)
  right = (places[:, :, 0, -1] - places[:, :, 0, 0]) / (w - 1)
  steps = np.stack([down, right], axis=-1)  # columns: one cell on
  offset = points - places[:, :, None, 0, 0]
  return np.einsum("nvij,nvpj->nvpi", np.linalg.inv(steps), offset)


def spread_rows(groups: Sequence[str], rows: np.ndarray, count: int):
  """At most `count` rows, spread over the patients and within each of them.

  Every patient gives one row before any gives two; of more patients than
  rows, evenly spaced ones give one each.

  Args:
    groups: [N], the patient of every row of the data set.
    rows: int[R], to choose from.
    count: at least 1.

  Returns:
    int[min(R, count)], ascending.
  """
  of_patient: dict[str, list[int]] = {}
  for row in rows:
    of_patient.setdefault(str(groups[row]), []).append(int(row))
  lists = list(of_patient.values())
  if len(lists) > count:
    lists = [lists[k] for k in _spaced(len(lists), count)]
  quotas, left = [0] * len(lists), min(count, sum(map(len, lists)))
  while left:
    for k in [k for k, q in enumerate(quotas) if q < len(lists[k])][:left]:
      quotas[k] += 1
      left -= 1
  chosen = [
    own[k]
    for own, quota in zip(lists, quotas, strict=True)
    for k in _spaced(len(own), quota)
  ]
  return np.array(sorted(chosen), int)


def _spaced(length: int, count: int) -> np.ndarray:
  """`count` indices in the middle of equal parts of `length`."""
  return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(int)
