"""Lesions of the fundus phantom and the artefacts that look like them.

Dark lesions have the colour of blood, bright ones a soft yellow; dust is dark
and neutral, reflections are white. Sizes come from one law, so that neither
brightness nor size alone tells a lesion from an artefact: colour, edge and
context do. Units as in `fundus_eye`.
"""

from typing import NamedTuple

import numpy as np

from gcl_jax.data.phantoms import fundus_eye as eyes

DARK, BRIGHT, DUST, REFLECTION = 1, 2, 3, 4
# Most lesions of grades 0 to 4.
MOST = (0, 2, 5, 10, 20)
RADII = (0.011, 0.045)
_OWN = 0.4  # share of a spot's own in its size; the rest is the image's
_YELLOW = np.array([1.10, 0.88, 0.42], np.float32)
# Softness of the edge as a share of the radius, and contrast: lowest and
# highest by kind.
_SOFTNESS = np.array([[0.2, 0.5], [0.4, 0.9], [0.1, 0.9], [0.4, 1.0]])
_STRENGTH = np.array([[0.7, 1.2], [0.4, 0.7], [0.18, 0.42], [0.12, 0.35]])
# Two lesions are this far apart, which is two pixels at the smallest size.
_GAP = 0.032
# Lesions keep within this distance of the middle, artefacts with their centre.
_WITHIN = 0.455
# Artefacts: at least `_FEWEST`, and Poisson of this mean beyond.
_FEWEST, _MORE = 2, 4


class Spots(NamedTuple):
  """Parallel arrays of length L, one entry per spot.

  Attributes:
    kind: `DARK`, `BRIGHT`, `DUST` or `REFLECTION`.
    y, x: centre.
    radius: mean of the two half axes.
    stretch: ratio of a half axis to the mean; the other is radius / stretch.
    angle: of that axis, in radians.
    softness: half width of the edge as a share of the radius.
    strength: contrast, 0 to about 1.
  """

  kind: np.ndarray
  y: np.ndarray
  x: np.ndarray
  radius: np.ndarray
  stretch: np.ndarray
  angle: np.ndarray
  softness: np.ndarray
  strength: np.ndarray

  def where(self, chosen: np.ndarray) -> "Spots":
    """Returns the spots of bool[L] or int[K] `chosen`."""
    return Spots(*(values[chosen] for values in self))


def grade_of(count: int) -> int:
  """Grade 0 to 4 of an image with so many lesions, by `MOST`."""
  return int(np.searchsorted(MOST, count))


def draw_counts(rng: np.random.Generator) -> np.ndarray:
  """Numbers of lesions of a diseased patient's two eyes, int[2], 1 to 20.

  Log-uniform, so that grades 1 to 4 are about equally frequent, and similar in
  the two eyes.
  """
  load = rng.uniform(np.log(0.6), np.log(MOST[-1] + 3)) + rng.normal(0, 0.25, 2)
  return np.clip(np.round(np.exp(load)), 1, MOST[-1]).astype(int)


def draw_lesions(rng: np.random.Generator, count: int, eye: eyes.Eye) -> Spots:
  """Draws the lesions of an eye.

  They gather round the fovea, spare the optic nerve, lie inside the field of
  view and never touch one another, so that they can be counted. The share of
  dark ones differs widely between eyes.

  Args:
    rng: of this eye's lesions.
    count: number of lesions.
    eye: where fovea and nerve are.
  """
  share = rng.beta(1.5, 1.5)
  kind = np.where(rng.random(count) < share, DARK, BRIGHT)
  spots = _draw_shapes(rng, kind)
  spots = spots.where(np.argsort(-spots.radius))  # large ones need most room
  return spots._replace(**_places(rng, spots, eye))


def draw_artefacts(rng: np.random.Generator) -> Spots:
  """Draws dust and reflections: anywhere in the field, whatever the disease."""
  kind = rng.choice((DUST, REFLECTION), _FEWEST + rng.poisson(_MORE))
  distance = _WITHIN * np.sqrt(rng.random(kind.size))
  angle = rng.uniform(0, 2 * np.pi, kind.size)
  return _draw_shapes(rng, kind)._replace(
    y=0.5 + distance * np.sin(angle), x=0.5 + distance * np.cos(angle)
  )


def _draw_shapes(rng: np.random.Generator, kind: np.ndarray) -> Spots:
  """Spots of these kinds in the middle of the image."""
  low, high = np.log(RADII)
  # Those of an image are alike: their area does not tell their number.
  place = (1 - _OWN) * rng.random() + _OWN * rng.random(kind.size)
  return Spots(
    kind=kind,
    y=np.full(kind.size, 0.5),
    x=np.full(kind.size, 0.5),
    radius=np.exp(low + (high - low) * place),
    stretch=rng.uniform(1, 1.25, kind.size),
    angle=rng.uniform(0, np.pi, kind.size),
    softness=rng.uniform(*_SOFTNESS[kind - 1].T),
    strength=rng.uniform(*_STRENGTH[kind - 1].T),
  )


def _places(
  rng: np.random.Generator, spots: Spots, eye: eyes.Eye
) -> dict[str, np.ndarray]:
  """Centres of lesions that do not touch: {"y", "x"}, drawn one by one.

  Where there is no room after many draws, the spread round the fovea grows.
  """
  outer = spots.radius * spots.stretch
  placed, spread = np.zeros((0, 2)), 0.16
  while len(placed) < len(outer):
    spread *= 1.02
    index = len(placed)
    tried = eye.fovea + rng.normal(0, spread, (32, 2))
    free = np.hypot(*(tried - 0.5).T) + outer[index] < _WITHIN
    nerve = np.hypot(*(tried - eye.nerve).T)
    free &= nerve > eye.nerve_axes.max() + outer[index]
    between = np.hypot(*(tried[:, None] - placed).T)
    free &= (between > outer[:index, None] + outer[index] + _GAP).all(axis=0)
    placed = np.concatenate([placed, tried[free][:1]])
  return dict(y=placed[:, 0], x=placed[:, 1])


def paint(picture: np.ndarray, spots: Spots) -> None:
  """Paints spots over float32[S, S, 3], in their order."""
  size = len(picture)
  for spot in zip(*spots, strict=True):
    one = Spots(*spot)
    window, radius = _window(one, size)
    soft = max(one.softness, 0.5 / (one.radius * size))
    t = np.clip((1 + soft - radius) / (2 * soft), 0, 1)
    cover = (one.strength * t * t * (3 - 2 * t)).astype(np.float32)
    part = picture[window]
    part[:] = _blend(part, cover[..., None], one.kind)


def _blend(part: np.ndarray, cover: np.ndarray, kind: int) -> np.ndarray:
  if kind == DARK:
    return part * np.exp(-cover * eyes.BLOOD)
  if kind == BRIGHT:
    return part + cover * (_YELLOW - part)
  if kind == DUST:
    return part * (1 - cover)
  return part + cover


def mask(lesions: Spots, size: int) -> np.ndarray:
  """Class of every pixel, uint8[size, size]: 0, 1 dark or 2 bright lesion.

  Pixels whose centre lies inside a lesion, at least the one in its middle.
  """
  classes = np.zeros((size, size), np.uint8)
  for spot in zip(*lesions, strict=True):
    one = Spots(*spot)
    window, radius = _window(one, size)
    classes[window][(radius < 1) | (radius == radius.min())] = one.kind
  return classes


def boxes(spots: Spots) -> np.ndarray:
  """Boxes round the spots: float[L, 4], top, left, bottom, right."""
  half = spots.radius * spots.stretch
  return np.stack(
    [spots.y - half, spots.x - half, spots.y + half, spots.x + half], axis=1
  )


def _window(spot: Spots, size: int) -> tuple[tuple[slice, slice], np.ndarray]:
  """Slices round one spot, and the radius in units of the spot's edge."""
  reach = spot.radius * spot.stretch * (1 + spot.softness) + 1 / size
  window, away = [], []
  for centre in (spot.y, spot.x):
    first = max(0, int((centre - reach) * size))
    last = min(size, int((centre + reach) * size) + 1)
    window.append(slice(first, last))
    away.append((np.arange(first, last) + 0.5) / size - centre)
  sine, cosine = np.sin(spot.angle), np.cos(spot.angle)
  along = cosine * away[1] + sine * away[0][:, None]
  across = cosine * away[0][:, None] - sine * away[1]
  radius = np.hypot(along / spot.stretch, across * spot.stretch) / spot.radius
  return tuple(window), radius
