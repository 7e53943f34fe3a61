"""Grey values of the organ phantom: textures, shading, swaps and noise.

Signals run from 0 to 1. Organs of both sides have one texture law, the
background another.
"""

import numpy as np
from scipy import ndimage

from gcl_jax.data.phantoms import organ_scene

_BACKGROUND, _ORGAN = 0.3, 0.6
_BRIGHT, _DARK = 0.95, 0.05
# Standard deviation and grain, in shares of the field of view, of the textures.
_COARSE, _FINE = (0.05, 0.03), (0.05, 0.008)
_SWAP_GRAIN = 0.02


def paint(
  contours: dict[str, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
  """Signal without shading, swaps and noise, float[H, W], antialiased edges.

  Args:
    contours: from `organ_scene.distances`.
    rng: of the textures.
  """
  size = contours["bar"].shape
  coarse, fine = (_grains(rng, size, *law) for law in (_COARSE, _FINE))
  organ = np.minimum(contours["left"], contours["right"])
  face = _cover(contours["face"])
  picture = _BACKGROUND + coarse
  for inside, signal in (
    (organ, _ORGAN + fine),
    (contours["bright disc"], _BRIGHT),
    (contours["dark disc"], _DARK),
    (contours["bar"], _DARK + face * (_BRIGHT - _DARK)),
  ):
    picture = picture + _cover(inside) * (signal - picture)
  return picture


def swap(
  picture: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
  """The picture with small blobs copied from another place of it.

  That place is at least a quarter of the image away along both axes, beyond a
  border at the opposite one.

  Args:
    picture: float[H, W].
    share: of the pixels in blobs, 0 to 1, exact up to half a pixel.
    rng: of the blobs and of the place.
  """
  field = _grains(rng, picture.shape, 1.0, _SWAP_GRAIN)
  shift = [int(round(rng.uniform(0.25, 0.75) * n)) for n in picture.shape]
  count = round(share * picture.size)
  swapped = np.zeros(picture.size, bool)
  swapped[np.argsort(field, axis=None)[:count]] = True
  other = np.roll(picture, shift, (0, 1))
  return np.where(swapped.reshape(picture.shape), other, picture)


def expose(
  picture: np.ndarray,
  shading: float,
  noise: float,
  fields: np.random.Generator,
  rng: np.random.Generator,
) -> np.ndarray:
  """Shades the picture, adds noise and returns uint8[H, W].

  stored = 255 (picture (1 + shading f) / (1 + shading) + noise n)

  with n normal and f = sin(2 pi w (y sin a + x cos a) + p), a wave of 0.5 to 1
  periods w in a random direction. The grey scale leaves room for the shading.

  Args:
    picture: float[H, W].
    shading: amplitude of the field.
    noise: standard deviation.
    fields: of the shading.
    rng: of the noise.
  """
  y, x = organ_scene.grid(picture.shape)
  angle, phase = fields.uniform(0, 2 * np.pi, 2)
  waves = fields.uniform(0.5, 1)
  ramp = np.sin(angle) * y + np.cos(angle) * x
  field = np.sin(2 * np.pi * waves * ramp + phase)
  shaded = picture * (1 + shading * field) / (1 + shading)
  noisy = shaded + noise * rng.standard_normal(picture.shape, np.float32)
  return np.clip(np.round(255 * noisy), 0, 255).astype(np.uint8)


def _grains(rng, size, deviation, grain) -> np.ndarray:
  """Smooth noise of this standard deviation, float[H, W]."""
  sigma = [grain * n for n in size]
  white = rng.standard_normal(size, np.float32)
  smooth = ndimage.gaussian_filter(white, sigma, mode="wrap", truncate=3)
  return deviation * smooth / max(smooth.std(), 1e-6)


def _cover(distance: np.ndarray) -> np.ndarray:
  """Share of each pixel inside a contour, float[H, W]."""
  return np.clip(0.5 - distance * min(distance.shape), 0, 1)
