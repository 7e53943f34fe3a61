"""Pieces of degradations: places in the image, soft discs, box filters, grain.

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


def distance(where: Frame, row: jax.Array, column: jax.Array) -> jax.Array:
  """float32[h, w]: distance of every pixel from a point.

  Args:
    where: of the pixels.
    row, column: of the point, as shares of the image's height and width.
  """
  down, right = where.rows - row, where.columns - column * where.width
  return jnp.sqrt(down**2 + right**2)


def soft_disc(
  distance: jax.Array, radius: jax.Array, softness: jax.Array, pixel: float
) -> jax.Array:
  """1 inside a disc and 0 outside, with a smooth step between.

  What a box filter of width `softness` makes of a disc: the step is centred on
  the radius, as wide as the filter, and at least one pixel wide.

  Args:
    distance: float[...], from the disc's centre.
    radius, softness: of the disc and of its edge, in the same unit.
    pixel: side of a pixel.

  Returns:
    float[...] in [0, 1].
  """
  step = (radius - distance) / jnp.maximum(softness, pixel) + 0.5
  step = jnp.clip(step, 0, 1)
  return step * step * (3 - 2 * step)


def box_blur(
  pixels: jax.Array, deviation: tuple[jax.Array, jax.Array], largest: float
) -> jax.Array:
  """Box filter along rows and columns of an image whose edge is repeated.

  The kernel is 1 over 2 m + 1 pixels and a share of 1 at one pixel more on
  either side, such that its standard deviation is exactly the one asked for:
  an image of half the size is blurred by half the deviation in pixels.

  Args:
    pixels: float32[h, w, C].
    deviation: standard deviations in pixels down the rows and along them,
      scalars that may be traced; 0 leaves the image as it is.
    largest: the largest deviation that may be drawn; the cost grows with it.

  Returns:
    float32[h, w, C] in the range of the pixels.
  """
  reach = math.floor((math.sqrt(1 + 12 * largest**2) - 1) / 2) + 1
  for axis in range(2):
    margins = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
    padded = jnp.pad(pixels, margins, mode="edge")
    kernel = _box(deviation[axis] ** 2, reach)
    size = pixels.shape[axis]
    pixels = sum(
      kernel[tap] * lax.slice_in_dim(padded, tap, tap + size, axis=axis)
      for tap in range(2 * reach + 1)
    )
  return pixels


def grain(key: jax.Array, where: Frame) -> jax.Array:
  """Random field of mean 0, the same at every size of an image.

  Standard normal values on a lattice of `GRAINS` points over the height, read
  linearly between the points; where pixels are larger than its cells, averaged
  over the pixel, as a resized image would be.

  Args:
    key: one key.
    where: of the pixels.

  Returns:
    float32[h, w], of standard deviation 1 at the lattice points of an image of
    `GRAINS` rows, less between them and in smaller images.
  """
  columns = max(1, math.ceil(GRAINS * where.width))
  values = jax.random.normal(key, (GRAINS, columns))
  down = _tents(where.rows[:, 0], GRAINS, where.pixel)
  right = _tents(where.columns[0], columns, where.pixel)
  return jnp.einsum(
    "ik,kl,jl->ij", down, values, right, precision=lax.Precision.HIGHEST
  )


def _tents(places, count, pixel):
  """float32[n, count]: linear weights of lattice points, each row sums to 1."""
  cells = places * GRAINS - 0.5
  cells = jnp.clip(cells, 0, count - 1)[:, None] - np.arange(count)
  weights = jnp.maximum(0, 1 - jnp.abs(cells) / max(1.0, pixel * GRAINS))
  return weights / jnp.sum(weights, axis=1, keepdims=True)


def _box(variance, reach):
  """float32[2 reach + 1]: the kernel of `box_blur`."""
  offset = np.abs(np.arange(2 * reach + 1) - reach)
  # A box of 2 m + 1 pixels has the variance m (m + 1) / 3.
  m = jnp.floor((jnp.sqrt(1 + 12 * variance) - 1) / 2)
  share = (2 * m + 1) * (variance - m * (m + 1) / 3)
  share = jnp.clip(share / (2 * ((m + 1) ** 2 - variance)), 0, 1)
  weights = jnp.where(offset <= m, 1, jnp.where(offset == m + 1, share, 0))
  return weights / jnp.sum(weights)
