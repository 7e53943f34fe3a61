"""The circle that most of a set of points support."""

import numpy as np

Circle = tuple[float, float, float]

_TRIPLES = 300  # circles through three points that are compared
_NEAR = 0.015  # of half the extent: points so close to a circle support it


def best_circle(points: np.ndarray) -> Circle | None:
  """Fits a circle to points some of which may lie anywhere else.

  Of 300 circles through three points, drawn with a fixed seed, that with most
  points near it (RANSAC) is refined three times by linear least squares over
  these points.

  Args:
    points: float [n, 2], row and column.

  Returns:
    Row and column of the centre and the radius; None without three points that
    are not on a line.
  """
  if not len(points):
    return None
  draw = np.random.default_rng(0)
  triples = points[draw.integers(len(points), size=(_TRIPLES, 3))]
  circles = [c for c in map(_least_squares, triples) if c is not None]
  if not circles:
    return None
  best = max(circles, key=lambda circle: on_circle(circle, points).sum())
  for _ in range(3):
    best = _least_squares(points[on_circle(best, points)]) or best
  return best


def on_circle(circle: Circle, points: np.ndarray) -> np.ndarray:
  """bool [n]: points within 0.75, or 1.5 % of half the extent, of the circle.

  The extent of the points, not the radius: every point is near a circle that is
  large enough.
  """
  distance = np.hypot(points[:, 0] - circle[0], points[:, 1] - circle[1])
  extent = np.ptp(points, axis=0).max()
  return np.abs(distance - circle[2]) <= max(0.75, _NEAR * extent / 2)


def _least_squares(points: np.ndarray) -> Circle | None:
  """Minimises the algebraic distance (Kasa 1976); None of points on a line."""
  terms = np.column_stack([2 * points, np.ones(len(points))])
  solved, _, rank, _ = np.linalg.lstsq(terms, (points**2).sum(1), rcond=1e-6)
  squared = solved[2] + solved[0] ** 2 + solved[1] ** 2
  if rank < 3 or squared <= 0:
    return None
  return float(solved[0]), float(solved[1]), float(np.sqrt(squared))
