"""SupCon by labels with memory linear in the batch.

The loss of an anchor i with n_i positives is lse_i - s_i / n_i, with

    lse_i = log sum_{j != i} exp(l_ij),   l_ij = z_i . z_j / tau
    s_i   = z_i . (S_{label of i} - z_i) / tau

where S_y is the sum of all embeddings of label y: positives need no pairs.
Only lse_i looks at all N^2 products, a block of rows and columns at a time, and
keeps N numbers for the way back, on which each block is made once more:

    d/dz_i sum_k g_k lse_k
      = sum_j [g_i exp(l_ij - lse_i) + g_j exp(l_ij - lse_j)] z_j / tau

l is symmetric, so on one device the sums look at each pair of blocks once. The
gradient does not: a product with a block transposed costs a CPU what it saves.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax.collectives import gather

_LOW = -1e30
# exp(l - lse_j) is made of exp(l - lse_i) while the sums differ by less than
# this, in logarithms: far from what float32 cannot hold.
_SPREAD = 60.0


def anchor_losses(z, labels, everyone, views, temperature, axis_name, size):
  """float[R]: the loss of each anchor of this device before any weight.

  Args:
    z: float[R, D], V views of each image after one another.
    labels: int[R / V], of this device's images.
    everyone: int[N / V], of the images of all devices.
    views: V.
    temperature: tau.
    axis_name: of the devices, or None.
    size: rows and columns of a block.
  """
  scaled = z / jnp.sqrt(temperature)
  lse = log_sum_exp(scaled, axis_name, size)
  columns = gather(scaled, axis_name)
  total, count = _label_sums(columns, labels, everyone, views)
  total, count = (jnp.repeat(x, views, axis=0) for x in (total, count))
  positives = count * views - 1
  similarity = jnp.sum(scaled * (total - scaled), axis=1)
  some = positives > 0
  mean = similarity / jnp.where(some, positives, 1)
  return jnp.where(some, lse - mean, 0)


def _label_sums(columns, labels, everyone, views):
  """Of each anchor image: the sum of all columns of its label, and how many
  images have it."""
  images = columns.reshape(len(everyone), views, -1).sum(axis=1)
  order = jnp.argsort(everyone)
  ordered = everyone[order]
  new = jnp.concatenate([jnp.zeros(1, bool), ordered[1:] != ordered[:-1]])
  segment = jnp.cumsum(new)
  sums = jax.ops.segment_sum(
    images[order], segment, len(everyone), indices_are_sorted=True
  )
  counts = jax.ops.segment_sum(
    jnp.ones(len(everyone), columns.dtype),
    segment,
    len(everyone),
    indices_are_sorted=True,
  )
  mine = segment[jnp.searchsorted(ordered, labels)]
  return sums[mine], counts[mine]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def log_sum_exp(z, axis_name, size):
  """float[R]: log of the sum over all others j of exp(z_i . z_j).

  Args:
    z: float[R, D], the rows of this device.
    axis_name: of the devices, or None; the others are on all of them.
    size: rows and columns looked at together.
  """
  if axis_name is None:
    return _by_pairs_of_blocks(z, size)
  blocks, others, count = _all_blocks(z, axis_name, size)

  def of_rows(block):
    def look(running, other):
      logits = _logits(block, other, count)
      return _merge(running, logits, 1), None

    start = _nothing(block[1].shape, z.dtype)
    peak, total = lax.scan(look, start, others)[0]
    return peak + jnp.log(total)

  return lax.map(of_rows, blocks).reshape(-1)[: len(z)]


def _by_pairs_of_blocks(z, size):
  """`log_sum_exp` on one device: rows and columns of a block in one go."""
  vectors, places = _blocks(z, size, 0)

  def look(running, pair):
    a, b = pair
    logits = _logits((vectors[a], places[a]), (vectors[b], places[b]), len(z))
    by_row = _merge(_at(running, a), logits, 1)
    running = _put(running, a, by_row)
    mirrored = jnp.where(a == b, _LOW, logits)  # a block of its own was seen
    return _put(running, b, _merge(_at(running, b), mirrored, 0)), None

  start = _nothing(places.shape, z.dtype)
  (peak, total), _ = lax.scan(look, start, _pairs(len(vectors)))
  return (peak + jnp.log(total)).reshape(-1)[: len(z)]


def _forward(z, axis_name, size):
  lse = log_sum_exp(z, axis_name, size)
  return lse, (z, lse)


def _backward(axis_name, size, saved, gradient):
  """Row by row on every device: sums of weights g_i p_ij + g_j p_ji.

  One exponential makes both, p_ij = exp(l_ij - lse_i) and, where the sums lie
  near each other, p_ji = p_ij exp(lse_i - middle) exp(middle - lse_j).
  """
  z, lse = saved
  everyone = gather(lse, axis_name)
  high, low = jnp.max(everyone), jnp.min(everyone)
  near, middle = high - low < _SPREAD, (high + low) / 2
  up = jnp.exp(jnp.where(near, lse - middle, 0))
  blocks, others, count = _all_blocks(
    z, axis_name, size, (lse, gradient, up, gradient / up)
  )

  def of_rows(block):
    _, _, lse_i, g_i, up_i, _ = block
    lse_i, g_i, up_i = lse_i[:, None], g_i[:, None], up_i[:, None]

    def look(sums, other):
      columns, _, lse_j, g_j, _, down_j = other
      logits = _logits(block, other, count)
      weights = lax.cond(
        near,
        lambda: jnp.exp(logits - lse_i) * (g_i + up_i * down_j),
        lambda: g_i * jnp.exp(logits - lse_i) + g_j * jnp.exp(logits - lse_j),
      )
      return sums + _product(weights, columns), None

    return lax.scan(look, jnp.zeros_like(block[0]), others)[0]

  found = lax.map(of_rows, blocks)
  return (found.reshape(-1, z.shape[1])[: len(z)],)


log_sum_exp.defvjp(_forward, _backward)


def _pairs(count):
  """Every pair of blocks a <= b, as two lists."""
  return np.triu_indices(count)


def _nothing(shape, dtype):
  """Peak and sum of rows that have seen no candidate."""
  return jnp.full(shape, _LOW, dtype), jnp.zeros(shape, dtype)


def _merge(running, logits, axis):
  """Peak and sum of exp(logit - peak) with the logits along an axis."""
  peak, total = running
  new = jnp.maximum(peak, logits.max(axis))
  share = jnp.exp(logits - jnp.expand_dims(new, axis)).sum(axis)
  return new, total * jnp.exp(peak - new) + share


def _logits(one, other, count):
  """Products of two blocks, far below everything where they do not count."""
  (rows, i, *_), (columns, j, *_) = one, other
  i, j = i[:, None], j[None, :]
  candidate = (i != j) & (i < count) & (j < count)
  return jnp.where(candidate, _product(rows, columns.T), _LOW)


def _product(a, b):
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _at(tree, index):
  return jax.tree.map(lambda x: x[index], tree)


def _put(tree, index, values):
  return jax.tree.map(lambda x, v: x.at[index].set(v), tree, values)


def _all_blocks(z, axis_name, size, extra=()):
  """Blocks of this device's rows and of everyone's, as vectors, places and
  extra, and how many rows there are in all."""
  alone = axis_name is None
  first = 0 if alone else lax.axis_index(axis_name) * len(z)
  mine = (*_blocks(z, size, first), *(_blocks(x, size, 0)[0] for x in extra))
  z, *extra = (gather(x, axis_name) for x in (z, *extra))
  others = (*_blocks(z, size, 0), *(_blocks(x, size, 0)[0] for x in extra))
  return mine, others, len(z)


def _blocks(values, size, first):
  """[N, ...] -> ([K, size, ...], places int[K, size]), zeros at the end."""
  count = -(-len(values) // min(size, len(values)))
  size = -(-len(values) // count)
  missing = count * size - len(values)
  values = jnp.pad(values, ((0, missing), *((0, 0),) * (values.ndim - 1)))
  places = first + jnp.arange(count * size).reshape(count, size)
  return values.reshape(count, size, *values.shape[1:]), places
