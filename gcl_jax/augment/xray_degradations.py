"""Degradations of one radiograph; a family of our own, from no publication.

Parts, in the order of acquisition: blur (motion or a large focal spot), veil of
scattered radiation, lines of a grid, quantum noise, and a wrong exposure.
Lengths are shares of the image height; noise and lines that are finer than a
pixel vanish, as they do when an image is made smaller.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.augment.degradation_fields import Frame, box_blur, grain

KINDS = (
  *("exposure", "noise", "blur", "veil", "grid"),
  *("exposure+noise", "blur+noise", "veil+grid"),
)
# Part -> the fields of `XRay` that it applies.
FIELDS = dict(
  exposure=("gamma", "contrast"),
  noise=("noise",),
  blur=("blur",),
  veil=("veil",),
  grid=("grid",),
)
# bool[kinds, parts]: which parts a kind has.
HAS = np.array([[part in kind.split("+") for part in FIELDS] for kind in KINDS])

_PIXELS = 512
_FOCUS = (3.0, 8.0)  # pixels of 512: width of the box of a large focal spot
_MOTION = (8.0, 24.0)  # and length of a motion along one axis


class Veil(NamedTuple):
  """Scatter: its share of the image, and its level at the edges."""

  share: jax.Array
  level: jax.Array
  slope: jax.Array
  angle: jax.Array


class Grid(NamedTuple):
  """Lines: amplitude, lines over the height, direction and phase (radians)."""

  amplitude: jax.Array
  lines: jax.Array
  angle: jax.Array
  phase: jax.Array


class XRay(NamedTuple):
  """What is drawn for a radiograph.

  Attributes:
    kind: int32, place in `KINDS`; parts that the kind lacks are not applied.
    gamma, contrast: of exposure: exponent, below 1 brighter, and factor about
      mid-grey.
    noise: standard deviation of quantum noise where the image is white; a tenth
      of it where it is black, as fewer quanta pass what is white.
    noise_key: the key of its `grain`.
    blur: float32[2], standard deviations down the rows and along them, shares
      of the height.
    veil, grid: of these parts.
  """

  kind: jax.Array
  gamma: jax.Array
  contrast: jax.Array
  noise: jax.Array
  noise_key: jax.Array
  blur: jax.Array
  veil: Veil
  grid: Grid


def draw_one(key: jax.Array) -> XRay:
  """Draws for one image: one of eight kinds, each as probable; strengths."""
  key, noise_key = jax.random.split(key)
  draws = jax.random.uniform(key, (18,))
  over = jnp.where(draws[1] < 0.5, -1, 1)
  return XRay(
    jnp.floor(draws[0] * len(KINDS)).astype(jnp.int32),
    jnp.exp(over * _between((0.4, 0.9), draws[2])),
    _between((0.5, 0.9), draws[3]),
    _between((0.04, 0.12), draws[4]),
    noise_key,
    _blur(draws[5:9]),
    _veil(draws[9:13]),
    _grid(draws[13:18]),
  )


def apply_one(pixels: jax.Array, drawn: XRay, where: Frame) -> jax.Array:
  """Degrades one image, or a region of one.

  Args:
    pixels: float32[h, w, C] in [0, 1]; channels are degraded alike.
    drawn: of `draw_one`.
    where: of the pixels.

  Returns:
    float32[h, w, C] in [0, 1].
  """
  exposed, noisy, blurred, veiled, lined = jnp.asarray(HAS)[drawn.kind]
  blur = jnp.where(blurred, drawn.blur, 0) / where.pixel
  largest = math.hypot(_FOCUS[1], _MOTION[1]) / math.sqrt(12)
  found = box_blur(pixels, blur, largest / _PIXELS / where.pixel)
  share = jnp.where(veiled, drawn.veil.share, 0)
  level = veil_field(drawn.veil, where)[..., None]
  found = found + share * (level - found)
  lines = jnp.where(lined, grid_field(drawn.grid, where), 0)
  found = jnp.clip(found + lines[..., None], 0, 1)
  strength = jnp.where(noisy, drawn.noise, 0) * 10 ** (found - 1)
  found = found + strength * grain(drawn.noise_key, where)[..., None]
  found = jnp.clip(found, 0, 1)
  curved = 0.5 + drawn.contrast * (found**drawn.gamma - 0.5)
  return jnp.where(exposed, curved, found)


def veil_field(veil: Veil, where: Frame) -> jax.Array:
  """float32[h, w] in [0, 1]: brightness of the scattered radiation alone."""
  down, right = where.rows - 0.5, where.columns / where.width - 0.5
  along = jnp.cos(veil.angle) * down + jnp.sin(veil.angle) * right
  return veil.level + veil.slope * along


def grid_field(grid: Grid, where: Frame) -> jax.Array:
  """float32[h, w]: sine of the lines, averaged over each pixel."""
  down = grid.lines * jnp.cos(grid.angle)
  right = grid.lines * jnp.sin(grid.angle)
  wave = 2 * jnp.pi * (down * where.rows + right * where.columns)
  seen = jnp.sinc(down * where.pixel) * jnp.sinc(right * where.pixel)
  return grid.amplitude * seen * jnp.cos(wave + grid.phase)


def _blur(share):
  """A box of the focal spot along both axes; in half of the images a motion
  along one of them as well."""
  focus, motion = _between(_FOCUS, share[0]), _between(_MOTION, share[1])
  along = jnp.stack([share[3] < 0.5, share[3] >= 0.5]) & (share[2] < 0.5)
  variance = (focus**2 + jnp.where(along, motion, 0) ** 2) / 12
  return jnp.sqrt(variance) / _PIXELS


def _veil(share):
  return Veil(
    _between((0.35, 0.65), share[0]),
    _between((0.5, 0.8), share[1]),
    _between((0.0, 0.3), share[2]),
    2 * jnp.pi * share[3],
  )


def _grid(share):
  """12 to 40 lines over the height, upright or level within three degrees."""
  upright = jnp.where(share[2] < 0.5, 0.0, jnp.pi / 2)
  return Grid(
    _between((0.03, 0.08), share[0]),
    _between((12.0, 40.0), share[1]),
    upright + jnp.radians(3) * (2 * share[3] - 1),
    2 * jnp.pi * share[4],
  )


def _between(bounds, share):
  low, high = bounds
  return low + share * (high - low)
