"""Contrast of cells that are matched by their features: DenseCL."""

import jax
import jax.numpy as jnp
from jax import lax

from gcl_jax.losses.nce import info_nce


def dense_nce(
  features: jax.Array,
  other_features: jax.Array,
  query: jax.Array,
  key: jax.Array,
  queue: jax.Array,
  *,
  temperature: float = 0.2,
) -> jax.Array:
  """InfoNCE of the cells of a view (Wang et al., DenseCL, 2021, equation 2).

  The positive of a cell is the cell of the other view whose backbone features
  have the largest cosine similarity to its own; negatives are a queue. All but
  the query are constants. Memory is O(B L M + B L Q).

  Args:
    features: float[B, L, C], the student's backbone at the cells of a view.
    other_features: float[B, M, C], the teacher's at those of the other view.
    query: float[B, L, D], unit vectors of the student.
    key: float[B, M, D], unit vectors of the teacher.
    queue: float[Q, D], unit vectors, means over the cells of earlier views.
    temperature: tau > 0.

  Returns:
    A scalar >= 0.
  """
  index = similar_cells(features, other_features)
  positives = jax.vmap(lambda table, at: table[at])(key, index)
  size = query.shape[-1]
  return info_nce(
    query.reshape(-1, size),
    positives.reshape(-1, size),
    queue,
    temperature=temperature,
  )


def similar_cells(features: jax.Array, others: jax.Array) -> jax.Array:
  """int[B, L]: the most similar of the others, by the cosine.

  Args:
    features: float[B, L, C].
    others: float[B, M, C].
  """
  # The length of a cell's own features does not change which is largest.
  length = jnp.sqrt(jnp.sum(others**2, axis=-1, keepdims=True))
  directions = others / jnp.maximum(length, 1e-12)
  cosines = jnp.einsum(
    "blc,bmc->blm", features, directions, precision=lax.Precision.HIGHEST
  )
  return jnp.argmax(cosines, axis=-1)
