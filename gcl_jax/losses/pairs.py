"""Weighted SupCon over all pairs of a batch, at once or in blocks."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.collectives import gather, pmean

# The logit of a pair that does not count; finite, so that a row without any
# candidate in a block gives no nan.
_LOW = -1e30


def weighted_mean(
  features, positives, temperature, base_temperature, weights, axis_name, block
):
  """Mean loss of this device's anchors; the mean over devices is the loss.

  Args:
    features, temperature, base_temperature, weights, axis_name, block: as in
      `contrastive.supcon`.
    positives: (i int[R], j int[C]) -> [R, C] >= 0, weights of images j of all
      devices as positives of images i of this device.
  """
  batch, views, _ = features.shape
  rows = flat(features)
  columns = gather(rows, axis_name)
  first = lax.axis_index(axis_name) * len(rows) if axis_name else 0

  def pair(i, j):
    """Candidates among the columns j of the rows i, and their weights."""
    inside = (j < len(columns))[None, :]
    candidate = inside & ((first + i)[:, None] != j[None, :])
    image = jnp.minimum(j, len(columns) - 1) // views
    weight = positives(jnp.minimum(i, len(rows) - 1) // views, image)
    return candidate, jnp.where(candidate, weight.astype(rows.dtype), 0)

  losses = _anchor_losses(rows, columns, pair, temperature, block)
  base = temperature if base_temperature is None else base_temperature
  return mean_over_images(losses * (temperature / base), weights, axis_name)


def flat(features):
  """Reshapes float[B, V, D] to float[B V, D], float32 or float64."""
  dtype = jnp.promote_types(features.dtype, jnp.float32)
  return features.reshape(-1, features.shape[-1]).astype(dtype)


def mean_over_images(losses, weights, axis_name):
  """Mean of losses by image weights; the mean over devices is the loss.

  Args:
    losses: float[B V], the V anchors of an image one after another.
    weights: float[B] >= 0, or None for equal weights.
    axis_name: mapped axis over which the images are split, or None.

  Returns:
    A scalar; 0 where all weights of all devices are 0.
  """
  if weights is None:
    return jnp.mean(losses)
  losses = losses.reshape(len(weights), -1).mean(axis=1)
  mean = jnp.mean(weights.astype(losses.dtype))
  mean = pmean(mean, axis_name)
  some = mean != 0
  part = jnp.where(some, weights / jnp.where(some, mean, 1), 0)
  return jnp.mean(losses * part)


class _Running(NamedTuple):
  """Sums of each row over the columns of some blocks, all float[R]."""

  peak: jax.Array  # largest logit of a candidate
  total: jax.Array  # sum of exp(logit - peak) over candidates
  positive: jax.Array  # weighted sum of the positives' logits
  weight: jax.Array  # sum of the positives' weights


def _anchor_losses(rows, columns, pair, temperature, block_size):
  """Losses float[R] of the rows; the backward pass recomputes the blocks."""
  if block_size is None:
    i, j = jnp.arange(len(rows)), jnp.arange(len(columns))
    return _finish(_row_sums(rows, columns, *pair(i, j), temperature))
  row_blocks, column_blocks = (_blocks(x, block_size) for x in (rows, columns))

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def row_block(block):
    z, i = block

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def column_block(running, block):
      sums = _row_sums(z, block[0], *pair(i, block[1]), temperature)
      return _merge(running, sums), None

    zero = jnp.zeros(len(z), z.dtype)
    start = _Running(zero + _LOW, zero, zero, zero)
    return _finish(lax.scan(column_block, start, column_blocks)[0])

  return lax.map(row_block, row_blocks).reshape(-1)[: len(rows)]


def _blocks(vectors, size):
  """Cuts [N, D] into blocks [K, size, D] and positions int[K, size].

  The last block is padded with zeros.
  """
  size = min(size, len(vectors))
  count = -(-len(vectors) // size)
  vectors = jnp.pad(vectors, ((0, count * size - len(vectors)), (0, 0)))
  positions = jnp.arange(count * size).reshape(count, size)
  return vectors.reshape(count, size, -1), positions


def _row_sums(rows, columns, candidate, weight, temperature) -> _Running:
  logits = jnp.matmul(rows, columns.T, precision=lax.Precision.HIGHEST)
  # Masked before exp: an overflow masked after it gives a gradient of nan.
  logits = jnp.where(candidate, logits / temperature, _LOW)
  peak = lax.stop_gradient(jnp.max(logits, axis=1))
  share = jnp.where(candidate, jnp.exp(logits - peak[:, None]), 0)
  positive = jnp.sum(jnp.where(candidate, weight * logits, 0), axis=1)
  return _Running(peak, share.sum(axis=1), positive, weight.sum(axis=1))


def _merge(a: _Running, b: _Running) -> _Running:
  peak = jnp.maximum(a.peak, b.peak)
  total = a.total * jnp.exp(a.peak - peak) + b.total * jnp.exp(b.peak - peak)
  return _Running(peak, total, a.positive + b.positive, a.weight + b.weight)


def _finish(running: _Running) -> jax.Array:
  some = running.weight > 0
  log_total = jnp.log(jnp.where(some, running.total, 1)) + running.peak
  mean = running.positive / jnp.where(some, running.weight, 1)
  return jnp.where(some, log_total - mean, 0)


def check(features, weights, temperature, block_size) -> int:
  """Returns the batch size; raises ValueError for unusable arguments."""
  if features.ndim != 3:
    raise ValueError(
      "features must be float[images, views, dimensions],"
      f" got shape {features.shape}"
    )
  if not jnp.issubdtype(features.dtype, jnp.floating):
    raise ValueError(f"features must be floats, got {features.dtype}")
  batch = features.shape[0]
  if weights is not None and weights.shape != (batch,):
    raise ValueError(
      f"weights must be float[{batch}], one per image, got {weights.shape}"
    )
  if not isinstance(temperature, jax.core.Tracer) and temperature <= 0:
    raise ValueError(f"temperature must be positive, got {temperature}")
  if block_size is not None and block_size < 1:
    raise ValueError(f"block_size must be at least 1, got {block_size}")
  return batch


def check_labels(labels, batch) -> None:
  """Raises ValueError unless labels are int[batch]."""
  if labels.shape != (batch,):
    raise ValueError(
      f"labels must be int[{batch}], one per image, got {labels.shape}"
    )
  if not jnp.issubdtype(labels.dtype, jnp.integer):
    raise ValueError(f"labels must be integers, got {labels.dtype}")
