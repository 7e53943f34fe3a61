"""Geometry of the organ phantom: organs on both sides of a two-faced bar.

Lengths are shares of the field of view, a square: places are (y, x) from (0, 0)
at the top left to (1, 1). One axis is drawn per image. Organs lie beside it, on
both sides; the bar lies on it, between the organs or further along the axis.
All randomness comes from the generators that are passed in, and which face of
the bar is bright from one of its own: nothing else depends on it.
"""

from typing import NamedTuple

import numpy as np

CLASSES = ("left", "right", "bar")
BAR_LENGTH, BAR_WIDTH = 0.22, 0.11
# Between the bar at gap 0 and the edge of an organ: at 64 pixels a 3 x 3 patch
# that is centred in an organ does not reach the bar.
_CLEAR = 0.035
_RADIUS, _ELONGATION = (0.085, 0.105), 1.25
_TILT = np.deg2rad(15)
_BORDER = 0.02  # between a bar at gap 1 and the border of the image
_DISC = 0.055  # radius


class Organ(NamedTuple):
  """An ellipse.

  Attributes:
    centre: (y, x).
    axes: long and short semi-axis.
    angle: of the long axis, from the right edge towards the bottom.
    side: -1 or 1, the side of the axis on which it lies.
  """

  centre: np.ndarray
  axes: tuple[float, float]
  angle: float
  side: int


class Scene(NamedTuple):
  """What one image shows.

  Attributes:
    organs: two to four, at least one on each side.
    along: unit vector (y, x) of the axis, downwards.
    bar: (y, x), the centre of the bar.
    bright: -1 or 1, the side of the bar's bright face.
    discs: float[2, 2], centres of a bright and of a dark disc.
  """

  organs: tuple[Organ, ...]
  along: np.ndarray
  bar: np.ndarray
  bright: int
  discs: np.ndarray


def draw_scene(
  layout: np.random.Generator,
  face: np.random.Generator,
  discs: np.random.Generator,
  gap: float,
) -> Scene:
  """Draws the scene of one image.

  `gap` moves the bar alone (and discs that would touch it): on the axis from
  between the organs (0) to the upper or the lower border (1), by sqrt(gap) of
  that distance. The share of crops that cut the bar away is then about linear.

  Args:
    layout: draws the axis, the organs and the direction in which the bar moves.
    face: draws which face of the bar is bright.
    discs: draws the places of the discs.
    gap: 0 to 1.
  """
  centre = np.array([0.5, layout.uniform(0.38, 0.62)])
  tilt = layout.uniform(-_TILT, _TILT)
  along = np.array([np.cos(tilt), np.sin(tilt)])
  down = int(layout.choice((-1, 1)))
  centre[0] -= down * layout.uniform(0, 0.08)
  organs = tuple(
    organ for side in (-1, 1) for organ in _column(layout, centre, along, side)
  )
  half = BAR_LENGTH / 2 * along[0] + BAR_WIDTH / 2 * abs(along[1])
  reach = 0.5 - half - _BORDER + down * (0.5 - centre[0])
  bar = centre + along * np.sqrt(gap) * down * reach / along[0]
  return Scene(
    organs,
    along,
    bar,
    int(face.choice((-1, 1))),
    _draw_discs(discs, organs, bar),
  )


def _column(rng, centre, along, side) -> list[Organ]:
  """One or two organs on one side, their edges equally far from the axis."""
  count = int(rng.integers(1, 3))
  organs = []
  shift = rng.uniform(-0.08, 0.08) / count
  for number in range(count):
    radius, stretch = rng.uniform(*_RADIUS), rng.uniform(1, _ELONGATION)
    axes = radius * np.sqrt(stretch), radius / np.sqrt(stretch)
    angle = rng.uniform(0, np.pi)
    out = BAR_WIDTH / 2 + _CLEAR + rng.uniform(0, 0.02)
    out += _extent(axes, angle, across(along))
    step = (_extent(axes, angle, along) + 0.015) * (count - 1)
    step = shift + step * (2 * number - 1)
    place = centre + along * step + across(along) * side * out
    organs.append(Organ(place, axes, angle, side))
  return organs


def _extent(axes, angle, direction) -> float:
  """Half the width of an ellipse along a unit vector (y, x)."""
  y, x = direction
  c, s = np.cos(angle), np.sin(angle)
  return float(np.hypot(axes[0] * (c * x + s * y), axes[1] * (c * y - s * x)))


def across(along: np.ndarray) -> np.ndarray:
  """The unit vector (y, x) to the right of the axis."""
  return np.array([-along[1], along[0]])


def _draw_discs(rng, organs, bar) -> np.ndarray:
  """Two places that touch neither organs, nor the bar, nor each other."""
  taken = [(o.centre, o.axes[0] + _DISC + 0.02) for o in organs]
  taken.append((bar, BAR_LENGTH / 2 + _DISC + 0.03))
  places = []
  while len(places) < 2:
    place = rng.uniform(_DISC, 1 - _DISC, 2)
    if all(np.hypot(*(place - c)) > away for c, away in taken):
      places.append(place)
      taken.append((place, 2.5 * _DISC))
  return np.array(places)


def grid(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
  """(y, x) of the pixel centres, float[H, 1] and float[1, W]."""
  y, x = ((np.arange(n) + 0.5) / n for n in size)
  return y[:, None], x[None]


def distances(scene: Scene, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Signed distances of every pixel, negative inside, float[H, W] each.

  "left" and "right": to the nearest organ of the side of the bright and of the
  dark face. "bar": to the bar; "face": to its middle line, negative on the
  bright side. "bright disc", "dark disc": to the discs.
  """
  y, x = grid(size)
  found = {}
  for name, side in (("left", scene.bright), ("right", -scene.bright)):
    found[name] = np.min(
      [_ellipse(o, y, x) for o in scene.organs if o.side == side], axis=0
    )
  dy, dx = y - scene.bar[0], x - scene.bar[1]
  along, right = scene.along, across(scene.along)
  v, u = along[0] * dy + along[1] * dx, right[0] * dy + right[1] * dx
  found["bar"] = np.maximum(abs(v) - BAR_LENGTH / 2, abs(u) - BAR_WIDTH / 2)
  found["face"] = -scene.bright * u
  for name, place in zip(("bright", "dark"), scene.discs, strict=True):
    found[f"{name} disc"] = np.hypot(y - place[0], x - place[1]) - _DISC
  return found


def _ellipse(organ, y, x) -> np.ndarray:
  y, x = y - organ.centre[0], x - organ.centre[1]
  c, s = np.cos(organ.angle), np.sin(organ.angle)
  long, short = organ.axes
  radius = np.hypot((c * x + s * y) / long, (c * y - s * x) / short)
  return (radius - 1) * np.sqrt(long * short)


def class_mask(contours: dict[str, np.ndarray]) -> np.ndarray:
  """Class of every pixel, uint8[H, W]: 0 background, else of `CLASSES`."""
  mask = np.zeros(contours["bar"].shape, np.uint8)
  for label, name in enumerate(CLASSES, 1):
    mask[contours[name] < 0] = label
  return mask


def bar_box(scene: Scene, size: tuple[int, int]) -> tuple[int, int, int, int]:
  """Top, left, bottom and right of the bar in pixels, the last two excluded."""
  half = np.abs(scene.along) * BAR_LENGTH / 2
  half = half + np.abs(across(scene.along)) * BAR_WIDTH / 2
  low = np.floor((scene.bar - half) * size).astype(int)
  high = np.ceil((scene.bar + half) * size).astype(int)
  return tuple(int(n) for n in (*low, *high))
