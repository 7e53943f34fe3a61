"""Pieces of degradations: places in an image, soft discs, box filters, grain.

Lengths are shares of the image height, so that an image of any size is degraded
alike. Everything but `box_blur` is a function of the place in the whole image:
a region of an image gets the same values as the image it was cut from.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

GRAINS = 256  # lattice points of `grain` over the height of the image
_BLOCK = 32  # rows that `box_blur` filters at once


class Frame(NamedTuple):
  """Where the pixels of an image, or of a region of it, lie.

  Attributes:
    rows: float32[h, 1], places of the pixels' centres from the upper edge of
      the whole image.
    columns: float32[1, w], the same from its left edge.
    size: (H, W) of the whole image in pixels.
    width: W / H.
    pixel: side of a pixel, 1 / H.
  """

  rows: jax.Array
  columns: jax.Array
  size: tuple[int, int]
  width: float
  pixel: float


def frame(
  shape: tuple[int, int], corner: jax.Array, size: tuple[int, int]
) -> Frame:
  """The frame of a region of h x w pixels.

  Args:
    shape: (h, w) of the region.
    corner: float[2], (row, column) of its upper left pixel in the image.
    size: (H, W) of the image.
  """
  height, width = size
  rows = (corner[0] + np.arange(shape[0])[:, None] + 0.5) / height
  columns = (corner[1] + np.arange(shape[1])[None, :] + 0.5) / height
  as_float = (jnp.asarray(x, jnp.float32) for x in (rows, columns))
  return Frame(*as_float, size, width / height, 1 / height)


def squared_distance(
  where: Frame, row: jax.Array, column: jax.Array
) -> jax.Array:
  """float32[h, w]: squared distance of every pixel from a point.

  Args:
    where: of the pixels.
    row, column: of the point, as shares of the image's height and width.
  """
  down, right = where.rows - row, where.columns - column * where.width
  return down**2 + right**2


def soft_disc(
  squared: jax.Array, radius: jax.Array, softness: jax.Array, pixel: float
) -> jax.Array:
  """1 inside a disc and 0 outside, with a smooth step between.

  About what a box filter of width `softness` makes of a disc: 1/2 at the
  radius, a step as wide as the filter and at least one pixel wide. The step is
  one in squared distances, which needs no root.

  Args:
    squared: float[...], squared distance from the disc's centre.
    radius, softness: of the disc and of its edge.
    pixel: side of a pixel.

  Returns:
    float[...] in [0, 1].
  """
  width = 2 * radius * jnp.maximum(softness, pixel)
  step = jnp.clip((radius**2 - squared) / width + 0.5, 0, 1)
  return step * step * (3 - 2 * step)


def box_blur(
  pixels: jax.Array, deviation: jax.Array, largest: float
) -> jax.Array:
  """Box filter along rows and columns of an image mirrored at its edges.

  The kernel is 1 over 2 m + 1 pixels and a share of 1 at one pixel more on
  either side, such that its standard deviation is exactly the one asked for:
  an image of half the size is blurred by half the deviation in pixels.

  Args:
    pixels: float32[h, w, C].
    deviation: float[2], standard deviations in pixels down the rows and along
      them; 0 leaves the image as it is.
    largest: the largest deviation that may be drawn; the cost grows with it.

  Returns:
    float32[h, w, C] in the range of the pixels.
  """
  reach = math.floor((math.sqrt(1 + 12 * largest**2) - 1) / 2) + 1
  for axis in range(2):
    size = pixels.shape[axis]
    block = min(size, _BLOCK)
    starts = np.arange(0, size, block)[:, None]
    index = starts + np.arange(block + 2 * reach) - reach
    mirrored = np.where(index < 0, -1 - index, index) % (2 * size)
    mirrored = np.minimum(mirrored, 2 * size - 1 - mirrored)
    blocks = jnp.take(pixels, mirrored, axis=axis)
    # Blocks of rows times a band: XLA would compute the input of a sum of
    # shifted images anew for every shift.
    found = jnp.einsum(
      ("tk,bkwc->btwc", "tk,hbkc->hbtc")[axis],
      _band(deviation[axis] ** 2, block, reach),
      blocks,
      precision=lax.Precision.HIGHEST,
    )
    height, width, channels = pixels.shape
    rows, columns = ((-1, width), (height, -1))[axis]
    found = found.reshape(rows, columns, channels)
    pixels = lax.slice_in_dim(found, 0, size, axis=axis)
  return pixels


def grain(key: jax.Array, where: Frame) -> jax.Array:
  """Random field of mean 0, the same at every size of an image.

  Normal values on a lattice of `GRAINS` points over the height, linear between
  the points, averaged over each pixel: a large image made smaller by means over
  blocks has the field of the small one.

  Args:
    key: one key.
    where: of the pixels.

  Returns:
    float32[h, w], of standard deviation 1 in images of `GRAINS` rows, a little
    more in larger ones and less in smaller ones.
  """
  columns = max(1, math.ceil(GRAINS * where.width))
  values = jax.random.normal(key, (GRAINS, columns))
  down = _means(where.rows[:, 0], GRAINS, where.pixel)
  right = _means(where.columns[0], columns, where.pixel)
  found = jnp.einsum(
    "ik,kl,jl->ij", down, values, right, precision=lax.Precision.HIGHEST
  )
  # A pixel as large as a cell has 3/4 of its point and 1/8 of the next ones.
  return found / (0.75**2 + 2 * 0.125**2)


def _means(places, count, pixel):
  """float32[n, count]: means over pixels of the tents of lattice points."""
  centres = places[:, None] * GRAINS - 0.5 - np.arange(count)
  half = pixel * GRAINS / 2
  weights = _tent_below(centres + half) - _tent_below(centres - half)
  return weights / jnp.sum(weights, axis=1, keepdims=True)


def _tent_below(place):
  """Integral of the tent max(0, 1 - |t|) from -1 to a place."""
  place = jnp.clip(place, -1, 1)
  return jnp.where(place < 0, (1 + place) ** 2, 2 - (1 - place) ** 2) / 2


def _band(variance, block, reach):
  """float32[block, block + 2 reach]: the kernel of `box_blur` in each row."""
  shift = np.arange(block + 2 * reach) - reach - np.arange(block)[:, None]
  offset = np.abs(shift)
  # A box of 2 m + 1 pixels has the variance m (m + 1) / 3.
  m = jnp.floor((jnp.sqrt(1 + 12 * variance) - 1) / 2)
  share = (2 * m + 1) * (variance - m * (m + 1) / 3)
  share = jnp.clip(share / (2 * ((m + 1) ** 2 - variance)), 0, 1)
  weights = jnp.where(offset <= m, 1, jnp.where(offset == m + 1, share, 0))
  return weights / (2 * m + 1 + 2 * share)
