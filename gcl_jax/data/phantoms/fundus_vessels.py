"""Vessels of the fundus phantom: branching curves from the optic nerve.

Positions (y, x) and lengths are fractions of the image's height, y from the top
and x from the left. All randomness comes from the generator that is passed in.
"""

import numpy as np

_POINTS = 20  # of a curve
_BRANCHES, _TWIGS = 3, 2  # of a main vessel, of a branch
_STEP = 0.6  # pixels between the stamps along a curve


def draw_vessels(
  rng: np.random.Generator, nerve: np.ndarray, nasal: int
) -> np.ndarray:
  """Draws the vessels of an eye.

  An artery and a vein arch round the macula above and below it, others leave
  the nerve to the nasal side; all have branches and these have twigs.

  Args:
    rng: of this eye.
    nerve: float[2], (y, x) of the optic nerve's centre.
    nasal: +1 where the nerve lies to the right of the macula, else -1.

  Returns:
    float[V, P, 4]: V curves of P points (y, x, half of the width, absorbance
    of the blood).
  """
  mains, heading = _mains(rng, nerve)
  branches, heading = _branches(rng, mains, heading, _BRANCHES)
  twigs, _ = _branches(rng, branches, heading, _TWIGS)
  curves = np.concatenate([mains, branches, twigs])
  curves[..., 1] = nerve[1] + nasal * (curves[..., 1] - nerve[1])
  return curves


def _mains(
  rng: np.random.Generator, nerve: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Main vessels of an eye with its nerve on the right, and their headings."""
  # Angles from the temporal direction, in degrees: at the nerve, and the turn
  # until the end; of the arcades (artery, vein) and of the nasal vessels.
  start = rng.uniform((70, 80, 118, 140), (92, 105, 138, 165), (2, 4))
  turn = rng.uniform((-115, -115, -20, -10), (-75, -80, 20, 30), (2, 4))
  length = rng.uniform((0.62, 0.66, 0.3, 0.25), (0.8, 0.85, 0.5, 0.4), (2, 4))
  width = rng.uniform(0.8, 1.2, (2, 4)) * (0.0048, 0.0066, 0.0036, 0.0046)
  absorbance = rng.uniform(0.85, 1.15, (2, 4)) * (0.6, 0.95, 0.6, 0.9)
  side = np.array([[1], [-1]])  # above, below
  heading = np.pi + side * np.radians(start)
  starts = nerve + rng.normal(0, 0.008, (8, 2))
  return _grow(
    rng,
    starts,
    heading.ravel(),
    (side * np.radians(turn)).ravel(),
    length.ravel(),
    width.ravel(),
    absorbance.ravel(),
  )


def _branches(
  rng: np.random.Generator, parents: np.ndarray, heading: np.ndarray, each: int
) -> tuple[np.ndarray, np.ndarray]:
  """Branches of every curve, and their headings."""
  shape = (len(parents), each)
  place = (np.arange(each) + rng.uniform(0.1, 0.9, shape)) / each
  at = np.clip(place * _POINTS, 2, _POINTS - 2).astype(int)
  rows = np.arange(len(parents))[:, None]
  start, along = parents[rows, at], heading[rows, at]
  side = np.where(
    (np.arange(each) + rng.integers(2, size=shape[:1])[:, None]) % 2, 1, -1
  )
  angle = side * np.radians(rng.uniform(25, 60, shape))
  steps = np.diff(parents[..., :2], axis=1)
  whole = np.hypot(steps[..., 0], steps[..., 1]).sum(axis=1)
  length = whole[:, None] * rng.uniform(0.25, 0.55, shape)
  return _grow(
    rng,
    start[..., :2].reshape(-1, 2),
    (along + angle).ravel(),
    -0.6 * angle.ravel(),
    length.ravel(),
    0.68 * start[..., 2].ravel(),
    0.9 * start[..., 3].ravel(),
  )


def _grow(
  rng: np.random.Generator,
  starts: np.ndarray,
  heading: np.ndarray,
  turn: np.ndarray,
  length: np.ndarray,
  width: np.ndarray,
  absorbance: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
  """Curves float[V, P, 4] and their headings float[V, P], in radians.

  A heading points from the right (0) downwards (positive); it turns evenly and
  winds a little.
  """
  t = np.linspace(0, 1, _POINTS)
  phase = rng.uniform(0, 2 * np.pi, (2, len(starts), 1))
  winding = 0.10 * np.sin(9 * t + phase[0]) + 0.08 * np.sin(21 * t + phase[1])
  heading = heading[:, None] + turn[:, None] * t + winding
  step = length[:, None] / (_POINTS - 1)
  moves = step[..., None] * np.stack([np.sin(heading), np.cos(heading)], -1)
  path = starts[:, None] + np.cumsum(moves, axis=1) - moves[:, :1]
  tapered = width[:, None] * (1 - 0.45 * t)
  blood = np.broadcast_to(absorbance[:, None], tapered.shape)
  return np.concatenate([path, np.stack([tapered, blood], -1)], -1), heading


def absorbance(curves: np.ndarray, size: int) -> np.ndarray:
  """Renders the absorbance of the vessels, float32[size, size], antialiased.

  Each curve is a row of round stamps; where curves cross, the larger value
  counts. A vessel thinner than a pixel gets a share of its absorbance.
  """
  y, x, half, value = _along(curves, size)
  field = np.zeros((size + 8, size + 8), np.float32)
  reach = np.ceil(half + 0.5).astype(int)
  for r in range(1, int(reach.max(initial=1)) + 1):
    inside = (np.minimum(y, x) > -2) & (np.maximum(y, x) < size + 2)
    few = (reach == r) & inside
    _stamp(field, y[few], x[few], half[few], value[few], r)
  return field[4:-4, 4:-4]


def _along(curves: np.ndarray, size: int) -> tuple[np.ndarray, ...]:
  """Points every `_STEP` pixels or less: y, x, half width (pixels), value."""
  first, last = curves[:, :-1].reshape(-1, 4), curves[:, 1:].reshape(-1, 4)
  move = (last - first)[:, :2] * size
  count = np.ceil(np.hypot(move[:, 0], move[:, 1]) / _STEP).astype(int)
  count = np.maximum(count, 1)
  segment = np.repeat(np.arange(len(count)), count)
  place = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
  share = (place / count[segment])[:, None]
  points = first[segment] + share * (last - first)[segment]
  return (*(points[:, :3] * size).T, points[:, 3])


def _stamp(
  field: np.ndarray,
  y: np.ndarray,
  x: np.ndarray,
  half: np.ndarray,
  value: np.ndarray,
  reach: int,
) -> None:
  """Raises `field`, which has a margin of 4, to the stamps of these points."""
  row, column = np.floor(y).astype(int), np.floor(x).astype(int)
  near = np.arange(-reach, reach + 1)
  down = (row + 0.5 - y).astype(np.float32)[:, None] + near.astype(np.float32)
  right = (column + 0.5 - x).astype(np.float32)[:, None] + near.astype(
    np.float32
  )
  distance = np.sqrt((down**2)[:, :, None] + (right**2)[:, None])
  edge = (half + 0.5).astype(np.float32)
  cover = np.clip(edge[:, None, None] - distance, 0, 1)
  cover *= (value * np.minimum(1, 2 * half)).astype(np.float32)[:, None, None]
  width = field.shape[1]
  start = (row + 4) * width + column + 4
  flat = start[:, None, None] + (near * width)[:, None] + near
  np.maximum.at(field.reshape(-1), flat.ravel(), cover.ravel())
