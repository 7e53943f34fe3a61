"""SupCon by labels with memory linear in the batch.

The loss of an anchor i with n_i positives is lse_i - s_i / n_i, with

    lse_i = log sum_{j != i} exp(z_i . z_j / tau)
    s_i   = z_i . (S_{label of i} - z_i) / tau

where S_y is the sum of all embeddings of label y: positives need no pairs.
Only lse_i looks at all N^2 products, a block of rows and columns at a time, and
keeps N numbers for the way back, on which each block is made once more:

    d lse_i = sum_j exp(l_ij - lse_i) d l_ij,   l_ij = z_i . z_j / tau
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_LOW = -1e30


def anchor_losses(
  rows, columns, labels, everyone, views, first, temperature, size
):
  """float[R]: the loss of each anchor before any weight.

  Args:
    rows: float[R, D], the anchors, V of each image after one another.
    columns: float[N, D], all candidates in the same order.
    labels: int[R / V], of the anchors' images.
    everyone: int[N / V], of the candidates' images.
    views: V.
    first: position of the first anchor among the candidates.
    temperature: tau.
    size: rows and columns of a block.
  """
  lse = log_sum_exp(rows / temperature, columns, first, size)
  total, count = _label_sums(columns, labels, everyone, views)
  total, count = (jnp.repeat(x, views, axis=0) for x in (total, count))
  positives = count * views - 1
  similarity = jnp.sum(rows * (total - rows), axis=1) / temperature
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def log_sum_exp(rows, columns, first, size):
  """float[R]: log of the sum over j != first + i of exp(rows_i . columns_j)."""
  row_blocks, column_blocks = (_blocks(x, size) for x in (rows, columns))

  def of_rows(block):
    z, i = block

    def look(running, block):
      peak, total = running
      logits = _logits(z, block[0], first + i, block[1], len(columns))
      new = jnp.maximum(peak, logits.max(axis=1))
      share = jnp.exp(logits - new[:, None]).sum(axis=1)
      return (new, total * jnp.exp(peak - new) + share), None

    low = jnp.full(len(z), _LOW, z.dtype)
    (peak, total), _ = lax.scan(look, (low, 0 * low), column_blocks)
    return peak + jnp.log(total)

  return lax.map(of_rows, row_blocks).reshape(-1)[: len(rows)]


def _forward(rows, columns, first, size):
  lse = log_sum_exp(rows, columns, first, size)
  return lse, (rows, columns, first, lse)


def _backward(size, saved, gradient):
  rows, columns, first, lse = saved
  row_blocks, column_blocks = (_blocks(x, size) for x in (rows, columns))
  count = row_blocks[0].shape[0] * row_blocks[0].shape[1]
  lse, gradient = (
    jnp.pad(x, (0, count - len(x))).reshape(row_blocks[1].shape)
    for x in (lse, gradient)
  )

  def of_rows(by_column, block):
    z, i, lse, gradient = block

    def look(by_row, block):
      column, j, by_column = block
      logits = _logits(z, column, first + i, j, len(columns))
      share = jnp.exp(logits - lse[:, None]) * gradient[:, None]
      by_row += _product(share, column)
      return by_row, by_column + _product(share.T, z)

    by_row, by_column = lax.scan(
      look, jnp.zeros_like(z), (*column_blocks, by_column)
    )
    return by_column, by_row

  by_column, by_row = lax.scan(
    of_rows,
    jnp.zeros_like(column_blocks[0]),
    (*row_blocks, lse, gradient),
  )
  width = rows.shape[1]
  return (
    by_row.reshape(-1, width)[: len(rows)],
    by_column.reshape(-1, width)[: len(columns)],
    None,
  )


log_sum_exp.defvjp(_forward, _backward)


def _logits(rows, columns, i, j, count):
  """Products, far below everything where j is i itself or past the end."""
  logits = _product(rows, columns.T)
  candidate = (i[:, None] != j[None, :]) & (j < count)[None, :]
  return jnp.where(candidate, logits, _LOW)


def _product(a, b):
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _blocks(vectors, size):
  """[N, D] -> ([K, size, D], positions int[K, size]), zeros at the end."""
  count = -(-len(vectors) // min(size, len(vectors)))
  size = -(-len(vectors) // count)
  vectors = jnp.pad(vectors, ((0, count * size - len(vectors)), (0, 0)))
  positions = jnp.arange(count * size).reshape(count, size)
  return vectors.reshape(count, size, -1), positions
