"""Healthy fundus: retina, optic nerve, macula, and the camera that sees them.

Positions (y, x) and lengths are fractions of the image's height, y from the top
and x from the left. Colours are (red, green, blue) from 0 to about 1. All
randomness comes from the generators that are passed in.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from gcl_jax.data.phantoms import fundus_vessels as vessels

# How much blood of absorbance 1 absorbs of each colour (natural logarithm).
BLOOD = np.array([0.22, 0.85, 0.60], np.float32)
_NERVE = np.array([1.05, 0.86, 0.55], np.float32)
_CELLS = (6, 26)  # of the texture, along the image


class Eye(NamedTuple):
  """Properties of an eye.

  Attributes:
    nasal: +1 where the nerve lies to the right of the macula, -1 to the left.
    fovea, nerve: centres (y, x).
    nerve_axes: half axes (vertical, horizontal) of the optic nerve.
    cup: half axis of the pale cup as a share of the nerve's.
    colour: float[3] of the retina.
    macula: (absorbance at the fovea, spread).
    texture: float[c, c] grids of relative brightness, one per `_CELLS`.
  """

  nasal: int
  fovea: np.ndarray
  nerve: np.ndarray
  nerve_axes: np.ndarray
  cup: float
  colour: np.ndarray
  macula: np.ndarray
  texture: tuple[np.ndarray, ...]


class View(NamedTuple):
  """Camera, alignment and exposure of one photograph.

  Attributes:
    radius: of the round field of view.
    light: (y, x) of the brightest point.
    vignetting: brightness lost at the edge of the field, 0 to 1.
    gain: float[3], brightness factor of each colour.
    veil: float[3], scattered light that is added.
    curve: of the camera's contrast: brighter (positive) or darker middle tones.
    blur: standard deviation of the eye's and the camera's blur.
    noise: standard deviation of the pixels' noise.
  """

  radius: float
  light: np.ndarray
  vignetting: float
  gain: np.ndarray
  veil: np.ndarray
  curve: float
  blur: float
  noise: float


def draw_eye(
  patient: np.random.Generator, eye: np.random.Generator, side: int
) -> Eye:
  """Draws an eye: the patient's colour and shape with small variations.

  Args:
    patient: generator with the same seed for both eyes of a patient.
    eye: generator of this eye.
    side: 0 for the right eye (OD), 1 for the left (OS): its mirror image.
  """
  nasal = 1 - 2 * side
  fovea = 0.5 + eye.normal(0, 0.015, 2)
  away = np.array([-0.02, 0.325]) + patient.normal(0, 0.012, 2)
  nerve = fovea + away * (1, nasal) + eye.normal(0, 0.006, 2)
  red, green, blue = patient.uniform((0.58, 0.38, 0.25), (0.86, 0.56, 0.50))
  colour = np.array([red, red * green, red * green * blue])
  size = patient.uniform(0.055, 0.072)
  return Eye(
    nasal=nasal,
    fovea=fovea,
    nerve=nerve,
    nerve_axes=size * np.array([1.08, 0.94]) * eye.normal(1, 0.03, 2),
    cup=float(
      np.clip(patient.normal(0.45, 0.1) + eye.normal(0, 0.04), 0.2, 0.75)
    ),
    colour=colour * eye.lognormal(0, 0.04, 3),
    macula=np.array([patient.uniform(0.3, 0.9), patient.uniform(0.045, 0.075)]),
    texture=tuple(
      eye.normal(0, sd, (cells, cells))
      for cells, sd in zip(_CELLS, (0.08, 0.05), strict=True)
    ),
  )


def draw_view(camera: np.random.Generator, shot: np.random.Generator) -> View:
  """Draws a photograph's view.

  Args:
    camera: generator with the same seed for all images of a camera.
    shot: generator of this photograph.
  """
  balance = camera.normal(0, (0.06, 0.06, 0.15))
  return View(
    radius=camera.uniform(0.465, 0.495),
    light=0.5 + shot.normal(0, 0.06, 2),
    vignetting=camera.uniform(0.2, 0.4) + shot.uniform(-0.1, 0.15),
    gain=np.exp(balance + shot.normal(0, 0.12) + shot.normal(0, 0.03, 3)),
    veil=camera.uniform(0.0, 0.05) + shot.uniform(0, 0.03, 3),
    curve=camera.uniform(-0.2, 0.2),
    blur=camera.uniform(0.003, 0.0045) * shot.uniform(0.8, 1.2),
    noise=camera.uniform(0.008, 0.018),
  )


def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
  """(y, x) of the pixel centres, float32[size, 1] and float32[1, size]."""
  centres = ((np.arange(size) + 0.5) / size).astype(np.float32)
  return centres[:, None], centres[None]


def retina(eye: Eye, curves: np.ndarray, size: int) -> np.ndarray:
  """Paints the retina under even light, float32[size, size, 3].

  Args:
    eye: its anatomy.
    curves: float[V, P, 4], vessels from `fundus_vessels.draw_vessels`.
    size: of the picture in pixels.
  """
  texture = 1 + sum(_smooth(values, size) for values in eye.texture)
  picture = texture[..., None] * eye.colour.astype(np.float32)
  _paint_nerve(picture, eye)
  blood = vessels.absorbance(curves, size)
  strength, spread = eye.macula
  down, right = (
    np.exp(-((g - np.float32(at)) ** 2) / np.float32(2 * spread**2))
    for g, at in zip(grid(size), eye.fovea, strict=True)
  )
  blood += np.float32(strength) * down * right
  return picture * np.exp(-blood[..., None] * BLOOD)


def _paint_nerve(picture: np.ndarray, eye: Eye) -> None:
  """Paints the nerve, soft over a part of its radius, and its paler cup."""
  size, reach = len(picture), 1.2 * eye.nerve_axes.max()
  (top, left), (bottom, right) = (
    np.clip((eye.nerve + d) * size, 0, size).astype(int)
    for d in (-reach, reach)
  )
  y, x = grid(size)
  down = (y[top:bottom] - eye.nerve[0]) / eye.nerve_axes[0]
  across = (x[:, left:right] - eye.nerve[1]) / eye.nerve_axes[1]
  radius = np.hypot(down, across)
  rim, cup = _soft(radius, 1, 0.12), _soft(radius, eye.cup, 0.2)
  pale = (0.62 * rim + 0.3 * rim * cup)[..., None]
  part = picture[top:bottom, left:right]
  part += pale * (_NERVE - part)


def photograph(picture: np.ndarray, view: View) -> np.ndarray:
  """Applies the camera's light, colour balance and blur, float32[S, S, 3]."""
  size = len(picture)
  y, x = grid(size)
  down, across = y - np.float32(view.light[0]), x - np.float32(view.light[1])
  loss = np.float32(view.vignetting / view.radius**2)
  light = np.maximum(1 - loss * (down**2 + across**2), 0.05)
  lit = picture * light[..., None]
  lit *= view.gain.astype(np.float32)
  lit += view.veil.astype(np.float32)
  sigma = view.blur * size
  return ndimage.gaussian_filter(lit, (sigma, sigma, 0), truncate=3)


def expose(
  picture: np.ndarray, view: View, rng: np.random.Generator
) -> np.ndarray:
  """Applies contrast curve, noise and the round field; uint8[S, S, 3]."""
  tone = np.clip(picture, 0, 1)
  tone += np.float32(view.curve) * tone * (1 - tone)
  noise = rng.standard_normal(picture.shape, np.float32)
  tone += np.float32(view.noise) * noise
  tone *= 255 * field(view, len(picture))[..., None]
  return np.clip(tone + 0.5, 0, 255).astype(np.uint8)


def field(view: View, size: int) -> np.ndarray:
  """Share of each pixel in the round field of view, float32[size, size]."""
  y, x = grid(size)
  away = np.sqrt((y - np.float32(0.5)) ** 2 + (x - np.float32(0.5)) ** 2)
  return np.clip((np.float32(view.radius) - away) * size + 0.5, 0, 1)


def _soft(radius: np.ndarray, edge: float, width: float) -> np.ndarray:
  """1 inside `edge`, 0 outside, smooth over `width` to both sides."""
  t = np.clip((edge + width - radius) / (2 * width), 0, 1)
  return t * t * (3 - 2 * t)


def _smooth(values: np.ndarray, size: int) -> np.ndarray:
  """A smooth field through a grid of values, float32[size, size]."""
  cells = len(values)
  place = (np.arange(size) + 0.5) / size * cells - 0.5
  away = place[:, None] - np.arange(cells)
  weights = np.exp(-(away**2) / 0.5)
  weights /= weights.sum(axis=1, keepdims=True)
  weights = weights.astype(np.float32)
  return weights @ values.astype(np.float32) @ weights.T
