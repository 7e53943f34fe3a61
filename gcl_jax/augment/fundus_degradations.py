"""Degradations of one fundus photograph: cofe-Net's, and a cataract's haze.

The model and the ranges are those of the public scripts of cofe-Net (Shen et
al., IEEE TMI 2021) and SCR-Net (Li et al., MICCAI 2022), which work on 512
pixels. Here every length is a share of the image height, `_PIXELS` to one. A
script that keeps the amplitude of spots in pixels makes them dark at 1024.
What differs: discs blurred by a nearly flat kernel are drawn as discs with a
soft edge (`soft_disc`), the blur is a box of the kernel's width, and pixels
outside the eye stay as they are.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gcl_jax.augment.colour import stretched
from gcl_jax.augment.degradation_fields import (
  Frame,
  box_blur,
  distance,
  soft_disc,
)
from gcl_jax.augment.tints import saturate

KINDS = (
  *("blur", "spots", "illumination", "blur+spots", "blur+illumination"),
  *("spots+illumination", "blur+spots+illumination", "cataract"),
)
PARTS = ("blur", "spots", "illumination", "cataract")
# bool[kinds, parts]: which parts a kind has.
HAS = np.array([[part in kind.split("+") for part in PARTS] for kind in KINDS])
SPOTS = 10  # at most

_PIXELS = 512
# Colours of the three halos of the published script, red, green, blue.
_TINTS = np.array([[251, 249, 246], [141, 238, 238], [177, 195, 147]]) / 255
# Largest channel, in [0, 1], of what lies outside the eye and inside it.
_OUTSIDE, _INSIDE = 10 / 255, 20 / 255
_WIDEST = 7.5  # kernel of the two blurs, pixels


class Colour(NamedTuple):
  """Factors of brightness, contrast and saturation."""

  brightness: jax.Array
  contrast: jax.Array
  saturation: jax.Array


class Halo(NamedTuple):
  """Bright ring outside a circle: its centre, radius, edge and colour."""

  row: jax.Array
  column: jax.Array
  radius: jax.Array
  softness: jax.Array
  tint: jax.Array


class Hole(NamedTuple):
  """Dark disc: its centre, radius, edge, depth and depth per mean intensity."""

  row: jax.Array
  column: jax.Array
  radius: jax.Array
  softness: jax.Array
  depth: jax.Array
  slope: jax.Array


class Spots(NamedTuple):
  """Bright spots, the first `count` of `SPOTS`; their discs have radii / 2."""

  count: jax.Array
  rows: jax.Array
  columns: jax.Array
  radii: jax.Array
  softness: jax.Array


class Haze(NamedTuple):
  """Haze of a cataract: its clear centre, strength, blur and colours."""

  row: jax.Array
  column: jax.Array
  strength: jax.Array
  blur: jax.Array
  colour: Colour


class Fundus(NamedTuple):
  """What is drawn for a fundus photograph.

  Rows and columns are shares of the height and of the width; radii, softness
  and blur (a standard deviation) shares of the height.

  Attributes:
    kind: int32, place in `KINDS`; parts that the kind lacks are not applied.
    colour, halo, hole: of illumination.
    spots: of spots.
    blur: of blur.
    haze: of the cataract.
  """

  kind: jax.Array
  colour: Colour
  halo: Halo
  hole: Hole
  spots: Spots
  blur: jax.Array
  haze: Haze


def draw_one(key: jax.Array, spots: bool | None = None) -> Fundus:
  """Draws for one image: one of eight kinds, each as probable, and strengths.

  Args:
    key: one key.
    spots: True draws among the four kinds with spots, False among those
      without, None among all.
  """
  keys = jax.random.split(key, 7)
  allowed = np.flatnonzero((spots is None) | (HAS[:, 1] == spots))
  which = jax.random.randint(keys[0], (), 0, len(allowed))
  return Fundus(
    jnp.asarray(allowed, jnp.int32)[which],
    _colour(keys[1], (0.7, 1.2), (0.6, 1.4), (0.6, 1.4)),
    _halo(keys[2]),
    _hole(keys[3]),
    _spots(keys[4]),
    _blur(keys[5]),
    _haze(keys[6]),
  )


def apply_one(pixels: jax.Array, drawn: Fundus, where: Frame) -> jax.Array:
  """Degrades one image, or a region of one.

  Illumination, then spots, then blur; or the cataract. Mean intensity, mean
  luminance (contrast) and brightest colour (haze) are those of `pixels`.

  Args:
    pixels: float32[h, w, C] in [0, 1].
    drawn: of `draw_one`.
    where: of the pixels.

  Returns:
    float32[h, w, C] in [0, 1].
  """
  blurred, spotted, lit, hazy = jnp.asarray(HAS)[drawn.kind]
  eye = eye_of(pixels)
  found = jnp.where(lit, _illuminated(pixels, eye, drawn, where), pixels)
  bright = jnp.where(spotted, spot_field(drawn.spots, where), 0)
  found = jnp.clip(found + bright[..., None], 0, 1)
  blur = jnp.where(blurred, drawn.blur, 0) + jnp.where(hazy, drawn.haze.blur, 0)
  blur = blur / where.pixel
  found = box_blur(found, (blur, blur), _deviation(_WIDEST) / where.pixel)
  found = jnp.where(hazy, _hazy(found, drawn.haze, where), found)
  return pixels + eye * (found - pixels)


def eye_of(pixels: jax.Array) -> jax.Array:
  """float32[h, w, 1] in [0, 1]: 1 inside the eye, 0 in the dark round it.

  A ramp of the largest channel from 10 to 20 of 255; the published scripts cut
  at 20. Halo, spots and haze would else brighten the frame round the eye.
  """
  brightest = jnp.max(pixels, axis=-1, keepdims=True)
  return jnp.clip((brightest - _OUTSIDE) / (_INSIDE - _OUTSIDE), 0, 1)


def spot_amplitude(radius: jax.Array) -> jax.Array:
  """Brightness that a spot adds, k (1 - t), from its radius.

  With s = radius in pixels of 512 over 25: k = 1.56 - s and
  t = exp(-(0.5 + s) 0.3 s). It is above 0 for every radius that is drawn.

  Args:
    radius: float[...], share of the image height.

  Returns:
    float[...]: 0.068, 0.142 and 0.203 at 6, 12 and 25 pixels of 512.
  """
  share = radius * _PIXELS / 25
  return (1.56 - share) * -jnp.expm1(-(0.5 + share) * 0.3 * share)


def spot_field(spots: Spots, where: Frame) -> jax.Array:
  """float32[h, w]: the brightness that all spots of an image add."""
  shown = jnp.arange(SPOTS) < spots.count
  amplitude = jnp.where(shown, spot_amplitude(spots.radii), 0)
  return sum(
    amplitude[k]
    * soft_disc(
      distance(where, spots.rows[k], spots.columns[k]),
      spots.radii[k] / 2,
      spots.softness[k],
      where.pixel,
    )
    for k in range(SPOTS)
  )


def halo_field(halo: Halo, where: Frame) -> jax.Array:
  """float32[h, w] in [0, 1]: the ring outside the circle."""
  away = distance(where, halo.row, halo.column)
  return 1 - soft_disc(away, halo.radius, halo.softness, where.pixel)


def hole_field(hole: Hole, where: Frame) -> jax.Array:
  """float32[h, w] in [0, 1]: the dark disc."""
  away = distance(where, hole.row, hole.column)
  return soft_disc(away, hole.radius, hole.softness, where.pixel)


def haze_field(haze: Haze, where: Frame) -> jax.Array:
  """float32[h, w]: distance from the clear centre, 1 at the far eye edge."""
  away = distance(where, haze.row, haze.column)
  offset = jnp.hypot(haze.row - 0.5, (haze.column - 0.5) * where.width)
  return jnp.minimum(away / (0.5 + offset), 1)


def _illuminated(pixels, eye, drawn, where):
  """Brightness, contrast, saturation, then halo, then hole."""
  found = jnp.clip(pixels * drawn.colour.brightness, 0, 1)
  found = stretched(found, drawn.colour.contrast)
  found = saturate(found, drawn.colour.saturation)
  tint = jnp.asarray(_TINTS, jnp.float32)[drawn.halo.tint]
  if pixels.shape[-1] != 3:
    tint = jnp.mean(tint)
  ring = halo_field(drawn.halo, where)[..., None]
  found = jnp.clip(found + jnp.mean(found) * tint * ring, 0, 1)
  inside = jnp.maximum(jnp.sum(eye), 1) * pixels.shape[-1]
  mean = jnp.sum(found * eye) / inside
  depth = drawn.hole.depth + drawn.hole.slope * mean
  depth = jnp.where(mean > 0.25, depth, 0)
  return jnp.clip(
    found - depth * hole_field(drawn.hole, where)[..., None], 0, 1
  )


def _hazy(blurred, haze, where):
  """0.8 of the blurred image and a panel that grows from a clear centre."""
  panel = jnp.max(blurred, axis=(0, 1)) - blurred
  panel = panel * haze.strength * haze_field(haze, where)[..., None]
  found = jnp.clip(0.8 * blurred + panel, 0, 1)
  found = stretched(found, haze.colour.contrast)
  found = jnp.clip(found * haze.colour.brightness, 0, 1)
  return saturate(found, haze.colour.saturation)


def _colour(key, *ranges):
  draws = jax.random.uniform(key, (3,))
  return Colour(*(_between(r, draws[k]) for k, r in enumerate(ranges)))


def _halo(key):
  """A circle of 0.75 to 1 of the frame, its centre within an eighth of the
  middle; its edge as wide as the frame's farthest side lies outside."""
  key, tint_key = jax.random.split(key)
  draws = jax.random.uniform(key, (3,))
  row, column = (_between((0.375, 0.625), draws[k]) for k in range(2))
  diameter = _between((0.75, 1.0), draws[2])
  off = jnp.maximum(jnp.abs(row - 0.5), jnp.abs(column - 0.5))
  tint = jax.random.randint(tint_key, (), 0, len(_TINTS))
  return Halo(row, column, diameter / 2, 1 + 2 * off - diameter, tint)


def _hole(key):
  draws = jax.random.uniform(key, (6,))
  diameter = _between((0.4, 0.7), draws[2])
  return Hole(
    _between((0.375, 0.625), draws[0]),
    _between((0.25, 0.75), draws[1]),
    diameter / 2,
    diameter * _between((0.55, 0.75), draws[3]),
    _between((0.26, 0.262), draws[4]),
    _between((0.05, 0.06), draws[5]),
  )


def _spots(key):
  """5 to 10 spots of radius 0.01 to 0.05 that lie inside the frame; the blur
  has a sigma of 10 + 40 radius / 25 px and a kernel of a fifth to a quarter."""
  count_key, key = jax.random.split(key)
  draws = jax.random.uniform(key, (4, SPOTS))
  radii = _between((0.01, 0.05), draws[0])
  rows, columns = (radii + draws[k] * (1 - 2 * radii) for k in (1, 2))
  sigma = (10 + 40 * radii * _PIXELS / 25) / _PIXELS
  softness = sigma * _between((1 / 5, 1 / 4), draws[3])
  count = jax.random.randint(count_key, (), 5, SPOTS + 1)
  return Spots(count, rows, columns, radii, softness)


def _blur(key):
  """A sigma of 5 to 15 px, cut to a kernel of a third to half as many px."""
  draws = jax.random.uniform(key, (2,))
  sigma = _between((5.0, 15.0), draws[0])
  return _deviation(sigma * _between((1 / 3, 1 / 2), draws[1]))


def _haze(key):
  """A centre within 0.3 of the middle, strength 0.6 to 0.8, a kernel of 1, 3, 5
  or 7 px (its sigma of 10 to 30 px makes it flat)."""
  keys = jax.random.split(key, 3)
  draws = jax.random.uniform(keys[0], (3,))
  return Haze(
    _between((0.2, 0.8), draws[0]),
    _between((0.2, 0.8), draws[1]),
    _between((0.6, 0.8), draws[2]),
    _deviation(1 + 2.0 * jax.random.randint(keys[1], (), 0, 4)),
    _colour(keys[2], (0.9, 1.0), (0.9, 1.3), (0.9, 1.3)),
  )


def _deviation(width):
  """Standard deviation of a box of `width` px of 512, a share of the height."""
  root = math.sqrt if isinstance(width, float) else jnp.sqrt
  return root((width**2 - 1) / 12) / _PIXELS


def _between(bounds, share):
  low, high = bounds
  return low + share * (high - low)
