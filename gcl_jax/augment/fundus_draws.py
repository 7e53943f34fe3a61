"""What is drawn for a fundus photograph: kinds, strengths and places.

The ranges are those of the public scripts of cofe-Net (Shen et al., IEEE TMI
2021) and SCR-Net (Li et al., MICCAI 2022), which work on 512 pixels: every
length is a share of the image height, `PIXELS` to one.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = (
  *("blur", "spots", "illumination", "blur+spots", "blur+illumination"),
  *("spots+illumination", "blur+spots+illumination", "cataract"),
)
# Part -> the fields of `Fundus` that it applies.
FIELDS = dict(
  blur=("blur",),
  spots=("spots",),
  illumination=("colour", "halo", "hole"),
  cataract=("haze",),
)
# bool[kinds, parts]: which parts a kind has.
HAS = np.array([[part in kind.split("+") for part in FIELDS] for kind in KINDS])
SPOTS = 10  # at most

PIXELS = 512
# Colours of the three halos of the published script, red, green, blue.
TINTS = np.array([[251, 249, 246], [141, 238, 238], [177, 195, 147]]) / 255
WIDEST = 7.5  # kernel of the two blurs, pixels


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
  draws = jax.random.uniform(key, (64,))
  allowed = np.flatnonzero((spots is None) | (HAS[:, 1] == spots))
  return Fundus(
    jnp.asarray(allowed, jnp.int32)[_below(len(allowed), draws[0])],
    _colour(draws[1:4], (0.7, 1.2), (0.6, 1.4), (0.6, 1.4)),
    _halo(draws[4:8]),
    _hole(draws[8:14]),
    _spots(draws[14], draws[15:55].reshape(4, SPOTS)),
    _blur(draws[55:57]),
    _haze(draws[57:64]),
  )


def _colour(draws, *ranges):
  return Colour(*(_between(r, draws[k]) for k, r in enumerate(ranges)))


def _halo(draws):
  """A circle of 0.75 to 1 of the frame, its centre within an eighth of the
  middle; its edge as wide as the frame's farthest side lies outside."""
  row, column = (_between((0.375, 0.625), draws[k]) for k in range(2))
  diameter = _between((0.75, 1.0), draws[2])
  off = jnp.maximum(jnp.abs(row - 0.5), jnp.abs(column - 0.5))
  tint = _below(len(TINTS), draws[3])
  return Halo(row, column, diameter / 2, 1 + 2 * off - diameter, tint)


def _hole(draws):
  diameter = _between((0.4, 0.7), draws[2])
  return Hole(
    _between((0.375, 0.625), draws[0]),
    _between((0.25, 0.75), draws[1]),
    diameter / 2,
    diameter * _between((0.55, 0.75), draws[3]),
    _between((0.26, 0.262), draws[4]),
    _between((0.05, 0.06), draws[5]),
  )


def _spots(count, draws):
  """5 to 10 spots of radius 0.01 to 0.05 that lie inside the frame; the blur
  has a sigma of 10 + 40 radius / 25 px and a kernel of a fifth to a quarter."""
  radii = _between((0.01, 0.05), draws[0])
  rows, columns = (radii + draws[k] * (1 - 2 * radii) for k in (1, 2))
  sigma = (10 + 40 * radii * PIXELS / 25) / PIXELS
  softness = sigma * _between((1 / 5, 1 / 4), draws[3])
  return Spots(5 + _below(SPOTS - 4, count), rows, columns, radii, softness)


def _blur(draws):
  """A sigma of 5 to 15 px, cut to a kernel of a third to half as many px."""
  sigma = _between((5.0, 15.0), draws[0])
  return deviation_of(sigma * _between((1 / 3, 1 / 2), draws[1]))


def _haze(draws):
  """A centre within 0.3 of the middle, strength 0.6 to 0.8, a kernel of 1, 3, 5
  or 7 px (its sigma of 10 to 30 px makes it flat)."""
  return Haze(
    _between((0.2, 0.8), draws[0]),
    _between((0.2, 0.8), draws[1]),
    _between((0.6, 0.8), draws[2]),
    deviation_of(1 + 2.0 * _below(4, draws[3])),
    _colour(draws[4:7], (0.9, 1.0), (0.9, 1.3), (0.9, 1.3)),
  )


def deviation_of(width: float | jax.Array) -> float | jax.Array:
  """Standard deviation of a box of `width` px of 512, a share of the height."""
  root = math.sqrt if isinstance(width, float) else jnp.sqrt
  return root((width**2 - 1) / 12) / PIXELS


def _below(count, share):
  """int32 from 0 to count - 1 by a share in [0, 1)."""
  return jnp.floor(share * count).astype(jnp.int32)


def _between(bounds, share):
  low, high = bounds
  return low + share * (high - low)
