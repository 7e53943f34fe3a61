"""SupCon by labels in blocks, with memory linear in the batch.

The loss of an anchor i with n_i positives is lse_i - s_i / n_i, with

    l_ij  = z_i . z_j / tau
    lse_i = log sum_{j != i} exp(l_ij)
    s_i   = z_i . (S_y - z_i) / tau,   y the label of i

where S_y is the sum of all embeddings with label y, so the positives need no
matrix of pairs. Only lse_i needs all N^2 logits. The forward pass computes them
one block of rows and columns at a time and keeps only the N values lse_i. The
backward pass computes each block again:

    d/dz_i sum_k g_k lse_k
      = sum_j [g_i exp(l_ij - lse_i) + g_j exp(l_ij - lse_j)] z_j / tau

The matrix l is symmetric. On one device the forward pass therefore computes
each pair of blocks once and uses it for its rows and for its columns. The
backward pass does not: the product with a transposed block would cost a CPU as
much as the block saved.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gcl_jax.collectives import gather

# The logit of a pair that does not count; finite, so that a difference of two
# such logits is 0 in place of nan.
_LOW = -1e30
# The backward pass takes one exponential for both exp(l - lse_i) and
# exp(l - lse_j) while all lse lie within this range: exp(60) fits float32.
_SPREAD = 60.0


def supcon_losses(z, labels, everyone, views, temperature, axis_name, size):
  """SupCon losses of this device's anchors, without weights.

  Args:
    z: float[R, D], unit vectors, the V views of an image one after another.
    labels: int[R / V], labels of this device's images.
    everyone: int[N / V], labels of the images of all devices.
    views: V.
    temperature: tau.
    axis_name: mapped axis over which the batch is split, or None.
    size: largest number of rows and of columns of a block.

  Returns:
    float[R], 0 for an anchor without positives.
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
  """Sum of the embeddings and number of images with each anchor's label.

  Returns:
    float[R / V, D] and float[R / V].
  """
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
  """log sum_{j != i} exp(z_i . z_j) of each row i.

  Args:
    z: float[R, D], the rows of this device.
    axis_name: mapped axis over which the rows are split, or None; j runs over
      the rows of all devices.
    size: largest number of rows and of columns of a block.

  Returns:
    float[R].
  """
  if axis_name is None:
    return _by_pairs_of_blocks(z, size)
  blocks, others, count = _all_blocks(z, axis_name, size)

  def of_rows(block):
    def add_columns(running, other):
      logits = _logits(block, other, count)
      return _merge(running, logits, 1), None

    start = _empty_sums(block[1].shape, z.dtype)
    peak, total = lax.scan(add_columns, start, others)[0]
    return peak + jnp.log(total)

  return lax.map(of_rows, blocks).reshape(-1)[: len(z)]


def _by_pairs_of_blocks(z, size):
  """`log_sum_exp` on one device, each block used for its rows and columns."""
  vectors, places = _blocks(z, size, 0)

  def add_pair(running, pair):
    a, b = pair
    logits = _logits((vectors[a], places[a]), (vectors[b], places[b]), len(z))
    by_row = _merge(_at(running, a), logits, 1)
    running = _put(running, a, by_row)
    # A block on the diagonal is its own mirror image and counts once.
    mirrored = jnp.where(a == b, _LOW, logits)
    return _put(running, b, _merge(_at(running, b), mirrored, 0)), None

  start = _empty_sums(places.shape, z.dtype)
  pairs = np.triu_indices(len(vectors))  # all a <= b
  (peak, total), _ = lax.scan(add_pair, start, pairs)
  return (peak + jnp.log(total)).reshape(-1)[: len(z)]


def _forward(z, axis_name, size):
  lse = log_sum_exp(z, axis_name, size)
  return lse, (z, lse)


def _backward(axis_name, size, saved, gradient):
  """Gradient of this device's rows, sum_j (g_i p_ij + g_j p_ji) z_j.

  p_ij = exp(l_ij - lse_i). Where all lse are within `_SPREAD`, p_ji is p_ij
  exp(lse_i - middle) exp(middle - lse_j), which saves an exponential per pair.
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

    def add_columns(sums, other):
      columns, _, lse_j, g_j, _, down_j = other
      logits = _logits(block, other, count)
      weights = lax.cond(
        near,
        lambda: jnp.exp(logits - lse_i) * (g_i + up_i * down_j),
        lambda: g_i * jnp.exp(logits - lse_i) + g_j * jnp.exp(logits - lse_j),
      )
      return sums + _product(weights, columns), None

    return lax.scan(add_columns, jnp.zeros_like(block[0]), others)[0]

  found = lax.map(of_rows, blocks)
  return (found.reshape(-1, z.shape[1])[: len(z)],)


log_sum_exp.defvjp(_forward, _backward)


def _empty_sums(shape, dtype):
  """Largest logit and sum of exp(logit - largest) of rows without columns."""
  return jnp.full(shape, _LOW, dtype), jnp.zeros(shape, dtype)


def _merge(running, logits, axis):
  """Adds the logits along an axis to the largest logit and the sum."""
  peak, total = running
  new = jnp.maximum(peak, logits.max(axis))
  share = jnp.exp(logits - jnp.expand_dims(new, axis)).sum(axis)
  return new, total * jnp.exp(peak - new) + share


def _logits(one, other, count):
  """Logits of two blocks, `_LOW` on the diagonal and in the padding."""
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
  """Blocks of this device's rows, blocks of all rows, and their number N.

  Blocks are tuples (vectors, places, *extra), as `_blocks` cuts them.
  """
  alone = axis_name is None
  first = 0 if alone else lax.axis_index(axis_name) * len(z)
  mine = (*_blocks(z, size, first), *(_blocks(x, size, 0)[0] for x in extra))
  z, *extra = (gather(x, axis_name) for x in (z, *extra))
  others = (*_blocks(z, size, 0), *(_blocks(x, size, 0)[0] for x in extra))
  return mine, others, len(z)


def _blocks(values, size, first):
  """Cuts [N, ...] into K blocks, padded with zeros at the end.

  Returns:
    [K, size, ...], and int[K, size], the number of each row counted from
    `first`.
  """
  count = -(-len(values) // min(size, len(values)))
  size = -(-len(values) // count)
  missing = count * size - len(values)
  values = jnp.pad(values, ((0, missing), *((0, 0),) * (values.ndim - 1)))
  places = first + jnp.arange(count * size).reshape(count, size)
  return values.reshape(count, size, *values.shape[1:]), places
