"""The MR scanner of the heart phantom: tissue contrast, signature, noise.

Signals run from 0 (air) to about 1 (blood). A patient's *signature* is the
appearance common to all slices of the patient: gain, offset, bias field and the
texture outside the heart.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from gcl_jax.data.phantoms import heart_shapes as shapes

# Thickness of the fat around the heart and of the RV's free wall, in halves of
# the field of view.
_FAT, _RV_WALL = 0.10, 0.05


class Scanner(NamedTuple):
  """Tissue signals, contrast and noise of a scanner.

  Attributes:
    blood, myocardium, fat, muscle, liver, lung: signals.
    gamma: exponent of the contrast curve.
    noise: standard deviation of each of the two Rician channels.
    gain: largest factor between patients' brightness and the mean, up and down.
    offset: largest change of the background level, up and down.
    texture: standard deviation of the texture.
    cells: the texture's blocks along the field of view.
    spacing: in mm: (slice distance with 8 slices, pixel distance with 64).
  """

  blood: float
  myocardium: float
  fat: float
  muscle: float
  liver: float
  lung: float
  gamma: float
  noise: float
  gain: float
  offset: float
  texture: float
  cells: int
  spacing: tuple[float, float]


SCANNERS = {
  "source": Scanner(
    blood=0.86,
    myocardium=0.33,
    fat=0.74,
    muscle=0.30,
    liver=0.42,
    lung=0.07,
    gamma=1.0,
    noise=0.06,
    gain=1.35,
    offset=0.25,
    texture=0.13,
    cells=7,
    spacing=(10.0, 1.6),
  ),
  "other": Scanner(
    blood=0.74,
    myocardium=0.43,
    fat=0.92,
    muscle=0.36,
    liver=0.55,
    lung=0.14,
    gamma=1.3,
    noise=0.09,
    gain=1.15,
    offset=0.12,
    texture=0.10,
    cells=16,
    spacing=(8.0, 1.25),
  ),
}


class Signature(NamedTuple):
  """Appearance of a patient on one scanner.

  Attributes:
    gain: brightness factor.
    offset: added to the signal.
    slope: (y, x) relative change of the signal over half the field of view.
    texture: float[cells, cells], added to the signal around the heart.
  """

  gain: float
  offset: float
  slope: np.ndarray
  texture: np.ndarray


def draw_signature(
  rng: np.random.Generator, scanner: Scanner, conflict: float
) -> Signature:
  """Draws a patient's signature; at `conflict` 0 it is the same for all."""
  gain, offset, *slope = rng.uniform(-1, 1, 4)
  texture = rng.normal(0, scanner.texture, (scanner.cells,) * 2)
  return Signature(
    gain=scanner.gain ** (conflict * gain),
    offset=scanner.offset * conflict * offset,
    slope=0.15 * conflict * np.array(slope),
    texture=conflict * texture,
  )


def paint(
  contours: dict[str, np.ndarray],
  around: dict[str, np.ndarray],
  signature: Signature,
  scanner: Scanner,
) -> np.ndarray:
  """Renders the signal without noise, float[H, W], with antialiased edges.

  Args:
    contours: from `heart_shapes.distances`.
    around: from `heart_shapes.surroundings`, of the same size.
    signature: of the patient, drawn for this scanner.
    scanner: tissue signals.
  """
  heart = np.minimum(contours["epicardium"], contours["rv"])
  texture = _blocks(signature.texture, heart.shape)
  picture = np.full(heart.shape, scanner.lung)
  background = (
    (around["aorta"], 0.9 * scanner.blood),
    (around["stomach"], scanner.muscle),
    (around["liver"], scanner.liver),
    (around["muscle"], scanner.muscle),
    (around["fat"], scanner.fat),
    (heart - _FAT, 0.75 * scanner.fat),
    (contours["rv"] - _RV_WALL, scanner.myocardium),
  )
  picture = _fill(picture, background) + texture
  foreground = (
    (contours["rv"], 0.95 * scanner.blood),
    (contours["epicardium"], scanner.myocardium),
    (contours["cavity"], scanner.blood),
    (contours["papillary"], scanner.myocardium),
  )
  return _fill(picture, foreground)


def expose(
  picture: np.ndarray,
  signature: Signature,
  scanner: Scanner,
  conflict: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Applies bias, blur, Rician noise, gain and offset; returns uint8[H, W].

  The grey scale is fixed for a data set: it leaves room for every gain and
  offset that this `conflict` allows, so that hardly a pixel saturates.
  """
  y, x = shapes.grid(picture.shape)
  bias = 1 + signature.slope[0] * y + signature.slope[1] * x
  signal = np.clip(picture, 0, None) ** scanner.gamma * bias
  signal = ndimage.gaussian_filter(signal, 0.5 * min(picture.shape) / 64)
  noise = rng.standard_normal((2, *picture.shape), np.float32)
  noisy = np.hypot(signal + scanner.noise * noise[0], scanner.noise * noise[1])
  low = -scanner.offset * conflict
  high = (1.1 + 0.1 * conflict) * scanner.gain**conflict - low
  stored = (signature.gain * noisy + signature.offset - low) / (high - low)
  return np.clip(np.round(255 * stored), 0, 255).astype(np.uint8)


def _fill(
  picture: np.ndarray, layers: tuple[tuple[np.ndarray, float], ...]
) -> np.ndarray:
  """Fills contours (distance, signal) in order, later ones on top."""
  for distance, signal in layers:
    picture = picture + _cover(distance) * (signal - picture)
  return picture


def _cover(distance: np.ndarray) -> np.ndarray:
  """Share of each pixel inside a contour, float[H, W]."""
  pixel = 2 / min(distance.shape)
  return np.clip(0.5 - distance / pixel, 0, 1)


def _blocks(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Blocks with soft edges that fill the picture, float[H, W]."""
  y, x = (_block_weights(n, len(values)) for n in size)
  return y @ values @ x.T


def _block_weights(pixels: int, cells: int) -> np.ndarray:
  """Weight of every block in every pixel of a line, float[pixels, cells].

  Rows sum to 1; half of a block is flat, the rest a ramp to its neighbours.
  """
  place = (np.arange(pixels) + 0.5) / pixels * cells - 0.5
  away = np.abs(np.clip(place, 0, cells - 1)[:, None] - np.arange(cells))
  return np.clip(1.5 - 2 * away, 0, 1)
