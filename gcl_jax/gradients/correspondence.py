"""Partner images, relevance of positions, and candidate pixel pairs.

First steps of the Gradient Filter (`pixel_filter`): a partner for each image,
the relevance of each position for their similarity, mutual nearest neighbours.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

Head = Callable[[jax.Array], jax.Array]


def draw_partners(keys: jax.Array, positives: jax.Array) -> jax.Array:
  """Draws a positive of each image uniformly, int[N]; itself if it has none.

  Args:
    keys: keys[N].
    positives: bool[N, N]; the diagonal is ignored.
  """
  itself = jnp.arange(len(positives))
  others = positives & (itself[:, None] != itself)
  noise = jax.vmap(lambda key: jax.random.uniform(key, itself.shape))(keys)
  drawn = jnp.argmax(jnp.where(others, noise, -1), axis=1)
  return jnp.where(jnp.any(others, axis=1), drawn, itself)


def relevance(
  head: Head, maps: jax.Array, partner: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Relevance of each position for the similarity of a pair of images.

      r_i(u) = max(0, d(z_i . z_j)/d(mean F_i) . F_i(u)) / its maximum over u

  Grad-CAM (Selvaraju et al. 2017) of the similarity with the partner.

  Args:
    head: pooled float32[N, C] -> unit vectors float[N, E], row by row.
    maps: float[N, h, w, C].
    partner: int[N], image j of each image i.

  Returns:
    r of image i and r of image j, both float32[N, h, w] in [0, 1] with maximum
    1, or 0 throughout if no position is relevant. For equal z_i and z_j the
    gradient is 0 and r is rounding error. Not differentiated.
  """
  pooled = jnp.mean(_float(maps), axis=(1, 2))
  unit = head(pooled)
  own = _activation(head, maps, pooled, unit[partner])
  other = _activation(head, maps[partner], pooled[partner], unit)
  return lax.stop_gradient((own, other))


def candidates(
  maps: jax.Array,
  partner: jax.Array,
  own: jax.Array,
  other: jax.Array,
  block_size: int = 128,
) -> tuple[jax.Array, jax.Array]:
  """Mutual nearest neighbours by cosine among the relevant positions.

  Args:
    maps: float[N, h, w, C].
    partner: int[N]; an image that is its own partner has no candidates.
    own: bool[N, h w], the allowed positions u of i.
    other: bool[N, h w], the allowed positions v of j.
    block_size: number of positions u compared with all v at once.

  Returns:
    The nearest v of every u, int[N, h w], and bool[N, h w]: u is allowed and
    is the nearest of that v as well. Ties go to the first position; a zero
    vector has cosine 0 with all.
  """
  rows = _float(maps).reshape(len(maps), -1, maps.shape[-1])
  square = jnp.sum(rows * rows, axis=-1, keepdims=True)
  rows = rows * lax.rsqrt(jnp.maximum(square, 1e-24))
  search = functools.partial(_mutual, block_size=block_size)
  nearest, mutual = jax.vmap(search)(rows, rows[partner], own, other)
  return nearest, mutual & (partner != jnp.arange(len(maps)))[:, None]


def _activation(head, maps, pooled, target):
  """Scaled max(0, d(head(pooled) . target)/dpooled . F), float32[N, h, w]."""
  unit, pull = jax.vjp(head, pooled)
  (weights,) = pull(target.astype(unit.dtype))
  relevant = jnp.einsum(
    "nhwc,nc->nhw", _float(maps), weights, precision=lax.Precision.HIGHEST
  )
  relevant = jnp.maximum(relevant, 0)
  peak = jnp.max(relevant, axis=(1, 2), keepdims=True)
  return relevant / jnp.where(peak > 0, peak, 1)


def _mutual(first, second, own, other, block_size):
  """Nearest rows of `second`, int[P], and whether they are mutual, bool[P]."""
  pixels = len(first)
  size = min(block_size, pixels)
  missing = -pixels % size
  rows = jnp.pad(first, ((0, missing), (0, 0))).reshape(-1, size, len(first[0]))
  own = jnp.pad(own, (0, missing)).reshape(-1, size)
  positions = jnp.arange(pixels + missing).reshape(-1, size)

  def compare(answer, block):
    best, back = answer
    rows, own, positions = block
    cosine = jnp.matmul(rows, second.T, precision=lax.Precision.HIGHEST)
    # -2 is below every cosine, so an excluded pair is never the nearest.
    cosine = jnp.where(own[:, None] & other, cosine, -2)
    peak = jnp.max(cosine, axis=0)
    better = peak > best
    back = jnp.where(better, positions[jnp.argmax(cosine, axis=0)], back)
    return (jnp.where(better, peak, best), back), jnp.argmax(cosine, axis=1)

  start = jnp.full(pixels, -2, first.dtype), jnp.full(pixels, -1)
  (_, back), nearest = lax.scan(compare, start, (rows, own, positions))
  nearest = nearest.reshape(-1)[:pixels]
  return nearest, back[nearest] == jnp.arange(pixels)


def _float(values):
  return values.astype(jnp.promote_types(values.dtype, jnp.float32))
