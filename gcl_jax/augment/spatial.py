"""Random affine and elastic maps, and the sampling of images and label maps.

Rotation, zoom, flips, shift and an elastic deformation are one map from the
pixels of the view to places in the image (`warp_places`). Images are read at
these places bilinearly (`sample_bilinear`), label maps at the nearest pixel
(`sample_nearest`), so that labels do not mix.

Outside the image, pixels repeat its edge and labels are 0, the background: a
reflection would show organs that the label map calls background.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax.augment.places import cell_centres


def warp_places(
  keys: jax.Array,
  size: tuple[int, int],
  *,
  rotation: float = 180.0,
  scale: tuple[float, float] = (0.7, 1.3),
  flip_rows: float = 0.5,
  flip_columns: float = 0.5,
  shift: float = 0.1,
  elastic: tuple[float, float] = (0.003, 0.011),
  smoothness: float = 0.044,
  probability: float = 0.67,
  cells: tuple[int, int] | None = None,
) -> jax.Array:
  """Places in the image of every pixel, or every feature cell, of a view.

  About the image's centre, for a point o of the view, angle a and zoom s:

      place = centre + R(a) F (o - centre) / s + shift + displacement(o)

  F mirrors the axes that are flipped. The displacement is Gaussian noise of
  correlation exp(-d^2 / (4 smoothness^2)), what a Gaussian filter of that
  width makes of white noise (Simard et al. 2003). The defaults but `shift`
  follow positional contrastive learning, where noise uniform in -+1 is
  filtered with sigma 14 to 17 px and multiplied by alpha 100 to 350 on 352 px:
  that is a displacement of alpha / (sigma sqrt(12 pi)) px.

  Args:
    keys: keys[B], one per image.
    size: (H, W).
    rotation: greatest angle, in degrees, either way.
    scale: least and greatest zoom; 2 shows the middle half of the image twice
      as large. Drawn uniformly in its logarithm.
    flip_rows: probability of turning the image upside down.
    flip_columns: probability of mirroring left and right.
    shift: greatest shift along each axis, as a share of that side.
    elastic: least and greatest root mean square displacement along each axis,
      as a share of the shorter side; (0, 0) for none.
    smoothness: over what length displacements stay alike, as a share of the
      shorter side.
    probability: of rotation, zoom and displacement together; flips and shift
      are drawn in any case.
    cells: (h, w) of a feature grid of the view; None for its pixels. The map is
      the same, taken at the centres of the cells.

  Returns:
    float32[B, h, w, 2], (row, column) in pixels of the image, 0 the centre of
    the first; beyond 0 and side - 1 outside it. h and w are H and W without
    cells.

  Raises:
    ValueError: options out of range.
  """
  _check_options(scale, elastic, smoothness)
  cells = cells or size

  def place(key):
    key, noise_key, _ = split_key(key)
    draws = jax.random.uniform(key, (8,))
    active = draws[0] < probability
    angle = jnp.radians(rotation) * (2 * draws[1] - 1)
    zoom = jnp.exp(_between(math.log(scale[0]), math.log(scale[1]), draws[2]))
    affine = jnp.where(active, turn(angle) / zoom, jnp.eye(2))
    flips = draws[3:5] < jnp.stack([flip_rows, flip_columns])
    affine = affine * jnp.where(flips, -1, 1)
    sides = jnp.asarray(size, jnp.float32)
    moved = (sides - 1) / 2 + shift * sides * (2 * draws[5:7] - 1)
    places = affine_places(moved, affine, size, cells)
    if not elastic[1]:
      return places
    strength = min(size) * _between(*elastic, draws[7])
    wave = _smooth_noise(noise_key, size, cells, smoothness)
    return places + jnp.where(active, strength, 0) * wave

  return jax.vmap(place)(keys)


def split_key(key: jax.Array) -> jax.Array:
  """keys[3] of one warp: its affine map, its elastic map, its intensities."""
  return jax.random.split(key, 3)


def turn(angle: jax.Array) -> jax.Array:
  """float32[2, 2] that turns (row, column) by an angle in radians, a scalar."""
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])


def affine_places(
  middle: jax.Array,
  affine: jax.Array,
  size: tuple[int, int],
  cells: tuple[int, int],
) -> jax.Array:
  """Places of the cells of a view: middle + affine (o - centre of the view).

  Args:
    middle: float32[2], the place of the view's centre.
    affine: float32[2, 2], from pixels of the view to pixels of the image.
    size: (H, W) of the view.
    cells: (h, w) of the grid; `size` for the pixels of the view.

  Returns:
    float32[h, w, 2], (row, column) in pixels of the image.
  """
  centre = (jnp.asarray(size, jnp.float32) - 1) / 2
  return middle + _multiply(affine, cell_centres(size, cells) - centre)


def sample_bilinear(images: jax.Array, places: jax.Array) -> jax.Array:
  """Images read at places, bilinearly, their edge repeated outside.

  Args:
    images: [B, H, W, C], any number type.
    places: float32[B, h, w, 2], (row, column) in pixels.

  Returns:
    float32[B, h, w, C] in the range of the images.
  """

  def one(image, place):
    height, width, channels = image.shape
    pixels = image.reshape(height * width, channels)
    row, row_share, below = _neighbours(place[..., 0], height)
    column, column_share, right = _neighbours(place[..., 1], width)

    def read(row, column):
      return pixels[row * width + column].astype(jnp.float32)

    above = _mix(read(row, column), read(row, right), column_share)
    under = _mix(read(below, column), read(below, right), column_share)
    return _mix(above, under, row_share)

  return jax.vmap(one)(images, places)


def sample_nearest(masks: jax.Array, places: jax.Array) -> jax.Array:
  """Label maps read at the nearest pixel, 0 outside the image.

  Args:
    masks: int[B, H, W].
    places: float32[B, h, w, 2], (row, column) in pixels; halves go up.

  Returns:
    [B, h, w] of the masks' type.
  """

  def one(mask, place):
    height, width = mask.shape
    nearest = jnp.floor(place + 0.5).astype(jnp.int32)
    row, column = nearest[..., 0], nearest[..., 1]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    labels = mask.reshape(-1)[jnp.where(inside, row * width + column, 0)]
    return jnp.where(inside, labels, 0)

  return jax.vmap(one)(masks, places)


def _between(low, high, share):
  return low + share * (high - low)


def _mix(first, second, share):
  share = share[..., None]
  return (1 - share) * first + share * second


def _neighbours(place, size):
  """The pixel at or before a place, the share of the next one, the next."""
  place = jnp.clip(place, 0, size - 1)
  first = jnp.floor(place)
  index = first.astype(jnp.int32)
  return index, place - first, jnp.minimum(index + 1, size - 1)


def _multiply(matrix, vectors):
  """Matrix times vectors float[..., 2], exact where entries are 1 and 0: a
  matrix product would round its inputs on a GPU or TPU."""
  return vectors[..., :1] * matrix[:, 0] + vectors[..., 1:] * matrix[:, 1]


def _smooth_noise(key, size, cells, smoothness):
  """float32[h, w, 2] of variance 1: random knots under Gaussian bumps."""
  rows, columns = (
    _bumps(side / min(size), count, smoothness)
    for side, count in zip(size, cells, strict=True)
  )
  knots = jax.random.normal(key, (rows.shape[1], columns.shape[1], 2))
  return jnp.einsum(
    "ik,klc,jl->ijc", rows, knots, columns, precision=lax.Precision.HIGHEST
  )


def _bumps(length, count, sigma):
  """float32[count, knots]: weights of knots one sigma apart, squares sum to 1.

  So dense, knots give the filtered white noise to four digits at a fraction
  of the random numbers.
  """
  centres = (np.arange(count) + 0.5) / count * length
  knots = np.arange(-3, math.ceil(length / sigma) + 4) * sigma
  distance = (centres[:, None] - knots[None, :]) / sigma
  weights = np.exp(-(distance**2) / 2)
  weights /= np.sqrt(np.sum(weights**2, axis=1, keepdims=True))
  return jnp.asarray(weights, jnp.float32)


def _check_options(scale, elastic, smoothness):
  if not 0 < scale[0] <= scale[1]:
    raise ValueError(f"scale must be (low, high) above 0, got {scale}")
  if not 0 <= elastic[0] <= elastic[1]:
    raise ValueError(f"elastic must be (low, high), 0 or more, got {elastic}")
  if smoothness <= 0:
    raise ValueError(f"smoothness must be above 0, got {smoothness}")
