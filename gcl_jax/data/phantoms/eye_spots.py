"""Spots of the fundus photographs of the eye phantom: lesions and look-alikes.

Three looks, faint: their contrast is about the deviation of the noise.
Look-alikes follow the same laws of colour, size and shape, and lie anywhere.
Places (u, v) and lengths are those of `eye_zones`.
"""

from typing import NamedTuple

import numpy as np

from gcl_jax.data.phantoms import eye_diseases as diseases
from gcl_jax.data.phantoms import eye_zones as zones

# (red, green, blue) that a spot of contrast 1 adds: yellow, dark red, pale.
COLOURS = np.array(
  [[0.65, 1.0, -0.5], [-0.45, -1.0, -0.7], [0.5, 0.7, 1.0]], np.float32
)
_LESIONS, _ALIKE = (4, 6), (2, 4)  # fewest and most of an image
_RADII = (0.115, 0.14)
# Ratio of the longer half axis to the mean, by look: a membrane is a streak.
_STRETCH = np.array([[1.0, 1.2], [1.0, 1.2], [1.5, 1.9]])
_APART = 0.25
_SOFT = 0.35  # half width of the edge, as a share of the radius


class Spots(NamedTuple):
  """Parallel arrays of length L, one entry per spot.

  Attributes:
    look: index of `eye_diseases.LOOKS`.
    place: float[L, 2], centre (u, v).
    radius: geometric mean of the two half axes.
    stretch: ratio of the longer one to it.
    angle: of the longer one, from u towards v.
    contrast: in units of the contrast of all, about 1.
  """

  look: np.ndarray
  place: np.ndarray
  radius: np.ndarray
  stretch: np.ndarray
  angle: np.ndarray
  contrast: np.ndarray


def draw_lesions(rng: np.random.Generator, look: str, zone: str) -> Spots:
  """Draws the lesions of a diseased eye, which do not overlap.

  Args:
    rng: of this image.
    look: one of `eye_diseases.LOOKS`.
    zone: one of `eye_zones.ZONES`, or `eye_zones.ANYWHERE`.
  """
  count = int(rng.integers(_LESIONS[0], _LESIONS[1] + 1))
  looks = np.full(count, diseases.LOOKS.index(look))
  places = zones.draw_places(rng, zone, count, apart=_APART)
  return _shaped(rng, looks, places)


def draw_alike(rng: np.random.Generator) -> Spots:
  """Draws look-alikes: each of any look, anywhere, whatever the disease."""
  count = int(rng.integers(_ALIKE[0], _ALIKE[1] + 1))
  looks = rng.integers(len(diseases.LOOKS), size=count)
  places = zones.draw_places(rng, zones.ANYWHERE, count)
  return _shaped(rng, looks, places)


def none() -> Spots:
  """The spots of a healthy eye."""
  empty = np.zeros(0)
  return Spots(np.zeros(0, int), np.zeros((0, 2)), *[empty] * 4)


def _shaped(rng, looks, places) -> Spots:
  count = len(looks)
  return Spots(
    look=looks,
    place=places,
    radius=rng.uniform(*_RADII, count),
    stretch=rng.uniform(*_STRETCH[looks].T),
    angle=rng.uniform(0, np.pi, count),
    contrast=rng.uniform(0.8, 1.2, count),
  )


def radii(spots: Spots, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Distance of places from each spot, 1 at its edge: float[L, H, W].

  Args:
    spots: L of them.
    u, v: places of the pixels, arrays that broadcast to [H, W].
  """
  du = u - spots.place[:, 0, None, None]
  dv = v - spots.place[:, 1, None, None]
  angle = spots.angle[:, None, None]
  along = np.cos(angle) * du + np.sin(angle) * dv
  across = np.cos(angle) * dv - np.sin(angle) * du
  stretch = spots.stretch[:, None, None]
  return (
    np.hypot(along / stretch, across * stretch) / (spots.radius[:, None, None])
  )


def light(spots: Spots, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """What the spots add to the light of each pixel, float32[H, W, 3].

  Args:
    spots: that add up.
    u, v: places of the pixels, arrays that broadcast to [H, W].
  """
  t = np.clip((1 + _SOFT - radii(spots, u, v)) / (2 * _SOFT), 0, 1)
  cover = t * t * (3 - 2 * t) * spots.contrast[:, None, None]
  return np.tensordot(cover.astype(np.float32), COLOURS[spots.look], (0, 0))


def mask(spots: Spots, u: np.ndarray, v: np.ndarray) -> np.ndarray:
  """Class of every pixel, uint8[H, W]: 0, or 1 + the look of the spot there.

  Args:
    spots: later ones lie over earlier ones.
    u, v: places of the pixels, arrays that broadcast to [H, W].
  """
  classes = np.zeros(np.broadcast_shapes(u.shape, v.shape), np.uint8)
  for look, radius in zip(spots.look, radii(spots, u, v), strict=True):
    classes[(radius < 1) | (radius == radius.min())] = 1 + look
  return classes
