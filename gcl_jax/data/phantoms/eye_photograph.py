"""Fundus photographs of the eye phantom: anatomy, gaze, camera and spots.

The anatomy and the camera are those of `fundus_eye`, with half of the variation
in colour. The eye looks a little aside, so that a place in the image is none in
the eye; the fovea (dark) and the optic disc (bright) show where that is.
"""

import numpy as np

from gcl_jax.data.phantoms import eye_spots as spots
from gcl_jax.data.phantoms import eye_zones as zones
from gcl_jax.data.phantoms import fundus_eye

UNIT = 0.30  # length of (u, v) as a share of the image's height
# Of a spot, of a scale of 1: the mean over the colours is about the deviation
# of noise and texture.
CONTRAST = 0.074
_NOISE = 0.04
_COLOUR = np.array([0.72, 0.34, 0.13])  # about that of the retina
_GAZE = 0.05  # furthest shift of the field's centre, either way
_VEIL = np.array([0.03, 0.06, 0.14])  # keeps noise and spots from the edges


def draw_eye(
  patient: np.random.Generator, gaze: np.random.Generator, side: int
) -> fundus_eye.Eye:
  """Draws an eye that looks a little aside.

  Args:
    patient: of the anatomy.
    gaze: of the shift.
    side: 0 for the right eye (OD), 1 for the left (OS): its mirror image.
  """
  eye = fundus_eye.draw_eye(patient, patient, side)
  down, right = gaze.uniform(-_GAZE, _GAZE, 2)
  right -= UNIT * zones.FIELD_CENTRE
  fovea = 0.5 + np.array([down, eye.nasal * right])
  u, v = zones.DISC
  nerve = fovea + UNIT * np.array([-v, eye.nasal * u])
  strength, spread = eye.macula
  return eye._replace(
    fovea=fovea,
    nerve_axes=0.85 * eye.nerve_axes,
    colour=np.sqrt(eye.colour * _COLOUR),
    nerve=nerve + patient.normal(0, 0.006, 2) * (1, eye.nasal),
    macula=np.array([0.75 + 0.4 * strength, 0.9 * spread]),
    texture=tuple(0.5 * values for values in eye.texture),
  )


def draw_view(
  camera: np.random.Generator, shot: np.random.Generator
) -> fundus_eye.View:
  """Draws a photograph's view, with even noise and a straight grey scale."""
  view = fundus_eye.draw_view(camera, shot)
  veil = view.veil + _VEIL
  return view._replace(
    radius=0.49,
    vignetting=0.6 * view.vignetting,
    gain=np.sqrt(view.gain),
    veil=veil,
    curve=0.0,
    noise=_NOISE,
  )


def places(eye: fundus_eye.Eye, size: int) -> tuple[np.ndarray, np.ndarray]:
  """Place (u, v) of every pixel: float32[1, size] and float32[size, 1]."""
  y, x = fundus_eye.grid(size)
  return in_eye(y, x, eye.fovea, eye.nasal)


def in_eye(
  y: np.ndarray, x: np.ndarray, fovea: np.ndarray, nasal: int
) -> tuple[np.ndarray, np.ndarray]:
  """Place (u, v) of points of an image.

  Args:
    y, x: shares of the image's height, from the top left.
    fovea: (y, x) of its centre.
    nasal: +1 where the nose is to the right, of right eyes; else -1.
  """
  return nasal * (x - fovea[1]) / UNIT, (fovea[0] - y) / UNIT


def picture(
  eye: fundus_eye.Eye,
  curves: np.ndarray,
  view: fundus_eye.View,
  shown: tuple[spots.Spots, ...],
  size: int,
) -> np.ndarray:
  """The light that reaches the camera, float32[size, size, 3].

  Spots are added after all else: their contrast is the same everywhere.

  Args:
    eye: its anatomy.
    curves: of the vessels, from `fundus_vessels.draw_vessels`.
    view: camera and exposure.
    shown: lesions and look-alikes.
    size: of the picture in pixels.
  """
  light = fundus_eye.photograph(fundus_eye.retina(eye, curves, size), view)
  for some in shown:
    light += CONTRAST * spots.light(some, *places(eye, size))
  return light
